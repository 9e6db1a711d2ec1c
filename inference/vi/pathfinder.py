"""Pathfinder: normal laws along paths of L-BFGS, from a program to a fit in one call."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from ...ppl import draw
from ...ppl.compile.potential import Potential
from ...ppl.errors import ProgramError, located
from ...ppl.interpretations.layout import Layout
from ...ppl.interpretations.log_density import LogDensity
from ...ppl.language.program import Callback, program_name
from ...ppl.tensors.seeds import seeded
from ..results.fit import Fit, fit_from_vectors
from ..results.pareto import doubts, smoothed
from ..runs.finite import without_finite
from ..runs.paths import Found, Target, pathfinder
from ..runs.paths.normal import LowRankNormal
from ..runs.paths.pathfinder import ELBO_DRAWS, HISTORY, STEPS, TOLERANCE
from ..runs.placing import Device, run_settled
from ..runs.progress import Progress
from ..runs.start import starting_points
from .trust import rounding_of

HINT = "start MCMC there, by init='pathfinder'"
ROWS = 16  # vectors at once where there is no lane code: climbs take one, and bounds hundreds


@dataclass(frozen=True)
class Pathfinder:
    """Fit normal laws along paths of L-BFGS, and draw from the best by importance resampling.

    Each path climbs the log density in unconstrained coordinates from a random start.  At every
    step the optimiser's inverse Hessian gives a normal law; the path keeps the one with the
    greatest evidence lower bound.  Draws of all paths are weighted by p / q, with q the mixture of
    their laws, so that a mode counts by its mass however many paths end in it; the weights are
    smoothed by a Pareto tail, and decide which draws the fit holds, with replacement.

    A path takes some tens to hundreds of gradients, one after the other, and ``elbo_draws`` times
    as many densities at once.  Where the posterior is far from normal, ``fit.warnings()`` tells of
    a Pareto k-hat above 0.7: use the draws as starts, ``MCMC(init="pathfinder")``.

    Finite latents are summed out; ``predict(fit, p, *args)`` draws them.

    Source: Zhang, Carpenter, Gelman and Vehtari, JMLR 23 (2022), arXiv 2108.03782.

    Args:
        paths: from independent starts.
        draws: of the result, and of each path before they are resampled.
        history: steps of a path that an inverse Hessian is made of.
        steps: of L-BFGS on a path, at most.
        tolerance: relative change of the log density over a step at which a path ends.
        elbo_draws: of each normal law on a path, for its bound.
        resample: False: take as many draws of the law of each path, unweighted.
        compiled: compile the log density (see ``Potential``).
        device: where to compute it, and where the data are moved; torch's default unless given.
        dtype: the precision of what the program makes, and of the data, as of ``MCMC``.  The laws
            are in double precision.
        progress: show a progress bar.
    """

    paths: int = 4
    draws: int = 1000
    history: int = HISTORY
    steps: int = STEPS
    tolerance: float = TOLERANCE
    elbo_draws: int = ELBO_DRAWS
    resample: bool = True
    compiled: bool = True
    device: Device = None
    dtype: torch.dtype | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        for name in ("paths", "draws", "history", "steps", "elbo_draws"):
            if getattr(self, name) < 1:
                raise ValueError(f"Pathfinder: {name} is at least 1, not {getattr(self, name)}")
        if self.tolerance < 0.0:
            raise ValueError(f"Pathfinder: tolerance is at least 0, not {self.tolerance}")

    def run(self, p: Callback, *args: Any, seed: int = 0) -> Fit:
        """Approximate the posterior of ``p(*args)``.

        The fit's draws are [1, draws, *shape].  ``stats``: ``lp``, the log density in unconstrained
        coordinates; ``path``, which path a draw is of; ``k_hat``, the shape of the tail of the
        weights, the same for all draws.  ``history["elbo"]`` holds the bounds [paths, steps], NaN
        after the end of a path.  The log evidence is the log of the mean weight.

        Errors:
            ProgramError: no path finds a normal law, as where the density is flat; or there is no
                real latent, or finite ones cannot be summed out.
            InitializationError: no start has a finite log density and gradient.
            UnsupportedDistributionError: a latent is discrete and not finite.
            BranchError: Python control flow depends on a random value.
        """
        run = partial(self._run, seed=seed)
        with seeded(seed):
            return run_settled(run, p, args, self.device, self.dtype)

    def _run(self, p: Callback, args: tuple[Any, ...], seed: int) -> Fit:
        start = time.perf_counter()
        smooth, summed = without_finite(p, args)
        density = LogDensity(smooth, *args, turning=True)
        if density.layout.size == 0:
            what = f"{program_name(p)} has no real latent for Pathfinder to move"
            raise ProgramError(located(what, hint="its evidence is what Exact or SMC gives"))
        with Progress(self.paths, "Pathfinder", self.progress) as progress:
            starts = starting_points(density, self.paths)
            example = starts[:1].expand(ROWS, -1)
            potential = Potential(density, example, compiled=self.compiled, notify=progress.say)
            target = Target(potential, example, ROWS if potential.lanes is None else None)
            found, interrupted = self._found(target, starts, progress)
        laws = [path.normal for path in found if path.normal is not None]
        if not laws:
            raise _failed(found, density.layout)
        about = f"{len(laws)} path{'s' * (len(laws) > 1)}"
        return self._fit(
            density,
            target,
            laws,
            found,
            method=f"Pathfinder ({', '.join(filter(None, (about, summed)))})",
            seed=seed,
            seconds=time.perf_counter() - start,
            interrupted=interrupted,
        )

    def _found(
        self, target: Target, starts: Tensor, progress: Progress
    ) -> tuple[list[Found], bool]:
        """What each path came to, and whether the others were interrupted."""
        found = list[Found]()
        try:
            for start in starts:
                path = pathfinder(
                    target,
                    start,
                    history=self.history,
                    steps=self.steps,
                    tolerance=self.tolerance,
                    elbo_draws=self.elbo_draws,
                )
                found.append(path)
                progress.advance(elbo=float(path.elbo[path.best]) if path.normal else math.nan)
        except KeyboardInterrupt:
            if not found:
                raise
            return found, True
        return found, False

    def _fit(
        self,
        density: LogDensity,
        target: Target,
        laws: Sequence[LowRankNormal],
        found: Sequence[Found],
        **about: Any,
    ) -> Fit:
        standard = dist.Normal(torch.zeros_like(laws[0].mean), torch.ones_like(laws[0].mean))
        noise = [draw(standard, (self.draws,), label="candidates") for _ in laws]
        points = torch.cat([q.points(e) for q, e in zip(laws, noise, strict=True)])
        points = target.rounded(points)
        log_p, _ = target(points)
        usable = log_p < math.inf  # neither NaN nor infinite; it may be minus infinity
        log_weights = torch.where(usable, log_p - mixture_log_density(laws, points), -math.inf)
        weighed = smoothed(log_weights, rounding_of(log_p[usable], epsilon=target.epsilon))
        weights, k_hat, log_evidence, error = weighed
        if log_evidence == -math.inf:
            what = "no draw of the normal laws has a finite log density"
            raise ProgramError(located(what, hint="write the program in other coordinates"))
        each = torch.arange(self.draws, device=log_p.device)
        chosen = each % len(laws) * self.draws + each // len(laws)
        if self.resample:
            chosen = draw(dist.Categorical(logits=weights), (self.draws,), label="chosen")
        kept = [i for i, path in enumerate(found) if path.normal is not None]
        fit = fit_from_vectors(
            density,
            target.given(points[chosen])[None],
            stats={
                "lp": log_p[chosen][None],
                "path": chosen.new_tensor(kept)[chosen // self.draws][None],
                "k_hat": log_p.new_full((1, self.draws), k_hat),
            },
            log_evidence=log_evidence,
            log_evidence_error=error,
            notes=(
                *_unfinished(found, density.layout),
                *_impossible(int((~usable).sum()), len(usable)),
                *doubts(
                    weighed, "the mixture of normal laws", "start MCMC there, by init='pathfinder'"
                ),
            ),
            report=tuple(map(_reported, range(len(found)), found)),
            **about,
        )
        bounds = [path.elbo for path in found]
        fit.history["elbo"] = torch.nn.utils.rnn.pad_sequence(bounds, True, math.nan)
        return fit


def mixture_log_density(laws: Sequence[LowRankNormal], points: Tensor) -> Tensor:
    """Of the mixture of laws in equal parts, at points [n, d], [n]."""
    each = torch.stack([law.log_density(points) for law in laws])
    return each.logsumexp(0) - math.log(len(laws))


def _failed(found: Sequence[Found], layout: Layout) -> ProgramError:
    reasons = "; ".join(dict.fromkeys(path.reason(layout) for path in found))
    hint = "give every site a proper law, or write the program in other coordinates"
    return ProgramError(
        located(f"none of {len(found)} paths finds a normal law: {reasons}", hint=hint)
    )


def _unfinished(found: Sequence[Found], layout: Layout) -> list[str]:
    """What is to be said of paths that failed, or did not come to their end."""
    return [
        f"path {i} found no normal law, and is left out: {path.reason(layout)}"
        if path.normal is None
        else f"path {i} was still climbing after {len(path.elbo)} steps: raise steps; if that does "
        "not help, the posterior may be improper"
        for i, path in enumerate(found)
        if path.normal is None or path.limited
    ]


def _impossible(count: int, total: int) -> list[str]:
    what = f"at {count} of {total} draws the log density was NaN or infinite"
    return [f"{what}, and they count for nothing"] if count else []


def _reported(number: int, path: Found) -> str:
    if path.normal is None:
        return f"path {number}: {len(path.elbo)} steps, no normal law"
    bound = float(path.elbo[path.best])
    return f"path {number}: {len(path.elbo)} steps, bound {bound:.4g} at step {path.best + 1}"
