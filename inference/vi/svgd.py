"""Stein variational gradient descent: particles that move together to a posterior."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...ppl.compile.potential import Potential
from ...ppl.errors import ObjectiveError, ProgramError, located
from ...ppl.interpretations.log_density import LogDensity
from ...ppl.language.program import Callback
from ...ppl.tensors.seeds import seeded
from ..results.fit import Fit, fit_from_vectors
from ..runs.progress import Progress
from ..runs.start import starting_points
from .stein import direction

Optimizer = Callable[[Iterable[Tensor]], torch.optim.Optimizer]


@dataclass(frozen=True)
class SVGD:
    """Move particles, in unconstrained coordinates, until their law is close to the posterior.

    Each is drawn up the log density that its neighbours see, and pushed away from them.  The
    particles are no independent draws, and in many dimensions they spread too little; to weigh them
    by importance is not possible, since their law has no density.  One particle finds the mode.

    Source: Liu, Wang (arXiv 1608.04471).

    Args:
        particles: how many.
        steps: of the optimiser.
        width: of the kernel exp(-|x - y|^2 / width); by default from the distances, at each step.
        optimizer: makes a ``torch.optim.Optimizer`` from the particles; Adam(0.1) by default.
        decay: the learning rate falls to this fraction, geometrically, over the run.
        compiled: compile the log density.
        progress: show a progress bar.
    """

    particles: int = 100
    steps: int = 1000
    width: float | None = None
    optimizer: Optimizer | None = None
    decay: float = 0.02
    compiled: bool = True
    progress: bool = True

    def run(self, p: Callback, *args: Any, seed: int = 0) -> Fit:
        """Fit ``p(*args)``; its draws are the particles.

        ``history["discrepancy"]``: the kernelised Stein discrepancy before each step.

        Errors:
            SmoothnessError: the density jumps as a latent moves: it is compared, rounded or cast.
            ProgramError: the gradient is not finite at a particle.
        """
        if self.particles < 1 or self.steps < 1:
            what = f"SVGD needs particles and steps, not {self.particles} and {self.steps}"
            raise ObjectiveError(located(what))
        if self.width is not None and not self.width > 0:
            raise ObjectiveError(located(f"the width of a kernel is above zero, not {self.width}"))
        start, history, interrupted = time.perf_counter(), list[Tensor](), False
        with seeded(seed), Progress(self.steps, "SVGD", self.progress) as progress:
            density = LogDensity(p, *args)
            density.require_smooth("SVGD")
            x = starting_points(density, self.particles)
            potential = Potential(density, x, compiled=self.compiled, notify=progress.say)
            make = self.optimizer or (lambda parameters: torch.optim.Adam(parameters, lr=0.1))
            optimizer = make([x])
            rate = self.decay ** (1 / self.steps)
            schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, rate)
            try:
                for step in range(self.steps):
                    _, slopes = potential(x)
                    found = direction(x, slopes, self.width)
                    _require_finite(found.move, step)
                    x.grad = -found.move
                    optimizer.step()
                    schedule.step()
                    history.append(found.discrepancy)
                    progress.advance()
            except KeyboardInterrupt:
                interrupted = True
            fit = fit_from_vectors(
                density,
                x[None],
                method="SVGD",
                seed=seed,
                seconds=time.perf_counter() - start,
                interrupted=interrupted,
            )
        fit.history["discrepancy"] = torch.stack(history) if history else torch.zeros(0)
        return fit


def _require_finite(move: Tensor, step: int) -> None:
    if not bool(torch.isfinite(move).all()):
        what = f"the gradient of the log density is not finite at a particle in step {step}"
        hint = "lower the learning rate, or rescale the model"
        raise ProgramError(located(what, hint=hint))
