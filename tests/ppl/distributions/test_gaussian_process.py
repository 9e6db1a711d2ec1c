"""Gaussian processes at points: kernels by hand, laws by linear algebra, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from scipy.spatial.distance import cdist
from scipy.stats import multivariate_normal
from torch import Tensor

from pushforward import assess, dist, program, sample, vmap
from pushforward.errors import NumericalError
from pushforward.ppl.distributions.gaussian_process import (
    FEW,
    process_law,
    rbf,
    squared_distances,
)

pytestmark = pytest.mark.usefixtures("double")


def f(x: Any) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


X = f([[-1.0, 0.0], [0.0, 0.5], [1.5, 2.0]])


def test_the_kernel_by_hand() -> None:
    found = rbf(X[:2], X, 0.6, 2.0)
    for i in range(2):
        for j in range(3):
            square = float((X[i] - X[j]).square().sum())
            assert float(found[i, j]) == pytest.approx(2 * math.exp(-square / 0.72), rel=1e-14)
    many = rbf(X, X, f([0.6, 1.0]), f([2.0, 0.3]))
    torch.testing.assert_close(many[1], rbf(X, X, 1.0, 0.3))


@pytest.mark.parametrize("D", [1, 2, FEW, FEW + 1])
def test_distances_are_those_of_scipy(D: int) -> None:
    torch.manual_seed(0)
    x, y = 1e3 + torch.rand(2, 4, D), 1e3 + torch.rand(3, D)
    found = squared_distances(x, y)
    for i in range(2):
        theirs = cdist(x[i].numpy(), y.numpy(), "sqeuclidean")
        torch.testing.assert_close(found[i], f(theirs), rtol=1e-12, atol=0)
    norms = [z.square().sum(-1) for z in (x[0], y)]  # of large numbers: digits are lost
    assert float((norms[0][:, None] + norms[1] - 2 * x[0] @ y.T - found[0]).abs().max()) > 1e-10


def test_the_law_is_the_normal_of_its_covariance() -> None:
    covariance, at = rbf(X, X, 0.9), f([0.3, -1.0, 0.2])
    theirs = multivariate_normal(cov=covariance.numpy()).logpdf(at.numpy())
    assert float(process_law(covariance, 0.0).log_prob(at)) == pytest.approx(theirs, rel=1e-10)


def test_a_law_has_the_mean_and_the_jitter_that_are_told() -> None:
    covariance, mean = rbf(X, X, 0.9), f([1.0, 2.0, 3.0])
    law = process_law(covariance, 0.1, mean=mean, scale=f(2.0))
    torch.testing.assert_close(law.covariance_matrix, covariance + 0.2 * torch.eye(3))
    torch.testing.assert_close(law.mean, mean)


def test_single_precision_is_factored_in_double() -> None:
    x = torch.linspace(0, 1, 60, dtype=torch.float32)[:, None]
    law = process_law(rbf(x.double(), x.double(), 0.5), 1e-6, torch.float32)
    assert law.sample().dtype == torch.float32
    torch.testing.assert_close(law.covariance_matrix, rbf(x, x, 0.5), rtol=0, atol=1e-5)


def test_a_kernel_that_is_none_is_refused_with_its_smallest_eigenvalue() -> None:
    """[[1, 2], [2, 1]] has the eigenvalues 3 and -1."""
    with pytest.raises(NumericalError, match="smallest eigenvalue is -1"):
        process_law(f([[1.0, 2.0], [2.0, 1.0]]))
    with pytest.raises(NumericalError, match="not positive semi-definite"):
        process_law(f([[math.nan, 0.0], [0.0, 1.0]]))


def test_lanes_have_kernels_of_their_own() -> None:
    @program
    def values(length: Tensor) -> Tensor:
        return sample("f", process_law(rbf(X, X, length)))  # type: ignore[no-any-return]

    lengths, at = f([0.5, 2.0]), f([[0.1, 0.2, 0.3], [1.0, -1.0, 0.0]])
    lanes, _ = assess(vmap(values), {"f": at}, lengths)
    loop = sum(assess(values, {"f": at[i]}, lengths[i])[0] for i in range(2))
    torch.testing.assert_close(lanes, loop)
    assert isinstance(process_law(rbf(X, X)), dist.MultivariateNormal)
