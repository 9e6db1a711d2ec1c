"""Checks of inference algorithms against the measure that the model denotes.

Each compares unnormalised measures: normalising first would hide a wrong evidence.  Where a
recursion or an infinite support was cut, the missing mass may leave the verdict unknown; ``depth``
and ``bound`` are those of ``denote``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..ppl.errors import ProgramError, located
from ..ppl.language.program import program_name
from .agreement import agreement
from .calibration import sbc
from .denote import BUDGET, CONVERGED, denote
from .density import density
from .involution import check_involution as involution
from .measure import EPSILON, Measure, readable, share
from .orbit import check_orbit as orbit
from .report import Report, decide
from .waves import Waves, rows_of, shares

__all__ = [
    "agreement",
    "density",
    "invariant",
    "involution",
    "orbit",
    "reversible",
    "sbc",
    "unbiased",
    "valid",
]

TOLERANCE = 1e-10
ROUNDINGS = 64  # of log weights, along one path

Program = Callable[..., Any]


def meaning(output: Any) -> Iterator[tuple[Any, float]]:
    """The measure that one output of an algorithm stands for, as (value, log weight) pairs.

    An output is anything with a ``meaning()`` (a ``Population``), or a pair (value, log weight).
    """
    if hasattr(output, "meaning"):
        yield from output.meaning()
    elif isinstance(output, tuple) and len(output) == 2:
        yield output[0], float(output[1])
    else:
        raise ProgramError(
            located(
                f"the algorithm returns a {type(output).__name__}, which has no meaning()",
                hint="return a Population or a pair (value, log weight)",
            )
        )


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


def valid(
    algorithm: Program,
    model: Program,
    *args: Any,
    tolerance: float = TOLERANCE,
    budget: int = BUDGET,
    quadrature: int | None = None,
    depth: int | None = None,
    bound: float | None = None,
) -> Report:
    """Whether the expected output measure of an algorithm is the model's unnormalised measure.

    Both get the same ``args``.  With ``quadrature`` the tolerance grows by the estimated error;
    where results are continuous, their laws are compared by bounded smooth functions of the
    results, with an error for each, which half the nodes tell.  ``bound`` bounds the scores and
    output weights of the algorithm, too.
    """
    start = time.perf_counter()

    def measures(nodes: int | None) -> tuple[Measure, Measure]:
        truth, outputs = (
            denote(p, *args, budget=budget, quadrature=nodes, depth=depth, bound=bound)
            for p in (model, algorithm)
        )
        return truth, outputs

    truth, outputs = measures(quadrature)
    expected = outputs.bind(meaning)
    subject = f"{program_name(algorithm)} is valid for {program_name(model)}"
    if quadrature is not None and not truth.alike(expected):
        halved = measures(max(2, quadrature // 2))
        pairs = (truth, halved[0]), (expected, halved[1].bind(meaning))
        if (report := _by_waves(subject, *pairs, tolerance, start)) is not None:
            return report
    deviation, where = expected.deviation(truth)
    counterexample = ""
    if where is not None:
        here, there = _told(truth.log_weight(where), expected.log_weight(where))
        total, other = _told(truth.log_mass(), expected.log_mass())
        counterexample = (
            f"the value {readable(where)} has mass {here} under the model, "
            f"and {there} in expectation under the algorithm (total {total} against {other})"
        )
    return decide(
        subject,
        deviation,
        *allowance(tolerance, truth, outputs),
        counterexample,
        time.perf_counter() - start,
        (*outputs.notes, *_unseen(truth, tolerance)),
        missing=share(
            max(truth.log_rest, outputs.log_rest), max(truth.log_mass(), expected.log_mass())
        ),
    )


def _by_waves(
    subject: str,
    truth: tuple[Measure, Measure],
    expected: tuple[Measure, Measure],
    tolerance: float,
    start: float,
) -> Report | None:
    """Compare the integrals of waves by measures of many and of half the nodes; None if none apply.

    Halving the nodes estimates an error and does not bound it: up to three times what is allowed
    the verdict is unknown, and so it is where the quadrature has not converged.
    """
    found = [rows_of(value for value, _ in measure.atoms) for measure in (*truth, *expected)]
    rows = [row for row in found if row is not None]
    if len(rows) < len(found) or len({row.shape[1] for row in rows}) > 1:
        return None
    top = max(truth[0].log_mass(), expected[0].log_mass())
    waves = Waves.about(rows[0], shares(truth[0], truth[0].log_mass()))
    fine, halved, other, other_halved = (
        shares(measure, top) @ torch.cat([torch.ones(len(row), 1), waves(row)], 1)
        for measure, row in zip((*truth, *expected), rows, strict=True)
    )
    gaps, errors = (fine - other).abs(), (fine - halved).abs() + (other - other_halved).abs()
    worst = int((gaps / (tolerance + errors)).argmax())
    gap, error = float(gaps[worst]), float(errors[worst])
    what = "the mass" if worst == 0 else f"the integral of {waves.name(worst - 1)}"
    report = decide(
        subject,
        gap,
        tolerance + error,
        "of the mass, with the quadrature error of the worst of some test functions",
        f"{what} is {float(fine[worst]):.10g} of the mass under the model, and "
        f"{float(other[worst]):.10g} in expectation under the algorithm",
        time.perf_counter() - start,
    )
    fails = gap > 3 * (tolerance + error) and error <= CONVERGED
    if fails or (report.verdict == "pass" and float(errors.max()) <= CONVERGED):
        return report
    note = "the quadrature has not converged: raise quadrature="
    return replace(report, verdict="unknown", notes=(*report.notes, note))


def invariant(
    kernel: Program,
    target: Program,
    *args: Any,
    tolerance: float = TOLERANCE,
    budget: int = BUDGET,
    depth: int | None = None,
    bound: float | None = None,
) -> Report:
    """Whether a Markov kernel (a program from state to state) keeps the measure of ``target``."""
    start = time.perf_counter()
    before = denote(target, *args, budget=budget, depth=depth, bound=bound)
    after = before.then(
        lambda state: denote(kernel, state, budget=budget, depth=depth, bound=bound)
    )
    deviation, where = after.deviation(before)
    counterexample = ""
    if where is not None:
        first, second = _told(before.log_weight(where), after.log_weight(where))
        counterexample = (
            f"the state {readable(where)} has mass {first} before the step and {second} after it"
        )
    return decide(
        f"{program_name(kernel)} leaves {program_name(target)} invariant",
        deviation,
        *allowance(tolerance, before, after),
        counterexample,
        time.perf_counter() - start,
        (*after.notes, *_unseen(before, tolerance)),
        missing=share(after.log_rest, before.log_mass()),
    )


def reversible(
    kernel: Program,
    target: Program,
    *args: Any,
    tolerance: float = TOLERANCE,
    budget: int = BUDGET,
    depth: int | None = None,
    bound: float | None = None,
) -> Report:
    """Whether mass flows as much from x to y as back: stronger than invariance."""
    start = time.perf_counter()
    before = denote(target, *args, budget=budget, depth=depth, bound=bound)
    flow = before.then(
        lambda x: denote(kernel, x, budget=budget, depth=depth, bound=bound).map(lambda y: (x, y))
    )
    back = flow.map(lambda pair: (pair[1], pair[0]))
    deviation, where = flow.deviation(back)
    counterexample = ""
    if where is not None:
        there, home = readable(where)
        first, second = _told(flow.log_weight(where), back.log_weight(where))
        counterexample = f"the flow from {there} to {home} is {first}, and {second} the other way"
    return decide(
        f"{program_name(kernel)} is reversible for {program_name(target)}",
        deviation,
        *allowance(tolerance, before, flow),
        counterexample,
        time.perf_counter() - start,
        (*flow.notes, *_unseen(before, tolerance)),
        missing=share(flow.log_rest, before.log_mass()),
    )


def unbiased(
    estimator: Program,
    objective: Callable[[Tensor], Tensor],
    at: Tensor,
    *,
    quadrature: int | None = 32,
    tolerance: float = 1e-8,
    budget: int = BUDGET,
) -> Report:
    """Whether the expected value of a gradient estimator is the gradient of the objective.

    They are compared relative to the larger of the exact numbers and of the mean size of the
    estimates.

    Args:
        estimator: a program from parameters [d] to a gradient estimate [d], or to a tuple of
            estimates of the value [], the gradient [d], the Hessian [d, d] ...; its noise is
            enumerated, and integrated by ``quadrature`` nodes where it is continuous.
        objective: the exact objective, differentiable by torch.
        at: the parameters [d].
    """
    start = time.perf_counter()
    law = denote(estimator, at, quadrature=quadrature, budget=budget)
    found = [value for value, _ in law.items()]
    parts = len(found[0]) if found and isinstance(found[0], tuple) else None
    mean = law.expect(_as_row)
    variance = law.expect(lambda estimate: (_as_row(estimate) - mean) ** 2)
    exact, labels = _derivatives(objective, at.detach(), parts)
    gap = (mean - exact).abs().nan_to_num(math.inf) / _scale(law, exact, objective(at), tolerance)
    worst = int(gap.argmax())
    return decide(
        f"{program_name(estimator)} is an unbiased gradient estimator",
        float(gap.max()),
        tolerance,
        "of its size, for the quadrature",
        f"{labels[worst]}: expectation {float(mean[worst]):.10g}, exact {float(exact[worst]):.10g}",
        time.perf_counter() - start,
        (f"exact variance {[round(v, 6) for v in variance.tolist()]}",),
        missing=math.inf if law.rest else 0.0,
    )


def _scale(law: Measure, exact: Tensor, value: Tensor, tolerance: float) -> float:
    """The size of what is estimated, but no less than what the value's own rounding amounts to."""
    sizes = law.expect(lambda estimate: _as_row(estimate).abs()), exact.abs()
    largest = max(float(size.nan_to_num(0.0, 0.0).max()) for size in sizes)
    return max(largest, tolerance * float(value.detach().abs().max())) or 1.0


