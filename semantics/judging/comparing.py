"""What checks that compare measures share: their tolerance, and how they tell two masses apart."""

from __future__ import annotations

import math
from collections.abc import Callable

from ..evaluation.measure import EPSILON, Measure, share

TOLERANCE = 1e-10
ROUNDINGS = 64  # of log weights, along one path


def allowance(tolerance: float, *measures: Measure) -> tuple[float, str]:
    """The tolerance for comparing measures, as a share of their mass, and where it comes from.

    It grows by their quadrature errors, and covers the rounding of log weights, which grows with
    their size, in the coarsest dtype.
    """
    error = sum(share(measure.log_error, measure.log_mass()) for measure in measures)
    rounding = max(ROUNDINGS * measure.resolution * _size(measure) for measure in measures)
    if rounding > tolerance:
        coarse = max(measure.resolution for measure in measures) > EPSILON
        hint = ": use float64 parameters for 1e-10" if coarse else ", for weights of this size"
        return rounding + error, f"of the mass, for the rounding of its coarsest dtype{hint}"
    return tolerance + error, "of the mass, " + (
        "with the quadrature error" if error else "for float64 rounding"
    )


def _size(measure: Measure) -> float:
    """Of the log weights, at least one."""
    log_mass = abs(measure.log_mass())
    return max(1.0, log_mass) if math.isfinite(log_mass) else 1.0


def masses(first: float, second: float) -> tuple[str, str]:
    """Two masses, by their logs, with as many digits as tell them apart."""
    return _apart(first, second, _mass)


def numbers(first: float, second: float) -> tuple[str, str]:
    """Two numbers, with as many digits as tell them apart."""
    return _apart(first, second, lambda x, digits: f"{x:.{digits}g}")


def _apart(first: float, second: float, text: Callable[[float, int], str]) -> tuple[str, str]:
    texts = [(text(first, digits), text(second, digits)) for digits in (10, 17)]
    return next((pair for pair in texts if pair[0] != pair[1]), texts[-1])


def _mass(log_weight: float, digits: int) -> str:
    """A mass by its log: below and beyond what a number holds, as a power of e."""
    if log_weight == -math.inf or abs(log_weight) < 700.0:
        return f"{math.exp(log_weight):.{digits}g}"
    return f"exp({log_weight:.{digits}g})"


def unseen(measure: Measure, tolerance: float) -> tuple[str, ...]:
    """A note on the values that are too rare for a fault in them to show."""
    if measure.log_error > -math.inf:
        return ()  # nodes of a quadrature
    total = measure.log_mass()
    rare = sum(share(log_weight, total) <= tolerance for _, log_weight in measure.atoms)
    if not rare:
        return ()
    held = f"{rare} of {len(measure)} values hold"
    return (f"{held} no more than {tolerance:.0e} of the mass each: faults there do not show",)
