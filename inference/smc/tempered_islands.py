"""Islands of tempered sequential Monte Carlo, in unconstrained coordinates, moved by HMC."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ...ppl import vmap
from ...ppl.compile.inductor import Notify
from ...ppl.compile.potential import Potential, by_columns
from ...ppl.errors import ProgramError, located
from ...ppl.interpretations.log_density import LogDensity
from ...ppl.language.handlers import Proposing, Untracing, Weighing
from ...ppl.language.program import Program
from ...ppl.tensors.decompositions import Decomposing
from ..mcmc.hamiltonian import init
from .pilot import Moved, Pilot, columns, correlation, pilot
from .powers import conditional_size
from .resampling import systematic
from .stage_kernels import Particles, Stage, at_power, transition
from .tempering import tempered
from .waste_free import waste_free

Watch = Callable[..., None]


class TemperedIslands:
    """Tempered SMC from the prior of a density's program to its posterior; see ``SMC``.

    Args:
        length: of the waste-free chains, a divisor of ``particles``; 1 is the usual algorithm, in
            which each particle is resampled, and moved as often as its stage says.
        watch: is told the power of each stage, and the effective sample size that it left.

    Errors:
        ProgramError: a latent is under a scale, so that its prior has no law to start from.
    """

    def __init__(
        self,
        density: LogDensity,
        particles: int,
        length: int = 1,
        *,
        compiled: bool,
        notify: Notify,
        watch: Watch,
    ) -> None:
        if density.scaled:
            name = min(density.scaled)
            what = "a latent in a subsampled or scaled plate has no law of its own to start from"
            hint = "use all the data, NUTS on the scaled density, or SMC(algorithm=importance)"
            line = density.sites[name].line
            raise ProgramError(located(what, site=name, line=line, hint=hint))
        self._density, self._n, self._length, self._watch = density, particles, length, watch

        def at_last(vector: Tensor) -> Tensor:
            return density.tempered(vector[:-1], vector[-1])

        def potential(chains: int) -> Potential:
            example = torch.zeros(chains, density.layout.size + 1, dtype=density.layout.dtype)
            example[:, -1] = 1.0
            return Potential(at_last, example, compiled=compiled, notify=notify)

        self._potential = potential(particles)
        same = length == 1 or self._potential.lanes is not None
        self._of_chains = self._potential if same else potential(particles // length)

    def pilot(self, powers: Sequence[float] | None, moves: int | None) -> Pilot:
        """A run that finds the stages, or the moves at given powers."""
        return pilot(self._start(), self._potential, powers, moves, self._watch)

    def program(self, stages: Sequence[Stage]) -> tuple[Program, list[Moved]]:
        """The run of these stages as a program, and where it leaves what its moves did."""
        at, shares, trail = {stage.power: stage for stage in stages}, [0.0], list[Moved]()
        powers = [stage.power for stage in stages]

        def scheme(log_weights: Tensor) -> Tensor:
            shares[-1] = conditional_size(log_weights)
            self._watch(1, ess=shares[-1] * self._n)
            return systematic(log_weights)

        def moved(particles: Particles, power: Tensor) -> Particles:
            self._watch(0, power=float(power))
            after, done = moved_often(particles, self._potential, at[float(power)])
            trail.append(done._replace(share=shares[-1]))
            return after

        def stepped(particles: Particles, power: Tensor) -> Particles:
            here = particles.state.position[0, -1]
            if here != power.to(here):
                self._watch(0, power=float(power))
                particles = at_power(particles, self._of_chains, float(power))
            after, probability = transition(particles, self._of_chains, at[float(power)])
            trail.append(Moved(shares[-1], float(probability.mean()), 0.0))
            return after

        common = self._start, lambda particles: particles.log_likelihood
        if self._length == 1:
            return tempered(*common, moved, powers, self._n, scheme), trail
        return waste_free(*common, stepped, powers, self._n, self._length, scheme), trail

    def _start(self) -> Particles:
        """Particles from the prior."""
        points = prior(self._density, self._n)()
        position = by_columns(torch.cat([points, points.new_ones(self._n, 1)], 1))
        first = torch.arange(self._n, device=position.device)
        return Particles(init(position, self._potential), first)


def prior(density: LogDensity, particles: int) -> Program:
    """A program that draws vectors [particles, d] from the prior of a density's program."""

    def one() -> Tensor:
        with Decomposing(), Untracing(), Weighing(), Proposing() as proposal:
            density.program(*density.args)
        return density.layout.pack(proposal.choices)

    return vmap(one, size=particles)


def moved_often(
    particles: Particles, potential: Potential, stage: Stage
) -> tuple[Particles, Moved]:
    """Particles after the moves of a stage, and what these did."""
    start = after = at_power(particles, potential, stage.power)
    rates = list[float]()
    for _ in range(stage.moves):
        after, probability = transition(after, potential, stage)
        rates.append(float(probability.mean()))
    return after, Moved(0.0, sum(rates) / len(rates), correlation(columns(start), columns(after)))
