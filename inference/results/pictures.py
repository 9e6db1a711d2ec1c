"""Pictures of draws: chains with their ranks, and intervals side by side."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any

import numpy as np

BINS = 20
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def chains_and_ranks(draws: Mapping[str, Any]) -> Any:
    """A figure with a row for each number, by name [chains, draws]: its chains, and their ranks.

    Ranks are those among the draws of all chains, counted by chain: where chains agree, all bars
    are about as high as the line.
    """
    figure, axes = _figure(len(draws), 2, (9.0, 1.8 * len(draws)))
    for (name, x), (left, right) in zip(draws.items(), axes, strict=True):
        chains, size = x.shape
        ranks = np.argsort(np.argsort(x, axis=None, kind="stable")).reshape(x.shape)
        bins = max(1, min(BINS, size // 5))
        edges = np.linspace(0, x.size, bins + 1)
        for c in range(chains):
            left.plot(x[c], lw=0.6, alpha=0.8)
            heights = np.histogram(ranks[c], edges)[0]
            right.stairs(heights, edges, alpha=0.8)
        right.axhline(size / bins, color="0.4", lw=0.8, ls="--")
        left.set_ylabel(name)
        right.set_ylim(bottom=0)
        right.set_yticks([])
    axes[0][0].set_title("draws of each chain", fontsize=10)
    axes[0][1].set_title("ranks of each chain", fontsize=10)
    return figure


def intervals(methods: Mapping[str, Mapping[str, Any]]) -> Any:
    """A figure of medians, with intervals of half and of nine tenths, by method and name [n]."""
    names = list(next(iter(methods.values())))
    figure, ((axes,),) = _figure(1, 1, (7.0, 0.9 + 0.22 * len(names) * len(methods)))
    for m, (method, draws) in enumerate(methods.items()):
        for i, name in enumerate(names):
            y = -i - 0.7 * m / len(methods)
            low, first, middle, third, high = np.quantile(draws[name], QUANTILES)
            axes.plot([low, high], [y, y], color=f"C{m}", lw=1)
            axes.plot([first, third], [y, y], color=f"C{m}", lw=3)
            axes.plot([middle], [y], "o", color=f"C{m}", label=None if i else method)
    axes.set_yticks([-i for i in range(len(names))], names)
    axes.legend()
    return figure


def as_png(figure: Any, dpi: int = 110) -> bytes:
    """The figure as the bytes of a PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, bbox_inches="tight")
    return buffer.getvalue()


def as_address(png: bytes) -> str:
    """The picture as an address that holds it."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _figure(rows: int, columns: int, size: tuple[float, float]) -> tuple[Any, Any]:
    """A figure that no window shows, and its axes [rows, columns]."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="tight")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)
