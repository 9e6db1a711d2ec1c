"""docs/peers.md and the pages for users of one peer: each line that does here what it does is run.

The rows of the first are counted.

A line runs after the blocks before the first section and those of its own, in names of its section.
Where a cell says what the line gives, that is compared.  A cell that begins with "not here:" is a
missing thing, with "partly:" one of which the cell says what is lacking.
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import textwrap
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import pytest
import torch
from support.command_line import called
from support.sizes import quick

from pushforward import program, simulate

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = DOCS / "peers.md"
OF_ONE = [DOCS / name for name in ("from_stan.md", "from_pymc.md", "from_pyro.md")]
WITHIN = ("Within a program", "Laws")  # sections whose lines stand in the body of a program
CELLS = re.compile(r"(?<!\\)\|")
LINE = re.compile(r"(?:partly: )?`([^`]+)`(?: gives `([^`]+)`)?")
HEADLINE = re.compile(r"\*\*(\d+) things: (\d+) present, (\d+) partly, (\d+) missing\.\*\*")


@dataclass(frozen=True)
class Row:
    """A thing that is done weekly, its state, the line that does it here, and what that gives."""

    what: str
    state: str
    line: str = ""
    gives: str | None = None


@dataclass(frozen=True)
class Section:
    """A part of the page under a heading: its Python, and its rows."""

    name: str
    code: str
    rows: tuple[Row, ...]


def row(cells: list[str]) -> Row:
    """The row of a table; one that is neither a line nor missing raises a ValueError."""
    what, _, here = cells
    if here.startswith("not here"):
        return Row(what, "missing")
    if (found := LINE.match(here)) is None:
        raise ValueError(f"{what}: neither a line nor missing: {here}")
    state = "partly" if here.startswith("partly: ") else "present"
    if state == "present" and found.end() < len(here):
        raise ValueError(f"{what}: words after the line, which is not partly: {here}")
    return Row(what, state, found[1], found[2])


def sections(text: str) -> Iterator[Section]:
    """The parts of the page; the first, before any heading of its own, has no rows."""
    for part in re.split(r"^## ", text, flags=re.MULTILINE):
        code = "\n".join(re.findall(r"^```python\n(.*?)^```$", part, re.MULTILINE | re.DOTALL))
        tables = re.sub(r"^```.*?^```$", "", part, flags=re.MULTILINE | re.DOTALL)
        lines = [each for each in tables.splitlines() if each.startswith("|")][2:]
        cells = [[c.strip().replace("\\|", "|") for c in CELLS.split(each)[1:-1]] for each in lines]
        yield Section(part.splitlines()[0].strip("# "), code, tuple(row(each) for each in cells))


def value(line: str, names: dict[str, Any], within: bool) -> Any:
    """What a line gives; of the shell and of statements nothing, but that they run."""
    if line.startswith("pushforward "):
        found = called(*shlex.split(line)[1:])
        assert found.code == 0, found.err
        return None
    if within:
        exec("def body():\n" + textwrap.indent(line, "    "), names)
        simulate(program(names["body"]))
        return None
    *before, last = line.split("; ")
    exec("\n".join(before), names)
    return eval(last, names)


def fault(each: Row, names: dict[str, Any], within: bool = False) -> str | None:
    """What is wrong with a row: an error, or another value than the page says; else None."""
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            found = str(value(each.line, names, within))
    except Exception:
        return f"{each.what}: {each.line}\n{traceback.format_exc(limit=-1)}"
    if each.gives is not None and each.gives != found:
        return f"{each.what}: {each.line} gives {found}"
    return None


def counted(text: str) -> tuple[int, int, int, int]:
    """How many rows a page has, and how many are present, partly so, and missing."""
    states = Counter(each.state for part in sections(text) for each in part.rows)
    return states.total(), states["present"], states["partly"], states["missing"]


@pytest.fixture(autouse=True)
def quiet_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No windows, nothing left over."""
    monkeypatch.chdir(tmp_path)
    matplotlib.use("agg")
    state = torch.get_rng_state()
    yield
    torch.set_rng_state(state)
    plt.close("all")


@pytest.mark.filterwarnings("ignore:Estimated shape parameter of Pareto")  # by chance, from LOO
@pytest.mark.parametrize("page", quick(2, [PAGE, *OF_ONE]), ids=lambda page: page.stem)
def test_each_line_of_a_page_runs_and_gives_what_it_says(page: Path) -> None:
    first, *rest = sections(page.read_text(encoding="utf-8"))
    common: dict[str, Any] = {"__name__": "peers"}
    exec(first.code, common)
    faults = []
    for part in (each for each in rest if each.rows):
        names = dict(common)
        exec(part.code, names)
        within = part.name in WITHIN
        lines = [each for each in part.rows if each.line]
        faults += [found for each in lines if (found := fault(each, names, within))]
        plt.close("all")
    assert not faults, "\n".join(faults)


def test_the_headline_counts_the_rows_and_they_are_enough() -> None:
    text = PAGE.read_text(encoding="utf-8")
    said = HEADLINE.search(text)
    assert said is not None
    assert tuple(int(each) for each in said.groups()) == counted(text)
    assert counted(text)[0] >= 80
    assert counted(text)[1] >= 72


def test_no_thing_is_counted_twice() -> None:
    rows = [each for part in sections(PAGE.read_text(encoding="utf-8")) for each in part.rows]
    assert len({each.what for each in rows}) == len(rows)
    lines = [each.line for each in rows if each.line]
    assert not [line for line, times in Counter(lines).items() if times > 1]


def test_broken_lines_and_other_values_are_reported() -> None:
    names: dict[str, Any] = {"x": torch.zeros(3)}
    assert fault(Row("right", "present", "x.shape", "torch.Size([3])"), names) is None
    assert "gives torch.Size([3])" in str(fault(Row("", "present", "x.shape", "no"), names))
    assert "NameError" in str(fault(Row("", "present", "no_such_name(x)"), names))
    assert "SyntaxError" in str(fault(Row("", "present", "x ="), names))
    assert "NameError" in str(fault(Row("", "present", "sampel('b', x)"), names, within=True))
    assert "AssertionError" in str(fault(Row("", "present", "pushforward infre m.py:line"), names))


def test_rows_that_are_neither_lines_nor_missing_are_refused() -> None:
    table = "# t\n## a\n| what | there | here |\n|---|---|---|\n| {} |\n"
    states = {
        "a | b | `x`": "present",
        "a | b | partly: `x`; no y": "partly",
        "a | b | not here: x": "missing",
    }
    for cells, state in states.items():
        _, part = sections(table.format(cells))
        assert [each.state for each in part.rows] == [state]
    assert counted(table.format("a \\| c | b | `x`")) == (1, 1, 0, 0)
    for wrong in ("a | b | surely", "a | b | `x`, but not y"):
        with pytest.raises(ValueError, match="a: "):
            counted(table.format(wrong))
