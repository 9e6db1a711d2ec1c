"""Sequential Monte Carlo on any program: particles go from score to score, and are resampled."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..ppl import iterate
from ..ppl.program import Callback, Program
from .filter import uneven
from .kernels.kernel import TraceKernel
from .population import Apart, Population, push_evidence, uniform_log_weights
from .resampling import Scheme, resample, systematic
from .sequential import ENDLESS, Suspended, advance, prefix
from .traces import Point, at


def smc(
    model: Callback,
    particles: int,
    scheme: Scheme = systematic,
    ess: float = 1.0,
    move: TraceKernel | None = None,
    evidence: str | None = None,
) -> Program:
    """Sequential Monte Carlo for any program; it returns a ``Population``.

    finish . (move . resample . advance)^k . spawn: each of them leaves the expected measure as it
    is, so E[sum_i w_i delta_{x_i}] is the model's, for every n and whenever one resamples.
    Particles that have ended take part in resampling.

    Particles are kept one by one, and every step runs each of them again from its start.  For a
    program with a ``scan``, ``particle_filter`` advances all of them together, without replay.

    Args:
        model: any program; branches with other numbers of scores, and recursion, may be in it.
        particles: how many.
        scheme: ``multinomial``, ``systematic``, ``stratified``, ``residual``, or a user's own.
        ess: resample when the effective sample size is at most this fraction (1: always).
        move: after each resampling, a step of this kernel for each particle, on the program up to
            its last score (resample-move; Gilks and Berzuini 2001).
        evidence: score the total weight in the program around, at each step, under this name; the
            weights of the result then sum to one.
    """
    if particles < 1:
        raise ValueError("smc needs at least one particle")

    @Program
    def advanced(run: Suspended, scores: int, *args: Any) -> tuple[Suspended, Tensor]:
        return advance(model, run, scores, *args)

    @Program
    def moved(run: Suspended, scores: int, *args: Any) -> Suspended:
        assert move is not None
        p = prefix(model, scores)
        after = move.step(at(p, Point(run.choices, run.draws), *args), p, *args).run
        return Suspended(after.choices, after.draws or (), *after.value)

    def run(*args: Any) -> Population:
        def step(state: tuple[int, Population]) -> tuple[int, Population]:
            scores, population = state
            if scores and (ess >= 1.0 or uneven(population, ess)):
                population = resample(population, scheme)[0]
                if move is not None and float(population.log_evidence()) > -math.inf:
                    runs = (moved(each, scores, *args) for each in population.values.each)
                    population = population._replace(values=Apart(tuple(runs)))
            pairs = [advanced(each, scores, *args) for each in population.values.each]
            log_weights = torch.stack([torch.as_tensor(w, dtype=torch.float64) for _, w in pairs])
            values = Apart(tuple(run for run, _ in pairs))
            population = Population(values, population.log_weights + log_weights)
            if evidence is not None:
                population = push_evidence(population, evidence)
            return scores + 1, population

        def done(state: tuple[int, Population]) -> bool:
            return all(each.ended for each in state[1].values.each)

        start = Population(
            Apart((Suspended({}),) * particles), uniform_log_weights(particles).double()
        )
        _, population = iterate(step, ENDLESS, until=done)((0, start))
        values = Apart(tuple(each.value for each in population.values.each))
        return Population(values, population.log_weights).require_weights()

    run.__name__ = run.__qualname__ = f"smc({particles})"
    return Program(run)
