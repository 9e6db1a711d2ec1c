"""Rao-Blackwellised filters: latents of a step summed or integrated out by ``marginal``."""

from __future__ import annotations

import itertools
import math
import statistics

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pushforward import compiled, marginal, observe, program, sample, scan
from pushforward.inference import particle_filter
from pushforward.ppl.language.program import Callback
from pushforward.semantics import check

pytestmark = pytest.mark.usefixtures("double")

YS = torch.tensor([0.3, 1.2, -0.4], dtype=torch.float64)


@program
def finite(x: Tensor, y: Tensor) -> None:
    z = sample("z", dist.Bernoulli(0.3 + 0.1 * x))
    observe("y", dist.Normal(x + 2 * z, 1.0), y)


@program
def real(x: Tensor, y: Tensor) -> None:
    z = sample("z", dist.Normal(x, 2.0))
    observe("y", dist.Normal(x + z, 1.0), y)


@program
def real_by_hand(x: Tensor, y: Tensor) -> None:
    """N(x + z; 1) with z of N(x, 2): N(2 x, sqrt 5)."""
    observe("y", dist.Normal(2 * x, 5**0.5), y)


@program
def real_wrong(x: Tensor, y: Tensor) -> None:
    observe("y", dist.Normal(2 * x, 2.0), y)


def walk(seen: Callback) -> Callback:
    """A coin that sticks, seen through a program of it and of the data."""

    @program
    def model(ys: Tensor) -> Tensor:
        def step(x: Tensor, y: Tensor) -> tuple[Tensor, None]:
            x = sample("x", dist.Bernoulli(0.3 + 0.4 * x))
            seen(x, y)
            return x, None

        return scan(step)(torch.tensor(0.0, dtype=torch.float64), ys)[0]

    return model


OUT = {"finite": marginal(finite, exact=True), "real": marginal(real, [], exact=True)}


@pytest.mark.parametrize(("kind", "whole"), [("finite", finite), ("real", real_by_hand)])
def test_they_are_valid_for_the_whole_program(kind: str, whole: Callback) -> None:
    check.valid(particle_filter(walk(OUT[kind]), 2), walk(whole), YS[:2]).require()


def test_a_wrong_integral_is_seen() -> None:
    report = check.valid(particle_filter(walk(OUT["real"]), 2), walk(real_wrong), YS[:2])
    assert report.verdict == "fail"


def exact(kind: str) -> float:
    """The evidence, by hand over all coins."""
    total = 0.0
    for xs in itertools.product((0.0, 1.0), repeat=len(YS)):
        mass = 1.0
        for before, x, y in zip((0.0, *xs), xs, YS, strict=False):
            up = 0.3 + 0.4 * before
            mass *= up if x else 1 - up
            if kind == "real":
                mass *= float(dist.Normal(2 * x, 5**0.5).log_prob(y).exp())
            else:
                p = 0.3 + 0.1 * x
                pair = (float(dist.Normal(x + 2 * z, 1.0).log_prob(y).exp()) for z in (0, 1))
                mass *= sum(w * density for w, density in zip((1 - p, p), pair, strict=True))
        total += mass
    return total


@pytest.mark.parametrize("kind", OUT)
def test_they_run_in_lane_code(kind: str) -> None:
    """The mean of 40 estimates, by five standard errors: a level of 6e-7."""
    told = list[str]()
    run = compiled(particle_filter(walk(OUT[kind]), 200), told.append)
    torch.manual_seed(1)
    found = [math.exp(float(run(YS).log_evidence())) for _ in range(40)]
    assert not any("without lane code" in text for text in told)
    error = statistics.stdev(found) / 40**0.5
    assert abs(statistics.mean(found) - exact(kind)) < 5 * error
