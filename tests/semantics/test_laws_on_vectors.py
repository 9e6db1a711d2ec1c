"""Laws on vectors and matrices with long tails in the coordinates that are integrated.

The class: those whose logs of the density fall no faster than linearly in some coordinates, or by
powers; right ones pass `check.density`, and a density off by a factor, or other draws, fail.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.sizes import quick
from torch import Tensor

from pushforward import dist
from pushforward.semantics import check

pytestmark = pytest.mark.usefixtures("double")


class Pair(dist.TorchDistribution):
    """Two numbers that are independent."""

    arg_constraints, support = {}, dist.constraints.real_vector

    def __init__(self, first: Any, second: Any) -> None:
        self.laws = first, second
        super().__init__(torch.Size(), torch.Size([2]), validate_args=False)

    def log_prob(self, x: Tensor) -> Tensor:
        return self.laws[0].log_prob(x[..., 0]) + self.laws[1].log_prob(x[..., 1])

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:
        return torch.stack([law.sample(sample_shape) for law in self.laws], -1)


class Correlated(dist.LKJCholesky):
    """With the draws of a normal sample: those of torch are off for three and more."""

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:
        """Correlations of 2 eta + d - 1 normal vectors have the density |R|^(eta - 1)."""
        normal = torch.randn(*sample_shape, 3, 6)
        covariance = normal @ normal.mT
        root = covariance.diagonal(dim1=-2, dim2=-1).sqrt()
        correlation = covariance / (root[..., None] * root[..., None, :])
        return torch.linalg.cholesky(correlation)


def one(*values: float) -> Tensor:
    return torch.tensor(values if len(values) > 1 else values[0])


LAWS: dict[str, Callable[[], Any]] = {
    "Student and normal": lambda: Pair(
        dist.StudentT(one(4.0), one(0.0), one(1.0)), dist.Normal(one(1.0), one(2.0))
    ),
    "correlation": lambda: dist.LKJCholesky(2, one(1.5)),
    "logistic pair": lambda: Pair(
        dist.Logistic(one(0.0), one(1.0)), dist.Gumbel(one(0.0), one(1.0))
    ),
    "flat on three": lambda: dist.Dirichlet(torch.ones(3)),
    "flat on four": lambda: dist.Dirichlet(torch.ones(4)),
    "three correlations": lambda: Correlated(3, one(2.0)),
}
SHORT = quick(2, LAWS)


@pytest.mark.parametrize("name", SHORT)
def test_right_ones_pass(name: str) -> None:
    check.density(LAWS[name](), 20_000).require()


@pytest.mark.parametrize("name", SHORT)
def test_another_mass_fails(name: str) -> None:
    law = LAWS[name]()
    right = law.log_prob
    law.log_prob = lambda x: right(x) + 0.01
    assert check.density(law, 20_000).verdict == "fail"


@pytest.mark.parametrize("name", SHORT)
def test_other_draws_fail(name: str) -> None:
    """Each is the mean of two, or the first one again."""
    law = LAWS[name]()
    right = law.sample
    law.sample = lambda shape: right(shape).flip(0) / 2 + right(shape) / 2
    assert check.density(law, 20_000).verdict == "fail"
