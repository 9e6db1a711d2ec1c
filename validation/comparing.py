"""Comparisons of numbers as reports: found against expected, autograd against differences."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from ..semantics import Report
from ..semantics.candidate import held
from ..semantics.report import decide

SLOPE = 1e-5  # of a derivative, for the differences
STEPS = (1e-2, 5e-3, 2.5e-3)  # of differences, halved twice
ODD = 0.05  # of the points may be near a kink


def compared(
    subject: str,
    found: Tensor,
    expected: Tensor,
    tolerance: float,
    name: Callable[[int], str],
    start: float,
    relative: bool = False,
) -> Report:
    """Whether numbers agree; with ``relative`` by differences over 1 + |expected|."""
    scale = 1 + expected.abs() if relative else torch.ones_like(expected)
    gap = ((found - expected).abs() / scale).nan_to_num(float("inf"))
    gap = torch.where(found == expected, 0.0, gap)  # infinities that agree
    worst = int(gap.argmax())
    told = f"{name(worst)}: {float(found[worst]):.8g}, and it is {float(expected[worst]):.8g}"
    source = "of 1 + its size" if relative else "absolute"
    seconds = time.perf_counter() - start
    return decide(subject, float(gap[worst]), tolerance, source, told, seconds)


def slopes(subject: str, f: Callable[[Tensor], Tensor], rows: Tensor) -> Report:
    """Whether autograd's derivative of f [n] at rows [n, ...] is that of its values.

    Along one random direction for each row, by differences whose error is extrapolated away; the
    verdict is that of all but the few rows that may lie at kinks or ends.
    """
    start = time.perf_counter()
    x = rows.detach().double()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        direction = torch.randn_like(x)
    direction = direction * 1e-2 * (1e-1 + x.abs())
    with held(subject, "at a draw"), torch.enable_grad():
        leaf = x.clone().requires_grad_()
        total = f(leaf).sum()
        slope = (
            torch.zeros_like(x) if not total.requires_grad else torch.autograd.grad(total, leaf)[0]
        )
    own = (slope * direction).reshape(len(x), -1).sum(-1)
    with held(subject, "beside a draw"), torch.no_grad():
        coarse, middle, fine = (
            (f(x + h * direction) - f(x - h * direction)) / (2 * h) for h in STEPS
        )
    first, second = (4 * middle - coarse) / 3, (4 * fine - middle) / 3
    best = (16 * second - first) / 15
    known = (
        best.isfinite() & own.isfinite() & ((second - first).abs() <= SLOPE * (1e-3 + best.abs()))
    )
    gap = (own - best).abs() / (1e-3 + best.abs())
    off = known & (gap > 10 * SLOPE)
    share = float(off.sum()) / max(1, int(known.sum()))
    worst = int(torch.where(known, gap, -1.0).argmax())
    by_hand = float(best[worst])
    told = f"along a line it is {float(own[worst]):.6g} by autograd, {by_hand:.6g} by values"
    seconds = time.perf_counter() - start
    if int(known.sum()) * 2 < len(x):
        notes = ("its values are too rough for differences",)
        return Report(subject, "unknown", share, ODD, "of the draws", "", seconds, notes)
    return decide(subject, share, ODD, "of the draws may lie at kinks", told, seconds)
