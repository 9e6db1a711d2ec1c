"""Laplace: the normal law at the highest peak, from a program to a fit in one call."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor

from ...ppl import draw, marginal
from ...ppl.distributions.data import as_arguments
from ...ppl.errors import ProgramError, located
from ...ppl.interpretations.abstract_run import abstract_run
from ...ppl.interpretations.layout import Layout
from ...ppl.interpretations.log_density import LogDensity
from ...ppl.interpretations.quadratic import is_singular
from ...ppl.language.program import Callback, program_name
from ...ppl.tensors.seeds import seeded
from ..results.fit import Fit, fit_from_vectors
from ..runs.paths import Target
from ..runs.paths.ascent import ascent
from ..runs.start import starting_points
from .trust import judged, rounding_of

HISTORY, TOLERANCE = 10, 1e-13
NEWTON = 30  # steps from where the climb ends
ARRIVED = 1e-8  # half the squared Newton step at a peak, in units of log density
ALIKE = 0.1  # relative change of the curvature over the last Newton step
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
    """

    starts: int = 4
    draws: int = 1000
    steps: int = 1000

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
        begin, args = time.perf_counter(), as_arguments(args)
        run, _ = abstract_run(p, *args)
        summed = [n for n, site in run.sites.items() if not site.observed and site.space.finite]
        density = LogDensity(marginal(p, exact=True) if summed else p, *args, turning=True)
        if density.size == 0:
            what = f"{program_name(p)} has no real latent for Laplace to climb by"
            raise ProgramError(located(what, hint="Exact sums finite latents out"))
        with seeded(seed):
            starts = starting_points(density, self.starts)
            target = Target(torch.func.vmap(_turned(density)), starts)
            ends = [self._peak(density, target, u.to("cpu", torch.float64)) for u in starts]
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
                method=f"Laplace{f' ({_listed(summed)} summed out)' if summed else ''}",
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

    def _peak(self, density: LogDensity, target: Target, start: Tensor) -> Peak | str:
        """The peak above a start [d], or why there is none."""
        climb = ascent(target, start, history=HISTORY, steps=self.steps, tolerance=TOLERANCE)
        u = climb.positions[climb.log_densities.argmax()]
        for _ in range(NEWTON):
            precision = _precision(density, target.given(u))
            if not bool(precision.isfinite().all()):
                return "the second derivatives of its log density are not finite"
            root, _ = torch.linalg.cholesky_ex(precision)
            if bool(is_singular(root, precision)):
                return _flat(density.layout, precision)
            value, gradient = (x[0] for x in target(u[None]))
            step = torch.cholesky_solve(gradient[:, None], root)[:, 0]
            rise = 0.5 * float(gradient @ step)
            onward = target.rounded(u + step)
            if rise < max(ARRIVED, target.epsilon):
                if _bends_alike(root, _precision(density, target.given(onward))):
                    return _at(density, target, onward)
                break
            noise = rounding_of(value[None], epsilon=target.epsilon)
            if not bool(target(onward[None])[0][0] >= value - noise):
                break
            u = onward
        i = int(step.abs().argmax())
        return f"the log density still rises along '{density.layout.site_of(i)}'"


def _bends_alike(root: Tensor, precision: Tensor) -> bool:
    """Whether this is the precision root root^T, nearly, as it is at both ends of a small step.

    It is not where a density rises for ever, ever more slowly.
    """
    half = torch.linalg.solve_triangular(root, precision, upper=False)
    whole = torch.linalg.solve_triangular(root, half.mT, upper=False)
    return bool((whole - torch.eye(len(root), dtype=root.dtype)).abs().amax() < ALIKE)


class Peak(NamedTuple):
    """The normal law of this mean [d] and covariance root root^T [d, d]; and its log mass."""

    mode: Tensor
    root: Tensor
    log_mass: float


def _at(density: LogDensity, target: Target, mode: Tensor) -> Peak | str:
    precision = _precision(density, target.given(mode))
    below, _ = torch.linalg.cholesky_ex(precision.flip(0, 1))
    if bool(is_singular(below, precision.flip(0, 1))):
        return _flat(density.layout, precision)
    upper = below.flip(0, 1)  # precision = upper upper^T, so that the root is lower triangular
    unit = torch.eye(len(mode), dtype=mode.dtype)
    root = torch.linalg.solve_triangular(upper, unit, upper=True).mT
    log_mass = target(mode[None])[0][0] + root.diagonal().log().sum()
    return Peak(mode, root, float(log_mass) + 0.5 * len(mode) * math.log(2 * math.pi))


def _turned(density: LogDensity) -> Any:
    """u -> (log density, gradient)."""

    def found(u: Tensor) -> tuple[Tensor, Tensor]:
        gradient, value = torch.func.grad_and_value(density)(u)
        return value, gradient

    return found


def _precision(density: LogDensity, u: Tensor) -> Tensor:
    """Minus the second derivatives of the log density at u [d], [d, d] in double precision."""
    curvature: Tensor = torch.func.jacrev(torch.func.grad(density))(u)
    found = -curvature.detach().to("cpu", torch.float64)
    return 0.5 * (found + found.mT)


def _flat(layout: Layout, precision: Tensor) -> str:
    values, vectors = torch.linalg.eigh(precision)
    site = layout.site_of(int(vectors[:, 0].abs().argmax()))
    return f"the log density has a least curvature of {float(values[0]):.2g}, along '{site}'"


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


def _listed(names: list[str]) -> str:
    return ", ".join(names) if len(names) < 4 else f"{names[0]} ... {names[-1]}"
