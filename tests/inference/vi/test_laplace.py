"""Laplace's normal law: exact where the posterior is normal, by hand elsewhere; what it tells."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.distributions import constraints

from pushforward import condition, factor, observe, plate, predict, program, sample
from pushforward.errors import ProgramError, UnsupportedDistributionError
from pushforward.inference import MCMC, Laplace
from pushforward.inference.runs.paths import peak

pytestmark = pytest.mark.usefixtures("double")


@program
def regression(x: Tensor, y: Tensor) -> None:
    weights = sample("weights", dist.Normal(torch.zeros(x.shape[1]), 2.0).to_event(1))
    with plate("rows", len(y)):
        observe("y", dist.Normal(x @ weights, 0.5), y)


def data(seed: int, d: int) -> tuple[Tensor, Tensor]:
    made = torch.Generator().manual_seed(seed)
    return torch.randn(12, d, generator=made), torch.randn(12, generator=made)


@pytest.mark.parametrize(("seed", "d"), [(0, 1), (1, 3), (2, 6)])
def test_a_normal_posterior_has_its_mean_covariance_and_evidence(seed: int, d: int) -> None:
    x, y = data(seed, d)
    fit = Laplace(draws=4000).run(regression, x, y, seed=seed)
    marginal = torch.distributions.MultivariateNormal(
        torch.zeros(12), 4.0 * x @ x.T + 0.25 * torch.eye(12)
    )
    assert fit.log_evidence == pytest.approx(float(marginal.log_prob(y)), abs=1e-10)
    precision = 4.0 * x.T @ x + 0.25 * torch.eye(d)
    mean = torch.linalg.solve(precision, 4.0 * x.T @ y)
    z = (fit["weights"][0] - mean) @ torch.linalg.cholesky(precision)  # standard normal
    assert z.mean(0).abs().max() < 5 / math.sqrt(4000)
    assert (z.T @ z / 4000 - torch.eye(d)).abs().max() < 5 * math.sqrt(2 / 4000)
    assert float(fit.stats["k_hat"][0, 0]) == 0.0
    assert fit.warnings() == []


def test_a_wrong_curvature_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control of the test above, and of k-hat: normals a sixth as wide."""
    curvature = peak.curvature
    monkeypatch.setattr(peak, "curvature", lambda *about: 36.0 * curvature(*about))
    x, y = data(1, 3)
    fit = Laplace().run(regression, x, y)
    marginal = torch.distributions.MultivariateNormal(
        torch.zeros(12), 4.0 * x @ x.T + 0.25 * torch.eye(12)
    )
    assert abs(float(fit.log_evidence or 0.0) - float(marginal.log_prob(y))) > 1.0
    assert any("k-hat" in note for note in fit.warnings())


@pytest.mark.parametrize(
    ("a", "b", "k", "n"), [(2.0, 3.0, 4, 10), (1.0, 1.0, 0, 5), (0.5, 4.0, 9, 9)]
)
def test_a_beta_binomial_has_laplaces_value_by_hand(a: float, b: float, k: int, n: int) -> None:
    """In the logit u: (a + k) log m + (b + n - k) log(1 - m), of curvature N m (1 - m)."""

    def model() -> None:
        p = sample("p", dist.Beta(a, b))
        observe("k", dist.Binomial(n, p), torch.tensor(float(k)))

    total = a + b + n
    m = (a + k) / total
    beta = math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
    peak = math.log(math.comb(n, k)) - beta
    peak += (a + k) * math.log(m) + (b + n - k) * math.log(1 - m)
    expected = peak + 0.5 * math.log(2 * math.pi / (total * m * (1 - m)))
    fit = Laplace().run(model)
    assert fit.log_evidence == pytest.approx(expected, abs=1e-8)
    u = torch.logit(fit["p"][0])
    sd = 1 / math.sqrt(total * m * (1 - m))
    assert float(u.mean()) == pytest.approx(math.log(m / (1 - m)), abs=5 * sd / math.sqrt(1000))
    assert float(u.std()) == pytest.approx(sd, rel=5 / math.sqrt(2000))


def test_weights_are_those_by_hand() -> None:
    """Of a Student law of 5 degrees at its normal law of variance 5/6: p / q of the draws."""

    def model() -> None:
        sample("x", dist.StudentT(torch.tensor(5.0), 0.0, 1.0))

    fit = Laplace().run(model)
    x = fit["x"]
    q = torch.distributions.Normal(0.0, math.sqrt(5 / 6)).log_prob(x)
    expected = torch.distributions.StudentT(5.0).log_prob(x) - q
    torch.testing.assert_close(fit.stats["log_weight"], expected, atol=1e-6, rtol=1e-6)


