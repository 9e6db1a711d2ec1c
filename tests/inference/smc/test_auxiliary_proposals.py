"""Guides with choices of their own, which lie in between: their density does not count."""

from __future__ import annotations

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pushforward.inference import importance
from pushforward.ppl import observe, program, sample
from pushforward.ppl.language.handlers import Proposing
from pushforward.semantics import check

AUXILIARY = {"is_auxiliary": True}


def f(x: float) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


@program
def weather() -> Tensor:
    rain = sample("rain", dist.Bernoulli(f(0.3)))
    observe("wet", dist.Bernoulli(torch.where(rain == 1, f(0.9), f(0.2))), f(1.0))
    return rain


def by_a_coin() -> None:
    u = sample("u", dist.Bernoulli(f(0.4)), infer=AUXILIARY)
    sample("rain", dist.Bernoulli(torch.where(u == 1, f(0.8), f(0.3))))


def by_a_die() -> None:
    u = sample("u", dist.Categorical(torch.tensor([0.2, 0.3, 0.5]).double()), infer=AUXILIARY)
    v = sample("v", dist.Bernoulli(0.2 + 0.2 * u.double()), infer=AUXILIARY)
    sample("rain", dist.Bernoulli(0.3 + 0.4 * v))


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("guide", [by_a_coin, by_a_die])
def test_importance_sampling_is_valid(guide: object, n: int) -> None:
    check.valid(importance(weather, n, guide), weather).require()  # type: ignore[arg-type]


def test_to_count_them_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is right for the noise of points, which ``test_guides.py`` has."""
    points = property(lambda self: True, lambda self, value: None)
    monkeypatch.setattr(Proposing, "has_points", points, raising=False)
    report = check.valid(importance(weather, 1, by_a_coin), weather)
    assert report.verdict == "fail"
