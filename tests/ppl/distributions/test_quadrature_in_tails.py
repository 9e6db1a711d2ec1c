"""Quadrature goes into both tails of a law, in single precision too, without its quantiles.

torch 2.13's float32 ``icdf`` gives Weibull(1, 1) 0 at 1e-9, and Gumbel -4.47 for -3.03.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pushforward import dist
from pushforward.ppl.distributions.support import quadrature_rule

EULER = 0.5772156649015329


def t(x: float) -> Tensor:
    return torch.tensor(x)


# A law, and exactly: E log|X|, or E X where it may be negative; and the mass below a small value.
LAWS: dict[str, tuple[Any, float, float, float]] = {
    "Weibull(1, 1)": (lambda: dist.Weibull(t(1.0), t(1.0)), -EULER, 1e-6, 1e-6),
    "Weibull(2, 0.5)": (lambda: dist.Weibull(t(2.0), t(0.5)), math.log(2) - 2 * EULER, 2e-12, 1e-6),
    "Gumbel(0, 1)": (lambda: dist.Gumbel(t(0.0), t(1.0)), EULER, -math.log(-math.log(1e-6)), 1e-6),
}


@pytest.mark.parametrize("name", LAWS)
def test_nodes_reach_the_tails(name: str) -> None:
    make, expected, low, mass = LAWS[name]
    nodes, logs = quadrature_rule(make(), 200)
    nodes, weights = nodes.double(), logs.double().exp()
    assert bool(nodes.isfinite().all()) and bool(weights.isfinite().all())
    assert float(weights.sum()) == pytest.approx(1.0, abs=1e-8)
    f = nodes if "Gumbel" in name else nodes.log()
    assert float((weights * f).sum()) == pytest.approx(expected, abs=1e-8)
    assert float(nodes.min()) < low
    assert mass / 10 < float(weights[nodes <= low].sum()) < 10 * mass


@pytest.mark.parametrize("law", ["Weibull", "Gumbel"])
def test_torchs_quantiles_would_not_do(law: str) -> None:
    make = {"Weibull": dist.Weibull(t(1.0), t(1.0)), "Gumbel": dist.Gumbel(t(0.0), t(1.0))}[law]
    exact = {"Weibull": 1e-9, "Gumbel": -math.log(-math.log(1e-9))}[law]
    assert abs(float(make.icdf(t(1e-9))) / exact - 1) > 0.3
