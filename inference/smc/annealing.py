"""Annealed importance sampling and tempered SMC on any program, with any kernel on its traces.

Neal 2001 (annealed importance sampling); Del Moral, Doucet and Jasra 2006.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ...ppl import iterate
from ...ppl.errors import ProgramError, located
from ...ppl.language.effects import Message, is_deterministic
from ...ppl.language.handlers import Handler
from ...ppl.language.program import Callback, Program, program_name
from ..kernels.kernel import TraceKernel
from ..kernels.traces import Traced, at, traced
from .population import Apart, Population, uniform_log_weights
from .resampling import Scheme, resample


class _Powering(Handler):
    """Raises the scores inside it to a power."""

    def __init__(self, power: float) -> None:
        super().__init__()
        self.power = power

    def _process_message(self, msg: Message) -> None:
        if msg["type"] == "sample" and msg["is_observed"] and not is_deterministic(msg):
            msg["scale"] = msg["scale"] * self.power


def powered(p: Callback, power: float) -> Program:
    """The program p with its observations and factors raised to a power: 0 is the prior."""

    def run(*args: Any, **kwargs: Any) -> Any:
        with _Powering(power):
            return p(*args, **kwargs)

    run.__name__ = run.__qualname__ = f"powered({program_name(p)}, {power:g})"
    return Program(run)


def annealed(
    model: Callback,
    move: TraceKernel,
    powers: Sequence[float],
    particles: int,
    scheme: Scheme | None = None,
    ess: float = 1.0,
) -> Program:
    """From the prior to the model through powers of its scores; it returns a ``Population``.

    Invariant: E[sum_i w_i delta_{x_i}] is the model's measure, for every kernel that leaves each
    powered program invariant and every schedule that is fixed beforehand.  (One that looks at these
    particles is only consistent: take it from another run, see ``spaced_powers``.)

    Args:
        model: any program.
        move: a kernel, applied to each particle after each power but the last.
        powers: increasing, above 0, up to exactly 1.
        scheme: how to resample; None is annealed importance sampling, where particles are alone.
        ess: resample when the effective sample size is at most this fraction (1: always).

    Errors:
        ProgramError: the powers do not increase to 1.
    """
    ladder = [0.0, *powers]
    if ladder[-1] != 1.0 or any(b <= a for a, b in pairwise(ladder)):
        raise ProgramError(located(f"powers must increase to exactly 1, unlike {list(powers)}"))
    if particles < 1:
        raise ProgramError(located("annealed needs at least one particle"))

    @Program
    def begun(*args: Any) -> Traced:
        run = traced(model, {}, {}, *args)
        assert run is not None  # nothing was given that could be impossible
        return run

    @Program
    def moved(run: Traced, power: float, *args: Any) -> Traced:
        p = powered(model, power)
        after = move.step(at(p, run.point, *args), p, *args).run
        return at(model, after.point, *args)

    def run(*args: Any) -> Population:
        def step(state: tuple[int, Population]) -> tuple[int, Population]:
            k, population = state
            scores = torch.stack([each.log_score.double() for each in population.values.each])
            log_weights = population.log_weights + (ladder[k] - ladder[k - 1]) * scores
            population = Population(population.values, log_weights)
            if ladder[k] < 1.0:
                if scheme is not None and population.is_uneven(ess):
                    population = resample(population, scheme)[0]
                pairs = zip(population.values.each, population.log_weights.tolist(), strict=True)
                alive = (moved(r, ladder[k], *args) if w > -math.inf else r for r, w in pairs)
                population = population._replace(values=Apart(tuple(alive)))
            return k + 1, population

        runs = Apart(tuple(begun(*args) for _ in range(particles)))
        start = Population(runs, uniform_log_weights(particles).double())
        population: Population = iterate(step, len(powers))((1, start))[1]
        values = Apart(tuple(each.value for each in population.values.each))
        return population._replace(values=values).require_weights()

    run.__name__ = run.__qualname__ = f"annealed({particles})"
    return Program(run)


def spaced_powers(log_scores: Tensor, ess: float = 0.5) -> list[float]:
    """Powers from 0 to 1 between which the effective sample size falls to a fraction ``ess``.

    ``log_scores`` [n] are those of runs from the prior, of a pilot run.  Each step is found by
    bisection on the weights ``exp(step * log_score)``, reweighted to the power reached.
    """
    if not 0.0 < ess < 1.0:
        raise ProgramError(located(f"the fraction ess lies between 0 and 1, unlike {ess}"))
    scores = log_scores.double()
    powers: list[float] = [0.0]
    while powers[-1] < 1.0:
        low, high = powers[-1], 1.0
        if _fraction(scores, low, high) < ess:
            for _ in range(60):
                middle = 0.5 * (low + high)
                low, high = (
                    (middle, high) if _fraction(scores, powers[-1], middle) > ess else (low, middle)
                )
        powers.append(high)
    return powers[1:]


def _fraction(scores: Tensor, before: float, after: float) -> float:
    """Of the effective sample size that a step from one power to another leaves."""
    p = torch.softmax(before * scores, 0)
    weights = ((after - before) * (scores - scores.max())).exp()
    return float((p @ weights) ** 2 / (p @ weights.square()))
