"""Whether any code that moves states keeps a measure: by draws, at a stated level.

If x is drawn from the measure and y is where the code takes it, f(y) - f(x) has mean zero for every
f.  One step is taken from each x, so that no two differences depend on each other, and nothing is
asked of the code: it may draw from torch, numpy and random as it likes.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...ppl.errors import ProgramError, ZeroMassError, located
from ...ppl.interpretations.generate import generate
from ...ppl.language.program import program_name
from ..evaluation.measure import readable
from ..evaluation.sources import elsewhere
from ..evaluation.waves import COUNT, Waves, rows_of
from ..judging.betting import Bets
from ..judging.candidate import held, verdict
from ..judging.report import Report

PILOT, BATCH = 200, 50


class Words(NamedTuple):
    """What is bet on, what one bet is made with, and what is worth nothing to who bets."""

    mean: str
    each: str
    right: str


CHANGE = Words("half the change of the mean", "steps", "a right kernel")


@verdict
def stationary(
    kernel: Callable[[Any], Any],
    target: Callable[..., Any],
    *args: Any,
    draws: int = 20_000,
    level: float = 1e-6,
    width: float = 0.1,
    bound: float | None = None,
    seed: int = 0,
) -> Report:
    """Whether a kernel keeps the measure of ``target``, by steps from draws of it.

    For code that ``invariant`` cannot evaluate: loops of unknown length, other people's samplers.

    Args:
        kernel: any function from a state (what ``target`` returns) to a state.  It may draw by the
            effects, or from the global generators of torch, numpy and random, which are seeded.
        draws: the most steps; a wrong kernel is found earlier.
        level: the chance that a right kernel is said to be wrong, whatever the number of draws.
        width: what half the change of a bounded test function's mean may be and not be found; the
            verdict is unknown where a larger one could hide.
        bound: the most that the target's scores multiply its weight by; a program without scores,
            or whose scores are at most one, needs none.
        seed: of everything.

    Errors:
        ValueError: ``draws`` is not positive, or ``level`` not in (0, 1).
        ProgramError: a score exceeds ``bound``; states are not numbers of one form.
        ZeroMassError: hardly a draw has any weight.
    """
    if draws < 1 or not 0 < level < 1 or (bound is not None and not bound > 0):
        what = f"{draws}, {level}, {bound}"
        raise ValueError(f"draws and bound are positive and the level is in (0, 1): {what}")
    subject = f"{program_name(kernel)} keeps {program_name(target)}"

    def drawn() -> tuple[Any, Tensor]:
        trace, log_weight = generate(target, {}, *args)
        return trace.value, log_weight

    return kept(subject, kernel, drawn, draws, level, width, bound, seed)


def kept(
    subject: str,
    kernel: Callable[[Any], Any],
    drawn: Callable[[], tuple[Any, Tensor]],
    draws: int,
    level: float,
    width: float,
    bound: float | None,
    seed: int,
) -> Report:
    """The same for the law of ``drawn``, which gives a state and the log of its weight."""
    if draws < 1 or not 0 < level < 1 or (bound is not None and not bound > 0):
        what = f"{draws}, {level}, {bound}"
        raise ValueError(f"draws and bound are positive and the level is in (0, 1): {what}")
    start, limit = time.perf_counter(), 0.0 if bound is None else math.log(bound)

    def weighted() -> tuple[Any, float]:
        state, log_weight = drawn()
        if float(log_weight) > limit:
            what = f"the scores multiply the weight of a state by {math.exp(float(log_weight)):.6g}"
            raise ProgramError(located(what, hint="say bound=, the most that they ever do"))
        return state, math.exp(float(log_weight) - limit)

    with elsewhere(seed), torch.no_grad():
        pilot = [weighted() for _ in range(PILOT)]
        weights = torch.tensor([weight for _, weight in pilot], dtype=torch.float64)
        if not bool(weights.sum() > 0):
            what = f"none of {PILOT} draws has any weight under the scores"
            raise ZeroMassError(located(what, hint="say a smaller bound=, or write another law"))
        waves = Waves.about(_numbers([x for x, _ in pilot]), weights / weights.sum())
        bets, mass = Bets(2 * COUNT), 0.0
        while bets.number < draws and bets.log_evidence() < -math.log(level):
            batch = [weighted() for _ in range(min(BATCH, draws - bets.number))]
            starts = [(x, weight) for x, weight in batch if weight > 0]
            gains = torch.zeros((len(batch), 2 * COUNT), dtype=torch.float64)
            if starts:
                before = _numbers([x for x, _ in starts])
                after = _moved(subject, kernel, [x for x, _ in starts], before)
                shares = torch.tensor([weight for _, weight in starts], dtype=torch.float64)
                gains[: len(starts)] = shares[:, None] * (waves(after) - waves(before)) / 2
                mass += float(shares.sum())
            bets.place(gains)
    mass /= bets.number
    seconds = time.perf_counter() - start
    return by_bets(subject, bets, mass, waves, level, width, CHANGE, seconds)


def _moved(subject: str, kernel: Callable[[Any], Any], states: list[Any], rows: Tensor) -> Tensor:
    """Where a kernel takes each state of so many rows."""
    ends = []
    for x in states:
        with held(subject, f"at the state {readable(x)}"), torch.enable_grad():
            ends.append(kernel(copy.deepcopy(x)))
            found = rows_of(ends[-1:])
            if found is None or found.shape[1] != rows.shape[1]:
                what = "it takes a state to one of another form, or to no numbers"
                raise ProgramError(located(what, hint="return as many numbers as it is given"))
            if bool(found.isnan().any()):
                raise ProgramError(located("it takes a state to one that is NaN"))
    return _numbers(ends)


def _numbers(states: list[Any]) -> Tensor:
    rows = rows_of(states)
    if rows is None:
        raise ProgramError(
            located("states differ in form, or hold what is no number", hint="return tensors")
        )
    return rows


def by_bets(
    subject: str,
    bets: Bets,
    mass: float,
    waves: Waves,
    level: float,
    width: float,
    words: Words,
    seconds: float,
) -> Report:
    """What bets against zero means say; these are told as shares of the mass of the weights."""
    whole = mass if mass > 0 else math.nan
    means, seen = bets.means() / whole, bets.seen(level) / whole
    found = bets.log_evidence() >= -math.log(level)
    worst = int(bets.log_wealth.amax(1).argmax())
    told = (
        f"{words.mean} of {waves.name(worst)} is {float(means[worst]):.4g}, in {bets.number} "
        f"{words.each}: {words.right} would be worth 1, and this one is worth "
        f"{math.exp(min(700.0, bets.log_evidence())):.3g}, to those who bet against it"
    )
    report = Report(
        subject,
        "fail" if found else "pass",
        float(means[worst].abs()),
        float(seen[worst]),
        f"is what would be found in {bets.number} {words.each} at level {level:g}",
        told if found else "",
        seconds,
    )
    if not found and not float(seen.max()) <= width:
        note = f"changes of up to {float(seen.max()):.2g} of the mass could hide: raise draws="
        return replace(report, verdict="unknown", notes=(note,))
    return report
