"""Exact inference takes every law in a plate whose parameters look at finite latents.

The class: laws of data, each in a plate of three, with a latent for each element in its scale.
The evidence by hand is a product over elements.  What is refused is listed, with the reason.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.every_distribution import LAWS
from torch import Tensor

from pushforward import dist, observe, plate, sample
from pushforward.errors import PushforwardError
from pushforward.inference import Exact
from pushforward.ppl.distributions.densities import log_density

pytestmark = [
    pytest.mark.usefixtures("double"),
    pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning"),
    pytest.mark.filterwarnings("ignore:class LKJCorrCholesky:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Singular sample detected:UserWarning"),
]

SCALES = torch.tensor([0.9, 1.1], dtype=torch.float64)
REFUSED = {
    "SineBivariateVonMises": "Python looks at its parameters",
    "Wishart": "Python looks at its parameters",
    "SoftAsymmetricLaplace": "does not expand",
    "LKJ": "does not expand",
    "LKJCorrCholesky": "does not expand",
    "OrderedLogistic": "fills a tensor in place",
}


def batched() -> list[str]:
    """The laws of the table that are batches where their scale is one, and that have a sampler."""
    found = []
    for name, build in LAWS.items():
        try:
            law = build(SCALES[[0, 1, 0]])
            law.sample()
            if tuple(law.batch_shape) == (3,):
                found.append(name)
        except Exception:  # what each of them raises that takes one scale only
            continue
    return found


def program_of(name: str, y: Tensor) -> Any:
    def p() -> None:
        with plate("n", 3):
            z = sample("z", dist.Bernoulli(logits=torch.tensor(-0.4)))
            observe("y", LAWS[name](SCALES[0] + 0.2 * z), y)

    return p


@pytest.mark.parametrize("name", batched())
def test_the_evidence_is_the_product_over_elements(name: str) -> None:
    build = LAWS[name]
    torch.manual_seed(0)
    y = build(SCALES[[0, 1, 0]]).sample()
    if name in REFUSED:
        with pytest.raises(PushforwardError):
            Exact(draws=1).run(program_of(name, y))
        return
    rows = torch.stack([log_density(build(scale.expand(3)), y) for scale in SCALES])
    prior = dist.Bernoulli(logits=torch.tensor(-0.4)).log_prob(torch.tensor([0.0, 1.0]))
    by_hand = float(torch.logsumexp(rows + prior[:, None], 0).sum())
    assert Exact(draws=1).run(program_of(name, y)).log_evidence == pytest.approx(by_hand, abs=1e-9)


def test_most_laws_are_batches() -> None:
    assert len(batched()) > 50


def test_a_mixture_of_normals_of_many_numbers() -> None:
    """As many points as dimensions, and more: no shape tells a point from a coordinate."""
    loc = torch.tensor([[0.0, 1.0], [2.0, -1.0]])
    for n in (2, 3):
        y = torch.linspace(-1.0, 1.0, 2 * n).reshape(n, 2)

        def p(y: Tensor = y) -> None:
            with plate("n", len(y)):
                z = sample("z", dist.Bernoulli(0.3))
                observe("y", dist.MultivariateNormal(loc[z.long()], torch.eye(2)), y)

        rows = torch.stack([dist.MultivariateNormal(m, torch.eye(2)).log_prob(y) for m in loc])
        by_hand = float(torch.logsumexp(rows + torch.tensor([[0.7], [0.3]]).log(), 0).sum())
        assert Exact(draws=1).run(p).log_evidence == pytest.approx(by_hand, abs=1e-9)
