"""The HTML report of the demo, with its plots."""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from torch import Tensor

from .examples.eight_schools import SCHOOLS, EightSchools
from .inference import Fit
from .inference.results.foreign import import_arviz
from .semantics import Report

_STYLE = """
body { font: 16px/1.5 sans-serif; max-width: 60em; margin: 2em auto; color: #222; }
pre { background: #f6f6f6; padding: 8px; overflow-x: auto; font-size: 13px; }
img { max-width: 100%; }
"""


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
    sections = [
        "<h1>Eight schools</h1>",
        f"<p>The model, with its inferred type:</p>{_pre(kind)}",
        *(f"{_pre(str(fit))}" for fit in fits.values()),
        "<h2>Against the reference</h2>",
        _pre(_as_text(table)),
        *(f'<h3>{name}</h3><img alt="{name}" src="{source}">' for name, source in images.items()),
        "<h2>The algorithms, checked exactly on tiny models</h2>",
        *(report._repr_html_() for report in reports),
        "<h2>One that is broken on purpose</h2>",
        broken._repr_html_(),
        f"<p><small>{html.escape(data.licence)}</small></p>",
    ]
    path = out / "report.html"
    head = (
        f'<!doctype html><meta charset="utf-8"><title>Eight schools</title><style>{_STYLE}</style>'
    )
    path.write_text(head + "\n".join(sections), encoding="utf-8")
    return path


def figures(fits: dict[str, Fit], data: EightSchools, replicated: Tensor) -> dict[str, Any]:
    """Matplotlib figures by name."""
    arviz = import_arviz()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    coords = {"school": SCHOOLS}
    posteriors = {name: fit.to_arviz(coords=coords) for name, fit in fits.items()}
    forest = arviz.plot_forest(
        list(posteriors.values()),
        model_names=list(posteriors),
        var_names=["mu", "tau", "theta"],
        combined=True,
        hdi_prob=0.9,
        show=False,
    )
    trace = arviz.plot_trace(posteriors["NUTS"], var_names=["mu", "tau"], show=False)
    found = {"effects by method": forest[0].figure, "chains of NUTS": trace[0, 0].figure}

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


def _save(path: Path, figure: Any) -> str:
    """Write a figure to a file, and return it as a data address for the page."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
    path.with_name(path.name.replace(" ", "_")).write_bytes(buffer.getvalue())
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _pre(text: str) -> str:
    return f"<pre>{html.escape(text)}</pre>"


def _as_text(table: Table) -> str:
    console = Console(record=True, width=120, file=io.StringIO())
    console.print(table)
    return console.export_text()
