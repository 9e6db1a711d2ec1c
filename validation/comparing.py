"""Comparisons of numbers as reports: found against expected, autograd against differences."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor

from ..ppl.tensors.jacobians import one_derivative
from ..semantics import Report
from ..semantics.judging.candidate import held
from ..semantics.judging.report import decide

SLOPE = 1e-5  # of a derivative, for the differences
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
    gap = ((found - expected).abs() / scale).nan_to_num(math.inf)
    gap = torch.where(found == expected, 0.0, gap)  # infinities that agree
    worst = int(gap.argmax())
    told = f"{name(worst)}: {float(found[worst]):.8g}, and it is {float(expected[worst]):.8g}"
    source = "of 1 + its size" if relative else "absolute"
    seconds = time.perf_counter() - start
    return decide(subject, float(gap[worst]), tolerance, source, told, seconds)


def slopes(subject: str, f: Callable[[Tensor], Tensor], rows: Tensor) -> Report:
    """Whether autograd's derivative of f [n] at rows [n, ...] is that of its values.

    Along one direction, by differences; the verdict is that of all but the few rows that may
    lie at kinks or ends.
    """
    start = time.perf_counter()
    x = rows.detach().double().reshape(len(rows), -1)

    def at(x: Tensor) -> Tensor:
        return f(x.reshape(rows.shape))

    with held(subject, "at a draw"), torch.enable_grad():
        leaf = x.clone().requires_grad_()
        total, slope = at(leaf).sum(), torch.zeros_like(x)
        if total.requires_grad:
            slope = torch.autograd.grad(total, leaf)[0]
    with held(subject, "beside a draw"), torch.no_grad():
        own, by_values, error = one_derivative(at, x, slope)
    size = 1e-3 + by_values.abs()
    known = error <= SLOPE * size
    gap = ((own - by_values).abs() / size).nan_to_num(math.inf)
    share = float((known & (gap > 10 * SLOPE)).sum()) / max(1, int(known.sum()))
    worst = int(torch.where(known, gap, -1.0).argmax())
    found, expected = float(own[worst]), float(by_values[worst])
    told = f"along a line it is {found:.6g} by autograd, {expected:.6g} by values"
    seconds = time.perf_counter() - start
    if int(known.sum()) * 2 < len(x):
        notes = ("its values are too rough for differences",)
        return Report(subject, "unknown", share, ODD, "of the draws", "", seconds, notes)
    return decide(subject, share, ODD, "of the draws may lie at kinks", told, seconds)
