"""Slice sampling of one site: along a line, and along an ellipse.

Neal 2003 (stepping out, figures 3 and 5); Murray, Adams and MacKay, arXiv 1001.0175.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro import distributions as dist
from torch import Tensor

from ...ppl import draw
from ...ppl.errors import ConvergenceError, ProgramError, located
from ...ppl.language.program import Callback
from ...ppl.types import space_of
from .kernel import Moved, TraceKernel, replaced
from .traces import Traced

SHRINKS = 1_000  # of an interval, until something is wrong
_GAUSSIAN = (torch.distributions.Normal, torch.distributions.MultivariateNormal)


def slice_site(name: str, width: float = 1.0, steps: int = 10) -> TraceKernel:
    """Move a real number to a uniform point of a slice under the density, by stepping out.

    Args:
        name: a site whose value is one number.
        width: of a step, about the scale of the posterior.
        steps: the most that the interval steps out by, in both directions together.

    Errors:
        ProgramError: the site is no real number, or decides about other choices.
    """
    if not width > 0 or steps < 1:
        raise ProgramError(located("slice_site needs a positive width and at least one step"))

    def step(run: Traced, p: Callback, *args: Any) -> Moved:
        if name not in run.choices:
            return Moved(run, {name: []})
        x = run.choices[name]
        if x.numel() != 1 or not space_of(run.laws[name]).smooth:
            what = f"'{name}' is no real number"
            raise ProgramError(located(what, hint="use block(...) or elliptical_slice(...)"))
        level = run.log_density + _uniform().log()

        def within(at: Tensor) -> Traced | None:
            return _above(replaced(run, {name: at}, p, args, f"'{name}'"), level)

        low = x - width * _uniform()
        high, left = low + width, int(steps * float(_uniform()))
        right = steps - 1 - left
        while left > 0 and within(low) is not None:
            low, left = low - width, left - 1
        while right > 0 and within(high) is not None:
            high, right = high + width, right - 1
        for _ in range(SHRINKS):
            at = low + (high - low) * _uniform()
            if (found := within(at)) is not None:
                return Moved(found, {name: [True]})
            low, high = (at, high) if bool(at < x) else (low, at)
        raise _endless(name)

    return TraceKernel(step, f"slice_site({name})")


def elliptical_slice(name: str) -> TraceKernel:
    """Move a site with a normal law along an ellipse through its value and another draw.

    There is nothing to tune, and every step moves.  The law is that of the run: it may have random
    parameters, which stay as they are.

    Errors:
        ProgramError: the law is not normal, or the site decides about other choices.
    """

    def step(run: Traced, p: Callback, *args: Any) -> Moved:
        if name not in run.choices:
            return Moved(run, {name: []})
        law, x = run.laws[name], run.choices[name]
        core = law
        while isinstance(core, torch.distributions.Independent):
            core = core.base_dist
        if not isinstance(core, _GAUSSIAN):
            what = f"the law of '{name}' is {type(core).__name__}, not a normal one"
            raise ProgramError(located(what, hint="use slice_site(...) or block(...)"))
        other = draw(law, label="ellipse")
        level = run.log_density - run.log_probs[name] + _uniform().log()
        angle = 2 * math.pi * _uniform()
        low, high = angle - 2 * math.pi, angle
        for _ in range(SHRINKS):
            at = law.mean + (x - law.mean) * angle.cos() + (other - law.mean) * angle.sin()
            found = replaced(run, {name: at.to(x.dtype)}, p, args, f"'{name}'")
            likely = found is not None and bool(found.log_density - found.log_probs[name] > level)
            if found is not None and likely:
                return Moved(found, {name: [True]})
            low, high = (angle, high) if bool(angle < 0) else (low, angle)
            angle = low + (high - low) * _uniform()
        raise _endless(name)

    return TraceKernel(step, f"elliptical_slice({name})")


def _above(found: Traced | None, level: Tensor) -> Traced | None:
    return found if found is not None and bool(found.log_density > level) else None


def _uniform() -> Tensor:
    zero = torch.zeros((), dtype=torch.float64)
    return draw(dist.Uniform(zero, zero + 1), label="slice")


def _endless(name: str) -> ConvergenceError:
    what = f"the slice of '{name}' shrank {SHRINKS} times without a point in it"
    return ConvergenceError(located(what, hint="the density is not continuous there, or NaN"))
