"""Whether an algorithm's expected output measure is the model's."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...ppl.errors import BudgetError, ProgramError, located
from ...ppl.language.program import program_name
from ..evaluation.denote import BUDGET, denote, however_rough
from ..evaluation.measure import Measure, readable, share
from ..judging.candidate import held, measure_of, verdict
from ..judging.clouds import Cloud, Refined, Words, compare, other_numbers
from ..judging.comparing import TOLERANCE, allowance, masses, unseen
from ..judging.report import Report, decide

Program = Callable[..., Any]
WORDS = Words("under the model", "in expectation under the algorithm")


def meaning(output: Any) -> Iterator[tuple[Any, float]]:
    """The measure that one output of an algorithm stands for, as (value, log weight) pairs.

    An output is anything with a ``meaning()`` (a ``Population``), or a pair (value, log weight).
    """
    if hasattr(output, "meaning"):
        pairs = output.meaning()
    elif isinstance(output, tuple) and len(output) == 2:
        weight = output[1].detach() if isinstance(output[1], Tensor) else output[1]
        pairs = [(output[0], float(weight))]
    else:
        raise ProgramError(
            located(
                f"the algorithm returns a {type(output).__name__}, which has no meaning()",
                hint="return a Population or a pair (value, log weight)",
            )
        )
    for value, log_weight in pairs:
        if math.isnan(log_weight):
            raise ProgramError(located(f"the log weight of the value {readable(value)} is NaN"))
        yield value, log_weight


@verdict
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
    subject = f"{program_name(algorithm)} is valid for {program_name(model)}"
    limits: dict[str, Any] = {"budget": budget, "depth": depth, "bound": bound}

    def model_by(nodes: int | None) -> Measure:
        return denote(model, *args, quadrature=nodes, **limits)

    def outputs_by(nodes: int | None) -> Measure:
        return measure_of(subject, algorithm, *args, at="in a run", quadrature=nodes, **limits)

    def expectation(outputs: Measure) -> Measure:
        with held(subject, "in what it returns"):
            units = [_unit(output) for output, _ in outputs.atoms]
            return replace(outputs.bind(meaning), resolution=max(outputs.resolution, *units, 0.0))

    def clouds_by(nodes: int) -> tuple[Cloud, Cloud] | None:
        try:
            truth, outputs = (however_rough(by, nodes) for by in (model_by, outputs_by))
        except BudgetError:
            return None
        one, other = Cloud.of(truth), Cloud.of(expectation(outputs))
        return None if one is None or other is None else (one, other)

    truth, outputs = model_by(quadrature), outputs_by(quadrature)
    expected = expectation(outputs)
    if quadrature is not None and not truth.alike(expected):
        half = max(2, quadrature // 2)
        coarse, coarser = (however_rough(measure, half) for measure in (model_by, outputs_by))
        wanted, found = Refined.of(truth, coarse), Refined.of(expected, expectation(coarser))
        if wanted is not None and found is not None and wanted.width == found.width:
            again = [partial(clouds_by, nodes) for nodes in other_numbers(quadrature)]
            return compare(subject, wanted, found, WORDS, tolerance, start, again)
    deviation, where = expected.deviation(truth)
    counterexample = ""
    if where is not None:
        here, there = masses(truth.log_weight(where), expected.log_weight(where))
        total, other = masses(truth.log_mass(), expected.log_mass())
        counterexample = (
            f"the value {readable(where)} has mass {here} under the model, "
            f"and {there} in expectation under the algorithm (total {total} against {other})"
        )
    return decide(
        subject,
        deviation,
        *allowance(tolerance, truth, expected),
        counterexample,
        time.perf_counter() - start,
        (*outputs.notes, *unseen(truth, tolerance)),
        missing=share(
            max(truth.log_rest, outputs.log_rest), max(truth.log_mass(), expected.log_mass())
        ),
    )


def _unit(output: Any) -> float:
    """The rounding unit of an output's weights, where they are numbers of a dtype."""
    weights = getattr(output, "log_weights", output[-1] if isinstance(output, tuple) else None)
    if not isinstance(weights, Tensor) or not weights.is_floating_point():
        return 0.0
    return torch.finfo(weights.dtype).eps
