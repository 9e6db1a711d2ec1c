"""A law that derives from a library's, and says itself what its density is, is believed.

It was scored as the library's law: a zero-inflated Bernoulli by hand had the density of a coin.
"""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pushforward.inference import Exact
from pushforward.ppl import assess, observe, program, sample
from pushforward.ppl.distributions.densities import log_density
from pushforward.semantics import check, denote

P = torch.tensor(0.3, dtype=torch.float64)
ROWS = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
COINS = torch.full((2,), 0.3, dtype=torch.float64)
BY = 0.25

BASES: dict[str, tuple[type, tuple[Any, ...], dict[str, Any], Tensor]] = {
    "Bernoulli": (dist.Bernoulli, (P,), {}, torch.tensor(1.0)),
    "Bernoulli by logits": (dist.Bernoulli, (), {"logits": P}, torch.tensor(1.0)),
    "Categorical": (dist.Categorical, (ROWS,), {}, torch.tensor(2)),
    "OneHotCategorical": (dist.OneHotCategorical, (ROWS,), {}, torch.tensor([0.0, 1.0, 0.0])),
    "Poisson": (dist.Poisson, (P,), {}, torch.tensor(2.0)),
    "Geometric": (dist.Geometric, (P,), {}, torch.tensor(2.0)),
    "Binomial": (dist.Binomial, (4, P), {}, torch.tensor(2.0)),
    "NegativeBinomial": (dist.NegativeBinomial, (4, P), {}, torch.tensor(2.0)),
    "Multinomial": (dist.Multinomial, (2, ROWS), {}, torch.tensor([1.0, 1.0, 0.0])),
    "Delta": (dist.Delta, (P,), {}, P),
    "Normal": (dist.Normal, (P, P), {}, P),
    "Independent": (dist.Independent, (dist.Bernoulli(COINS), 1), {}, torch.tensor([1.0, 0.0])),
    "Masked": (dist.MaskedDistribution, (dist.Bernoulli(P), True), {}, torch.tensor(1.0)),
    "Expanded": (
        dist.ExpandedDistribution,
        (dist.Bernoulli(P), torch.Size([2])),
        {},
        torch.tensor([1.0, 0.0]),
    ),
}


def shifted(base: Any) -> Any:
    """A law like this one whose log density is larger by a constant."""

    def log_prob(self: Any, value: Tensor) -> Tensor:
        score: Tensor = base.log_prob(self, value) + BY
        return score

    return type(f"Shifted{base.__name__}", (base,), {"log_prob": log_prob, "__module__": __name__})


@pytest.mark.parametrize("name", BASES)
def test_each_is_believed(name: str) -> None:
    base, args, named, value = BASES[name]
    plain, own = base(*args, **named), shifted(base)(*args, **named)
    value = value.double() if value.is_floating_point() else value
    expected = log_density(plain, value) + BY
    torch.testing.assert_close(log_density(own, value), expected, rtol=1e-6, atol=1e-6)


def test_in_programs() -> None:
    own = shifted(dist.Bernoulli)

    @program
    def model() -> Tensor:
        x = sample("x", dist.Bernoulli(P))
        observe("y", own(torch.where(x == 1, P, 1 - P)), torch.tensor(1.0).double())
        return x

    mass = (P * P + (1 - P) * (1 - P)) * torch.tensor(BY).double().exp()
    assert abs(denote(model).mass() - float(mass)) < 1e-12
    assert abs(float(Exact().run(model).log_evidence) - float(mass.log())) < 1e-9
    score = assess(model, {"x": torch.tensor(1.0).double()})[0]
    assert abs(float(score) - float((P * P).log() + BY)) < 1e-12


def test_a_wrong_one_is_found() -> None:
    report = check.density(shifted(dist.Categorical)(ROWS))
    assert report.verdict == "fail"
    assert "mass 1.284025417" in report.counterexample  # exp(0.25)
