"""Pathfinder's parts against their dense forms: inverse Hessians, normal laws, bounds, climbs."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from support.normals import conjugate_path, dense, explicit, normal, numbers, potential
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

from pushforward.inference.runs.paths import Target, pathfinder
from pushforward.inference.runs.paths.ascent import Path, ascent
from pushforward.inference.runs.paths.inverse_hessian import (
    InverseHessian,
    curved,
    diagonal,
    factored,
    inverse_hessians,
)
from pushforward.inference.runs.paths.normal import LowRankNormal, approximation
from pushforward.inference.runs.paths.pathfinder import elbos
from pushforward.ppl import program
from pushforward.ppl.tensors.seeds import seeded
from pushforward.semantics import denote

SETTINGS = {"history": 6, "steps": 1000, "tolerance": 1e-13}
SIZES = [(1, 1), (1, 3), (5, 2), (5, 6), (50, 6)]  # d and pairs; there may be more pairs than d


def target(law: MultivariateNormal) -> Target:
    return Target(potential(law), torch.zeros(1, len(law.loc), dtype=torch.float64))


def pairs(d: int, m: int) -> tuple[Tensor, Tensor, Tensor]:
    """A diagonal [d], steps and differences of gradients [d, m] of a dense quadratic."""
    s = numbers(1, d, m)
    return numbers(2, d).exp(), s, normal("dense", d).precision_matrix @ s


def updated(h: Tensor, s: Tensor, z: Tensor) -> Tensor:
    """The inverse Hessian [d, d] after one update, as it is in textbooks."""
    rho, unit = 1.0 / (s @ z), torch.eye(len(s), dtype=s.dtype)
    left = unit - rho * torch.outer(s, z)
    return left @ h @ left.mT + rho * torch.outer(s, s)


def recursion(alpha: Tensor, s: Tensor, z: Tensor) -> Tensor:
    h = alpha.diag()
    for step, difference in zip(s.mT, z.mT, strict=True):
        h = updated(h, step, difference)
    return h


def distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


# --------------------------------------------------------------------------------- inverse Hessians


@pytest.mark.parametrize(("d", "m"), SIZES)
def test_factors_are_the_recursion(d: int, m: int) -> None:
    given = pairs(d, m)
    assert distance(dense(factored(*given)), recursion(*given)) < 1e-8


@pytest.mark.parametrize(("d", "m"), SIZES)
def test_factors_without_the_curvature_of_steps_are_rejected(d: int, m: int) -> None:
    alpha, s, z = pairs(d, m)
    h = factored(alpha, s, z)
    inverse = torch.linalg.inv((s.mT @ z).triu())
    wrong = h.gamma.clone()
    wrong[m:, m:] -= inverse.mT @ (s * z).sum(0).diag() @ inverse
    assert distance(dense(h._replace(gamma=wrong)), recursion(alpha, s, z)) > 1e-3


def test_a_product_with_a_vector_is_that_of_the_matrix() -> None:
    h, v = factored(*pairs(5, 3)), numbers(7, 5)
    assert distance(h.times(v), dense(h) @ v) < 1e-12


@pytest.mark.parametrize("d", [1, 5, 50])
def test_the_diagonal_is_that_of_an_updated_hessian(d: int) -> None:
    """alpha is the inverse of diag(B'), for B' the direct update of B = a / b diag(1 / alpha)."""
    alpha, steps, differences = pairs(d, 1)
    s, z = steps[:, 0], differences[:, 0]
    hessian = (z @ (alpha * z)) / (z @ s) / alpha
    bs = hessian * s
    new = hessian.diag() - torch.outer(bs, bs) / (s @ bs) + torch.outer(z, z) / (z @ s)
    assert distance(diagonal(alpha, s, z), 1.0 / new.diagonal()) < 1e-10


def test_an_entry_of_which_nothing_is_learnt_stays() -> None:
    alpha, s = torch.tensor([2.0, 3.0]).double(), torch.tensor([1.0, 0.0]).double()
    assert diagonal(alpha, s, s)[0] == 1.0
    assert diagonal(alpha, s.flip(0), torch.tensor([0.0, 1e-300]).double())[0] == 2.0


def test_steps_without_curvature_teach_nothing() -> None:
    up = torch.tensor([[0.0], [1.0], [2.0], [3.0]]).double()
    slopes = torch.tensor([[1.0], [1.0], [2.0], [1.5]]).double()  # even, convex, then concave
    found = list(inverse_hessians(Path(up, up[:, 0], slopes, False), 6))
    assert found[:2] == [None, None]
    assert found[2] is not None and float(dense(found[2])) == pytest.approx(2.0)
    assert not curved(torch.ones(1).double(), torch.zeros(1).double())


def test_only_the_last_pairs_are_remembered() -> None:
    path = conjugate_path(normal("dense", 5))
    last = list(inverse_hessians(path, 2))[-1]
    assert last is not None and last.beta.shape == (5, 4)
    s, z = path.positions.diff(dim=0).mT, -path.gradients.diff(dim=0).mT
    assert distance(dense(last), recursion(last.alpha, s[:, -2:], z[:, -2:])) < 1e-10


@pytest.mark.parametrize("kind", ["diagonal", "dense"])
@pytest.mark.parametrize("d", [1, 5, 50])
def test_conjugate_steps_give_mean_and_covariance_exactly(kind: str, d: int) -> None:
    law = normal(kind, d)
    path = conjugate_path(law)
    h = list(inverse_hessians(path, d))[-1]
    assert h is not None and distance(dense(h), law.covariance_matrix) < 1e-8
    q = approximation(path.positions[-1], path.gradients[-1], h)
    assert q is not None and distance(q.mean, law.loc) < 1e-8
    assert distance(explicit(q).covariance_matrix, law.covariance_matrix) < 1e-8


# -------------------------------------------------------------------------------------- normal laws


def low_rank(d: int, m: int) -> tuple[LowRankNormal, InverseHessian]:
    h = factored(*pairs(d, m))
    q = approximation(numbers(3, d), numbers(4, d), h)
    assert q is not None
    return q, h


class HalfDeterminant(LowRankNormal):
    """The fault: the determinant of the factor counts once."""

    @property
    def log_determinant(self) -> Tensor:
        return 2.0 * self.root.log().sum() + self.factor.diagonal().log().sum()


def of_the_matrix(q: LowRankNormal, h: InverseHessian, noise: Tensor) -> float:
    """How far log densities of draws lie from those by the dense inverse Hessian."""
    points = q.points(noise)
    mean = numbers(3, len(q.mean)) + dense(h) @ numbers(4, len(q.mean))
    wanted = MultivariateNormal(mean, dense(h)).log_prob(points)
    return float((q.log_density(points) - wanted).abs().max())


@pytest.mark.parametrize(("d", "m"), SIZES)
def test_log_densities_of_draws_are_those_of_the_matrix(d: int, m: int) -> None:
    q, h = low_rank(d, m)
    noise = numbers(5, 40, d)
    assert of_the_matrix(q, h, noise) < 1e-10
    assert distance(q.noise(q.points(noise)), noise) < 1e-10
    assert distance(explicit(q).covariance_matrix, dense(h)) < 1e-10
    assert of_the_matrix(HalfDeterminant(*q), h, noise) > 1e-3


def test_no_positive_definite_matrix_is_no_law() -> None:
    h = factored(*pairs(5, 2))
    assert approximation(numbers(3, 5), numbers(4, 5), h._replace(gamma=-9.0 * h.gamma)) is None


# ------------------------------------------------------------------------------------------- bounds

ON_THE_WAY = [(kind, d, i) for kind in ("diagonal", "dense") for d in (1, 2) for i in range(2)]


def at_step(kind: str, d: int, i: int) -> tuple[LowRankNormal, MultivariateNormal]:
    """The normal law after a step of a climb to a normal law."""
    law = normal(kind, d)
    path = ascent(target(law), numbers(8, d), **SETTINGS)
    h = list(inverse_hessians(path, 6))[i]
    assert h is not None
    q = approximation(path.positions[i + 1], path.gradients[i + 1], h)
    assert q is not None
    return q, law


def expected_bound(q: LowRankNormal, law: MultivariateNormal) -> float:
    """Exactly: the bound of one draw is a polynomial of degree two in its noise."""
    estimate = program(lambda: elbos([q], target(law), 1)[0][0])
    return denote(estimate, quadrature=3).expect()


@pytest.mark.parametrize(("kind", "d", "i"), ON_THE_WAY)
def test_the_expected_bound_is_minus_the_divergence(kind: str, d: int, i: int) -> None:
    q, law = at_step(kind, d, i)
    divergence = float(kl_divergence(explicit(q), law))
    assert expected_bound(q, law) == pytest.approx(-divergence, abs=1e-8)


def test_a_bound_by_a_wrong_determinant_is_rejected() -> None:
    q, law = at_step("dense", 2, 0)
    divergence = float(kl_divergence(explicit(q), law))
    assert abs(expected_bound(HalfDeterminant(*q), law) + divergence) > 1e-3


def test_a_draw_without_density_has_no_bound() -> None:
    def half(u: Tensor) -> tuple[Tensor, Tensor]:
        return torch.where(u[:, 0] < 0.0, -math.inf, 0.0).double(), torch.zeros_like(u)

    q = at_step("diagonal", 1, 0)[0]._replace(mean=torch.zeros(1).double())
    with seeded(0):
        bounds, _ = elbos([q], Target(half, q.mean[None]), 20)
    assert bounds.tolist() == [-math.inf]


# ------------------------------------------------------------------------------------------- climbs


@pytest.mark.parametrize("kind", ["diagonal", "dense"])
def test_a_climb_tells_where_it_was_and_rises(kind: str) -> None:
    law = normal(kind, 20)
    path = ascent(target(law), numbers(8, 20), **SETTINGS)
    value, gradient = potential(law)(path.positions)
    assert torch.allclose(value, path.log_densities, rtol=1e-12)
    assert torch.allclose(gradient, path.gradients, rtol=1e-12, atol=1e-12)
    assert bool((path.log_densities.diff() >= 0.0).all()) and not path.limited
    assert distance(path.positions[-1], law.loc) < 1e-4
    assert ascent(target(law), numbers(8, 20), **{**SETTINGS, "steps": 3}).limited


def test_a_climb_turns_back_where_there_is_no_density() -> None:
    """-log(2 - x) is infinite at 2; from far away the first steps would pass it."""

    def walled(u: Tensor) -> tuple[Tensor, Tensor]:
        x = u[:, 0]
        value = torch.where(x < 2.0, 9.0 * x + 0.1 * (2.0 - x).log(), torch.nan)
        return value, (9.0 - 0.1 / (2.0 - x))[:, None]

    path = ascent(
        Target(walled, torch.zeros(1, 1).double()), torch.tensor([-30.0]).double(), **SETTINGS
    )
    assert bool(path.log_densities.isfinite().all())
    assert float(path.positions[-1]) == pytest.approx(2.0 - 0.1 / 9.0, abs=1e-5)


def test_a_path_in_single_precision_is_where_it_was_evaluated() -> None:
    asked: list[Tensor] = []

    def single(u: Tensor) -> tuple[Tensor, Tensor]:
        assert u.dtype == torch.float32 and u.shape == (3, 5)
        asked.append(u)
        value, gradient = potential(law)(u.double())
        return value.float(), gradient.float()

    law = normal("dense", 5)
    path = ascent(
        Target(single, torch.zeros(3, 5), rows=3), numbers(8, 5).float().double(), **SETTINGS
    )
    seen = {tuple(row.tolist()) for u in asked for row in u}
    assert all(tuple(row.tolist()) in seen for row in path.positions)
    assert path.positions.dtype == torch.float64


def test_any_number_of_vectors_goes_through_pieces() -> None:
    law, u = normal("dense", 4), numbers(9, 11, 4)
    pieces = Target(potential(law), u[:3], rows=3)(u)
    assert all(map(torch.allclose, pieces, potential(law)(u)))
    assert pieces[1].shape == (11, 4)


# ------------------------------------------------------------------------------------------ a path


@pytest.mark.parametrize("seed", range(3))
def test_a_normal_of_one_coordinate_is_found_exactly(seed: int) -> None:
    law = normal("dense", 1, seed)
    with seeded(seed):
        q = pathfinder(target(law), numbers(seed, 1)).normal
    assert q is not None and distance(q.mean, law.loc) < 1e-8
    assert distance(q.root**2 * q.factor.squeeze() ** 2, law.covariance_matrix) < 1e-8


@pytest.mark.parametrize(("d", "typical", "off"), [(2, 0.05, 0.1), (5, 0.1, 0.1), (50, 8.0, 0.01)])
def test_dense_normals_are_found_nearly(d: int, typical: float, off: float) -> None:
    """Steps of inexact line searches are not conjugate, so that the covariance is not exact.

    Stated: of 9 targets the median KL divergence is below ``typical`` nats, and no mean is off by
    more than ``off`` standard deviations.
    """
    divergences = []
    for seed in range(9):
        law = normal("dense", d, 10 * seed)
        with seeded(seed):
            q = pathfinder(target(law), numbers(seed, d), history=3 * d).normal
        assert q is not None
        divergences.append(float(kl_divergence(explicit(q), law)))
        assert float(((q.mean - law.loc) / law.stddev).abs().max()) < off
    assert sorted(divergences)[4] < typical


def even(u: Tensor) -> tuple[Tensor, Tensor]:
    return 2.0 * u.sum(-1), 2.0 * torch.ones_like(u)


def flat_in_the_second(u: Tensor) -> tuple[Tensor, Tensor]:
    slope = torch.stack([-u[:, 0], torch.zeros_like(u[:, 0])], 1)
    return -0.5 * u[:, 0].square(), slope


def convex(u: Tensor) -> tuple[Tensor, Tensor]:
    return u.square().sum(-1), 2.0 * u


def constant(u: Tensor) -> tuple[Tensor, Tensor]:
    return torch.zeros_like(u[:, 0]), torch.zeros_like(u)


def walls(u: Tensor) -> tuple[Tensor, Tensor]:
    inside = (u.abs() < 1e-3).all(-1)
    return torch.where(inside, -(u * u).sum(-1), -math.inf), -2.0 * u


@pytest.mark.parametrize(
    ("density", "said"),
    [
        (constant, "the climb ends at its start: its gradient is zero there"),
        (even, "nowhere concave"),
        (convex, "nowhere concave"),
        (flat_in_the_second, "flat, or rises evenly"),
        (walls, "no finite log density"),
    ],
    ids=["constant", "even", "convex", "flat", "walls"],
)
def test_what_has_no_normal_law_is_told(
    density: Callable[[Tensor], tuple[Tensor, Tensor]], said: str
) -> None:
    start = torch.tensor([5e-4, 3e-4]).double()
    with seeded(0):
        found = pathfinder(Target(density, start[None]), start, steps=50)
    assert found.normal is None and said in found.failure
    assert found.flat == ((1,) if density is flat_in_the_second else ())


def test_a_climb_that_is_not_at_its_end_is_told() -> None:
    law = normal("dense", 20)
    with seeded(0):
        found = pathfinder(target(law), numbers(8, 20), steps=3)
    assert found.limited and found.normal is not None and len(found.elbo) == 3


def test_pairs_of_a_climb_are_its_steps() -> None:
    """Each inverse Hessian maps the last difference of gradients to the last step."""
    path = ascent(target(normal("dense", 5)), numbers(8, 5), **SETTINGS)
    for h, (x, y), (g, f) in zip(
        inverse_hessians(path, 6), pairwise(path.positions), pairwise(path.gradients), strict=True
    ):
        assert h is not None and distance(h.times(g - f), y - x) < 1e-6
