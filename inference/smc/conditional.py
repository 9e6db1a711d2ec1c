"""Conditional SMC, and particle Gibbs with ancestor sampling: kernels made of particles.

Andrieu, Doucet and Holenstein 2010; Lindsten, Jordan and Schoen 2014 (ancestor sampling).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from pyro import distributions as dist
from torch import Tensor

from ...ppl import condition, draw, iterate
from ...ppl.errors import ProgramError, located
from ...ppl.language.program import Callback
from ..kernels.kernel import Moved, TraceKernel
from ..kernels.traces import Point, Traced, at, traced
from .population import Apart, Population, collapse, uniform_log_weights
from .suspended import ENDLESS, Suspended, advance_each, prefix


def conditional_smc(
    particles: int, keep: Sequence[str] = (), ancestors: bool = False
) -> TraceKernel:
    """Draw all choices anew by particles, of which the first retraces the run so far.

    Resampled (by independent draws) after each score; at the end one particle is taken by weight.
    Leaves the trace measure invariant for two particles or more, and stays where it is with one.

    Args:
        keep: choices that stay as they are.  Particle Gibbs is a ``cycle`` of this, which keeps the
            parameters, and a kernel that moves them.
        ancestors: draw the past of the retained run anew at each step, in proportion to the weight
            of the particles times the density of its future after them.

    Errors:
        ProgramError: the program draws anonymously, which no run can retrace.
    """
    if particles < 1:
        raise ProgramError(located("conditional_smc needs at least one particle"))

    def step(run: Traced, p: Callback, *args: Any) -> Moved:
        if run.draws:
            what = "conditional_smc cannot retrace anonymous draws"
            raise ProgramError(located(what, hint="name them, by sample(...)"))
        kept = {name: run.choices[name] for name in keep if name in run.choices}
        target = condition(p, kept) if kept else p
        retained = {n: value for n, value in run.choices.items() if n not in kept}
        chosen, _ = collapse(_conditional(target, particles, retained, ancestors, args))
        after = at(p, Point({**kept, **chosen}), *args)
        same = all(
            torch.equal(after.choices[n], v) for n, v in run.choices.items() if n in after.choices
        )
        return Moved(after, {"conditional_smc": [not same]})

    return TraceKernel(step, f"conditional_smc({particles})")


def _conditional(
    p: Callback, n: int, retained: dict[str, Tensor], ancestors: bool, args: tuple[Any, ...]
) -> Population:
    """The population of choices that conditional SMC ends with."""

    def step(state: tuple[int, Population, dict[str, Tensor], bool]) -> Any:
        scores, population, line, _ = state
        if scores:
            total = population.log_evidence()
            weights = (population.log_weights - total).exp()
            others = draw(dist.Categorical(weights), (n - 1,), label="ancestors") if n > 1 else None
            first = population.values.each[0]
            if ancestors:
                first, line = _reconnected(p, scores, population, line, args)
            rest = [] if others is None else [population.values.each[i] for i in others.tolist()]
            population = Population(Apart((first, *rest)), uniform_log_weights(n, total))
        first, *rest = population.values.each
        if not first.ended:
            first = first._replace(choices=line)
        population = population._replace(values=Apart((first, *rest)))
        population, ended = advance_each(p, population, scores, *args)
        return scores + 1, population, line, ended

    start = Population(Apart((Suspended({}),) * n), uniform_log_weights(n).double())
    population: Population = iterate(step, ENDLESS, until=lambda state: state[3])(
        (0, start, retained, False)
    )[1]
    return population._replace(values=Apart(tuple(each.choices for each in population.values.each)))


def _reconnected(
    p: Callback, scores: int, population: Population, line: dict[str, Tensor], args: tuple[Any, ...]
) -> tuple[Suspended, dict[str, Tensor]]:
    """A past for the retained run, drawn among the particles, and the line that it makes."""
    past = population.values.each[0]
    future = {name: value for name, value in line.items() if name not in past.choices}
    lines, log_weights = [], []
    for each, log_weight in zip(population.values.each, population.log_weights, strict=True):
        joined = {**each.choices, **future}
        whole = traced(p, joined, {}, *args)
        fits = whole is not None and not whole.drawn and whole.choices.keys() == joined.keys()
        if fits and whole is not None and float(log_weight) > -math.inf:
            before = at(prefix(p, scores), Point(each.choices), *args)
            log_weights.append(log_weight + whole.log_density - before.log_density)
        else:
            log_weights.append(torch.tensor(-math.inf, dtype=torch.float64))
        lines.append(joined)
    logits = torch.stack([torch.as_tensor(w, dtype=torch.float64) for w in log_weights])
    index = int(draw(dist.Categorical(logits=logits), label="ancestor"))
    return population.values.each[index], lines[index]
