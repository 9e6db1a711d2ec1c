"""Laws of normal vectors (series, areas, sum zero): dense covariances, draws, faults, shapes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import linalg, sparse, stats
from torch import Tensor

from pushforward import program, sample, simulate, vmap
from pushforward.errors import ProgramError
from pushforward.laws import (
    AR,
    CAR,
    ICAR,
    GaussianRandomWalk,
    Neighbours,
    ZeroSumNormal,
    stationary,
)
from pushforward.ppl.types import space_of
from pushforward.ppl.types.zero_sum import ZeroSumVector

pytestmark = pytest.mark.usefixtures("double")
W = np.array([[0, 1, 2.0, 0], [1, 0, 0.5, 1], [2, 0.5, 0, 0], [0, 1, 0, 0]])
AREAS = Neighbours.of(W)
Array = np.ndarray[Any, Any]


def t(x: Any) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


def responses(phi: list[float], n: int) -> Array:
    """What a unit shock leaves in the n values from it on."""
    psi = np.zeros(n)
    psi[0] = 1.0
    for k in range(1, n):
        psi[k] = sum(a * psi[k - i] for i, a in enumerate(phi, 1) if k >= i)
    return psi


def stationary_covariance(phi: list[float], scale: float, n: int) -> Array:
    psi = responses(phi, 3000)
    lags = [scale**2 * (psi[: 3000 - h] * psi[h:]).sum() for h in range(n)]
    return linalg.toeplitz(lags)


def started(phi: list[float], scale: float, n: int) -> tuple[Array, Array]:
    """The covariance of n values from a known start, and the matrix of responses."""
    lower = linalg.toeplitz(responses(phi, n), np.zeros(n))
    return scale**2 * lower @ lower.T, lower


def plane(n: int) -> Array:
    """Coordinates of the vectors of sum zero: the rows of Helmert's matrix."""
    return linalg.helmert(n).T


Case = tuple[Callable[[], Any], Array, Array, Array]


def cases() -> dict[str, Case]:
    """Laws, with their means and covariances by dense algebra, and coordinates of their events."""
    d, every = np.diag(W.sum(1)), np.eye(4)
    phi, before = [0.5, -0.3, 0.2], np.array([0.4, -1.0, 2.0])
    covariance, lower = started(phi, 0.7, 4)
    shifted = before - 0.3
    lead = [sum(phi[i] * shifted[3 + k - 1 - i] for i in range(k, 3)) for k in range(3)] + [0.0]
    q = 2.0 * (d - 0.8 * W)
    inverse = np.linalg.pinv(1.7 * (d - W))
    times = np.arange(1, 5)
    return {
        "ZeroSumNormal": (
            lambda: ZeroSumNormal(t(1.3), 4),
            np.zeros(4),
            1.69 * (every - 0.25),
            plane(4),
        ),
        "AR(1)": (
            lambda: AR(t([0.8]), t(0.7), 4, t(0.3)),
            np.full(4, 0.3),
            stationary_covariance([0.8], 0.7, 4),
            every,
        ),
        "AR(3)": (
            lambda: AR(t(phi), t(0.7), 4, t(0.3)),
            np.full(4, 0.3),
            stationary_covariance(phi, 0.7, 4),
            every,
        ),
        "AR(5), shorter than its order": (
            lambda: AR(t([0.3, 0.1, -0.2, 0.1, 0.2]), t(0.7), 4),
            np.zeros(4),
            stationary_covariance([0.3, 0.1, -0.2, 0.1, 0.2], 0.7, 4),
            every,
        ),
        "AR(3) from a start": (
            lambda: AR(t(phi), t(0.7), 4, t(0.3), initial=t(before)),
            0.3 + lower @ np.array(lead),
            covariance,
            every,
        ),
        "GaussianRandomWalk": (
            lambda: GaussianRandomWalk(t(0.6), 4, t(0.1), t(-1.0)),
            -1 + 0.1 * times,
            0.36 * np.minimum.outer(times, times),
            every,
        ),
        "CAR": (
            lambda: CAR(t([0.1, 0.0, -0.4, 1.0]), t(0.8), t(2.0), AREAS),
            np.array([0.1, 0.0, -0.4, 1.0]),
            np.linalg.inv(q),
            every,
        ),
        "ICAR": (lambda: ICAR(t(1.7), W), np.zeros(4), inverse, plane(4)),
    }


