"""The documentation site: every page is in the navigation once, every public name is told.

``make docs`` builds the site and needs mkdocs; what is asked here needs only its source.
"""

from __future__ import annotations

import ast
import importlib
import itertools
import re
import sys
import types
from pathlib import Path
from posixpath import dirname, normpath
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "docs" / "site"))
hook = importlib.import_module("hook")
reference = importlib.import_module("reference")

PAGES: dict[str, str] = hook.pages()
MODULES: list[str] = reference.modules()
# Packages that export to other rooms; what is for users stands at another name.
INNER = {
    "pushforward.ppl",
    "pushforward.ppl.types",
    "pushforward.ppl.distributions.laws",
    "pushforward.inference.runs.paths",
}


# --- the navigation -----------------------------------------------------------------------------


class Loader(yaml.SafeLoader):
    """Reads the settings of mkdocs, whose functions of Python are left as names."""


Loader.add_multi_constructor("tag:yaml.org,2002:python/name:", lambda loader, name, node: name)


def entries(nav: Any) -> list[str]:
    """The pages of a navigation, in order."""
    if isinstance(nav, str):
        return [nav]
    return [
        page for item in (nav.values() if isinstance(nav, dict) else nav) for page in entries(item)
    ]


def out_of_place(nav: Any, known: list[str]) -> dict[str, int]:
    """How often a page stands in the navigation, or an entry is a page, where that is not once."""
    listed = entries(hook.expanded(nav, known))
    counts = {page: listed.count(page) if page in known else 0 for page in {*known, *listed}}
    return {page: count for page, count in counts.items() if count != 1}


def test_every_page_is_in_the_navigation_once() -> None:
    settings = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader)
    assert out_of_place(settings["nav"], list(PAGES)) == {}
    assert {"index.md", "tutorial.md", "models/README.md", "extending/check.md"} <= set(PAGES)


@pytest.mark.parametrize(
    ("nav", "fault"),
    [
        (["a.md", {"Deep": ["more/"]}], {}),
        (["a.md"], {"more/b.md": 0, "more/c.md": 0}),
        (["a.md", "more/", {"Again": "a.md"}], {"a.md": 2}),
        (["a.md", "more/", "more/c.md"], {"more/c.md": 2}),
        (["a.md", "more/", "gone.md"], {"gone.md": 0}),
    ],
)
def test_a_page_out_of_place_is_found(nav: Any, fault: dict[str, int]) -> None:
    assert out_of_place(nav, ["a.md", "more/b.md", "more/c.md"]) == fault


# --- links --------------------------------------------------------------------------------------


def dead(page: str, text: str, known: set[str]) -> list[str]:
    """The links of a page, as it is in the site, that lead to no page and no file of docs/."""
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", hook.FENCE.sub("", hook.in_site(text, page)))
    paths = {link: normpath(f"{dirname(page)}/{link}".lstrip("/")) for link in links}
    return [
        link
        for link, path in paths.items()
        if "://" not in link and path not in known and not (ROOT / "docs" / path).is_file()
    ]


def test_links_lead_to_pages_of_the_site() -> None:
    known = {*PAGES, *hook.sources(PAGES)}
    written = {page: text for page, text in PAGES.items() if not page.startswith("reference/")}
    found = {page: dead(page, text, known) for page, text in written.items()}
    assert {page: links for page, links in found.items() if links} == {}


def test_a_link_is_written_anew() -> None:
    text = "[a](../language.md#x) [b](../../ppl/errors.py) ![c](c.png) [d](https://x.org)"
    assert hook.in_site(f"{text} [e](../../nn)", "models/p.md") == (
        "[a](../language.md#x) [b](../source/ppl/errors.py.md) ![c](c.png) [d](https://x.org) e"
    )
    assert hook.in_site("[a](docs/language.md) [b](CHANGELOG.md)", "index.md") == (
        "[a](language.md) [b](changes.md)"
    )
    assert hook.in_site("[a](../README.md)", "language.md") == "[a](index.md)"
    assert dead("models/p.md", "[a](gone.md) ![b](gone.png)", set(PAGES)) == ["gone.md", "gone.png"]


