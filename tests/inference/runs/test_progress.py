"""The progress bar: what stands beside it, for one figure and for a figure a chain."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from rich.console import Console

from pushforward import dist, sample
from pushforward.inference import MCMC
from pushforward.inference.runs import progress as progress_module
from pushforward.inference.runs.progress import Progress, is_watched, shown_figure


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("warmup", "warmup"),
        (0.123456, "0.1235"),
        (3, "3"),
        ([0.5, 0.5, 0.5], "0.5"),
        ([0.5, 0.25], "0.5 0.25"),
        ([0.81234, 0.8123], "0.812"),
        ([float(i) for i in range(1, 10)], "1 to 9"),
        ([], ""),
    ],
)
def test_figures(value: Any, shown: str) -> None:
    assert shown_figure(value) == shown


def test_nothing_is_written_where_no_bar_can_move(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither into a file, nor in a notebook without widgets, where rich would warn."""

    def written(**about: bool) -> str:
        text = io.StringIO()
        with Progress(3, "MCMC", console=Console(file=text, width=80, **about)) as progress:
            progress.advance()
        return text.getvalue()

    assert written() == ""
    assert "MCMC" in written(force_terminal=True)
    notebook = Console(force_jupyter=True, file=io.StringIO())
    for spec in (None, object()):
        monkeypatch.setattr(progress_module, "find_spec", lambda name, spec=spec: spec)
        assert is_watched(notebook) is (spec is not None)


def test_the_bar_shows_share_and_time_left() -> None:
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=160)
    with Progress(200, "MCMC", console=console) as progress:
        progress.advance(50, phase="warmup", divergences=3, step=[0.5, 0.25])
        progress._bar.refresh()
    shown = re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "", text.getvalue())
    assert re.search(r"25% +50/200 +\d:\d\d:\d\d < +[-\d:]+", shown), shown
    assert "phase warmup  divergences 3  step 0.5 0.25" in shown


def neck() -> None:
    scale = sample("scale", dist.Normal(0.0, 3.0))
    sample("x", dist.Normal(0.0, scale.exp()))


@pytest.mark.parametrize("compiled", [True, False])
def test_a_run_counts_its_divergences_and_shows_a_step_a_chain(
    monkeypatch: pytest.MonkeyPatch, compiled: bool
) -> None:
    """The last count that is shown is that of the fit, and steps differ only in warm-up."""
    seen: list[dict[str, Any]] = []
    steps = 0

    def advance(self: Progress, count: int = 1, **figures: Any) -> None:
        nonlocal steps
        steps += count
        seen.append(figures)

    monkeypatch.setattr(Progress, "advance", advance)
    about: dict[str, Any] = {"chains": 2, "draws": 40, "warmup": 30, "thin": 1, "target": 0.5}
    fit = MCMC(progress=False, compiled=compiled, **about).run(neck, seed=1)
    assert steps == 70
    assert fit.divergences and seen[-1]["divergences"] == fit.divergences
    assert seen[-1]["phase"] == "draws" and seen[0]["phase"] == "warmup"
    learnt = [x["step"] for x in seen if x["phase"] == "warmup"]
    assert any(len(set(x)) == 2 for x in learnt) == compiled  # else one for all chains
