"""Edges that torch tells in its own words, or not at all, are named errors or right numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from pushforward import dist, observe, sample, simulate
from pushforward.errors import ProgramError
from pushforward.inference import Exact, importance
from pushforward.semantics import denote

pytestmark = pytest.mark.usefixtures("double")


def no_covariance() -> None:
    s = sample("s", dist.Bernoulli(0.5))
    covariance = torch.eye(2) * (2 * s - 1)
    law = dist.MultivariateNormal(torch.zeros(2), covariance, validate_args=False)
    observe("y", law, torch.zeros(2))


@pytest.mark.parametrize(
    "run",
    [
        denote,
        lambda p: simulate(importance(p, 64), seed=0),
        lambda p: [simulate(p, seed=s) for s in range(9)],
    ],
)
def test_a_matrix_without_factor_is_named_with_its_line(run: Callable[[Any], Any]) -> None:
    with pytest.raises(ProgramError, match=r"cannot be decomposed.*test_named_edges.*diagonal"):
        run(no_covariance)


@pytest.mark.parametrize("value", [0.0, 1.0, 3.0])
def test_a_negative_binomial_of_no_failures_is_zero(value: float) -> None:
    law = dist.NegativeBinomial(torch.tensor([0.0, 2.0]), torch.tensor(0.4))
    mass = denote(lambda: observe("y", law, torch.tensor(value))).mass()
    ways = math.comb(int(value) + 1, int(value))
    assert mass == pytest.approx((value == 0) * ways * 0.4**value * 0.6**2)


def test_a_support_that_moves_is_integrated_path_by_path() -> None:
    def p() -> Tensor:
        x = sample("x", dist.Uniform(0.0, 1.0))
        return sample("u", dist.Uniform(torch.tensor(0.0), 1 + x)) > 1

    measure = denote(p, quadrature=60)
    assert measure.mass() == pytest.approx(1.0)
    assert measure.pmf()[True] == pytest.approx(1 - math.log(2.0), abs=measure.error)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_halves_have_measures(dtype: torch.dtype) -> None:
    law = dist.Bernoulli(torch.tensor(0.25, dtype=dtype))
    assert denote(lambda: sample("b", law)).pmf() == pytest.approx({0.0: 0.75, 1.0: 0.25}, rel=1e-2)


def test_a_category_without_mass_beside_reals() -> None:
    def p() -> None:
        z = sample("z", dist.Categorical(torch.tensor([0.5, 0.0, 0.5])))
        x = sample("x", dist.Normal(z.double(), 1.0))
        observe("y", dist.Normal(x, 1.0), torch.tensor(0.3))

    parts = [0.5 * dist.Normal(m, math.sqrt(2.0)).log_prob(torch.tensor(0.3)).exp() for m in (0, 2)]
    evidence = Exact(draws=3).run(p).log_evidence
    assert evidence == pytest.approx(math.log(float(sum(parts))))
