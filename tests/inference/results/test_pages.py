"""What notebooks and pages show: all of it escaped, and a page of a fit that needs nothing else."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from support.normals import numbers

from pushforward import condition, dist, plate, predict, program, sample
from pushforward.inference import MCMC, Fit, nuts, write_page
from pushforward.inference.results.loo import leave_one_out
from pushforward.ppl import pages
from pushforward.semantics import Report, denote

HOSTILE = "<script>alert('x')</script>&\"'"
VOID = {"meta", "img"}


class Tags(HTMLParser):
    """Reads a page: its tags must match, and its text is kept."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.sources: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert self.open == [], self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.sources += [str(value) for key, value in attrs if key in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, (tag, self.open)
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.text += data


@program
def hostile() -> Any:
    x = sample(HOSTILE, dist.Normal(0.0, 1.0))
    with plate("<b>", 2):
        sample("<i>", dist.Normal(x, 1.0))
    return x


MODEL = condition(hostile, {"<i>": torch.zeros(2)})


def hostile_fit() -> Fit:
    draws = {HOSTILE: numbers(0, 80).reshape(2, 40)}
    note = (f"do not believe {HOSTILE}",)
    return Fit(HOSTILE, draws, latents=(HOSTILE,), observed={"<i>": torch.zeros(2)}, notes=note)


SHOWN: dict[str, Any] = {
    "fit": hostile_fit(),
    "type": MODEL.type(),
    "trace type": MODEL.type().trace,
    "graph": MODEL.graph(),
    "prediction": predict(3, hostile),
    "left out": leave_one_out({HOSTILE: numbers(0, 80).reshape(2, 40)}, (HOSTILE,)),
    "report": Report(HOSTILE, "fail", 1.0, 0.1, "<u>", HOSTILE),
    "measure": denote(program(lambda: HOSTILE)),
}


@pytest.mark.parametrize("what", SHOWN)
def test_what_a_notebook_shows_is_escaped(what: str) -> None:
    tags = Tags(SHOWN[what]._repr_html_())
    assert "script" not in tags.seen and not {"b", "i", "u"} & set(tags.seen)
    assert HOSTILE in tags.text


def test_unescaped_names_are_found() -> None:
    assert "script" in Tags(f"<pre>{HOSTILE}</pre>").seen
    with pytest.raises(AssertionError):
        Tags("<pre><b></pre>")


def test_many_rows_are_cut() -> None:
    fit = Fit("by hand", {"x": numbers(0, 8000).reshape(2, 40, 100)})
    shown = Tags(fit._repr_html_())
    assert shown.seen.count("tr") == 21 and "..." in shown.text
    few = Tags(
        Fit("by hand", {"x": numbers(0, 80).reshape(2, 40)}, notes=("careful",))._repr_html_()
    )
    assert few.seen.count("tr") == 2 and "careful" in few.text
    assert Tags(Fit("by hand", {})._repr_html_()).seen.count("tr") == 1


def test_a_page_of_a_fit_needs_nothing_else(tmp_path: Path) -> None:
    """Its pictures are within, and it tells model, type, data, figures, advice, seed, versions."""
    fit = MCMC(nuts(2), 2, 40, 20, compiled=False, progress=False).run(MODEL, seed=31)
    fit.notes = (f"do not believe {HOSTILE}",)
    path = write_page(fit, tmp_path / "fit.html", MODEL, title="<title>")
    page = Tags(path.read_text(encoding="utf-8"))
    assert "script" not in page.seen and "link" not in page.seen
    assert page.sources and all(x.startswith("data:image/png;base64,") for x in page.sources)
    for word in (HOSTILE, "<title>", "<b>", "Real[2]", "observed", "r_hat", "seed 31", "torch "):
        assert word in page.text, word
    assert "do not believe" in page.text and "elpd" in page.text
    assert re.search(r"arviz \d", page.text) and "sample(HOSTILE" in page.text


def test_a_page_of_a_fit_without_draws_data_or_program(tmp_path: Path) -> None:
    empty = Tags(write_page(Fit("by hand", {}), tmp_path / "a.html").read_text())
    assert "img" not in empty.seen and "Nothing speaks against it" in empty.text
    one = Fit("by hand", {"x": torch.zeros(1, 1)}, latents=("x",))
    one.observed["y"] = torch.zeros(0)
    assert "img" in Tags(write_page(one, tmp_path / "b.html").read_text()).seen


def test_pieces_of_pages() -> None:
    assert pages.listed([]) == ""
    assert Tags(pages.picture(HOSTILE, "data:,")).sources == ["data:,"]
    assert pages.text("a", edge='"><b>').count("<") == 2
