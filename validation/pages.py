"""A validation as JSON, as JUnit's XML, and as one page of HTML."""

from __future__ import annotations

import html
import json
import math
from typing import Any
from xml.etree import ElementTree

import torch
from torch import Tensor

from ..ppl.pages import heading, page, paragraph
from ..semantics import Report
from ..semantics.checks.calibration import Calibration
from .layers import Validation


def as_json(validation: Validation) -> str:
    """All of it; numbers that JSON has not are null."""
    layers = [{"layer": name, **_plain(report)} for name, report in validation.reports.items()]
    return json.dumps(
        {
            "thing": validation.thing,
            "kind": validation.kind,
            "verdict": validation.verdict,
            "seconds": round(validation.seconds, 3),
            "layers": layers,
            "skipped": [{"layer": each.name, "why": each.why} for each in validation.skipped],
        },
        indent=2,
    )


def _plain(report: Report) -> dict[str, Any]:
    names = ("subject", "verdict", "deviation", "tolerance", "source", "counterexample", "seconds")
    found = {name: getattr(report, name) for name in names}
    finite = {
        name: None if isinstance(x, float) and not math.isfinite(x) else x
        for name, x in found.items()
    }
    return {**finite, "notes": list(report.notes)}


def as_junit(validation: Validation) -> str:
    """A test suite with a case for each layer; an unknown verdict is an error."""
    suite = ElementTree.Element("testsuite", name=validation.thing)
    for name, report in validation.reports.items():
        case = _case(suite, validation, name, report.seconds)
        if report.verdict != "pass":
            kind = "failure" if report.verdict == "fail" else "error"
            told = ElementTree.SubElement(case, kind, message=report.counterexample)
            told.text = str(report)
    for each in validation.skipped:
        case = _case(suite, validation, each.name, 0.0)
        ElementTree.SubElement(case, "skipped", message=each.why)
    counts = {
        "tests": len(suite),
        "failures": len(suite.findall("*/failure")),
        "errors": len(suite.findall("*/error")),
        "skipped": len(validation.skipped),
    }
    for key, count in counts.items():
        suite.set(key, str(count))
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True)


def _case(suite: Any, validation: Validation, name: str, seconds: float) -> Any:
    about = {"classname": validation.thing, "name": name, "time": f"{seconds:.3f}"}
    return ElementTree.SubElement(suite, "testcase", about)


def as_html(validation: Validation) -> str:
    """One page, which needs nothing else: each layer, its counterexample, histograms of ranks."""
    parts = [paragraph(f"{validation.kind}, {validation.seconds:.1f} s")]
    parts += [_section(name, report) for name, report in validation.reports.items()]
    parts += [paragraph(f"{each.name}: not run, {each.why}") for each in validation.skipped]
    return page(f"{validation.thing}: {validation.verdict}", parts)


def _section(name: str, report: Report) -> str:
    ranks = report.ranks if isinstance(report, Calibration) else {}
    pictures = "".join(_histogram(what, found) for what, found in ranks.items())
    title = heading(f"{name}: {report.verdict}")
    return f"<section>{title}{report._repr_html_()}{pictures}</section>"


def _histogram(name: str, ranks: Tensor, bins: int = 10) -> str:
    """Shares of ranks in equal bins, and the band of 95 % of right methods about each."""
    n = len(ranks)
    if n == 0:
        return ""
    counts = torch.histc(ranks.float(), bins, 0.0, 1.0) / n
    band = 1.96 * (1 / bins * (1 - 1 / bins) / n) ** 0.5
    top = max(float(counts.max()), 1 / bins + band) * 1.1
    width, height, each = 220, 90, 22

    def y(share: float) -> float:
        return float(round(height * (1 - share / top), 1))

    bars = "".join(
        f"<rect x='{i * each}' y='{y(float(share))}' width='{each - 1}' "
        f"height='{round(height - y(float(share)), 1)}' fill='#4678a8'/>"
        for i, share in enumerate(counts)
    )
    low, high = y(max(0.0, 1 / bins - band)), y(1 / bins + band)
    grey = f"<rect x='0' y='{high}' width='{width}' height='{round(low - high, 1)}' "
    label = html.escape(f"ranks of {name}, {n} fits; grey: 95 % of right methods")
    return (
        f"<svg width='{width}' height='{height + 4}' role='img' aria-label='{label}'>"
        f"<title>{label}</title>{bars}{grey}fill='#888' fill-opacity='.35'/></svg>"
        f"<small>{label}</small>"
    )