# --------------------------------------------------------------------------------- finite latents


@program
def mixture(y: Tensor) -> None:
    with plate("centres", 2):
        centre = sample("centre", dist.Normal(torch.tensor([-4.0, 4.0]), 0.5))
    with plate("points", len(y)):
        z = sample("z", dist.Bernoulli(0.5))
        observe("y", dist.Normal(centre[z.long()], 1.0), y)


def test_finite_latents_are_summed_out_and_come_back() -> None:
    y = torch.tensor([-4.5, 4.2, 3.9, -3.8])
    fit = Laplace().run(mixture, y)
    assert fit.latents == ("centre",)
    assert "z summed out" in fit.method
    assert predict(fit, mixture, y)["z"].mean((0, 1)).round().tolist() == [0.0, 1.0, 1.0, 0.0]
    apart = [(-4.0, (-4.5, -3.8)), (4.0, (4.2, 3.9))]  # next to no mass is elsewhere
    expected = 4 * math.log(0.5)
    for centre, own in apart:
        covariance = 0.25 * torch.ones(2, 2) + torch.eye(2)
        law = torch.distributions.MultivariateNormal(torch.full((2,), centre), covariance)
        expected += float(law.log_prob(torch.tensor(own)))
    assert fit.log_evidence == pytest.approx(expected, abs=1e-3)


def test_chains_start_at_its_draws() -> None:
    x, y = data(0, 2)
    fit = Laplace().run(regression, x, y)
    chains = MCMC(chains=2, draws=50, warmup=50, init=fit, compiled=False, progress=False)
    assert chains.run(regression, x, y)["weights"].shape == (2, 50, 2)


# ------------------------------------------------------------------------------------- bad models


def free(name: str) -> Tensor:
    return sample(name, dist.ImproperUniform(constraints.real, (), ()))  # type: ignore[no-any-return]


def flat() -> None:
    sample("x", dist.Normal(0.0, 1.0))
    free("level")


def ridge() -> None:
    observe("y", dist.Normal(free("a") + free("b"), 1.0), torch.tensor(0.0))


def rising() -> None:
    factor("rise", -torch.exp(-free("x")))


def edge() -> None:
    """The density of scale > 0 is 1 / scale about 0: that of its log rises for ever to the left."""
    scale = sample("scale", dist.ImproperUniform(constraints.positive, (), ()))
    factor("edge", -scale - torch.log(scale))


def no_latent() -> None:
    observe("y", dist.Normal(0.0, 1.0), torch.tensor(0.0))


BAD: list[tuple[Any, str]] = [
    (flat, r"least curvature of .*'level'"),
    (ridge, r"least curvature of .*'[ab]'"),
    (rising, r"no peak"),
    (edge, r"no peak.*'scale'"),
    (no_latent, r"no real latent"),
]


@pytest.mark.parametrize(("p", "said"), BAD)
def test_what_has_no_peak_is_an_error(p: Any, said: str) -> None:
    with pytest.raises(ProgramError, match=said):
        Laplace().run(p)


def test_several_peaks_are_told() -> None:
    def two() -> None:
        x = free("x")
        left = dist.Normal(-1.5, 0.2).log_prob(x) + math.log(0.3)
        factor("peaks", torch.logaddexp(left, dist.Normal(1.5, 0.2).log_prob(x) + math.log(0.7)))

    fit = Laplace(starts=8).run(two)
    assert fit.log_evidence == pytest.approx(math.log(0.7), abs=1e-6)
    (note,) = [note for note in fit.warnings() if "peaks" in note]
    assert f"{math.log(0.7):.2f}, {math.log(0.3):.2f}" in note


def test_heavy_tails_are_told() -> None:
    def cauchy() -> None:
        sample("x", dist.Cauchy(torch.zeros(20), 1.0).to_event(1))

    assert any("k-hat" in note for note in Laplace(draws=4000).run(cauchy).warnings())


def test_other_refusals() -> None:
    def count() -> None:
        sample("n", dist.Poisson(2.0))

    with pytest.raises(UnsupportedDistributionError, match="discrete"):
        Laplace().run(condition(count, {}))
    with pytest.raises(ValueError, match="draws is at least 1"):
        Laplace(draws=0)
