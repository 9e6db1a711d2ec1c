"""The driver of tempered sequential Monte Carlo: from prior to posterior, with the evidence."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..ppl import vmap
from ..ppl.compiling import Potential, by_columns
from ..ppl.density import LogDensity
from ..ppl.errors import ZeroMassError, located
from ..ppl.handlers import Proposing, Untracing, Weighing
from ..ppl.interpret import seeded
from ..ppl.program import Callback, Program
from .mcmc import Parameters, hmc
from .population import Population
from .progress import Progress
from .resampling import resample
from .results import Fit, fit_from_vectors
from .tempering import ladder, tempered


@dataclass(frozen=True)
class SMC:
    """Tempered SMC: particles from the prior, weighted by powers of the likelihood, moved by HMC.

    The moves keep each power's density invariant for any metric and step size; these are set from
    the particles at each stage (variances, and 1 / d^(1/4)), which makes the evidence estimate
    consistent, where fixed ones would make it unbiased.  Islands are independent runs: their spread
    gives the standard error, and they are the chains of the result.

    Args:
        particles: on each island.
        islands: independent populations.
        stages: how many powers, spaced as (k / stages)^3.
        moves: HMC transitions of each particle at each stage.
        compiled: compile the log density with Inductor.
        progress: show a progress bar.
    """

    particles: int = 1000
    islands: int = 4
    stages: int = 20
    moves: int = 3
    compiled: bool = True
    progress: bool = True

    def __post_init__(self) -> None:
        if min(self.particles, self.islands, self.stages, self.moves) < 1:
            raise ValueError("SMC needs at least one particle, island, stage and move")

    def run(self, p: Callback, *args: Any, seed: int = 0) -> Fit:
        """Draw from the posterior of ``p(*args)`` and estimate its evidence.

        Errors:
            ZeroMassError: no particle has positive likelihood.
            UnsupportedDistributionError: a latent is discrete, or its prior cannot be sampled.
        """
        start = time.perf_counter()
        title = f"SMC ({self.islands} islands)"
        total = self.islands * self.stages
        with seeded(seed), torch.no_grad(), Progress(total, title, self.progress) as progress:
            density = LogDensity(p, *args)
            example = torch.zeros(self.particles, density.layout.size, dtype=density.layout.dtype)
            potential = Potential(
                density.tempered,
                example,
                example.new_ones(()),
                compiled=self.compiled,
                notify=progress.say,
            )
            likelihood = torch.func.vmap(lambda u: density.prior_and_likelihood(u)[1])

            def move(u: Tensor, beta: Tensor) -> Tensor:
                progress.advance(power=float(beta))
                return moved(u, beta.to(u.dtype), potential, self.moves)

            algorithm = tempered(
                prior(density, self.particles),
                likelihood,
                move,
                ladder(self.stages),
                self.particles,
            )
            draws, log_evidences, interrupted = [], [], False
            try:
                for _ in range(self.islands):
                    population = algorithm()
                    log_evidence, values = population.log_evidence(), _equally_weighted(population)
                    log_evidences.append(log_evidence)
                    draws.append(values)
            except KeyboardInterrupt:
                if not draws:
                    raise
                interrupted = True
            fit = fit_from_vectors(
                density,
                torch.stack(draws),
                method="SMC (tempered)",
                seed=seed,
                seconds=time.perf_counter() - start,
                interrupted=interrupted,
            )
        history = torch.stack(log_evidences)
        fit.history["log_evidence"] = history
        fit.log_evidence, fit.log_evidence_error = pooled(history)
        return fit


def prior(density: LogDensity, particles: int) -> Program:
    """A program that draws vectors [particles, d] from the prior of a density's program."""

    def one() -> Tensor:
        with Untracing(), Weighing(), Proposing() as proposal:
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


def _equally_weighted(population: Population) -> Tensor:
    if float(population.log_evidence()) == -math.inf:
        raise ZeroMassError(
            located("no particle has positive likelihood", hint="check data and priors")
        )
    values: Tensor = resample(population)[0].values
    return values


def pooled(log_evidences: Tensor) -> tuple[float, float | None]:
    """The log of the mean evidence of independent runs, and its delta-method standard error."""
    n = len(log_evidences)
    log_mean = torch.logsumexp(log_evidences, 0) - math.log(n)
    if n == 1:
        return float(log_mean), None
    relative = (log_evidences - log_mean).exp()
    return float(log_mean), float(relative.std() / math.sqrt(n))
