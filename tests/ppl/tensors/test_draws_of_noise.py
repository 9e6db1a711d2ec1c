"""What torch draws, as functions of uniform and normal numbers: each law has its own quantiles."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pushforward.ppl.tensors.noise import Noise, Shape, UnknownDraw

F64 = torch.float64
U = (torch.arange(999, dtype=F64) + 1) / 1000


class Grid(Noise):
    """Uniform numbers of a grid, and normal ones at the same chances."""

    def numbers(self, shape: Shape, like: Tensor, *, normal: bool) -> Tensor:
        assert torch.Size(shape).numel() == len(U)
        return (torch.special.ndtri(U) if normal else U).reshape(shape).to(like.dtype)


def number(x: float) -> Tensor:
    return torch.full((len(U),), x, dtype=F64)


CONTINUOUS: dict[str, Any] = {
    "Normal": dist.Normal(number(1.0), number(2.0)),
    "Uniform": dist.Uniform(number(-1.0), number(3.0)),
    "Exponential": dist.Exponential(number(2.0)),
    "Laplace": dist.Laplace(number(1.0), number(0.5)),
    "Cauchy": dist.Cauchy(number(1.0), number(0.5)),
    "Gumbel": dist.Gumbel(number(1.0), number(0.5)),
    "HalfNormal": dist.HalfNormal(number(2.0)),
    "HalfCauchy": dist.HalfCauchy(number(2.0)),
    "LogNormal": dist.LogNormal(number(0.5), number(0.7)),
    "Weibull": dist.Weibull(number(2.0), number(1.5)),
    "Pareto": dist.Pareto(number(2.0), number(1.5)),
    "Kumaraswamy": dist.Kumaraswamy(number(2.0), number(1.5)),
    "Logistic": dist.Logistic(number(0.0), number(1.0)),
}


@pytest.mark.parametrize("name", CONTINUOUS)
def test_the_numbers_of_a_continuous_law(name: str) -> None:
    """Drawn at a grid of chances, values are its quantiles at that grid, in some order."""
    law = CONTINUOUS[name]
    with Grid():
        x = law.sample()
    chances = law.cdf(x)
    if name == "HalfNormal" or name == "HalfCauchy":  # of which each value stands for two
        chances = (1 + chances) / 2
        chances = torch.where(U < 0.5, 1 - chances, chances)
    torch.testing.assert_close(chances.sort().values, U, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("p", [0.0, 0.3, 0.999, 1.0])
def test_coins(p: float) -> None:
    with Grid():
        x = dist.Bernoulli(number(p)).sample()
    assert x.sum() == int((p > U).sum())


@pytest.mark.parametrize("weights", [(1.0, 2.0, 3.0), (0.0, 1.0, 0.0, 4.0, 0.0), (5.0,)])
def test_places(weights: tuple[float, ...]) -> None:
    """Each place is as frequent as its weight; one of weight zero is never taken."""
    p = torch.tensor(weights, dtype=F64)
    with Grid():
        x = dist.Categorical(p.expand(len(U), -1)).sample()
    expected = torch.bucketize(U, (p / p.sum()).cumsum(0)[:-1], right=True)
    assert int((x != expected).sum()) <= len(weights)  # rounding decides at the ends
    assert not any(weights[k] == 0 for k in x.unique().tolist())


@pytest.mark.parametrize("edge", [0.5**53, 1 - 0.5**53])
def test_places_at_the_ends(edge: float) -> None:
    class Edge(Noise):
        def numbers(self, shape: Shape, like: Tensor, *, normal: bool) -> Tensor:
            return torch.full(shape, edge, dtype=like.dtype)

    for seed in range(200):
        torch.manual_seed(seed)
        p = torch.rand(6, dtype=F64) * (torch.rand(6) < 0.5)
        if p.sum() > 0:
            with Edge():
                x = int(torch.multinomial(p, 1))
            assert p[x] > 0


OTHERS = {"gamma": dist.Gamma(number(2.0), number(1.0)), "poisson": dist.Poisson(number(2.0))}


@pytest.mark.parametrize("name", OTHERS)
def test_other_laws_are_refused_by_name(name: str) -> None:
    with Grid(), pytest.raises(UnknownDraw, match=name):
        OTHERS[name].sample()
