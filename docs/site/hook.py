"""What mkdocs must be told of these pages: those outside of docs/, and links into the source.

README is the start page; a reference is written for each public module; a source file that a page
links to becomes a page of its own; a link to a folder becomes text.
"""

from __future__ import annotations

import re
from os.path import relpath
from pathlib import Path
from posixpath import dirname, normpath
from typing import TYPE_CHECKING, Any

import reference

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
# Pages outside of docs/, and their names in the site.
OUTSIDE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changes.md",
    "benchmarks/README.md": "speed.md",
}
FENCE = re.compile(r"^```.*\n(?:.*\n)*?^```$", re.MULTILINE)
LINK = re.compile(r"(?<!!)\[([^\[\]]+)\]\(([^)#\s]+)((?:#[^)\s]*)?)\)")


def pages() -> dict[str, str]:
    """The text of each page, by its name in the site."""
    paths = sorted(DOCS.rglob("*.md"), key=lambda path: (path.name != "README.md", path))
    found = {path.relative_to(DOCS).as_posix(): path.read_text("utf-8") for path in paths}
    found |= {name: (ROOT / path).read_text("utf-8") for path, name in OUTSIDE.items()}
    return found | {f"reference/{m}.md": reference.page(m) for m in reference.modules()}


def expanded(nav: Any, known: list[str]) -> Any:
    """The navigation, with the pages of a folder in the place of an entry that ends in "/"."""
    match nav:
        case list():
            return [entry for item in nav for entry in _listed(expanded(item, known))]
        case dict():
            return {title: expanded(entries, known) for title, entries in nav.items()}
        case str() if nav.endswith("/"):
            return [name for name in known if dirname(name) == nav[:-1]]
    return nav


def _listed(item: Any) -> list[Any]:
    return item if isinstance(item, list) else [item]


def target(link: str, page: str) -> str | None:
    """Where a link of a page leads in the site, as a path from its root; None if to a folder."""
    origin = {name: path for path, name in OUTSIDE.items()}.get(page, f"docs/{page}")
    path = normpath(f"{dirname(origin)}/{link}".lstrip("/"))
    if path in OUTSIDE:
        return OUTSIDE[path]
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return None if (ROOT / path).is_dir() else f"source/{path}.md"


def in_site(text: str, page: str) -> str:
    """The text of a page, with its links as they are in the site."""

    def changed(match: re.Match[str]) -> str:
        words, link, anchor = match.groups()
        if "://" in link:
            return match[0]
        to = target(link, page)
        return words if to is None else f"[{words}]({relpath(to, dirname(page) or '.')}{anchor})"

    pieces, at = [], 0
    for fence in FENCE.finditer(text):
        plain = fence[0].replace("```text about", "```text", 1)
        pieces += [LINK.sub(changed, text[at : fence.start()]), plain]
        at = fence.end()
    return "".join([*pieces, LINK.sub(changed, text[at:])])


def sources(texts: dict[str, str]) -> dict[str, str]:
    """A page for each source file that a page links to."""
    found = {
        to
        for name, text in texts.items()
        for match in LINK.finditer(FENCE.sub("", text))
        if "://" not in match[2] and (to := target(match[2], name)) and to.startswith("source/")
    }
    return {name: _source(name.removeprefix("source/").removesuffix(".md")) for name in found}


def _source(path: str) -> str:
    text = (ROOT / path).read_text(encoding="utf-8")
    kind = "py" if path.endswith(".py") else "text"
    return f"---\nsearch: {{exclude: true}}\n---\n# {path}\n\n````{kind}\n{text}\n````\n"


def on_config(config: MkDocsConfig) -> None:
    """Write out the navigation."""
    names = list(pages())
    config.nav = expanded(config.nav, names)


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the pages that are not files of docs/."""
    from mkdocs.structure.files import File, InclusionLevel

    texts = pages()
    for name, text in texts.items():
        if files.get_file_from_path(name) is None:
            files.append(File.generated(config, name, content=text))
    for name, text in sources(texts).items():
        outside = InclusionLevel.NOT_IN_NAV
        files.append(File.generated(config, name, content=text, inclusion=outside))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite the links."""
    name = page.file.src_uri
    return markdown if name.startswith("source/") else in_site(markdown, name)
