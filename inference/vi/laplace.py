"""Laplace: the normal law at the highest peak, from a program to a fit in one call."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyro.distributions as dist
import torch

from ...ppl import draw
from ...ppl.errors import ProgramError, located
from ...ppl.interpretations.log_density import LogDensity
from ...ppl.language.program import Callback, program_name
from ...ppl.tensors.seeds import seeded
from ..results.fit import Fit, fit_from_vectors
from ..runs.finite import without_finite
from ..runs.paths import Target
from ..runs.paths.peak import STEPS, Peak, climbed, with_gradient
from ..runs.placing import run_settled
from ..runs.start import starting_points
from .trust import judged

APART = 0.1  # distance of two peaks, in standard deviations of the one


@dataclass(frozen=True)
class Laplace:
    """The normal law with the mode and the curvature of the posterior, and its mass as evidence.

    In unconstrained coordinates, with the Jacobian in the density: the law of a scale is a log
    normal one.  L-BFGS climbs from random starts, Newton's method goes to the peak, and the Hessian
    there is the precision.  Exact where the density is quadratic.  Finite latents are summed out;
    ``predict(fit, p, *args)`` draws them.

    Where the posterior is not near this law, ``fit.warnings()`` tells of a Pareto k-hat above 0.7;
    and of several peaks, of which the fit has the one of largest mass.  ``MCMC(init=fit)`` starts
    at its draws.

    Source: Tierney and Kadane, JASA 81 (1986); k-hat: Yao et al. (arXiv 1802.02538).

    Args:
        starts: of climbs.
        draws: of the normal law, that the fit holds.
        steps: of L-BFGS in a climb, at most.
        dtype: the precision of what the program makes, and of the data, as of ``MCMC``.
    """

    starts: int = 4
    draws: int = 1000
    steps: int = STEPS
    dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        for name in ("starts", "draws", "steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"Laplace: {name} is at least 1, not {getattr(self, name)}")

    def run(self, p: Callback, *args: Any, seed: int = 0) -> Fit:
        """Approximate the posterior of ``p(*args)``.

        ``stats``: ``lp``, the log density in unconstrained coordinates; ``log_weight``, log p - log
        q; ``k_hat``, the shape of the tail of the weights, the same for all draws.  The log
        evidence is Laplace's: log p at the peak, + d/2 log 2 pi - 1/2 log det of the precision; it
        has no standard error.

        Errors:
            ProgramError: there is no peak: the density is flat along a site, or rises for ever, as
                where the mode is at an edge of the support; or there is no latent.
            InitializationError: no start has a finite log density and gradient.
            UnsupportedDistributionError: a latent is discrete and not finite.
            BranchError: Python control flow depends on a random value.
        """
        return run_settled(partial(self._run, seed=seed), p, args, dtype=self.dtype)

    def _run(self, p: Callback, args: tuple[Any, ...], seed: int) -> Fit:
        begin = time.perf_counter()
        smooth, summed = without_finite(p, args)
        density = LogDensity(smooth, *args, turning=True)
        if density.size == 0:
            what = f"{program_name(p)} has no real latent for Laplace to climb by"
            raise ProgramError(located(what, hint="Exact sums finite latents out"))
        with seeded(seed):
            starts = starting_points(density, self.starts)
            target = Target(with_gradient(density), starts)
            ends = [
                climbed(density, density.layout, target, u, self.steps).peak
                for u in starts.to("cpu", torch.float64)
            ]
            peaks = [end for end in ends if isinstance(end, Peak)]
            if not peaks:
                why = "; ".join(dict.fromkeys(str(end) for end in ends))
                hint = "give every site a proper law; a mode at an edge wants Pathfinder or MCMC"
                raise ProgramError(
                    located(f"{program_name(p)} has no peak to approximate: {why}", hint=hint)
                )
            best = max(peaks, key=lambda peak: peak.log_mass)
            law = dist.Normal(torch.zeros_like(best.mode), 1.0)
            noise = draw(law, (self.draws,), label="posterior")
            u = target.rounded(best.mode + noise @ best.root.mT)
            log_p = target(u)[0]
            log_q = law.log_prob(noise).sum(-1) - best.root.diagonal().log().sum()
            trust = judged(log_p, log_q, proposed="Laplace's normal law", epsilon=target.epsilon)
            return fit_from_vectors(
                density,
                target.given(u)[None],
                method=f"Laplace{f' ({summed})' if summed else ''}",
                stats={
                    "lp": log_p[None],
                    "log_weight": trust.log_weights[None],
                    "k_hat": torch.full((1, self.draws), trust.k_hat),
                },
                log_evidence=best.log_mass,
                notes=(*_several(peaks, best), *_failed(ends), *trust.notes),
                report=tuple(f"start {i}: {_told(end)}" for i, end in enumerate(ends)),
                seed=seed,
                seconds=time.perf_counter() - begin,
            )


def _several(peaks: list[Peak], best: Peak) -> list[str]:
    """A note of peaks beside the best."""
    others: list[Peak] = []
    for peak in peaks:
        known = [best, *others]
        if all(_distance(peak, at) > APART for at in known):
            others.append(peak)
    if not others:
        return []
    logs = ", ".join(f"{peak.log_mass:.2f}" for peak in (best, *others))
    what = f"the posterior has {1 + len(others)} peaks or more, of log masses {logs}"
    return [f"{what}: the fit is of the first alone; use Pathfinder or SMC"]


def _distance(peak: Peak, at: Peak) -> float:
    """Of their modes, in standard deviations of the second."""
    away = (peak.mode - at.mode)[:, None]
    return float(torch.linalg.solve_triangular(at.root, away, upper=False).norm())


def _failed(ends: list[Peak | str]) -> list[str]:
    return [
        f"start {i} came to no peak, and is left out: {end}"
        for i, end in enumerate(ends)
        if isinstance(end, str)
    ]


def _told(end: Peak | str) -> str:
    return end if isinstance(end, str) else f"a peak of log mass {end.log_mass:.4g}"
