"""Tables and the plot of a comparison, and the page that shows them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"
FIGURES = re.compile(r"(?<=<!-- figures -->\n).*(?=<!-- end of figures -->)", re.DOTALL)
COLUMNS = (
    *("import", "compile", "run", "results", "first", "gradients", "us", "ess", "ess/s"),
    *("ess/s compiled", "ess/s first", "r_hat", "z", "divergences", "MiB"),
)
RATES = {
    "ess/s": "warm-up and draws",
    "ess/s compiled": "with compilation",
    "ess/s first": "all of a first fit",
}
R_HAT, Z = 1.01, 4.5
Row = Mapping[str, float]
Rows = Mapping[tuple[str, str], Row]  # by posterior and sampler


def number(x: float) -> str:
    """Three digits, and no exponent."""
    if x == 0 or not math.isfinite(x):
        return f"{x:g}"
    return f"{x:,.{max(0, 2 - math.floor(math.log10(abs(x))))}f}"


def line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def heading(cells: Sequence[str]) -> str:
    return f"{line(cells)}\n" + "|---" * len(cells) + "|"


def figures(row: Row) -> list[str]:
    whole = ("gradients", "ess", "divergences", "MiB")
    return [
        f"{row[c]:,.0f}" if c in whole else f"{row[c]:.3f}" if c == "r_hat" else number(row[c])
        for c in COLUMNS
    ]


def every_figure(rows: Rows) -> str:
    """All columns, a line for each posterior and sampler."""
    table = [line([*key, *figures(row)]) for key, row in rows.items()]
    return "\n".join([heading(["posterior", "sampler", *COLUMNS]), *table])


def passes(row: Row) -> bool:
    return row["r_hat"] < R_HAT and row["z"] < Z


def side_by_side(rows: Rows, rate: str) -> str:
    """One rate, posteriors by samplers; where a fit misses its reference, in parentheses."""
    names, samplers = (list(dict.fromkeys(key[i] for key in rows)) for i in (0, 1))
    table = [heading(["posterior", *samplers])]
    for name in names:
        cells = []
        for sampler in samplers:
            row = rows.get((name, sampler))
            shown = number(row[rate]) if row else "-"
            cells.append(shown if row is None or passes(row) else f"({shown})")
        table.append(line([name, *cells]))
    table.append(line(["relative to ours", *(relative(rows, s, rate) for s in samplers)]))
    return "\n".join(table)


def relative(rows: Rows, sampler: str, rate: str) -> str:
    """The geometric mean of ratios to ours over the posteriors where both pass."""
    passing = {key: row for key, row in rows.items() if passes(row)}
    ratios = [
        math.log(row[rate] / passing[name, "ours"][rate])
        for (name, other), row in passing.items()
        if other == sampler and (name, "ours") in passing
    ]
    return number(math.exp(sum(ratios) / len(ratios))) if ratios else "-"


def report(rows: Rows, about: str) -> str:
    """All tables, after a line on when and where they were made."""
    parts = [about]
    for rate, of in RATES.items():
        parts += [f"Effective draws a second, {of}:", side_by_side(rows, rate)]
    parts += ["Every figure:", every_figure(rows)]
    return "\n\n".join(parts) + "\n"


def write(rows: Rows, about: str) -> None:
    """Put the tables between the marks of the page, and draw the plot beside it."""
    shown = report(rows, about) + "\n"
    page = FIGURES.sub(lambda _: shown, PAGE.read_text(encoding="utf-8"))
    PAGE.write_text(page, encoding="utf-8")
    plot(rows, PAGE.with_suffix(".png"))


def plot(rows: Rows, path: Path) -> None:
    """Rates on logarithmic axes, a panel for each, a mark for each sampler."""
    try:
        import matplotlib
    except ImportError:
        print("no plot: matplotlib is not installed")
        return
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names, samplers = (list(dict.fromkeys(key[i] for key in rows)) for i in (0, 1))
    figure, panels = plt.subplots(1, len(RATES), figsize=(11, 0.42 * len(names) + 1.6), sharey=True)
    for panel, (rate, of) in zip(panels, RATES.items(), strict=True):
        for sampler, marker in zip(samplers, "osD^vXP", strict=False):
            found = [(rows[n, sampler][rate], n) for n in names if (n, sampler) in rows]
            places = [len(names) - 1 - names.index(n) for _, n in found]
            panel.plot([x for x, _ in found], places, marker, label=sampler, alpha=0.85)
        panel.set(xscale="log", title=of, xlabel="effective draws a second")
        panel.grid(alpha=0.3)
    panels[0].set_yticks(range(len(names)), names[::-1])
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=len(samplers), frameon=False)
    figure.tight_layout(rect=(0, 0.07, 1, 1))
    figure.savefig(path, dpi=110)
    plt.close(figure)
