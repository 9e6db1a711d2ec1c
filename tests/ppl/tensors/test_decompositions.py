"""Matrices without the decomposition that a density asks for: zero there, and in that lane only."""

import math

import pytest
import torch
from support.sizes import quick

from pushforward import dist, factor, observe, program, sample
from pushforward.errors import ProgramError
from pushforward.inference import MCMC, SMC, hmc, nuts
from pushforward.ppl.compile.potential import Potential
from pushforward.ppl.interpretations.log_density import LogDensity

pytestmark = pytest.mark.usefixtures("double")
GRID = torch.linspace(0, 1, 25, dtype=torch.float64)


@program
def smooth_curve():
    length = sample("length", dist.LogNormal(0.0, 2.0))
    k = torch.exp(-0.5 * ((GRID[:, None] - GRID) / length) ** 2) + 1e-12 * torch.eye(25)
    observe("y", dist.MultivariateNormal(torch.zeros(25), k), torch.sin(6 * GRID))


@program
def correlated():
    """A covariance [[1, x], [x, 1]], which is one for |x| < 1 only."""
    x = sample("x", dist.Normal(0.0, 1.0))
    k = torch.eye(2) + x * torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    observe("y", dist.MultivariateNormal(torch.zeros(2), k), torch.tensor([1.5, 0.0]))


def test_a_lane_without_cholesky_factor_has_density_zero_and_leaves_the_others_alone():
    x = torch.tensor([[0.5], [2.0], [0.0], [-3.0]])
    potential = Potential(LogDensity(correlated), x, compiled=False)
    value, gradient = potential(x)
    a = 1.5
    for i in (0, 2):  # by hand: the determinant is 1 - x^2, and y' K^-1 y = a^2 / (1 - x^2)
        z = float(x[i])
        d = 1 - z**2
        by_hand = -(z**2) / 2 - a**2 / (2 * d) - math.log(d) / 2 - 1.5 * math.log(2 * math.pi)
        assert math.isclose(float(value[i]), by_hand, rel_tol=1e-12)
        slope = -z - a**2 * z / d**2 + z / d
        assert math.isclose(float(gradient[i]), slope, rel_tol=1e-12, abs_tol=1e-12)
    assert value[[1, 3]].tolist() == [-math.inf] * 2
    assert gradient[[1, 3]].tolist() == [[0.0]] * 2


def _inverse(m):
    return torch.linalg.inv(m).sum()


def _solution(m):
    return torch.linalg.solve(m, torch.ones(2)).sum()


def _solutions(m):
    return torch.linalg.solve(m, torch.eye(2)).sum()


def _power(m):
    return torch.linalg.matrix_power(m, -1).sum()


def _pinv(m):
    return torch.linalg.pinv(m + torch.where(m[0, 0] > 0, 0.0, torch.nan)).sum()


@pytest.mark.parametrize("of", [_inverse, _solution, _solutions, _power, _pinv])
def test_a_singular_matrix_has_density_zero_in_its_lane(of):
    @program
    def singular():
        x = sample("x", dist.Normal(0.0, 1.0))
        factor("f", of(torch.diag(torch.stack((x.clamp(min=0.0), torch.tensor(4.0))))))

    x = torch.tensor([[2.0], [-1.0], [0.5]])
    value, gradient = Potential(LogDensity(singular), x, compiled=False)(x)
    assert value[1] == -math.inf
    assert gradient[1] == 0.0
    for i in (0, 2):  # 1 / x + 1 / 4 is the sum of the inverse
        z = float(x[i])
        by_hand = -(z**2) / 2 - math.log(2 * math.pi) / 2 + 1 / z + 0.25
        assert math.isclose(float(value[i]), by_hand, rel_tol=1e-12)
        assert math.isclose(float(gradient[i]), -z - 1 / z**2, rel_tol=1e-12)


def test_a_spectrum_of_what_is_not_finite_has_density_zero():
    @program
    def spectral():
        x = sample("x", dist.Normal(0.0, 1.0))
        m = torch.diag(torch.stack((1 / x.clamp(min=0.0), torch.tensor(1.0))))
        factor("f", -torch.linalg.eigvalsh(m).sum())

    x = torch.tensor([[2.0], [-1.0]])
    value, _ = Potential(LogDensity(spectral), x, compiled=False)(x)
    assert math.isclose(float(value[0]), -2 - math.log(2 * math.pi) / 2 - 1.5, rel_tol=1e-12)
    assert value[1] == -math.inf


@pytest.mark.parametrize("compiled", [False, True])
def test_a_chain_goes_on_past_matrices_that_are_not_definite(compiled):
    fit = MCMC(nuts(5), 2, 50, 50, compiled=compiled, progress=False).run(smooth_curve)
    assert fit["length"].isfinite().all()
    assert fit.size == 50


@pytest.mark.parametrize("compiled", quick(1, [True, False]))
def test_chains_find_the_posterior_where_the_density_is_zero_and_say_how_often_they_met_it(
    compiled,
):
    fit = MCMC(nuts(5), 4, 400, 200, compiled=compiled, progress=False).run(correlated)
    grid = torch.linspace(-1, 1, 200_003)[1:-1]
    d = 1 - grid**2
    weight = torch.softmax(-(grid**2) / 2 - 1.5**2 / (2 * d) - d.log() / 2, 0)
    exact = float((weight * grid**2).sum())
    error = float(fit.summary(["x"])["sd"].iloc[0]) * 2 / math.sqrt(400)
    assert abs(float(fit["x"].square().mean()) - exact) < 4 * error
    met = int(fit.stats["points_without_decomposition"].sum())
    assert met > 0
    assert any(f"at {met} points" in each for each in fit.warnings())
    assert fit.divergences > 0


def test_particles_go_on_past_matrices_that_are_not_definite():
    fit = SMC(400, 4, stages=10, compiled=False, progress=False).run(correlated)
    grid = torch.linspace(-1, 1, 200_003)[1:-1]
    d = 1 - grid**2
    log_joint = -(grid**2) / 2 - 1.5**2 / (2 * d) - d.log() / 2 - 1.5 * math.log(2 * math.pi)
    exact = float(torch.logsumexp(log_joint, 0)) + math.log(float(grid[1] - grid[0]))
    assert abs(fit.log_evidence - exact) < 4 * max(fit.log_evidence_error, 0.02)
    assert any("no Cholesky factor" in each for each in fit.warnings())


def test_a_program_without_decompositions_says_nothing_of_them():
    fit = MCMC(hmc(2), 2, 10, 10, compiled=False, progress=False).run(
        lambda: sample("x", dist.Normal(0.0, 1.0))
    )
    assert "points_without_decomposition" not in fit.stats


def test_a_placeholder_needs_no_inverse_and_data_alone_do():
    @program
    def weights():
        w = sample("w", dist.Normal(torch.zeros(2, 2), 1.0).to_event(2))
        factor("f", torch.linalg.inv(w).sum())

    assert LogDensity(weights).layout.size == 4

    @program
    def of_data():
        observe("y", dist.MultivariateNormal(torch.zeros(2), torch.ones(2, 2)), torch.zeros(2))

    with pytest.raises(ProgramError, match=r"cannot be decomposed.*test_decompositions.*diagonal"):
        LogDensity(of_data)
