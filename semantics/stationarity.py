"""Whether a Markov kernel keeps a measure, and whether mass flows there and back alike."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ..ppl.language.program import program_name
from .candidate import measure_of, verdict
from .comparing import TOLERANCE, allowance, masses, unseen
from .denote import BUDGET, denote
from .measure import Measure, readable, share
from .report import Report, decide

Program = Callable[..., Any]


@verdict
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
    subject = f"{program_name(kernel)} leaves {program_name(target)} invariant"
    limits: dict[str, Any] = {"budget": budget, "depth": depth, "bound": bound}
    before = denote(target, *args, **limits)
    after = before.then(_step_from(kernel, subject, len(before), limits))
    deviation, where = after.deviation(before)
    counterexample = ""
    if where is not None:
        first, second = masses(before.log_weight(where), after.log_weight(where))
        counterexample = (
            f"the state {readable(where)} has mass {first} before the step and {second} after it"
        )
    return decide(
        subject,
        deviation,
        *allowance(tolerance, before, after),
        counterexample,
        time.perf_counter() - start,
        (*after.notes, *unseen(before, tolerance)),
        missing=share(after.log_rest, before.log_mass()),
    )


@verdict
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
    subject = f"{program_name(kernel)} is reversible for {program_name(target)}"
    limits: dict[str, Any] = {"budget": budget, "depth": depth, "bound": bound}
    before = denote(target, *args, **limits)
    step = _step_from(kernel, subject, len(before), limits)
    flow = before.then(lambda x: step(x).map(lambda y: (x, y)))
    back = flow.map(lambda pair: (pair[1], pair[0]))
    deviation, where = flow.deviation(back)
    counterexample = ""
    if where is not None:
        there, home = readable(where)
        first, second = masses(flow.log_weight(where), back.log_weight(where))
        counterexample = f"the flow from {there} to {home} is {first}, and {second} the other way"
    return decide(
        subject,
        deviation,
        *allowance(tolerance, before, flow),
        counterexample,
        time.perf_counter() - start,
        (*flow.notes, *unseen(before, tolerance)),
        missing=share(flow.log_rest, before.log_mass()),
    )


def _step_from(
    kernel: Program, subject: str, states: int, limits: dict[str, Any]
) -> Callable[[Any], Measure]:
    """The measure of a step from each of so many states, the kernel being watched."""

    def step(state: Any) -> Measure:
        at = f"at the state {readable(state)}"
        return measure_of(subject, kernel, state, at=at, runs=states, **limits)

    return step
