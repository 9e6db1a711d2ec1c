"""Islands of tempered sequential Monte Carlo, in unconstrained coordinates, moved by HMC."""

from __future__ import annotations

import math
from collections.abc import Callable

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
from ..mcmc import Parameters, hmc
from .resampling import systematic
from .tempering import ladder, tempered

Watch = Callable[..., None]


def tempering(
    density: LogDensity,
    particles: int,
    stages: int,
    moves: int,
    *,
    compiled: bool,
    notify: Notify,
    watch: Watch,
) -> Program:
    """Tempered SMC from the prior of a density's program to its posterior; see ``SMC``.

    Args:
        watch: is told the power of each stage, and the effective sample size at each resampling.

    Errors:
        ProgramError: a latent is under a scale, so that its prior has no law to start from.
    """
    if density.scaled:
        name = min(density.scaled)
        what = "a latent in a subsampled or scaled plate has no law of its own to start from"
        hint = "use all the data, NUTS on the scaled density, or SMC(algorithm=importance)"
        line = density.sites[name].line
        raise ProgramError(located(what, site=name, line=line, hint=hint))
    example = torch.zeros(particles, density.layout.size, dtype=density.layout.dtype)
    potential = Potential(
        density.tempered, example, example.new_ones(()), compiled=compiled, notify=notify
    )
    likelihood = torch.func.vmap(lambda u: density.prior_and_likelihood(u)[1])

    def move(u: Tensor, beta: Tensor) -> Tensor:
        watch(1, power=float(beta))
        return moved(u, beta.to(u.dtype), potential, moves)

    def scheme(log_weights: Tensor) -> Tensor:
        watch(0, ess=float(1 / torch.softmax(log_weights, 0).square().sum()))
        return systematic(log_weights)

    start = prior(density, particles)
    return tempered(start, likelihood, move, ladder(stages), particles, scheme)


def prior(density: LogDensity, particles: int) -> Program:
    """A program that draws vectors [particles, d] from the prior of a density's program."""

    def one() -> Tensor:
        with Decomposing(), Untracing(), Weighing(), Proposing() as proposal:
            density.program(*density.args)
        return density.layout.pack(proposal.choices)

    return vmap(one, size=particles)


def moved(u: Tensor, beta: Tensor, potential: Potential, moves: int) -> Tensor:
    """HMC transitions of particles [n, d] at a power, with the metric of their variances."""
    d = u.shape[-1]
    if d == 0:
        return u
    step_size = u.new_tensor(d ** (-0.25))
    kernel = hmc(leapfrogs=max(1, math.ceil(0.5 * math.pi / float(step_size))))
    variances = u.var(0) if len(u) > 1 else torch.ones_like(u[0])
    parameters = Parameters(step_size, variances.clamp(min=1e-12))

    def at(u: Tensor) -> tuple[Tensor, Tensor]:
        return potential(u, beta)

    state = kernel.init(by_columns(u), at)
    for _ in range(moves):
        state, _ = kernel.step(state, at, parameters)
    return state.position
