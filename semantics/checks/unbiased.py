"""Whether an estimator's expectation is a derivative of an objective."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...ppl.errors import BudgetError, ProgramError, located
from ...ppl.language.program import program_name
from ..evaluation.denote import BUDGET, however_rough
from ..evaluation.measure import Measure, readable
from ..judging.candidate import held, measure_of, verdict
from ..judging.comparing import numbers
from ..judging.report import Report, decide

UNSETTLED = 4.0  # times the change by more nodes
Program = Callable[..., Any]


@verdict
def unbiased(
    estimator: Program,
    objective: Callable[[Tensor], Tensor],
    at: Tensor,
    *,
    quadrature: int | None = 32,
    tolerance: float = 1e-8,
    budget: int = BUDGET,
    depth: int | None = None,
    bound: float | None = None,
) -> Report:
    """Whether the expected value of a gradient estimator is the gradient of the objective.

    They are compared relative to the larger of the exact numbers and of the mean size of the
    estimates, which may have either sign.  Where more nodes change the expectation by a quarter of
    what is wrong, it has not converged, and the verdict is unknown.

    Args:
        estimator: a program from parameters [d] to a gradient estimate [d], or to a tuple of
            estimates of the value [], the gradient [d], the Hessian [d, d] ...; its noise is
            enumerated, and integrated by ``quadrature`` nodes where it is continuous.
        objective: the exact objective, differentiable by torch.
        at: the parameters [d].
        depth: how many calls of a recursive estimator are nested, and how many values of an
            infinite support are listed, as in ``denote``.
        bound: the most that the size of any number of an estimate may be, times its scores, where
            a recursion or a support was cut.  Without it nothing bounds what is missing.
    """
    start = time.perf_counter()
    subject = f"{program_name(estimator)} is an unbiased gradient estimator"
    limits: dict[str, Any] = {"quadrature": quadrature, "budget": budget, "depth": depth}
    where = f"at the parameters {readable(at)}"

    def law_by(nodes: int | None) -> Measure:
        return measure_of(
            subject, estimator, at, at=where, bound=1.0, **{**limits, "quadrature": nodes}
        )

    law = law_by(quadrature)
    parts = next((len(v) if isinstance(v, tuple) else None for v, _ in law.atoms), None)
    exact, labels = _derivatives(objective, at.detach(), parts)
    with held(subject, where):
        _require_size(law, len(exact))
        mean = law.expect(_as_row)
        variance = law.expect(lambda estimate: (_as_row(estimate) - mean) ** 2)
    scale = _scale(law, exact, objective(at), tolerance)
    gap = (mean - exact).abs().nan_to_num(math.inf) / scale
    worst = int(gap.argmax())
    found, wanted = numbers(float(mean[worst]), float(exact[worst]))
    shown = [round(v, 6) for v in variance.tolist()]
    report = decide(
        subject,
        float(gap.max()),
        tolerance,
        "of its size, for the quadrature",
        f"{labels[worst]}: expectation {found}, exact {wanted}",
        time.perf_counter() - start,
        (f"variance {shown} without what was cut" if law.rest else f"exact variance {shown}",),
        missing=_missing(law, bound) / scale,
    )
    if report.verdict != "fail" or quadrature is None:
        return report
    try:
        with held(subject, where):
            finer = [
                however_rough(law_by, n).expect(_as_row) for n in (quadrature + 1, 2 * quadrature)
            ]
    except BudgetError:
        return report
    error = torch.stack([(other - mean).abs() for other in finer]).amax(0).nan_to_num(0.0) / scale
    if bool((gap > tolerance + UNSETTLED * error).any()):
        return report
    note = "the quadrature has not converged: raise quadrature="
    return replace(report, verdict="unknown", notes=(*report.notes, note))


def _missing(law: Measure, bound: float | None) -> float:
    """The most that what was cut may add to an expectation, or take from it."""
    if law.log_rest == -math.inf:
        return 0.0
    return math.inf if bound is None else law.rest * bound


def _require_size(law: Measure, size: int) -> None:
    """Raise unless every estimate has so many numbers."""
    sizes = {len(_as_row(estimate)) for estimate, _ in law.atoms} or {0}
    if sizes != {size}:
        told = " or ".join(map(str, sorted(sizes)))
        what = f"it estimates {told} numbers, and the objective has {size}"
        raise ProgramError(located(what, hint="return one number for each parameter"))


def _scale(law: Measure, exact: Tensor, value: Tensor, tolerance: float) -> float:
    """The size of what is estimated, but no less than what the value's own rounding amounts to."""
    sizes = law.expect(lambda estimate: _as_row(estimate).abs()), exact.abs()
    largest = max(float(size.nan_to_num(0.0, 0.0).max()) for size in sizes)
    return max(largest, tolerance * float(value.detach().abs().max())) or 1.0


def _as_row(estimate: Any) -> Tensor:
    """An estimate, or several, as one vector."""
    parts = estimate if isinstance(estimate, tuple) else (estimate,)
    return torch.cat([torch.as_tensor(part).detach().double().reshape(-1) for part in parts])


_PARTS = ("value", "gradient", "second derivative", "third derivative")


def _derivatives(
    objective: Callable[[Tensor], Tensor], at: Tensor, parts: int | None
) -> tuple[Tensor, list[str]]:
    """The gradient, or as many ``parts`` of value, gradient, ..., as one vector, and its labels."""
    exact, labels = [], []
    derivative = objective
    for i in range(2 if parts is None else parts):
        value = derivative(at).detach().double().reshape(-1)
        exact.append(value)
        labels.append([f"{_PARTS[i]} {k}" for k in range(len(value))])
        derivative = torch.func.jacrev(derivative)
    skipped = 1 if parts is None else 0
    return torch.cat(exact[skipped:]), [label for part in labels[skipped:] for label in part]
