"""The pages: every Python block runs, and prints what the page says that it prints.

The blocks of a page are run in order, in one namespace.  A block of ``text`` right after a Python
block is its output: compared as it is, or, where the fence says ``text about``, with numbers that
may differ by chance.  A block of ``python`` that is not meant to run is called ``py`` instead.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import pyro
import pytest
import torch
from support.sizes import quick

from pushforward.ppl.compile import inductor

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
CHEAPEST = ("README", "survival")  # of the gallery, whose other pages are fits of many seconds
DEAR = ("from_pymc", "from_pyro", "from_stan", "good_model")
SLOW = [page for page in PAGES if page.parent.name == "gallery" and page.stem not in CHEAPEST]
SLOW += [page for page in PAGES if page.stem in DEAR]
RUN = quick(len(PAGES) - len(SLOW), [page for page in PAGES if page not in SLOW] + SLOW)
FENCE = re.compile(r"^```(.*)\n((?:.*\n)*?)^```$", re.MULTILINE)
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?")


@dataclass(frozen=True)
class Block:
    """A fenced Python block: its code, the line before it, and the output that the page shows."""

    code: str
    line: int
    output: str | None = None
    about: bool = False


def blocks(text: str) -> Iterator[Block]:
    """The Python blocks of a page."""
    found = list(FENCE.finditer(text))
    for i, match in enumerate(found):
        if match[1] != "python":
            continue
        line = text[: match.start(2)].count("\n")
        after = found[i + 1] if i + 1 < len(found) else None
        shown = after is not None and not text[match.end() : after.start()].strip()
        if after is None or not shown or after[1] not in ("text", "text about"):
            yield Block(match[2], line)
        else:
            yield Block(match[2], line, after[2], after[1] == "text about")


def comparable(text: str) -> str:
    """The text without what differs from run to run: times, file names, rounding errors."""
    text = re.sub(r"\d+(?:\.\d+)? s\b", "0 s", text)
    text = re.sub(r"[^\s(]+\.(?:py|md):\d+", "FILE:0", text)
    text = re.sub(r"deviation \d(?:\.\d+)?e-1\d", "deviation 0", text)
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def differences(block: Block, printed: str) -> str | None:
    """How the output differs from what the page shows, or None."""
    if block.output is None:
        return None
    wanted, found = comparable(block.output), comparable(printed)
    if not block.about:
        return None if wanted == found else printed
    words = [re.sub(r"\s+", " ", NUMBER.sub("#", text)) for text in (wanted, found)]
    numbers = [[float(x) for x in NUMBER.findall(text)] for text in (wanted, found)]
    near = all(abs(a - b) <= 0.35 + 0.15 * abs(a) for a, b in zip(*numbers, strict=False))
    return None if near and words[0] == words[1] else printed


def run_page(path: Path, report: Callable[[Block, str], None]) -> None:
    """Run the blocks of a page, and report what each printed."""
    namespace: dict[str, Any] = {"__name__": "page"}
    name = path.relative_to(ROOT).as_posix()
    for block in blocks(path.read_text(encoding="utf-8")):
        code = compile("\n" * block.line + block.code, name, "exec")
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(code, namespace)
        report(block, printed.getvalue())


@pytest.fixture(autouse=True)
def quiet_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Uncompiled densities (the pages leave it at the default), no windows, nothing left over."""
    monkeypatch.setattr(inductor, "compile_graph", lambda graph, *example, notify=None: graph)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch._tensor_str.PRINT_OPTS, "linewidth", 80)
    matplotlib.use("agg")
    dtype, state = torch.get_default_dtype(), torch.get_rng_state()
    with pyro.get_param_store().scope():
        yield
    torch.set_default_dtype(dtype)
    torch.set_rng_state(state)
    plt.close("all")


@pytest.mark.filterwarnings("ignore:Estimated shape parameter of Pareto")  # by chance, from LOO
@pytest.mark.parametrize("path", RUN, ids=lambda path: path.stem)
def test_the_blocks_of_a_page_run_and_print_what_it_says(path: Path) -> None:
    faults = []

    def report(block: Block, printed: str) -> None:
        if (found := differences(block, printed)) is not None:
            faults.append(f"{path.name}:{block.line}: it prints\n{found}")

    run_page(path, report)
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("path", PAGES, ids=[path.stem for path in PAGES])
def test_links_between_pages_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_blocks_are_found_with_their_lines_and_output() -> None:
    page = "a\n```python\nx = 1\n```\n\n```text\none\n```\n```py\nno\n```\n```python\ny\n```\n"
    first, second = blocks(page)
    assert first == Block("x = 1\n", 2, "one\n")
    assert second == Block("y\n", 12)


def test_output_that_differs_is_noticed() -> None:
    exact, about = Block("", 0, "mean 1.5 (2.1 s)\n"), Block("", 0, "mean 1.5\n", True)
    assert differences(exact, "mean 1.5 (0.3 s)") is None
    assert differences(exact, "mean 1.6 (2.1 s)") is not None
    assert differences(about, "mean   1.6") is None
    assert differences(about, "mean 2.5") is not None
    assert differences(about, "median 1.5") is not None
