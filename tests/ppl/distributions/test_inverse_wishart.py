"""Inverse Wishart and normal-inverse-Wishart laws: scipy, closed forms, quadrature, conjugacy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.integrate import quad
from support.sizes import quick
from torch import Tensor

from pushforward import assess, dist, observe, program, sample, simulate, vmap
from pushforward.errors import NumericalError
from pushforward.inference import MCMC, nuts
from pushforward.ppl.distributions.inverse_wishart import InverseWishart, NormalInverseWishart
from pushforward.ppl.types import space_of
from pushforward.semantics import check

pytestmark = pytest.mark.usefixtures("double")

V = torch.tensor([[2.0, 0.3, 0.1], [0.3, 1.0, -0.2], [0.1, -0.2, 0.7]], dtype=torch.float64)


@pytest.mark.parametrize("d", [1, 2, 3])
def test_the_density_is_that_of_scipy(d: int) -> None:
    at = InverseWishart(d + 2.0, V[:d, :d]).sample((5,))
    for df in (d + 0.3, d + 6.0):
        theirs = [stats.invwishart(df, V[:d, :d].numpy()).logpdf(x.numpy()) for x in at]
        ours = InverseWishart(df, V[:d, :d]).log_prob(at)
        np.testing.assert_allclose(ours, theirs, rtol=1e-10)


def test_one_number_is_the_inverse_gamma_law_at_any_df() -> None:
    x = torch.tensor([0.1, 0.9, 4.0])
    for df in (0.3, 1.0, 7.5):
        ours = InverseWishart(df, torch.tensor([[2.0]]))
        gamma = dist.InverseGamma(df / 2, torch.tensor(1.0))
        torch.testing.assert_close(ours.log_prob(x[:, None, None]), gamma.log_prob(x))
        exact = stats.invgamma(df / 2, scale=1.0).entropy()
        assert float(ours.entropy()) == pytest.approx(float(exact), abs=1e-9)


@pytest.mark.parametrize(("d", "nodes"), quick(1, [(1, 64), (2, 32)]))
def test_the_sampler_has_the_density(d: int, nodes: int) -> None:
    law = InverseWishart(d + 12.0, V[:d, :d])
    check.density(law, draws=20_000, quadrature=nodes, budget=500_000).require()


class Transposed(InverseWishart):
    """A fault: C^T stands for C, so that draws have another law unless the scale is diagonal."""

    @property
    def _factor(self) -> Tensor:  # type: ignore[override]
        return torch.linalg.cholesky(self.scale.flip((-2, -1)))

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        return super().rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        return InverseWishart(self.df, self.scale).log_prob(value)


class OneMore(InverseWishart):
    """A fault: the sampler has a degree of freedom too many."""

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        return InverseWishart(self.df + 1, self.scale).rsample(sample_shape)


def within(law: InverseWishart, n: int = 40_000) -> bool:
    """Whether moments of n draws are within 5 standard errors (level 1e-5) of their formulas."""
    torch.manual_seed(0)
    drawn = law.sample((n,))
    mean = (drawn.mean(0) - law.mean).abs() <= 5 * (law.variance / n).sqrt()
    logs = drawn.logdet()
    about = (logs.mean() - law.mean_log_det).abs() <= 5 * logs.std() / n**0.5
    entropy = -law.log_prob(drawn)
    near = (entropy.mean() - law.entropy()).abs() <= 5 * entropy.std() / n**0.5
    return bool(mean.all() and about and near)


def test_moments_of_draws_and_faults_that_they_find() -> None:
    assert within(InverseWishart(14.0, V))
    assert not within(OneMore(14.0, V))
    assert not within(Transposed(14.0, V))
    report = check.density(OneMore(5.0, V[:1, :1]), draws=20_000, quadrature=64)
    assert report.verdict == "fail"


def test_mean_mode_and_variance_by_scipy_and_by_derivatives() -> None:
    law = InverseWishart(9.0, V)
    theirs = stats.invwishart(9.0, V.numpy())
    np.testing.assert_allclose(law.mean, theirs.mean(), rtol=1e-12)
    np.testing.assert_allclose(law.mode, theirs.mode(), rtol=1e-12)
    np.testing.assert_allclose(law.variance, theirs.var(), rtol=1e-12)
    assert bool(InverseWishart(4.0, V).mean.isinf().all())
    assert bool(InverseWishart(6.0, V).variance.isinf().all())
    slope = torch.func.grad(InverseWishart(9.0, V, validate_args=False).log_prob)(law.mode)
    torch.testing.assert_close(slope, torch.zeros(3, 3), rtol=0, atol=1e-9)


def test_the_joint_mode_has_no_slope_and_the_entropy_is_minus_the_mean_log_density() -> None:
    law = NormalInverseWishart(torch.tensor([0.5, -1.0, 2.0]), V, 9.0, 3.0)
    slopes = torch.func.grad(lambda m, s: _joint(law, m, s), argnums=(0, 1))(*law.mode())
    for slope in slopes:
        torch.testing.assert_close(slope, torch.zeros_like(slope), rtol=0, atol=1e-9)
    torch.manual_seed(1)
    scores = -law.log_prob(*law.rsample((40_000,)))
    error = 5 * float(scores.std()) / 200
    assert abs(float(scores.mean() - law.entropy())) < error  # level 1e-6


def _joint(law: NormalInverseWishart, mean: Tensor, covariance: Tensor) -> Tensor:
    normal = dist.MultivariateNormal(mean, covariance / law.count, validate_args=False)
    plain = InverseWishart(law.df, law.scale, validate_args=False)
    found: Tensor = plain.log_prob(covariance) + normal.log_prob(law.loc)
    return found


def test_expected_kl_of_one_number_by_quadrature() -> None:
    """Over precision w = 1 / s ~ Gamma(df / 2, scale / 2), by quadrature; the mean by hand."""
    m0, scale, df, count, m, v = 0.5, 2.0, 5.0, 4.0, 1.3, 0.6

    def weighed(w: float) -> float:
        kl = (v * w + w * (m - m0) ** 2 + 1 / count - 1 - math.log(v * w)) / 2
        return float(stats.gamma.pdf(w, df / 2, scale=2 / scale)) * kl

    exact = quad(weighed, 0, math.inf, epsabs=1e-12)[0]
    law = NormalInverseWishart(torch.tensor([m0]), torch.tensor([[scale]]), df, count)
    found = float(law.expected_kl(torch.tensor([m]), torch.tensor([[v]])))
    assert found == pytest.approx(exact, abs=1e-9)


def test_expected_kl_of_batches_is_that_of_each() -> None:
    scales = torch.stack([V, 2 * V])
    means, covariances = torch.randn(2, 3), torch.stack([V.inverse(), V])
    law = NormalInverseWishart(torch.zeros(2, 3), scales, torch.tensor([5.0, 7.0]), 3.0)
    rows = [
        NormalInverseWishart(torch.zeros(3), scales[i], n, 3.0).expected_kl(
            means[i], covariances[i]
        )
        for i, n in enumerate((5.0, 7.0))
    ]
    torch.testing.assert_close(law.expected_kl(means, covariances), torch.stack(rows))


def test_the_predictive_law_is_that_of_draws() -> None:
    """Its quadratic form / d has the F law of (d, df - d + 1): by Kolmogorov's bound, 1e-6."""
    law = NormalInverseWishart(torch.tensor([0.5, -1.0]), V[:2, :2], 5.0, 10.0)
    torch.manual_seed(2)
    mean, covariance = law.rsample((20_000,))
    theta = dist.MultivariateNormal(mean, covariance).sample()
    student = law.predictive()
    apart = theta - law.loc
    form = torch.einsum("ni,ij,nj->n", apart, student.precision_matrix, apart) / 2
    bound = math.sqrt(math.log(2 / 1e-6) / (2 * 20_000))
    assert stats.kstest(form.numpy(), stats.f(2, 4).cdf).statistic < bound


