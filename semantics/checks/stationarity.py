"""Whether a Markov kernel keeps a measure, and whether mass flows there and back alike."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from ...ppl.errors import BudgetError, ProgramError, located
from ...ppl.language.program import program_name
from ..evaluation.denote import BUDGET, denote, however_rough
from ..evaluation.fronts import advanced
from ..evaluation.measure import Measure, readable, share
from ..judging.at_once import steps
from ..judging.candidate import Broken, measure_of, verdict
from ..judging.clouds import Cloud, Refined, Words, compare, other_numbers
from ..judging.comparing import TOLERANCE, allowance, masses, unseen
from ..judging.report import Report, decide

Program = Callable[..., Any]
MANY = 64  # states, of which a step is worth being taken at once
WORDS = Words("before the step", "after it")
FLOWS = Words("as the mass flows", "as it flows back")


@verdict
def invariant(
    kernel: Program,
    target: Program,
    *args: Any,
    tolerance: float = TOLERANCE,
    budget: int = BUDGET,
    depth: int | None = None,
    bound: float | None = None,
    quadrature: int | None = None,
) -> Report:
    """Whether a Markov kernel (a program from state to state) keeps the measure of ``target``.

    Args:
        quadrature: nodes for each continuous choice of the target and of the kernel.  Their laws
            are compared by bounded smooth functions of the state, with an error for each, which
            half the nodes tell.  A kernel that can be run at many states at once (by
            ``torch.vmap``) takes seconds for 128 nodes; any other is run path by path.  Uniform
            numbers that are only compared, as in accept steps, need no nodes.
    """
    start = time.perf_counter()
    subject = f"{program_name(kernel)} leaves {program_name(target)} invariant"
    limits: dict[str, Any] = {"budget": budget, "depth": depth, "bound": bound}
    if quadrature is not None:
        moved = partial(_moved, subject, kernel, target, args, limits, kept=False)
        return _by_quadrature(subject, moved, quadrature, WORDS, tolerance, start)
    before = denote(target, *args, **limits)
    step = _step_from(kernel, subject, len(before), limits)
    after = _stepped(kernel, before, step, budget)
    if after is None:
        after = before.then(step)
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
    quadrature: int | None = None,
) -> Report:
    """Whether mass flows as much from x to y as back: stronger than invariance.

    ``quadrature`` is that of ``invariant``.
    """
    start = time.perf_counter()
    subject = f"{program_name(kernel)} is reversible for {program_name(target)}"
    limits: dict[str, Any] = {"budget": budget, "depth": depth, "bound": bound}
    if quadrature is not None:
        moved = partial(_moved, subject, kernel, target, args, limits, kept=True)
        return _by_quadrature(subject, moved, quadrature, FLOWS, tolerance, start)
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


def _stepped(
    kernel: Program, before: Measure, step: Callable[[Any], Measure], budget: int
) -> Measure | None:
    """The measure after a step, where there are many states and all can be moved at once."""
    if len(before) < MANY or before.log_rest > -math.inf:
        return None
    found = advanced(kernel, list(before.atoms), lambda x: list(step(x).atoms), budget)
    if found is None:
        return None
    return replace(Measure.of(found[0]), resolution=max(before.resolution, found[2]))


class _Moved(NamedTuple):
    """A measure, what it is compared with, and how that was found."""

    before: Cloud
    after: Cloud
    note: str


def _moved(
    subject: str,
    kernel: Program,
    target: Program,
    args: tuple[Any, ...],
    limits: dict[str, Any],
    nodes: int,
    *,
    kept: bool,
) -> _Moved:
    """The target before and after a step; or, with ``kept``, the flow of mass there and back.

    Errors:
        ProgramError: states are no numbers, or differ in form.
    """
    before = however_rough(lambda n: denote(target, *args, quadrature=n, **limits), nodes)
    found, after = steps(kernel, before, nodes, kept=kept, budget=limits["budget"]), None
    note = f"{len(before)} states at once"
    if found is None:
        step = _step_from(kernel, subject, len(before), limits, nodes)
        after = before.then(lambda x: step(x).map(lambda y: (x, y))) if kept else before.then(step)
        found, note = Cloud.of(after), f"{len(before)} states one by one"
    start = Cloud.of(before)
    if isinstance(after, Measure) and not len(after):
        raise Broken(subject, "a step loses all mass")
    if found is None or start is None or found.rows.shape[1] != (1 + kept) * start.rows.shape[1]:
        what = f"{program_name(kernel)} takes a state to one of another form, or to no numbers"
        raise ProgramError(located(what, hint="by quadrature states are tensors of one shape"))
    if not len(found.rows):
        raise Broken(subject, "a step loses all mass")
    if bool(found.rows.isnan().any()):
        raise Broken(subject, "a step leads to a state that is NaN")
    if kept:
        return _Moved(
            found, Cloud(found.rows.roll(start.rows.shape[1], 1), found.log_weights), note
        )
    return _Moved(start, found, note)


def _by_quadrature(
    subject: str,
    moved: Callable[[int], _Moved],
    nodes: int,
    words: Words,
    tolerance: float,
    start: float,
) -> Report:
    fine, coarse, odd = moved(nodes), moved(max(2, nodes // 2)), moved(max(3, nodes // 2 + 1))
    before = Refined(fine.before, (coarse.before, odd.before))
    after = Refined(fine.after, (coarse.after, odd.after))

    def clouds_by(number: int) -> tuple[Cloud, Cloud] | None:
        try:
            found = moved(number)
        except BudgetError:
            return None
        return found.before, found.after

    again = [partial(clouds_by, number) for number in other_numbers(nodes)]
    report = compare(subject, before, after, words, tolerance, start, again)
    return replace(report, notes=(*report.notes, fine.note))


def _step_from(
    kernel: Program, subject: str, states: int, limits: dict[str, Any], nodes: int | None = None
) -> Callable[[Any], Measure]:
    """The measure of a step from each of so many states, the kernel being watched."""

    def step(state: Any) -> Measure:
        at = f"at the state {readable(state)}"
        how = {**limits, "quadrature": nodes, "rough": nodes is not None}
        return measure_of(subject, kernel, state, at=at, runs=states, **how)

    return step
