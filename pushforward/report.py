"""The HTML report of the demo, with its plots."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from torch import Tensor

from .examples.eight_schools import SCHOOLS, EightSchools
from .inference import Fit
from .inference.results.groups import as_arrays
from .inference.results.pictures import as_address, as_png, chains_and_ranks, intervals
from .ppl.pages import heading, page, paragraph, picture, text
from .semantics import Report


def write_report(
    out: Path,
    kind: str,
    fits: dict[str, Fit],
    data: EightSchools,
    table: Table,
    reports: list[Report],
    broken: Report,
    replicated: Tensor,
) -> Path:
    """Write ``out/report.html`` and the plots beside it; return the path of the page."""
    out.mkdir(parents=True, exist_ok=True)
    images = {
        name: _save(out / f"{name}.png", figure)
        for name, figure in figures(fits, data, replicated).items()
    }
    path = out / "report.html"
    parts = [
        paragraph("The model, with its inferred type:"),
        text(kind),
        *(text(fit) for fit in fits.values()),
        heading("Against the reference"),
        text(_as_text(table)),
        *(heading(name, 3) + picture(name, source) for name, source in images.items()),
        heading("The algorithms, checked exactly on tiny models"),
        *(report._repr_html_() for report in reports),
        heading("One that is broken on purpose"),
        broken._repr_html_(),
        paragraph(data.licence),
    ]
    path.write_text(page("Eight schools", parts), encoding="utf-8")
    return path


def figures(fits: dict[str, Fit], data: EightSchools, replicated: Tensor) -> dict[str, Any]:
    """Matplotlib figures by name."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    chains = as_arrays({name: fits["NUTS"][name] for name in ("mu", "tau")})
    found = {
        "effects by method": intervals({name: _effects(fit) for name, fit in fits.items()}),
        "chains of NUTS": chains_and_ranks(chains),
    }

    figure = Figure(figsize=(7, 3.5))
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    flat = replicated.reshape(-1, replicated.shape[-1]).numpy()
    axes.boxplot(list(flat.T), whis=(5, 95), showfliers=False)
    axes.plot(range(1, len(SCHOOLS) + 1), data.y, "o", color="C3", label="data")
    axes.set_xticks(range(1, len(SCHOOLS) + 1), SCHOOLS)
    axes.set_ylabel("effect on the score")
    axes.legend()
    found["data within the posterior predictive"] = figure
    return found


def _effects(fit: Fit) -> dict[str, Any]:
    """The draws of what all schools share, and of the effect in each."""
    draws = {name: x.flatten(0, 1) for name, x in fit.draws.items()}
    shared = {name: draws[name] for name in ("mu", "tau")}
    return as_arrays(shared | dict(zip(SCHOOLS, draws["theta"].T, strict=True)))


def _save(path: Path, figure: Any) -> str:
    """Write a figure to a file, and return it as a data address for the page."""
    png = as_png(figure)
    path.with_name(path.name.replace(" ", "_")).write_bytes(png)
    return as_address(png)


def _as_text(table: Table) -> str:
    console = Console(record=True, width=120, file=io.StringIO())
    console.print(table)
    return console.export_text()
