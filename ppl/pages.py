"""Pieces of HTML, for notebooks and for pages of their own: whatever they are given is escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
       color: #222; background: #fff; }
pre { white-space: pre-wrap; background: #f4f4f4; padding: .6rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .1rem .6rem; text-align: right; }
th:first-child, td:first-child { text-align: left; }
img { max-width: 100%; background: #fff; }
svg { margin: .3rem .6rem .3rem 0; }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #181818; }
  pre { background: #252525; } }
"""


def text(content: object, edge: str = "") -> str:
    """What is printed, as it is printed, beside an edge of some colour."""
    style = f' style="border-left:4px solid {html.escape(edge)};padding-left:8px"' if edge else ""
    return f"<pre{style}>{html.escape(str(content))}</pre>"


def paragraph(content: object) -> str:
    return f"<p>{html.escape(str(content))}</p>"


def heading(content: object, level: int = 2) -> str:
    return f"<h{level}>{html.escape(str(content))}</h{level}>"


def listed(contents: Iterable[object]) -> str:
    """One point for each; nothing if there are none."""
    points = "".join(f"<li>{html.escape(str(each))}</li>" for each in contents)
    return f"<ul>{points}</ul>" if points else ""


def table(columns: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """A table; the first column names its rows."""
    return (
        f"<table><thead>{_row('th', columns)}</thead>"
        f"<tbody>{''.join(_row('td', row) for row in rows)}</tbody></table>"
    )


def _row(cell: str, contents: Sequence[object]) -> str:
    cells = "".join(f"<{cell}>{html.escape(str(each))}</{cell}>" for each in contents)
    return f"<tr>{cells}</tr>"


def picture(name: str, address: str) -> str:
    """An image at an address, which may hold it."""
    return f'<img alt="{html.escape(name)}" src="{html.escape(address)}">'


def page(title: str, parts: Iterable[str]) -> str:
    """A page that needs nothing else, of parts that are HTML."""
    shown = html.escape(title)
    return (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{shown}</title>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<style>{STYLE}</style></head><body>{heading(title, 1)}{''.join(parts)}</body></html>\n"
    )