def _as_row(estimate: Any) -> Tensor:
    """An estimate, or several, as one vector."""
    parts = estimate if isinstance(estimate, tuple) else (estimate,)
    return torch.cat([part.detach().double().reshape(-1) for part in parts])


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


def _told(first: float, second: float) -> tuple[str, str]:
    """Two masses, by their logs, with as many digits as tell them apart."""
    for digits in (10, 17):
        texts = tuple(_number(log_weight, digits) for log_weight in (first, second))
        if texts[0] != texts[1]:
            break
    return texts[0], texts[1]


def _number(log_weight: float, digits: int) -> str:
    """A mass by its log: below and beyond what a number holds, as a power of e."""
    if log_weight == -math.inf or abs(log_weight) < 700.0:
        return f"{math.exp(log_weight):.{digits}g}"
    return f"exp({log_weight:.{digits}g})"


def _unseen(measure: Measure, tolerance: float) -> tuple[str, ...]:
    """A note on the values that are too rare for a fault in them to show."""
    if measure.log_error > -math.inf:
        return ()  # nodes of a quadrature
    total = measure.log_mass()
    rare = sum(share(log_weight, total) <= tolerance for _, log_weight in measure.atoms)
    if not rare:
        return ()
    held = f"{rare} of {len(measure)} values hold"
    return (f"{held} no more than {tolerance:.0e} of the mass each: faults there do not show",)