@program
def conjugate(y: Tensor) -> Tensor:
    covariance = sample("covariance", InverseWishart(torch.tensor(7.0), V[:2, :2]))
    mean = sample("mean", dist.MultivariateNormal(torch.zeros(2), covariance / 3))
    observe("y", dist.MultivariateNormal(mean, covariance), y)
    return covariance


def test_it_is_a_site_with_a_type_a_density_and_a_posterior_by_nuts() -> None:
    y = torch.tensor([1.0, 2.0])
    shown = "{covariance: PositiveDefinite(2), mean: Real[2], y: Real[2] observed}"
    assert str(conjugate.type(y)) == f"{shown} -> M Real[2, 2]"
    run = simulate(conjugate, y)
    found, _ = assess(conjugate, run.choices, y)
    torch.testing.assert_close(found, run.log_density)
    torch.manual_seed(0)
    fit = MCMC(nuts(), draws=400, progress=False).run(conjugate, y)
    exact = (V[:2, :2] + 0.75 * torch.outer(y, y)) / (8 - 3)  # normal-inverse-Wishart, df 8
    drawn = fit["covariance"].flatten(0, 1)
    spread = InverseWishart(8.0, exact * 5).variance.sqrt()
    error = 6 * spread / 200**0.5  # of 1600 draws, at least 200 of them as good as independent
    assert bool(((drawn.mean(0) - exact).abs() < error).all())
    torch.testing.assert_close(fit["mean"].mean((0, 1)), y / 4, rtol=0, atol=0.25)