CASES = cases()


def score(case: Case, x: Array) -> Array:
    _, mean, covariance, basis = case
    free = stats.multivariate_normal(mean @ basis, basis.T @ covariance @ basis)
    return np.asarray(free.logpdf(x @ basis))


def draws_agree(law: Any, case: Case, n: int = 4_000) -> bool:
    """Whether white coordinates of n draws have means 0 and products 0 or 1, to 6 deviations."""
    _, mean, covariance, basis = case
    torch.manual_seed(0)
    off = (law.sample((n,)).numpy() - mean) @ basis
    z = off @ np.linalg.inv(np.linalg.cholesky(basis.T @ covariance @ basis)).T
    products = z.T @ z / n - np.eye(z.shape[1])
    return max(np.abs(z.mean(0)).max(), np.abs(products).max() / math.sqrt(2)) < 6 / math.sqrt(n)


@pytest.mark.parametrize("name", CASES)
def test_density_moments_and_draws_are_those_of_dense_algebra(name: str) -> None:
    case = CASES[name]
    law = case[0]()
    x = law.sample((5,))
    np.testing.assert_allclose(law.log_prob(x), score(case, x.numpy()), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(law.mean, case[1], atol=1e-12)
    np.testing.assert_allclose(law.variance, np.diag(case[2]), rtol=1e-9)
    assert draws_agree(law, case)


class Backward(AR):
    """A fault: coefficients in the opposite order."""

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        return AR(self.coefficients.flip(-1), self.scale, 4, self.loc).rsample(sample_shape)


class StillStart(GaussianRandomWalk):
    """A fault: the first value is the start itself."""

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        walked = super().rsample(sample_shape)
        return walked - walked[..., :1] + self.start


class NotTurned(CAR):
    """A fault: the factor of the precision stands for its transpose."""

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        e = torch.randn(*sample_shape, 4, 1)
        factor = torch.linalg.cholesky(self.precision_matrix)
        return self.loc + torch.linalg.solve_triangular(factor, e, upper=False)[..., 0]


class Spread(ICAR):
    """A fault: the modes are not divided by roots."""

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        values, vectors = map(torch.as_tensor, self.neighbours.modes)
        return torch.randn(*sample_shape, 3) / (self.tau * values) @ vectors.T


class Uncentred(ZeroSumNormal):
    """A fault: draws have the variance scale^2 of n - 1 numbers, with the last one left over."""

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        free = self.scale * torch.randn(*sample_shape, 3)
        return torch.cat([free, -free.sum(-1, keepdim=True)], -1)


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("AR(3)", lambda: Backward(t([0.5, -0.3, 0.2]), t(0.7), 4, t(0.3))),
        ("GaussianRandomWalk", lambda: StillStart(t(0.6), 4, t(0.1), t(-1.0))),
        ("CAR", lambda: NotTurned(t([0.1, 0.0, -0.4, 1.0]), t(0.8), t(2.0), AREAS)),
        ("ICAR", lambda: Spread(t(1.7), W)),
        ("ZeroSumNormal", lambda: Uncentred(t(1.3), 4)),
    ],
)
def test_a_fault_of_a_sampler_is_found(name: str, fault: Any) -> None:
    assert not draws_agree(fault(), CASES[name])


