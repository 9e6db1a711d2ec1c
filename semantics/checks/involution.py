"""The check of deterministic proposals: Metropolis kernels whose proposal is an involution."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from ...ppl.errors import ProgramError, located
from ...ppl.language.program import program_name
from ...ppl.tensors.jacobians import volumes
from ..evaluation.denote import CONVERGED
from ..evaluation.sources import AGAIN
from ..judging.candidate import Broken, held, repeated, verdict
from ..judging.comparing import numbers
from ..judging.report import Report, decide

TOLERANCE = 1e-12
Rows = Callable[[Tensor], Tensor]


@verdict
def check_involution(
    mapping: Rows,
    acceptance: Rows,
    log_density: Rows,
    points: Tensor,
    *,
    jacobian: Rows | None = None,
    tolerance: float = TOLERANCE,
) -> Report:
    """Whether x -> mapping(x), accepted with probability acceptance(x), is reversible.

    Two conditions, which together are detailed balance (Tierney 1998, Green 1995), at each of the
    points: mapping(mapping(x)) = x; and pi(x) a(x) = pi(y) a(y) |det D mapping(x)| with
    y = mapping(x).  So a map may change volume, if its acceptance accounts for that.  Deviations
    are relative to 1 + |x|, and to max(pi(x), pi(y) |det|).

    Args:
        mapping: rows [n, k] to rows [n, k], each on its own.  It is differentiated by autograd, and
            by finite differences where that does not see all; their error adds to the tolerance.
        acceptance: the kernel's probability [n] of moving from rows [n, k] to their images.
        log_density: the log density [n] of rows [n, k], known independently of the kernel.
        points: rows [n, k] in float64.
        jacobian: |det D mapping| [n] at rows [n, k], as the kernel takes it: it is compared, too.
    """
    start = time.perf_counter()
    subject = f"{program_name(mapping)} is a reversible proposal"
    images = _asked(subject, "the map", mapping, points, points.shape)
    returned = _asked(subject, "the map", mapping, images, points.shape)
    forth, back = (
        _asked(subject, "the acceptance", acceptance, x, points.shape[:1]) for x in (points, images)
    )
    with held(subject, "in differentiating the map"):
        sizes = volumes(mapping, points)
    here, there = (log_density(x).detach() for x in (points, images))
    there = there + sizes.log_size
    top = torch.maximum(here, there)
    top = torch.where(top == -math.inf, 0.0, top)  # no mass at either end
    leaving, coming = (here - top).exp() * forth, (there - top).exp() * back
    apart = (returned - points).abs().amax(-1) / (1.0 + points.abs().amax(-1))
    beyond = torch.maximum(_beyond(forth), _beyond(back))
    gaps = [
        _Gap("the map does not return: F(F(x)) - x", apart),
        _Gap("the acceptance is no probability: its distance from [0, 1]", beyond),
        _Gap(
            "no detailed balance: pi(x) a(x, y) - pi(y) a(y, x) |det DF(x)|",
            leaving - coming,
            coming * sizes.error,
        ),
    ]
    if jacobian is not None:
        claimed = _asked(subject, "the Jacobian", jacobian, points, points.shape[:1])
        what = "the Jacobian is not that of the map: jacobian(x) / |det DF(x)| - 1"
        gaps.append(_Gap(what, claimed / sizes.log_size.exp() - 1.0, sizes.error))
    worst = max(gaps, key=lambda gap: gap.beyond(tolerance).max())
    at = int(worst.beyond(tolerance).argmax())
    gap, error = (float(each[at]) for each in (worst.size.abs(), worst.allowed()))
    chances = " forth and ".join(numbers(float(forth[at]), float(back[at])))
    report = decide(
        subject,
        gap,
        tolerance + error,
        "for float64 rounding" + (", with the error of the differences" if error else ""),
        f"{worst.what} is {gap:.3g} at x = {points[at].tolist()}, F(x) = {images[at].tolist()} "
        f"(a = {chances} back{_volume(float(sizes.log_size[at]))})",
        time.perf_counter() - start,
    )
    if sizes.by_differences:
        told = f"{sizes.by_differences} of {len(points)} Jacobians by finite differences"
        report = replace(report, notes=(*report.notes, told))
    if float(sizes.error.max()) > CONVERGED and report.verdict == "pass":
        note = "the differences have not converged: give points where the map is smooth"
        report = replace(report, verdict="unknown", notes=(*report.notes, note))
    return report


class _Gap(NamedTuple):
    """What should be zero at each of n points, and the error with which it is known."""

    what: str
    size: Tensor
    error: Tensor | None = None

    def allowed(self) -> Tensor:
        return torch.zeros_like(self.size) if self.error is None else self.error

    def beyond(self, tolerance: float) -> Tensor:
        """As a multiple of what is allowed; NaN counts as infinite."""
        ratio = self.size.abs() / (tolerance + self.allowed())
        return ratio.nan_to_num(math.inf, math.inf)


def _beyond(chances: Tensor) -> Tensor:
    return (chances - chances.clamp(0.0, 1.0)).abs()


def _asked(subject: str, what: str, function: Rows, points: Tensor, shape: torch.Size) -> Tensor:
    """What a part of the candidate gives at rows, which must be the same again and of a shape."""
    given = points.clone()

    def ask() -> Tensor:
        value = function(given).detach()
        if not torch.equal(given, points):
            raise ProgramError(located("it changes its argument in place", hint="return a copy"))
        if value.shape != shape:
            wrong = f"it returns shape {list(value.shape)}, not {list(shape)}"
            raise ProgramError(located(wrong, hint="map each row on its own"))
        return value

    try:
        found: Tensor = repeated(subject, what, ask, function, AGAIN)
    except Broken:
        for row in points:
            with held(subject, f"{what} at x = {row.tolist()}"):
                function(row[None].clone())
        raise
    return found


def _volume(log_size: float) -> str:
    """What is said of a map that changes volume."""
    if abs(log_size) < 1e-9:
        return ""
    return f"; the map changes volume: |det DF(x)| = {math.exp(min(log_size, 700.0)):.10g}"