def test_lanes_draw_independently() -> None:
    def one(scale: Tensor) -> Tensor:
        return sample("s", InverseWishart(5.0, scale, validate_args=False))

    drawn = simulate(program(lambda: vmap(one)(V.expand(4, 3, 3)))).value
    assert len({float(x) for x in drawn[:, 0, 0]}) == 4


def test_shapes() -> None:
    law = InverseWishart(torch.tensor([5.0, 6.0]), V)
    assert law.batch_shape == (2,) and law.sample((3,)).shape == (3, 2, 3, 3)
    assert law.expand((4, 2)).log_prob(V).shape == (4, 2)
    assert repr(space_of(law)) == "PositiveDefinite(3)[2]"
    slope = torch.tensor(5.0, requires_grad=True)
    InverseWishart(slope, V).rsample().sum().backward()  # type: ignore[no-untyped-call]
    assert slope.grad is not None and bool(slope.grad.isfinite())


@pytest.mark.parametrize(
    ("df", "scale", "says"),
    [
        (1.0, V[:2, :2], "GreaterThan"),
        (math.nan, V[:2, :2], "GreaterThan"),
        (5.0, torch.tensor([[1.0, 2.0], [2.0, 1.0]]), "PositiveDefinite"),
        (5.0, torch.ones(2, 3), "is \\[d, d\\]"),
    ],
)
def test_parameters_out_of_range_are_refused(df: float, scale: Tensor, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        InverseWishart(df, scale, validate_args=True)


def test_joint_laws_out_of_range_are_refused() -> None:
    zero = torch.zeros(2)
    with pytest.raises(ValueError, match="loc has 2 numbers"):
        NormalInverseWishart(zero, V, 5.0)
    with pytest.raises(ValueError, match="count is positive"):
        NormalInverseWishart(zero, V[:2, :2], 5.0, 0.0)
    with pytest.raises(ValueError, match="no density"):
        NormalInverseWishart(zero, V[:2, :2], 5.0).log_prob(zero, V[:2, :2])
    with pytest.raises(ValueError, match="GreaterThan"):
        NormalInverseWishart(zero, V[:2, :2], 1.0)
    with pytest.raises(NumericalError, match="local posterior"):
        NormalInverseWishart(zero, V[:2, :2], 5.0).expected_kl(zero, -V[:2, :2])
