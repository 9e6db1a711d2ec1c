"""MAP: the point of highest posterior density, from a program to a fit in one call."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...ppl.errors import ProgramError, located
from ...ppl.interpretations.layout import shown
from ...ppl.interpretations.log_density import LogDensity
from ...ppl.language.program import Callback, program_name
from ...ppl.tensors.seeds import seeded
from ...ppl.types.bijections import PlaneToCircle
from ..results.fit import Fit, fit_from_vectors
from ..runs.finite import without_finite
from ..runs.paths import Target
from ..runs.paths.peak import STEPS, Climb, Peak, climbed, with_gradient
from ..runs.placing import run_settled
from ..runs.start import starting_points

APART = 0.1  # distance of two modes, in standard deviations of the one
ENDLESS = 0.5  # nats that the log density rises by on the second half of a way without a peak
FAR = 5.0  # length of such a way, in unconstrained coordinates


@dataclass(frozen=True)
class MAP:
    """The point of highest density, with its log density; a fit of one draw.

    A mode depends on the scale on which densities are taken, since it is no law: that of log x is
    not the log of that of x.  Here it is that of the latents as the program has them, as in Stan's
    ``optimize``.  With ``jacobian`` it is that of their unconstrained coordinates, which is where
    ``Laplace`` goes.  Finite latents are summed out; ``predict(fit, p, discrete="max")`` gives the
    most probable ones there.

    L-BFGS climbs from random starts, and Newton's method goes to the peak; the fit is of the
    highest.  ``fit.warnings()`` says of which starts there came no peak and why, as where the
    density is unbounded (a scale of effects at zero), or its mode at an edge of the support; and
    of several peaks.  Without a single peak the fit is of the highest point that was met.

    A mode is no mean, and says nothing of how far the latents spread.  In many dimensions next to
    no mass is near it.

    Args:
        starts: of climbs.
        jacobian: take the density of unconstrained coordinates.
        steps: of L-BFGS in a climb, at most.
        dtype: the precision of what the program makes, and of the data, as of ``MCMC``.
    """

    starts: int = 4
    jacobian: bool = False
    steps: int = STEPS
    dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        for name in ("starts", "steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"MAP: {name} is at least 1, not {getattr(self, name)}")

    def run(self, p: Callback, *args: Any, seed: int = 0) -> Fit:
        """The mode of the posterior of ``p(*args)``: draws are [1, 1, *shape].

        ``stats["lp"]`` is the log density of latents and data there, on the program's own space,
        whichever was maximised.

        Errors:
            ProgramError: there is no real latent, or finite ones cannot be summed out.
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
            what = f"{program_name(p)} has no real latent for MAP to climb by"
            raise ProgramError(located(what, hint="predict(..., discrete='max') has finite ones"))
        height = density if self.jacobian else OnItsOwnSpace(density)
        with seeded(seed):
            starts = starting_points(density, self.starts)
            target = Target(with_gradient(height), starts)
            climbs = [
                climbed(height, density.layout, target, u, self.steps)
                for u in starts.to("cpu", torch.float64)
            ]
            heights = target(torch.stack([each.end for each in climbs]))[0]
            at_peaks = torch.tensor([isinstance(each.peak, Peak) for each in climbs])
            best = int(
                (heights if not at_peaks.any() else heights.where(at_peaks, -torch.inf)).argmax()
            )
            u = target.given(climbs[best].end)
            told = [_told(density, target, each) for each in climbs]
            fit = fit_from_vectors(
                density,
                u[None, None],
                method=f"MAP{f' ({summed})' if summed else ''}",
                stats={"lp": (density(u) - density.layout.values(u)[1])[None, None]},
                notes=(*_without_peak(told, climbs, best), *_several(climbs, heights, best)),
                report=tuple(
                    f"start {i}: log density {float(heights[i]):.6g}, {why or 'a peak'}"
                    for i, why in enumerate(told)
                ),
                seed=seed,
                seconds=time.perf_counter() - begin,
            )
        return fit


class OnItsOwnSpace:
    """u [d] -> the log density of the program's own values there.

    Of angles, which turn, the distances from the origin keep theirs: no others tell them.
    """

    def __init__(self, density: LogDensity) -> None:
        self.density = density

    def __call__(self, u: Tensor) -> Tensor:
        found: Tensor = self.density(u)
        for run in self.density.layout.runs:
            if not isinstance(run.blocks[0].transform, PlaneToCircle):
                found = found - run.values(u)[1]
        return found


def _told(density: LogDensity, target: Target, climb: Climb) -> str:
    """Why a climb came to no peak, or nothing."""
    if isinstance(climb.peak, Peak):
        return ""
    if climb.path.limited:
        return f"still climbing after {len(climb.path.positions) - 1} steps: raise steps"
    positions, layout = climb.path.positions, density.layout
    i = int((climb.end - positions[0]).abs().argmax())
    way = (climb.end[i] - positions[0, i]).abs()
    if float(way) < FAR:
        return str(climb.peak)
    name = layout.site_of(i)
    value = shown(layout.unpack(target.given(climb.end))[0][name])
    half = int(((positions[:, i] - positions[0, i]).abs() >= way / 2).int().argmax())
    rise = float(target(climb.end[None])[0][0] - climb.path.log_densities[half])
    if rise > ENDLESS:
        return f"the density seems unbounded: it rises on where '{name}' is {value}"
    return f"the mode seems to be at an edge of the support of '{name}', which is {value} there"


def _without_peak(told: Sequence[str], climbs: Sequence[Climb], best: int) -> list[str]:
    """Notes of the climbs that came to no peak."""
    if not isinstance(climbs[best].peak, Peak):
        what = "no start came to a peak, and this is the highest point that was met"
        return [f"{what}: {told[best]}"]
    return [
        f"start {i} came to no peak, and is left out: {why}" for i, why in enumerate(told) if why
    ]


def _several(climbs: Sequence[Climb], heights: Tensor, best: int) -> list[str]:
    """A note of peaks beside the best."""
    apart = [best]
    for i, climb in enumerate(climbs):
        if isinstance(climb.peak, Peak) and all(_distance(climb, climbs[j]) > APART for j in apart):
            apart.append(i)
    if len(apart) == 1 or not isinstance(climbs[best].peak, Peak):
        return []
    logs = ", ".join(f"{float(heights[i]):.2f}" for i in apart)
    return [f"the density has {len(apart)} peaks or more, of logs {logs}: the fit is the first"]


def _distance(climb: Climb, at: Climb) -> float:
    """Of two peaks, in standard deviations of the second."""
    assert isinstance(at.peak, Peak)
    away = (climb.end - at.end)[:, None]
    return float(torch.linalg.solve_triangular(at.peak.root, away, upper=False).norm())