def test_code_is_left_as_it_is() -> None:
    page = "```python\nf[0](nn)\n```\n```text about\n1\n```\n[a](nn)\n"
    assert hook.in_site(page, "index.md") == "```python\nf[0](nn)\n```\n```text\n1\n```\na\n"


# --- the reference ------------------------------------------------------------------------------


def headed(page: str) -> list[str]:
    """The names that a page of the reference tells of."""
    return [name.rpartition(".")[2] for name in re.findall(r"^(?:## |::: )(\S+)$", page, re.M)][1:]


def commented(source: str) -> set[str]:
    """The names that a file assigns, and tells of in a string right after."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        body = getattr(node, "body", None)
        for here, after in itertools.pairwise(body) if isinstance(body, list) else ():
            match here, after:
                case (
                    ast.Assign(targets=[ast.Name(name)]) | ast.AnnAssign(target=ast.Name(name)),
                    ast.Expr(ast.Constant(str())),
                ):
                    found.add(name)
    return found


def home(place: str) -> str:
    """Where a name is defined, from where it is imported."""
    module, _, name = place.rpartition(".")
    origin = reference.imported(module).get(name) if module.startswith("pushforward") else None
    return home(origin) if origin else place


def undocumented(module: types.ModuleType, name: str) -> bool:
    """Whether a name of a module has no words of its own."""
    value = getattr(module, name)
    if isinstance(value, types.ModuleType) or callable(value):
        own = value.__doc__ if value.__doc__ != type(value).__doc__ else None
        generated = isinstance(value, type) and (own or "").startswith(f"{value.__name__}(")
        if (own or "").strip() and not generated:
            return False
    place, _, defined = home(reference.names(module.__name__).get(name, "")).rpartition(".")
    return not place or defined not in commented(reference.source(place).read_text("utf-8"))


@pytest.mark.parametrize("name", MODULES)
def test_every_public_name_is_told_in_the_reference(name: str) -> None:
    module = importlib.import_module(name)
    public = getattr(module, "__all__", None) or list(reference.names(name))
    assert headed(PAGES[f"reference/{name}.md"]) == list(public)
    assert [n for n in public if n != "dist" and undocumented(module, n)] == []
    assert (module.__doc__ or "").strip()


def test_a_name_that_stands_elsewhere_is_told_there() -> None:
    for page in (PAGES[f"reference/{module}.md"] for module in MODULES):
        for place in re.findall(r"^Stands at .*\]\[(\S+)\]\.$", page, re.M):
            assert f"::: {place}\n" in PAGES[f"reference/{place.rpartition('.')[0]}.md"]


def test_every_package_with_public_names_is_in_the_reference() -> None:
    rooms = ("inference", "kernels", "models", "nn", "ppl", "semantics", "validation")
    files = [path for room in rooms for path in (ROOT / room).rglob("__init__.py")]
    exporting = {
        ".".join(("pushforward", *path.parent.relative_to(ROOT).parts))
        for path in files
        if "__all__ = [" in path.read_text(encoding="utf-8")
    }
    assert exporting - set(MODULES) == INNER
    assert exporting > INNER


def test_a_name_without_words_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "nameless.py"
    path.write_text(
        "import dataclasses\n__all__ = ['bare', 'told', 'Pair', 'LIMIT', 'TABLE']\n"
        "def bare(): ...\n"
        "def told():\n    'What it does.'\n"
        "@dataclasses.dataclass\nclass Pair:\n    first: int\n"
        "LIMIT = 3\n'What is enough.'\n"
        "TABLE = dict(a=1)\n# no words\n"
    )
    monkeypatch.setattr(reference, "source", lambda module: path)
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("nameless")
    assert [n for n in module.__all__ if undocumented(module, n)] == ["bare", "Pair", "TABLE"]


def test_public_names_are_read_without_an_import() -> None:
    assert {"MCMC", "Fit", "predict"} <= set(reference.names("pushforward.inference"))
    assert "ZeroMassError" in reference.names("pushforward.errors")  # by a star
    place = reference.names("pushforward.spaces")["Real"]
    assert place == "pushforward.ppl.types.annotations.Real"
    assert "[`pushforward.inference.predict`]" in PAGES["reference/pushforward.md"]
    assert "::: pushforward.inference.predict\n" in PAGES["reference/pushforward.inference.md"]
