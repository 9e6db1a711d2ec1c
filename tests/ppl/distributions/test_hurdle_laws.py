"""Hurdle and zero-inflated laws: scipy, sums, their samplers, data, faults."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from support.sizes import quick
from torch import Tensor

from pushforward import assess, dist, observe, plate, program, sample
from pushforward.errors import ProgramError, UnsupportedDistributionError
from pushforward.ppl.distributions.laws import (
    Hurdle,
    HurdleGamma,
    HurdleLogNormal,
    HurdleNegativeBinomial,
    HurdlePoisson,
    Truncated,
    ZeroInflatedBinomial,
)
from pushforward.ppl.types import space_of
from pushforward.semantics import check, denote

pytestmark = pytest.mark.usefixtures("double")
GATE = 0.3


def t(x: Any) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


# Laws by their gate, and those beneath of scipy.
COUNTS: dict[str, tuple[Callable[..., Any], Any]] = {
    "Poisson": (lambda **g: HurdlePoisson(t(2.5), **g), stats.poisson(2.5)),
    "rare Poisson": (lambda **g: HurdlePoisson(t(1e-9), **g), stats.poisson(1e-9)),
    "negative binomial": (
        lambda **g: HurdleNegativeBinomial(t(3.5), t(0.4), **g),
        stats.nbinom(3.5, 0.6),
    ),
    "binomial": (lambda **g: Hurdle(dist.Binomial(6, t(0.4)), **g), stats.binom(6, 0.4)),
}
AMOUNTS: dict[str, tuple[Callable[..., Any], Any]] = {
    "gamma": (lambda **g: HurdleGamma(t(2.0), t(1.5), **g), stats.gamma(2.0, scale=1 / 1.5)),
    "log normal": (
        lambda **g: HurdleLogNormal(t(0.2), t(0.7), **g),
        stats.lognorm(0.7, scale=math.exp(0.2)),
    ),
}
GATES: list[dict[str, Any]] = [{"gate": t(GATE)}, {"gate_logits": t(math.log(GATE / (1 - GATE)))}]


@pytest.mark.parametrize("gate", GATES, ids=lambda g: str(*g))
@pytest.mark.parametrize("name", COUNTS)
def test_counts_have_the_masses_and_moments_of_sums(name: str, gate: dict[str, Any]) -> None:
    make, base = COUNTS[name]
    law = make(**gate)
    x = np.arange(1.0, 200.0)
    masses = (1 - GATE) * base.pmf(x) / -np.expm1(base.logpmf(0))
    found = law.log_prob(t([0.0, 1.0, 3.0])).exp()
    np.testing.assert_allclose(found, [GATE, masses[0], masses[2]], rtol=1e-9)
    mean = (x * masses).sum()
    assert float(law.mean) == pytest.approx(mean, rel=1e-9)
    exact = (x**2 * masses).sum() - mean**2
    assert float(law.variance) == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize("gate", GATES, ids=lambda g: str(*g))
@pytest.mark.parametrize("name", AMOUNTS)
def test_amounts_have_a_density_beyond_zero(name: str, gate: dict[str, Any]) -> None:
    make, base = AMOUNTS[name]
    law, x = make(**gate), np.array([0.1, 0.9, 4.0])
    found = law.log_prob(t([0.0, *x])).exp()
    np.testing.assert_allclose(found, [GATE, *(1 - GATE) * base.pdf(x)], rtol=1e-12)
    np.testing.assert_allclose(law.cdf(t([0.0, *x])), [GATE, *GATE + 0.7 * base.cdf(x)], rtol=1e-12)
    assert float(law.mean) == pytest.approx(0.7 * base.mean(), rel=1e-12)
    second = 0.7 * (base.var() + base.mean() ** 2)
    assert float(law.variance) == pytest.approx(second - (0.7 * base.mean()) ** 2, rel=1e-12)
    if name == "log normal":
        u = t([0.1, 0.5, 0.95])
        exact = [0.0, *base.ppf((u[1:].numpy() - GATE) / 0.7)]
        np.testing.assert_allclose(law.icdf(u), exact, rtol=1e-10)


@pytest.mark.parametrize("name", quick(1, ["negative binomial", "binomial", "Poisson"]))
def test_the_sampler_has_the_masses(name: str) -> None:
    law = COUNTS[name][0](gate=t(GATE))
    check.density(law, draws=20_000).require()


class Inflated(Hurdle):
    """A fault: the law beyond the hurdle may be zero too, and its masses are as they were."""

    def log_prob(self, value: Tensor) -> Tensor:
        score = self._log_gate[1] + self._inner.base_dist.log_prob(value)
        return torch.where(value == 0, self._log_gate[0], score)


class Redrawn(Hurdle):
    """A fault: the draws are those of a zero-inflated law."""

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        inflated = dist.ZeroInflatedPoisson(self._inner.base_dist.rate, gate=self.gate)
        return inflated.sample(sample_shape)  # type: ignore[no-any-return]


@pytest.mark.parametrize("fault", [Inflated, Redrawn])
def test_a_fault_is_found(fault: Any) -> None:
    law = fault(dist.Poisson(t(2.5)), t(GATE))
    assert check.density(law, draws=20_000).verdict == "fail"


def follows(law: Any, drawn: Tensor) -> bool:
    """Whether draws follow the distribution function; level 1e-6 by Dvoretzky and others."""
    x = torch.linspace(0.0, 5.0, 200)
    gap = ((drawn[:, None] <= x).double().mean(0) - law.cdf(x)).abs().max()
    return float(gap) < math.sqrt(math.log(2 / 1e-6) / (2 * len(drawn)))


def test_amounts_are_drawn_from_their_law() -> None:
    torch.manual_seed(0)
    law = HurdleLogNormal(t(0.2), t(0.7), gate=t(GATE))
    assert follows(law, law.sample((20_000,)))
    assert not follows(law, HurdleLogNormal(t(0.2), t(0.7), gate=t(0.34)).sample((20_000,)))


def test_a_zero_inflated_binomial_has_the_masses_and_moments_of_sums() -> None:
    x = np.arange(7.0)
    masses = 0.7 * stats.binom(6, 0.4).pmf(x) + 0.3 * (x == 0)
    for law in (
        ZeroInflatedBinomial(6, t(0.4), gate=t(GATE)),
        ZeroInflatedBinomial(6, logits=t(math.log(0.4 / 0.6)), **GATES[1]),
    ):
        np.testing.assert_allclose(law.log_prob(t(x)).exp(), masses, rtol=1e-6)
        mean = (x * masses).sum()
        assert float(law.mean) == pytest.approx(mean, rel=1e-9)
        exact = (x**2 * masses).sum() - mean**2
        assert float(law.variance) == pytest.approx(exact, rel=1e-9)
    check.density(law, draws=20_000).require()


def test_the_edges_of_the_gate() -> None:
    """A gate of 0 or 1 has exact masses, with finite derivatives where they are positive."""
    one = math.log(1 / math.expm1(1.0))  # of Poisson(1), given that it is more than zero
    for gate, exact in ((0.0, [-math.inf, one]), (1.0, [0.0, -math.inf])):
        leaf = t(gate).requires_grad_()
        found = HurdlePoisson(t(1.0), gate=leaf).log_prob(t([0.0, 1.0]))
        assert found.tolist() == pytest.approx(exact, abs=1e-12)
        (slope,) = torch.autograd.grad(found[0 if gate else 1], leaf)
        assert float(slope) == (1.0 if gate else -1.0)


def test_spaces_and_shapes() -> None:
    law = HurdleGamma(t([2.0, 3.0]), t(1.0), gate=t([[0.1], [0.2], [0.3]]))
    assert law.batch_shape == (3, 2) and law.sample((4,)).shape == (4, 3, 2)
    assert law.expand((5, 3, 2)).log_prob(t(0.0)).shape == (5, 3, 2)
    assert repr(space_of(HurdlePoisson(t(1.0), gate=0.5))) == "Nat"
    listed = Hurdle(dist.Binomial(4, t(0.5)), 0.2)
    assert repr(space_of(listed)) == "Fin(5)"
    assert float(denote(program(lambda: sample("x", listed))).mass()) == pytest.approx(1, abs=1e-12)
    single = HurdleLogNormal(torch.tensor(0.2), torch.tensor(0.7), gate=torch.tensor(0.3))
    assert single.log_prob(torch.tensor([0.0, 1.0])).dtype == torch.float64


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: HurdlePoisson(t(1.0)), ProgramError, "one of gate"),
        (lambda: HurdlePoisson(t(1.0), gate=0.1, gate_logits=0.0), ProgramError, "one of gate"),
        (lambda: HurdlePoisson(t(1.0), gate=t(1.2)), ValueError, "gate"),
        (lambda: HurdlePoisson(t(-1.0), gate=0.1), ValueError, "rate"),
        (lambda: Hurdle(dist.Normal(t(0.0), t(1.0)), 0.1), UnsupportedDistributionError, "below"),
        (
            lambda: Hurdle(dist.Dirichlet(t([1.0, 1.0])), 0.1),
            UnsupportedDistributionError,
            "single",
        ),
    ],
)
def test_what_is_no_hurdle_is_refused(make: Any, error: type, says: str) -> None:
    with pytest.raises(error, match=says):
        make()


def test_a_truncated_law_may_stand_beyond_the_hurdle() -> None:
    law = Hurdle(Truncated(dist.Normal(t(0.0), t(1.0)), 0.0), 0.25)
    assert float(law.log_prob(t(1.0)).exp()) == pytest.approx(0.75 * 2 * stats.norm.pdf(1.0))
    few = Hurdle(Truncated(dist.Poisson(t(2.0)), 2), 0.25)
    assert few.log_prob(t([1.0, 2.0])).tolist()[0] == -math.inf


@program
def rain(y: Tensor) -> Tensor:
    dry = sample("dry", dist.Beta(2.0, 2.0))
    with plate("day", len(y)):
        observe("y", HurdleGamma(2.0, 1.0, gate=dry), y)
    return dry


def test_dry_days_have_the_posterior_of_beta() -> None:
    y = t([0.0, 0.5, 0.0, 0.0, 2.0])
    score, _ = assess(rain, {"dry": t(0.4)}, y)
    exact = stats.beta(2, 2).logpdf(0.4) + 3 * math.log(0.4) + 2 * math.log(0.6)
    exact += stats.gamma(2.0).logpdf([0.5, 2.0]).sum()
    assert float(score) == pytest.approx(exact, abs=1e-12)
    posterior = denote(rain, y, quadrature=32).normalize()
    assert float(posterior.expect()) == pytest.approx(5 / 9, abs=1e-10)
