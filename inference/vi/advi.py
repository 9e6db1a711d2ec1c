"""Variational inference by independent normals, from a program to a fit in one call."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from ...ppl import draw
from ...ppl.compile.potential import Potential
from ...ppl.errors import ProgramError, located
from ...ppl.interpretations.log_density import LogDensity
from ...ppl.language.program import Callback
from ...ppl.tensors.seeds import seeded
from ..results.fit import Fit, fit_from_vectors
from ..runs.paths import Target
from ..runs.placing import run_settled
from ..runs.progress import Progress
from ..runs.start import starting_points
from .mean_field import elbo
from .trust import judged

Optimizer = Callable[[Iterable[Tensor]], torch.optim.Optimizer]


@dataclass(frozen=True)
class ADVI:
    """Maximise the evidence lower bound over independent normals in unconstrained coordinates.

    Automatic differentiation variational inference: from a program to a fit in one call.  For other
    guides and objectives see ``SVI``.

    Source: Kucukelbir et al. (arXiv 1603.00788).

    Args:
        steps: gradient steps.
        particles: draws of the guide for each gradient.
        optimizer: makes a ``torch.optim.Optimizer`` from the parameters; Adam(0.05) by default.
        decay: the learning rate falls to this fraction, geometrically, over the run.
        draws: how many draws of the fitted guide the result holds.
        compiled: compile the log density with Inductor.
        dtype: the precision of what the program makes, and of the data, as of ``MCMC``.
        progress: show a progress bar.
    """

    steps: int = 2000
    particles: int = 16
    optimizer: Optimizer | None = None
    decay: float = 0.02
    draws: int = 4000
    compiled: bool = True
    dtype: torch.dtype | None = None
    progress: bool = True

    def run(self, p: Callback, *args: Any, seed: int = 0) -> Fit:
        """Fit ``p(*args)``; the result's draws are those of the guide, its history the bound.

        ``stats``: ``log_weight``, log p - log q of each draw, and ``k_hat``, the shape of their
        tail, the same for all: above 0.7 the guide misses parts of the posterior, which
        ``fit.warnings()`` says.  The log evidence is the log of the mean weight.

        Errors:
            SmoothnessError: the density jumps as a latent moves: it is compared, rounded or cast.
        """
        return run_settled(partial(self._run, seed=seed), p, args, dtype=self.dtype)

    def _run(self, p: Callback, args: tuple[Any, ...], seed: int) -> Fit:
        start = time.perf_counter()
        with seeded(seed), Progress(self.steps, "ADVI", self.progress) as progress:
            density = LogDensity(p, *args)
            density.require_smooth("ADVI")
            loc = starting_points(density, 1)[0]
            log_scale = torch.full_like(loc, -1.0)
            example = loc.expand(self.particles, -1).contiguous()
            potential = Potential(density, example, compiled=self.compiled, notify=progress.say)
            make = self.optimizer or (lambda parameters: torch.optim.Adam(parameters, lr=0.05))
            optimizer = make([loc, log_scale])
            schedule = torch.optim.lr_scheduler.ExponentialLR(
                optimizer, self.decay ** (1 / self.steps)
            )
            history, interrupted = [], False
            try:
                for step in range(self.steps):
                    estimate = elbo(loc, log_scale, potential, self.particles)
                    _require_finite(estimate.value, step)
                    loc.grad, log_scale.grad = -estimate.loc, -estimate.log_scale
                    optimizer.step()
                    schedule.step()
                    history.append(float(estimate.value))
                    progress.advance(elbo=history[-1])
            except KeyboardInterrupt:
                interrupted = True
            guide = dist.Normal(loc, log_scale.exp())
            u = draw(guide, (self.draws,), label="guide")
            target = Target(potential, example, self.particles if potential.lanes is None else None)
            trust = judged(
                target(u)[0],
                guide.log_prob(u).sum(-1).to("cpu", torch.float64),
                proposed="the mean-field guide",
                epsilon=target.epsilon,
            )
            fit = fit_from_vectors(
                density,
                u[None],
                method="ADVI",
                stats={
                    "log_weight": trust.log_weights[None],
                    "k_hat": torch.full((1, self.draws), trust.k_hat),
                },
                log_evidence=trust.log_evidence,
                log_evidence_error=trust.error,
                notes=tuple(trust.notes),
                seed=seed,
                seconds=time.perf_counter() - start,
                interrupted=interrupted,
            )
        fit.history["elbo"] = torch.tensor(history)
        return fit


def _require_finite(value: Tensor, step: int) -> None:
    if not bool(torch.isfinite(value)):
        raise ProgramError(
            located(
                f"the evidence lower bound is {float(value)} at step {step}",
                hint="lower the learning rate, raise particles, or rescale the model",
            )
        )
