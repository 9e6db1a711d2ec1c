"""What makes one island of the driver SMC: an algorithm that is given, or tempering."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...ppl import compiled
from ...ppl.interpretations.abstract_run import check_program
from ...ppl.language.program import Callback, Program
from ..runs.recording import recorded
from ..smc import doubts
from ..smc.pilot import Moved, Pilot
from ..smc.population import Population, together
from ..smc.resampling import resample
from ..smc.stage_kernels import Metric, Stage
from ..smc.tempered_islands import TemperedIslands

Algorithm = Callable[[Program, int], Program]
Draws = tuple[dict[str, Tensor], list[str]]


class Island(NamedTuple):
    """What a population came to: equally weighted draws, its evidence and effective size.

    ``draws``: unconstrained vectors [particles, d] of tempered runs, under the name ``""``; else
    the latents and deterministic sites by name, [particles, *shape]; none where no particle has
    positive weight.  ``failures``: at how many points a matrix had no decomposition.  ``variance``:
    of the log evidence if moves forget all, NaN where it is not known.  ``worst``: see ``doubts``.
    ``notes``: of its moves, where it has set them itself.
    """

    draws: dict[str, Tensor]
    latents: list[str]
    log_evidence: Tensor
    effective_size: Tensor
    failures: int = 0
    variance: float = math.nan
    worst: tuple[float, float, float] = (math.inf, math.inf, math.inf)
    notes: tuple[str, ...] = ()


class Plan(NamedTuple):
    """What the islands take from a pilot run: the stages, its evidence, what to know of it."""

    stages: tuple[Stage, ...]
    log_evidence: float
    notes: tuple[str, ...]
    report: tuple[str, ...]

    def plain(self) -> tuple[Any, ...]:
        """It as tuples of tensors and plain values."""
        stages = [(s.power, tuple(s.metric), s.leapfrogs, s.moves) for s in self.stages]
        return (stages, *self[1:])

    @staticmethod
    def of(content: tuple[Any, ...]) -> Plan:
        """What ``plain`` made."""
        stages, *rest = content
        return Plan(tuple(Stage(b, Metric(*m), n, k) for b, m, n, k in stages), *rest)


@dataclass(frozen=True)
class ByAlgorithm:
    """Islands of an algorithm that makes a population of a program."""

    algorithm: Program
    args: tuple[Any, ...]

    @staticmethod
    def made(
        p: Callback, args: tuple[Any, ...], algorithm: Algorithm, particles: int, say: Any
    ) -> ByAlgorithm:
        """Of the program p; ``say`` is told of compilation, or None leaves it out."""
        check_program(p, *args)
        run = algorithm(recorded(p), particles)
        return ByAlgorithm(compiled(run, say) if say else run, args)

    def island(self, plan: Plan | None) -> Island:
        """One more."""

        def named(values: Any) -> Draws:
            runs = together(values).by_step()
            return {**runs.choices, **runs.derived}, list(runs.choices)

        return drawn(self.algorithm(*self.args), named)


@dataclass(frozen=True)
class ByTempering:
    """Islands of tempered SMC: of the stages of a plan, or without one adaptive, as a pilot run."""

    islands: TemperedIslands
    powers: Sequence[float] | None
    moves: int | None
    length: int

    def plan(self) -> Plan:
        """What a pilot run finds."""
        pilot = self.islands.pilot(self.powers, self.moves)
        notes = doubts.of_pilot(pilot, self.moves, self.length)
        log_evidence = float(pilot.population.log_evidence())
        return Plan(pilot.stages, log_evidence, tuple(notes), tuple(report(pilot)))

    def island(self, plan: Plan | None) -> Island:
        """One more."""
        if plan is None:
            pilot = self.islands.pilot(self.powers, self.moves)
            notes = doubts.of_pilot(pilot, self.moves)
            return self._island(pilot.population, pilot.stages, pilot.moved, notes)
        if not plan.stages:
            return nothing()
        run, trail = self.islands.program(plan.stages)
        return self._island(run(), plan.stages, trail, [])

    def _island(
        self,
        population: Population,
        stages: Sequence[Stage],
        trail: Sequence[Moved],
        notes: list[str],
    ) -> Island:
        """Of a population; ``trail`` holds as many moves of each stage as are told apart."""
        n = len(population.log_weights)
        island = drawn(population, lambda particles: ({"": particles.points}, [""]))
        if not island.draws:
            return island
        first = trail[:: len(trail) // len(stages)]
        spread = [1.0 / moved.share - 1.0 for moved in first]
        families = math.inf
        if self.length == 1:
            each = population.values.first.bincount(minlength=n).double() / n
            families = float(1.0 / each.square().sum())
        else:  # states of a chain are as good as independent after the moves of the pilot run
            spread = [x * stage.moves for x, stage in zip(spread, stages, strict=True)]
        return island._replace(
            variance=sum(spread) / n, worst=doubts.worst(trail, families), notes=tuple(notes)
        )


def drawn(population: Population, named: Callable[[Any], Draws]) -> Island:
    """Equally weighted draws of a population, with its evidence."""
    log_evidence = population.log_evidence()
    if float(log_evidence) == -math.inf:
        return nothing()
    draws, latents = named(resample(population)[0].values)
    return Island(draws, latents, log_evidence, population.effective_size())


def nothing() -> Island:
    """An island where no particle has positive weight."""
    return Island({}, [], torch.tensor(-math.inf).double(), torch.tensor(0.0).double())


def report(pilot: Pilot) -> list[str]:
    """A line for each power of the pilot run."""
    return [
        f"power {stage.power:.3g}: {moved.share:.0%} of the effective size left, {stage.moves} "
        f"moves of {stage.leapfrogs} leapfrogs in a "
        f"{'diagonal' if stage.metric.root is None else 'dense'} metric, acceptance "
        f"{moved.acceptance:.2f}, correlation with the start {moved.correlation:.2f}"
        for stage, moved in zip(pilot.stages, pilot.moved, strict=True)
    ]
