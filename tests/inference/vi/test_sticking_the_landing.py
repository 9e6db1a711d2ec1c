"""The bound without the score of the guide: its derivative, and no noise at the posterior."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from support.variational import BACK_ENDS, LOGITS, close, f, guided, moments, three
from torch import Tensor

from pushforward import dist, observe, sample
from pushforward.inference.vi import (
    MeanField,
    Objective,
    elbo,
    enum,
    mvd,
    reinforce,
    reparam,
    sticking_the_landing,
)
from pushforward.ppl.errors import DataError

LOC, SCALE = 0.6, math.sqrt(0.5)  # of mu given y = 1.2, both of variance 1


def model() -> None:
    mu = sample("mu", dist.Normal(f(0.0), f(1.0)))
    observe("y", dist.Normal(mu, f(1.0)), f(1.2))


class Normal(torch.nn.Module):
    def __init__(self, at: Tensor) -> None:
        super().__init__()
        self.at = at

    def named_parameters(self, *args: Any, **kwargs: Any) -> Any:
        yield "at", self.at

    def forward(self) -> None:
        sample("mu", reparam(dist.Normal(self.at[0], self.at[1].exp())))


def gradient(m: float, log_s: float) -> list[float]:
    """Of the bound: -E mu^2 / 2 - E (1.2 - mu)^2 / 2 + log s, for mu normal."""
    return [-m + (1.2 - m), -2 * math.exp(2 * log_s) + 1.0]


@pytest.mark.parametrize("strategy", [reinforce, enum, mvd], ids=["reinforce", "enum", "mvd"])
@pytest.mark.parametrize("back_end", BACK_ENDS.values(), ids=BACK_ENDS)
def test_its_mean_is_that_of_the_bound_for_every_strategy(strategy: Any, back_end: Any) -> None:
    expected, _ = moments(guided(lambda guide: elbo(three, guide), strategy), LOGITS)
    build = guided(lambda guide: sticking_the_landing(three, guide), strategy)
    close(moments(build, LOGITS, None, back_end)[0], expected)


def test_a_score_that_is_left_out_elsewhere_biases() -> None:
    """A seeded fault: half of the bound frozen too much, so that the check above would tell."""
    expected, _ = moments(guided(lambda guide: elbo(three, guide), reinforce), LOGITS)

    def build(logits: Tensor) -> Objective:
        held = logits.detach()
        return guided(lambda guide: sticking_the_landing(three, guide), reinforce)(
            held + 0.5 * (logits - held)
        )

    assert float((moments(build, LOGITS)[0] - expected).abs().max()) > 1e-3


@pytest.mark.parametrize(("m", "log_s"), [(0.1, -0.3), (LOC, math.log(SCALE)), (1.5, 0.4)])
def test_paths_have_its_mean_and_no_noise_at_the_posterior(m: float, log_s: float) -> None:
    at = [m, log_s]
    mean, spread = moments(lambda x: sticking_the_landing(model, Normal(x)), at, 40)
    close(mean[1:], gradient(m, log_s), 1e-8)
    _, plain = moments(lambda x: elbo(model, Normal(x)), at, 40)
    assert float(plain[1:].max()) > 0.1
    if m == LOC:
        close(spread[1:], [0.0, 0.0], 1e-10)


def test_auxiliary_choices_are_refused_by_name() -> None:
    made = MeanField(lambda: sample("x", dist.Normal(0.0, 1.0)))
    with pytest.raises(DataError, match="_noise"):
        sticking_the_landing(lambda: sample("x", dist.Normal(0.0, 1.0)), made).surrogate()
