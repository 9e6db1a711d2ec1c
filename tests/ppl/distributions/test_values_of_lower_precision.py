"""A value in single precision under a law in double is scored in double.

torch 2.13 scores it in single precision under Bernoulli and ContinuousBernoulli, where it takes the
type of the value.
"""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import pytest
import torch

from pushforward.ppl.distributions.densities import log_density

P = torch.tensor(0.3, dtype=torch.float64)
LAWS: dict[str, tuple[Any, float]] = {
    "Bernoulli": (dist.Bernoulli(P), 1.0),
    "Bernoulli by logits": (dist.Bernoulli(logits=P), 0.0),
    "ContinuousBernoulli": (dist.ContinuousBernoulli(P), 0.5),
    "ContinuousBernoulli by logits": (dist.ContinuousBernoulli(logits=P), 0.25),
    "Normal": (dist.Normal(P, P), 0.5),
    "Beta": (dist.Beta(P, P), 0.5),
    "Gamma": (dist.Gamma(P, P), 0.5),
    "StudentT": (dist.StudentT(P, P, P), 0.5),
    "Poisson": (dist.Poisson(P), 2.0),
    "Binomial": (dist.Binomial(3, P), 2.0),
    "Geometric": (dist.Geometric(P), 2.0),
    "in an event": (dist.Bernoulli(P).expand([2]).to_event(1), 1.0),
    "a mixture": (
        dist.MixtureSameFamily(dist.Categorical(logits=torch.stack([P, -P])), dist.Bernoulli(
            torch.stack([P, 1 - P]))), 1.0),
}  # fmt: skip


@pytest.mark.parametrize("name", LAWS)
def test_it_has_all_digits(name: str) -> None:
    law, value = LAWS[name]
    x = torch.full(law.event_shape, value)
    single, double = log_density(law, x), log_density(law, x.double())
    assert single.dtype == torch.float64
    assert abs(float(single - double)) < 1e-15
