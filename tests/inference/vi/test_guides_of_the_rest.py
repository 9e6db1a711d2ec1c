"""Amortised guides with an ordinary one for the latents that are not in the plate."""

from __future__ import annotations

from functools import partial
from typing import Any

import pyro.distributions.transforms as maps
import pytest
import torch
from torch import Tensor

from pushforward import dist, observe, plate, sample
from pushforward.errors import GuideError
from pushforward.inference.vi import (
    SVI,
    Amortised,
    Flow,
    FullRank,
    LowRank,
    MeanField,
    Structured,
    Transported,
    elbo,
    objective,
    sample_trace,
)

Y = torch.tensor([1.2, 0.4, 2.1, 1.7])
KINDS: dict[str, Any] = {
    "mean field": MeanField,
    "full rank": FullRank,
    "low rank": partial(LowRank, rank=1),
    "flow": partial(Flow, layers=2),
    "structured": Structured,
    "splines": partial(Transported, transforms=[maps.spline]),
}


def model(y: Tensor) -> None:
    mu = sample("mu", dist.Normal(0.0, 2.0))
    tau = sample("tau", dist.HalfNormal(1.0))
    k = sample("k", dist.Bernoulli(0.3))
    with plate("n", len(y)):
        z = sample("z", dist.Normal(mu + k, tau))
        observe("y", dist.Normal(z, 0.5), y)


def amortised(kind: Any) -> Amortised:
    network = torch.nn.Linear(1, 2)
    return Amortised(model, Y, network=network, plate="n", inputs=lambda y: y[:, None], rest=kind)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_the_density_is_that_of_both(kind: Any) -> None:
    """log q = log q(mu, tau, k) + log q(z), the first by the ordinary guide alone."""
    torch.manual_seed(0)
    guide = amortised(kind)
    elbo(model, guide).check(Y)
    found: dict[str, Any] = {}

    def density(name: str, program: Any) -> Tensor:
        @objective
        def weigh() -> Tensor:
            found[name] = sample_trace(program, Y)
            return found[name].log_density

        torch.manual_seed(3)
        return weigh().value()

    whole, rest = density("whole", guide), density("rest", guide.rest)
    assert found["whole"].choices.keys() == {"mu", "tau", "k", "z"}
    assert found["rest"].choices.keys() == {"mu", "tau", "k"}
    for name, x in found["rest"].choices.items():  # the first to draw: its noise is the same
        assert torch.equal(found["whole"].choices[name], x)
    loc, raw = guide.network(Y[:, None]).chunk(2, -1)
    law = dist.Normal(loc[:, 0], torch.nn.functional.softplus(raw[:, 0]))
    local = law.log_prob(found["whole"].choices["z"]).sum().detach()
    torch.testing.assert_close(whole, rest + local)


def test_they_are_fitted_together() -> None:
    torch.manual_seed(0)
    guide = amortised(MeanField)
    names = [name for name, _ in guide.named_parameters()]
    assert {"rest.loc", "rest.log_scale", "network.weight"} <= set(names)
    optimizer = torch.optim.Adam(guide.parameters(), lr=0.05)
    svi = SVI(elbo(model, guide), optimizer, compiled=False, progress=False)
    history = svi.run(Y, steps=150).history
    assert float(history[-30:].mean()) > float(history[:30].mean()) + 1.0


def test_a_guide_of_some_latents() -> None:
    made = MeanField(model, Y, only=["mu", "k"])
    assert set(made(Y)) == {"mu", "k"}
    with pytest.raises(GuideError, match=r"no latents \['nu'\]"):
        MeanField(model, Y, only=["nu"])
    with pytest.raises(GuideError, match="nothing proposes"):
        amortised(None)
