"""Densities of mass one, and samplers that draw from them; and what is off in either is found."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from support.sizes import quick
from torch import Tensor

from pushforward import dist
from pushforward.errors import PushforwardError
from pushforward.models.determinantal import Finite, ProjectionDPP
from pushforward.semantics import check

pytestmark = pytest.mark.usefixtures("double")


def f(x: Any) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


LAWS: dict[str, Any] = {
    "categorical": lambda: dist.Categorical(f([0.2, 0.3, 0.5])),
    "Poisson": lambda: dist.Poisson(f(3.0)),
    "multinomial": lambda: dist.Multinomial(3, f([0.2, 0.3, 0.5])),
    "normal": lambda: dist.Normal(f(1.0), f(2.0)),
    "gamma": lambda: dist.Gamma(f(2.0), f(1.5)),
    "beta": lambda: dist.Beta(f(2.0), f(3.0)),
    "Student": lambda: dist.StudentT(f(4.0), f(0.0), f(1.0)),
    "von Mises": lambda: dist.VonMises(f(0.0), f(2.0)),
    "normal pair": lambda: dist.MultivariateNormal(f([0.0, 1.0]), f([[1.0, 0.5], [0.5, 2.0]])),
    "Dirichlet": lambda: dist.Dirichlet(f([1.0, 2.0, 3.0])),
}


@pytest.mark.parametrize("name", LAWS)
def test_right_ones_pass(name: str) -> None:
    state = torch.get_rng_state()
    check.density(LAWS[name]()).require()
    assert torch.equal(torch.get_rng_state(), state)


class WideDraws(dist.Normal):
    """Draws 3 % too wide."""

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        drawn: Tensor = self.loc + 1.03 * (super().sample(sample_shape) - self.loc)
        return drawn


class TooMuchMass(dist.Normal):
    def log_prob(self, value: Tensor) -> Tensor:
        score: Tensor = super().log_prob(value) + 1e-6
        return score


class OtherDraws(dist.Categorical):
    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        return torch.distributions.Categorical(f([0.22, 0.28, 0.5])).sample(sample_shape)


class Outside(dist.Categorical):
    """Draws a value that has no mass, once in a thousand."""

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        drawn: Tensor = super().sample(sample_shape)
        return torch.where(torch.rand(drawn.shape) < 1e-3, 2, drawn)


class Uncorrelated(dist.MultivariateNormal):
    """Its margins are right."""

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        sd = self.covariance_matrix.diagonal().sqrt()
        return self.loc + sd * torch.randn(*sample_shape, 2)


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        (lambda: WideDraws(f(1.0), f(2.0)), "of the draws"),
        (lambda: TooMuchMass(f(1.0), f(2.0)), "the density has mass 1.000001"),
        (lambda: OtherDraws(f([0.2, 0.3, 0.5])), "of the draws"),
        (lambda: Outside(f([0.5, 0.5, 0.0])), "2 has mass 0"),
        (lambda: Uncorrelated(f([0.0, 1.0]), f([[1.0, 0.5], [0.5, 2.0]])), "of the draws"),
    ],
)
def test_wrong_ones_fail(wrong: Any, match: str) -> None:
    report = check.density(wrong())
    assert report.verdict == "fail"
    assert match in report.counterexample


def test_mass_beyond_the_list_leaves_it_open() -> None:
    report = check.density(dist.Poisson(f(30.0)), depth=20)
    assert report.verdict == "unknown" and "was cut" in str(report)
    check.density(dist.Poisson(f(30.0)), depth=200).require()


def test_the_level_holds() -> None:
    """At a level of .2 a right sampler fails at most so often: 200 seeds, three deviations."""
    law = dist.Categorical(f([0.2, 0.3, 0.5]))
    failures = sum(
        check.density(law, 500, level=0.2, seed=seed).verdict == "fail" for seed in range(200)
    )
    assert failures <= 200 * 0.2 + 3 * (200 * 0.2 * 0.8) ** 0.5


def test_a_determinantal_process() -> None:
    points = f([-5.0, -3.0, -1.0, 1.0, 3.0, 5.0])
    values = torch.stack([torch.ones(6), points / (35 / 3) ** 0.5], 1)
    check.density(ProjectionDPP(Finite(values)), draws=4000).require()


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: check.density(dist.Normal(torch.zeros(2), 1.0)), ValueError, "not a batch"),
        (lambda: check.density(dist.Normal(0.0, 1.0), draws=0), ValueError, "positive"),
        (lambda: check.density(dist.Normal(0.0, 1.0), level=1.0), ValueError, "level"),
        (
            lambda: check.density(dist.MultivariateNormal(torch.zeros(6), torch.eye(6))),
            PushforwardError,
            "budget",
        ),
    ],
)
def test_bad_input(call: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        call()


# ------------------------------------------------------------------------------ ends of the support


class NoNumberAtTheEnd(dist.Beta):
    """Zero times the log of zero, where the first parameter is one."""

    def log_prob(self, value: Tensor) -> Tensor:
        a, b = self.concentration1, self.concentration0
        constant = torch.lgamma(a + b) - torch.lgamma(a) - torch.lgamma(b)
        return constant + (a - 1) * value.log() + (b - 1) * (1 - value).log()


@pytest.mark.parametrize(("a", "b"), [(1.0, 8.0), (3.0, 1.0)])
def test_no_number_at_an_end_that_belongs_to_the_support_fails(a: float, b: float) -> None:
    check.density(dist.Beta(f(a), f(b))).require()
    report = check.density(NoNumberAtTheEnd(f(a), f(b)))
    assert report.verdict == "fail"
    assert f"the log density is nan at {0.0 if a == 1 else 1.0}" in report.counterexample
    check.density(NoNumberAtTheEnd(f(2.0), f(3.0))).require()  # zero there


# -------------------------------------------------------------------------------- single precision

SINGLE: dict[str, Any] = {
    "coin": lambda a, b: dist.Bernoulli(torch.sigmoid(a)),
    "categorical": lambda a, b: dist.Categorical(logits=torch.stack([a, b, a * b, -a])),
    "uniform": lambda a, b: dist.Uniform(a, a + b.exp()),
    "normal": lambda a, b: dist.Normal(a, b.exp()),
    "Laplace": lambda a, b: dist.Laplace(a, b.exp()),
    "beta": lambda a, b: dist.Beta(1 + a.exp(), 1 + b.exp()),
    "Poisson": lambda a, b: dist.Poisson(a.exp()),
    "geometric": lambda a, b: dist.Geometric(torch.sigmoid(a)),
}


@pytest.mark.parametrize("name", SINGLE)
def test_right_ones_in_single_precision_do_not_fail(name: str) -> None:
    """Whose masses are one but for the rounding of their own numbers."""
    torch.manual_seed(0)
    for _ in range(6):
        a, b = torch.randn(2, dtype=torch.float32)
        assert check.density(SINGLE[name](a, b), draws=2000).verdict != "fail"


class HeavySingleCoin(dist.Bernoulli):
    def log_prob(self, value: Tensor) -> Tensor:
        score: Tensor = super().log_prob(value) + 1e-4
        return score


def test_a_wrong_mass_in_single_precision_fails() -> None:
    report = check.density(HeavySingleCoin(torch.tensor(0.3, dtype=torch.float32)))
    assert report.verdict == "fail"
    assert "mass 1.00009" in report.counterexample


STEEP = [(1.0, 0.3), (2.0, 0.5), (0.2, 0.4)]  # of Beta: the density rises towards 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("a", "b"), quick(1, STEEP))
def test_mass_within_rounding_of_an_end_is_allowed_for(
    a: float, b: float, dtype: torch.dtype
) -> None:
    """By hand: within d of 1 lies d^b / (b B(a, b)), about, and no number lies between."""
    report = check.density(dist.Beta(torch.tensor(a, dtype=dtype), torch.tensor(b, dtype=dtype)))
    assert report.verdict == "pass"
    near = 4 * torch.finfo(dtype).eps / 2
    share = near**b / b / math.exp(math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b))
    if share > 1e-4:
        assert f"about {share:.2g} of the mass lies" in report.notes[-1]


class Heavy(dist.Beta):  # type: ignore[misc]
    """A density that is too large by a share."""

    share = 0.03

    def log_prob(self, value: Tensor) -> Tensor:
        return super().log_prob(value) + math.log1p(self.share)


class Light(Heavy):
    share = -0.03


@pytest.mark.parametrize("law", [Heavy, Light])
@pytest.mark.parametrize(("a", "b"), quick(1, STEEP))
def test_mass_that_is_missing_elsewhere_fails(law: Any, a: float, b: float) -> None:
    assert check.density(law(f(a), f(b))).verdict == "fail"


class Ends(dist.Uniform):  # type: ignore[misc]
    """A uniform law with an atom at its end, of which its density says nothing."""

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        x = super().sample(sample_shape)
        return torch.where(x < 0.05, 1 - torch.finfo(x.dtype).eps, x)

    def log_prob(self, value: Tensor) -> Tensor:
        return super().log_prob(value) + math.log(0.95)


def test_an_atom_at_an_end_is_no_rounding() -> None:
    assert check.density(Ends(f(0.0), f(1.0))).verdict == "fail"
