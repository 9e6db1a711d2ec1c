"""Slice samplers: one step from exact draws of the target leaves their law as it is.

Kolmogorov-Smirnov at level 1e-6: the distance of n values is below sqrt(log(2e6) / 2 / n).  Wrong
samplers are rejected by the same test.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import scipy.stats
import torch
from support.sizes import quick
from torch import Tensor

from pushforward import dist, draw, factor, observe, sample
from pushforward.errors import ProgramError
from pushforward.inference import pseudo_marginal, smc
from pushforward.inference.kernels import TraceKernel, elliptical_slice, slice_site
from pushforward.inference.kernels.kernel import Moved
from pushforward.inference.kernels.traces import Point, Traced, at, points_of
from pushforward.ppl import seeded

pytestmark = pytest.mark.usefixtures("double")


def skewed() -> None:
    """Gamma(2, 1) by a flat-tailed prior and a score."""
    x = sample("x", dist.Exponential(0.5))
    factor("f", x.log() - 0.5 * x)


def conjugate() -> None:
    """Normal(4/5, 1/5) given y."""
    x = sample("x", dist.Normal(0.0, 1.0))
    observe("y", dist.Normal(x, 0.5), torch.tensor(1.0))


GAMMA = scipy.stats.gamma(2.0)
NORMAL = scipy.stats.norm(0.8, math.sqrt(0.2))


def distance(kernel: TraceKernel, p: Callable[[], Any], target: Any, n: int) -> float:
    """The KS distance to the target of one step from n of its draws."""
    starts = target.rvs(n, random_state=1)
    with seeded(2):
        step = kernel.on(p)
        after = [float(step(Point({"x": torch.tensor(x)})).choices["x"]) for x in starts]
    return float(scipy.stats.kstest(after, target.cdf).statistic)


def limit(n: int) -> float:
    return math.sqrt(math.log(2e6) / 2 / n)


@pytest.mark.parametrize("n", quick(1, [500, 2_000]))
def test_a_slice_leaves_the_target_invariant(n: int) -> None:
    assert distance(slice_site("x", width=0.7, steps=4), skewed, GAMMA, n) < limit(n)
    assert distance(slice_site("x", width=30.0, steps=1), skewed, GAMMA, n) < limit(n)


def test_an_elliptical_slice_leaves_the_target_invariant() -> None:
    assert distance(elliptical_slice("x"), conjugate, NORMAL, 2_000) < limit(2_000)


def test_wrong_slices_are_rejected() -> None:
    def to_the_level(run: Traced, p: Any, *args: Any) -> Moved:
        """Looks for a point above the density itself, not above a uniform part of it."""
        for _ in range(100):
            x = run.choices["x"] + 2 * draw(dist.Uniform(-torch.ones(()), torch.ones(())))
            if bool(x > 0):
                found = at(p, Point({"x": x}), *args)
                if bool(found.log_density >= run.log_density):
                    return Moved(found, {})
        return Moved(run, {})

    def twice_the_prior(run: Traced, p: Any, *args: Any) -> Moved:
        """An ellipse judged by the whole density, so that the prior counts twice."""
        moved = elliptical_slice("x").step(at(twice, run.point), twice)
        return Moved(at(p, moved.run.point, *args), {})

    def twice() -> None:
        x = sample("x", dist.Normal(0.0, 1.0))
        observe("y", dist.Normal(x, 0.5), torch.tensor(1.0))
        factor("again", dist.Normal(0.0, 1.0).log_prob(x))

    assert distance(TraceKernel(to_the_level, "level"), skewed, GAMMA, 500) > limit(500)
    assert distance(TraceKernel(twice_the_prior, "twice"), conjugate, NORMAL, 2_000) > limit(2_000)


def test_an_elliptical_slice_of_a_vector_with_random_parameters() -> None:
    """A hierarchy: the law of x depends on s, which stays."""

    def model() -> None:
        s = sample("s", dist.Gamma(2.0, 1.0))
        x = sample("x", dist.Normal(torch.ones(3), s).to_event(1))
        observe("y", dist.Normal(x, 0.5).to_event(1), torch.zeros(3))

    start = Point({"s": torch.tensor(0.5), "x": torch.ones(3)})
    with seeded(0):
        after = elliptical_slice("x").on(model)(start)
    assert float(after.choices["s"]) == 0.5
    assert after.choices["x"].shape == (3,) and not torch.equal(after.choices["x"], torch.ones(3))


def test_what_has_no_slice_is_refused() -> None:
    def discrete() -> None:
        sample("x", dist.Bernoulli(0.5))
        sample("v", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    start = Point({"x": torch.tensor(1.0), "v": torch.zeros(2)})
    with pytest.raises(ProgramError, match="the law of 'x' is Bernoulli, not a normal one"):
        elliptical_slice("x").on(discrete)(start)
    with pytest.raises(ProgramError, match="'v' is no real number"):
        slice_site("v").on(discrete)(start)
    with pytest.raises(ProgramError, match="positive width"):
        slice_site("x", width=0.0)

    def branching() -> None:
        if sample("x", dist.Normal(0.0, 1.0)) > 0:
            sample("y", dist.Normal(0.0, 1.0))

    start = Point({"x": torch.tensor(-0.01)})
    with seeded(0), pytest.raises(ProgramError, match=r"decides about the choices \['y'\]"):
        list(map(slice_site("x").on(branching), [start] * 50))

    def theta() -> Tensor:
        return sample("x", dist.Normal(0.0, 1.0))

    def seen(x: Tensor) -> None:
        z = sample("z", dist.Normal(x, 1.0))
        observe("y", dist.Normal(z, 1.0), torch.tensor(0.0))

    p = pseudo_marginal(theta, smc(seen, 2))
    with pytest.raises(ProgramError, match="drawn anew each time"):
        slice_site("x").on(p)(points_of(p)())
