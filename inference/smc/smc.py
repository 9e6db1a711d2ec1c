"""Sequential Monte Carlo on any program: particles go from score to score, and are resampled.

One algorithm over two representations of suspended runs: in lanes, or one by one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...ppl import iterate, vmap
from ...ppl.interpretations.abstract_run import check_program, has_type
from ...ppl.language.effects import Message
from ...ppl.language.handlers import Handler
from ...ppl.language.program import Callback, Program, signature
from ...ppl.tensors.keys import Bookkeeping
from ..kernels.kernel import TraceKernel
from ..kernels.traces import Point, at
from .population import Apart, Population, push_evidence, uniform_log_weights
from .resampling import Scheme, resample, systematic
from .suspended import ENDLESS, Suspended, advance, advance_each, prefix

Ahead = Callable[[dict[str, Tensor], int], Any]


def smc(
    model: Callback,
    particles: int,
    scheme: Scheme = systematic,
    ess: float = 1.0,
    move: TraceKernel | None = None,
    evidence: str | None = None,
    ahead: Ahead | None = None,
) -> Program:
    """Sequential Monte Carlo for any program; it returns a ``Population``.

    finish . (move . resample . advance)^k . spawn: each of them leaves the expected measure as it
    is, so E[sum_i w_i delta_{x_i}] is the model's, for every n and whenever one resamples.
    Particles that have ended take part in resampling.

    Where the program has a type, and no ``move`` is asked for, all particles run together as lanes;
    otherwise one by one.  Each step runs the program again from its start; one with a ``scan`` is
    advanced without replay by ``particle_filter``.

    Args:
        model: any program; branches with other numbers of scores, and recursion, may be in it.
        particles: how many.
        scheme: ``multinomial``, ``systematic``, ``stratified``, ``residual``, or a user's own.
        ess: resample when the effective sample size is at most this fraction (1: always).
        move: after each score but the last, a step of this kernel for each particle, on the program
            up to there (resample-move; Gilks and Berzuini 2001).  To move only after a resampling
            that depends on the weights would not keep the measure.
        evidence: score the total weight in the program around, at each step, under this name; the
            weights of the result then sum to one.
        ahead: ``ahead(choices, scores)``, a finite log factor by which a particle of these choices,
            which has passed so many scores, is preferred when resampling (auxiliary particle
            filter): an estimate of the scores to come.  Any is valid, a good one reduces variance.
    """
    if particles < 1:
        raise ValueError("smc needs at least one particle")

    asked, typed, branching = Bookkeeping(), Bookkeeping(), Bookkeeping()

    def run(*args: Any) -> Population:
        if (key := signature(args)) not in asked:
            met = _Branching()
            if has_type(met.inside(model), *args):
                typed.add(key)
            else:
                check_program(model, *args)
            if met.branches:
                branching.add(key)
            asked.add(key)
        runs: Lanes | OneByOne = OneByOne(model, args, move)
        if move is None and key in typed:
            runs = Lanes(model, args, key in branching)

        def step(state: tuple[int, Population, bool]) -> tuple[int, Population, bool]:
            scores, population, _ = state
            if scores and population.is_uneven(ess):
                factors = None if ahead is None else runs.looked(ahead, population, scores)
                population = resample(population, scheme, factors)[0]
            if move is not None and scores and float(population.log_evidence()) > -math.inf:
                population = runs.move(population, scores)
            population, ended = runs.advance(population, scores)
            if evidence is not None:
                population = push_evidence(population, evidence)
            return scores + 1, population, ended

        start = Population(runs.start(particles), uniform_log_weights(particles))
        population: Population = iterate(step, ENDLESS, until=_ended)((0, start, False))[1]
        values = runs.results(population.values)
        return Population(values, population.log_weights).require_weights()

    run.__name__ = run.__qualname__ = f"smc({particles})"
    return Program(run)


def _ended(state: tuple[int, Population, bool]) -> bool:
    return state[2]


@dataclass(frozen=True)
class OneByOne:
    """Suspended runs of any structures."""

    model: Callback
    args: tuple[Any, ...]
    kernel: TraceKernel | None

    def start(self, n: int) -> Apart:
        return Apart((Suspended({}),) * n)

    def advance(self, population: Population, scores: int) -> tuple[Population, bool]:
        return advance_each(self.model, population, scores, *self.args)

    def move(self, population: Population, scores: int) -> Population:
        if self.kernel is None:
            return population
        runs = (self._moved(each, scores) for each in population.values.each)
        return population._replace(values=Apart(tuple(runs)))

    def looked(self, ahead: Ahead, population: Population, scores: int) -> Tensor:
        found = [ahead(each.choices, scores) for each in population.values.each]
        return torch.stack([torch.as_tensor(each, dtype=torch.float64) for each in found])

    def results(self, runs: Apart) -> Apart:
        return Apart(tuple(each.value for each in runs.each))

    @property
    def _moved(self) -> Program:
        def moved(run: Suspended, scores: int) -> Suspended:
            assert self.kernel is not None
            p = prefix(self.model, scores)
            before = at(p, Point(run.choices, run.draws), *self.args)
            after = self.kernel.step(before, p, *self.args).run
            return Suspended(after.choices, after.draws or (), *after.value)

        return Program(moved)


class _Branching(Handler):
    """Notes whether the program inside branches."""

    branches = False

    def inside(self, p: Callback) -> Callback:
        def run(*args: Any) -> Any:
            with self:
                return p(*args)

        return run

    def _process_message(self, msg: Message) -> None:
        self.branches |= msg["type"] == "cond"


class _Jointly(Handler):
    """Keeps the lanes inside together under the exact evaluator.

    Lane by lane it would run only the branch that is taken, where together all are run: scores
    would be counted differently.  Without branches both ways are the same.
    """

    lane_wise = False


@dataclass(frozen=True)
class Lanes:
    """Suspended runs of one structure: (choices, draws, result), particles first.

    One that has ended is its result alone: more of them are equal.
    """

    model: Callback
    args: tuple[Any, ...]
    branching: bool

    def start(self, n: int) -> Any:
        return {}, (), ()

    def advance(self, population: Population, scores: int) -> tuple[Population, bool]:
        n = len(population.log_weights)
        values, ended, log_weights = Program(self._advanced)(population.values, scores, n)
        return Population(values, population.log_weights + log_weights), ended

    def _advanced(self, values: Any, scores: int, n: int) -> tuple[Any, bool, Tensor]:
        """All runs with one score more: an effect of its own, which no weight takes part in."""

        def lane(choices: dict[str, Tensor], draws: tuple[Tensor, ...]) -> Any:
            after, log_weight = advance(self.model, Suspended(choices, draws), scores, *self.args)
            run = ({}, (), after.value) if after.ended else (after.choices, after.draws, ())
            return run, torch.tensor(after.ended), log_weight

        choices, draws, _ = values
        with _Jointly() if self.branching else nullcontext():
            values, ended, log_weights = vmap(lane, size=n)(choices, draws)
        return values, bool(ended.all()), log_weights.double()

    def move(self, population: Population, scores: int) -> Population:
        return population

    def looked(self, ahead: Ahead, population: Population, scores: int) -> Tensor:
        def lane(choices: dict[str, Tensor]) -> Tensor:
            return torch.as_tensor(ahead(choices, scores), dtype=torch.float64)

        found: Tensor = vmap(lane, size=len(population.log_weights))(population.values[0])
        return found

    def results(self, runs: Any) -> Any:
        return runs[2]
