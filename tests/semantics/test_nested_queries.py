"""Queries inside programs, with continuous choices: what they give is as good as they say.

The class: ``normalize`` of a program with real choices inside another, by quadrature.  Members are
normal models of several widths, whose posterior is known; the query's mean must lie within the
error that is stated, or the query is refused.
"""

from __future__ import annotations

import math
import random

import pytest
import torch
from support.sizes import quick
from torch import Tensor

from pushforward import dist, factor, normalize, observe, program, sample
from pushforward.errors import ConvergenceError, InfiniteMassError
from pushforward.semantics import denote, ideal

pytestmark = pytest.mark.usefixtures("double")


def posterior(width: float, y: float) -> object:
    def query() -> Tensor:
        x = sample("x", dist.Normal(torch.tensor(0.0), 1.0))
        observe("y", dist.Normal(x, width), torch.tensor(y))
        return x

    return query


@pytest.mark.parametrize("block", quick(2, range(4)))
def test_a_query_is_right_or_refused(block: int) -> None:
    refused = 0
    for number in range(25 * block, 25 * block + 25):
        draw = random.Random(number)
        width, y = 10 ** draw.uniform(-3, 1), draw.uniform(-3, 3)
        nodes = draw.choice([4, 8, 16, 32, 64])

        @program
        def outer(width: float = width, y: float = y) -> Tensor:
            side = sample("side", dist.Bernoulli(0.25))
            x = normalize(posterior(width, y))()  # type: ignore[arg-type]
            return torch.where(side == 1, x, -x)

        try:
            measure = denote(outer, quadrature=nodes)
        except ConvergenceError:
            refused += 1
            continue
        mean, sd = y / (1 + width**2), math.sqrt(width**2 / (1 + width**2))
        allowed = 1e-9 + 10 * measure.error * (abs(mean) + sd)
        assert abs(float(measure.expect()) + mean / 2) < allowed + 0.02 * sd, (width, y, nodes)
        second = float(measure.expect(lambda x: x**2))
        assert abs(second - mean**2 - sd**2) < 0.02 * (mean**2 + sd**2), (width, y, nodes)
        assert measure.mass() == pytest.approx(1.0)
    assert 0 < refused < 25


def test_an_infinite_mass_is_refused() -> None:
    normal = dist.Normal(torch.tensor(0.0), torch.tensor(1.0))

    def flat() -> Tensor:
        x = sample("x", normal)
        factor("w", -normal.log_prob(x))
        return x

    for nodes in (16, 64):
        with pytest.raises((InfiniteMassError, ConvergenceError)):
            denote(normalize(flat), quadrature=nodes)
        with ideal(quadrature=nodes), pytest.raises((InfiniteMassError, ConvergenceError)):
            denote(normalize(flat), quadrature=nodes)


def test_the_error_of_a_query_reaches_the_measure_around_it() -> None:
    """Two thirds of the nodes' digits are right; none would be claimed before."""
    wide = denote(normalize(posterior(0.5, 1.0)), quadrature=64)  # type: ignore[arg-type]
    rough = denote(normalize(posterior(0.5, 1.0)), quadrature=24)  # type: ignore[arg-type]
    assert rough.error > wide.error