@pytest.mark.parametrize("name", CASES)
def test_single_precision_batches_and_derivatives(name: str) -> None:
    law = CASES[name][0]()
    x = law.sample()
    single = type(law).__new__(type(law))
    vars(single).update(
        {k: v.float() if isinstance(v, Tensor) else v for k, v in vars(law).items()}
    )
    found = single.log_prob(x.float())
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(float(law.log_prob(x)), rel=1e-4, abs=1e-4)
    wide = law.expand((3, 2))
    assert wide.sample((5,)).shape == (5, 3, 2, 4) and wide.mean.shape == (3, 2, 4)
    torch.testing.assert_close(wide.log_prob(x), law.log_prob(x).expand(3, 2))
    far = (1e4 * x).requires_grad_()
    (slope,) = torch.autograd.grad(law.log_prob(far), far)
    assert bool(slope.isfinite().all())


def test_coordinates_of_sum_zero_keep_lengths() -> None:
    turn = ZeroSumVector()
    for n in (1, 2, 7):
        u = torch.randn(5, n)
        x = turn(u)
        assert x.shape == (5, n + 1)
        torch.testing.assert_close(x.sum(-1), torch.zeros(5), rtol=0, atol=1e-13)
        torch.testing.assert_close(x.norm(dim=-1), u.norm(dim=-1))
        torch.testing.assert_close(turn.inv(x), u)
    space = space_of(ZeroSumNormal(t(1.0), 3))
    assert repr(space) == "ZeroSum(3)"
    assert space.contains(t([[1.0, -3.0, 2.0], [1.0, -3.0, 2.1]])).tolist() == [True, False]


def test_partial_autocorrelations_give_all_stationary_processes() -> None:
    """Roots of the polynomial lie outside the circle; the density is -inf for what has others."""
    torch.manual_seed(0)
    for partials in 2 * torch.rand(50, 4) - 1:
        a = stationary(partials)
        roots = np.roots([*(-a.flip(0).numpy()), 1.0])
        assert np.abs(roots).min() > 1
    assert stationary(t([0.5, -0.3])).tolist() == pytest.approx([0.5 * 1.3, -0.3])
    assert float(AR(t([0.7, 0.4]), 1.0, 3).log_prob(torch.zeros(3))) == -math.inf


def test_neighbours_are_read_from_what_users_have() -> None:
    dense, thin = Neighbours.of(W), Neighbours.of(sparse.csr_matrix(W))
    pairs = Neighbours.of_pairs([(1, 0), (2, 1), (0, 2)])
    assert dense.matrix.tolist() == thin.matrix.tolist() == W.tolist()
    assert pairs.matrix.tolist() == (1 - np.eye(3)).tolist()
    assert float(pairs.spectrum[-1]) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: ZeroSumNormal(t(1.0), 1), "at least 2 entries"),
        (lambda: ZeroSumNormal(t(-1.0), 3), "scale"),
        (lambda: AR(t([0.5]), t(1.0), 0), "values"),
        (lambda: AR(t([0.5]), t(-1.0), 3), "scale"),
        (lambda: AR(t([0.5, 0.1]), t(1.0), 3, initial=t([1.0])), "initial has the 2 values"),
        (lambda: GaussianRandomWalk(t(1.0), 0), "at least one step"),
        (lambda: CAR(t(0.0), t(1.0), t(1.0), W), "alpha"),
        (lambda: CAR(t(0.0), t(-9.0), t(1.0), W), "alpha of a CAR law is above"),
        (lambda: CAR(t(0.0), t(0.5), t(1.0), W[:2]), "symmetric"),
        (lambda: CAR(t(0.0), t(0.5), t(1.0), -W), "positive"),
        (lambda: CAR(t(0.0), t(0.5), t(1.0), np.pad(W, (0, 1))), "areas \\[4\\] have no"),
        (lambda: ICAR(t(1.0), np.kron(np.eye(2), W)), "2 groups"),
    ],
)
def test_what_is_no_such_law_is_refused(make: Any, says: str) -> None:
    with pytest.raises((ProgramError, ValueError), match=says):
        make()


def test_lanes_draw_independently() -> None:
    def one(s: Tensor) -> Tensor:
        return sample("x", ZeroSumNormal(s, 3))

    drawn = simulate(program(lambda: vmap(one)(torch.ones(4)))).value
    assert len({float(x) for x in drawn[:, 0]}) == 4
