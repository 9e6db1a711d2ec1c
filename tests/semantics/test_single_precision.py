"""Right algorithms whose weights are in single precision do not fail for their rounding."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pushforward.inference import importance, particle_filter, smc
from pushforward.inference.smc.population import Population
from pushforward.ppl import Program, observe, program, sample, scan
from pushforward.semantics import check

DTYPES = (torch.float32, torch.float64)


def coin(p: Tensor) -> Program:
    return program(lambda: sample("x", dist.Bernoulli(p)))


def chain(p: Tensor) -> Program:
    @program
    def model() -> Tensor:
        def step(x: Tensor, y: Tensor) -> tuple[Tensor, None]:
            x = sample("x", dist.Bernoulli(torch.where(x == 1, p, 1 - p)))
            observe("y", dist.Bernoulli(torch.where(x == 1, p, 0.5 * p)), y)
            return x, None

        return scan(step)(torch.zeros_like(p), torch.ones(2, dtype=p.dtype))[0]

    return model


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("p", [0.3, 0.77])
def test_right_ones(p: float, dtype: torch.dtype) -> None:
    at = torch.tensor(p, dtype=dtype)
    for n in (1, 2, 3):
        check.valid(importance(coin(at), n), coin(at)).require()
        check.valid(importance(chain(at), n), chain(at)).require()
    for make in (particle_filter, smc):
        check.valid(make(chain(at), 2), chain(at)).require()


def test_without_scores_nothing_is_rounded() -> None:
    model = coin(torch.tensor(0.3, dtype=torch.float64))
    assert check.valid(importance(model, 2), model).require().deviation < 1e-15


def test_a_wrong_one_fails() -> None:
    """By 1e-4 of its mass, which is far beyond the rounding of its weights."""
    at = torch.tensor(0.3, dtype=torch.float32)

    def wrong() -> Any:
        values, weights = importance(chain(at), 2)()
        return Population(values, weights.float() + math.log1p(1e-4))

    report = check.valid(Program(wrong), chain(at))
    assert report.verdict == "fail"
    assert 5e-5 < report.deviation < 2e-4
