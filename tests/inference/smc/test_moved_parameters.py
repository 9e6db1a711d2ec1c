"""Filters that move what was chosen before the scan keep the measure if their moves do."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from support.faults import Fault, planted
from support.filters import Written, f
from torch import Tensor

from pushforward import compiled, dist, draw, factor, observe, program, sample, scan
from pushforward.errors import DataError, ProgramError
from pushforward.inference import SMC, multinomial, particle_filter, systematic
from pushforward.inference.smc.filtering import Filtering
from pushforward.inference.smc.lanes.engine import Engine
from pushforward.inference.smc.lanes.particle import Particle
from pushforward.inference.smc.lanes.quick import population
from pushforward.semantics import check

pytestmark = pytest.mark.usefixtures("double")
YS = torch.tensor([1.0, 0.0, 1.0]).double()
CHANCES = f(0.2, 0.6)
Choices = dict[str, Tensor]


@program
def coin(ys: Tensor) -> tuple[Tensor, Tensor]:
    """Throws of one of two coins, seen through noise, with the statistics of them."""
    k = sample("coin", dist.Bernoulli(0.3)).long()

    def step(carry: tuple[Tensor, Tensor], y: Tensor) -> Any:
        heads, throws = carry
        up = sample("up", dist.Bernoulli(CHANCES[k]))
        observe("y", dist.Bernoulli(0.1 + 0.7 * up), y)
        return (heads + up, throws + 1.0), up

    return k, scan(step)((f(0.0), f(0.0)), ys)[1]


def density(k: Tensor, heads: Tensor, throws: Tensor) -> Tensor:
    """Of a coin and throws with these statistics."""
    chance, prior = CHANCES[k.long()], torch.where(k > 0, 0.3, 0.7)
    return prior * chance**heads * (1 - chance) ** (throws - heads)


def gibbs(at: Choices, carry: Any, ys: Tensor) -> Choices:
    one, other = density(f(1.0), *carry), density(f(0.0), *carry)
    return {"coin": draw(dist.Bernoulli(one / (one + other)))}


def metropolis(at: Choices, carry: Any, ys: Tensor) -> Choices:
    new = 1.0 - at["coin"]
    ratio = density(new, *carry) / density(at["coin"], *carry)
    accept = draw(dist.Bernoulli(ratio.clamp(max=1.0)))
    return {"coin": torch.where(accept > 0, new, at["coin"])}


def of_prior(at: Choices, carry: Any, ys: Tensor) -> Choices:
    """Forgets what was seen."""
    return {"coin": draw(dist.Bernoulli(f(0.3)))}


def stale(at: Choices, carry: Any, ys: Tensor) -> Choices:
    """By statistics that leave the last throws out."""
    return gibbs(at, (0.5 * carry[0], 0.5 * carry[1]), ys)


def shrunk(at: Choices, carry: Any, ys: Tensor) -> Choices:
    """In the way of Liu and West 2001: it is drawn to the mean and jittered."""
    return {"coin": draw(dist.Bernoulli(0.9 * at["coin"] + 0.1 * 0.3))}


@pytest.mark.parametrize(
    ("move", "n", "steps", "ess"),
    [
        (gibbs, 1, 3, 1.0),
        (metropolis, 1, 3, 1.0),
        (gibbs, 2, 2, 1.0),
        pytest.param(metropolis, 2, 2, 1.0, marks=pytest.mark.slow),
        pytest.param(gibbs, 2, 2, 0.75, marks=pytest.mark.slow),
        pytest.param(metropolis, 2, 2, 0.75, marks=pytest.mark.slow),
    ],
)
def test_moves_that_are_invariant_keep_the_measure(
    move: Any, n: int, steps: int, ess: float
) -> None:
    better = particle_filter(coin, n, multinomial, ess, move=move)
    check.valid(better, coin, YS[:steps]).require()


@pytest.mark.parametrize("move", [of_prior, stale, shrunk])
def test_others_do_not(move: Any) -> None:
    assert check.valid(particle_filter(coin, 1, move=move), coin, YS[:2]).verdict == "fail"


def test_a_move_by_other_statistics_is_rejected() -> None:
    """A fault of the filter itself: moves look at no carry."""
    fault = Fault(
        "no carry",
        "inference.smc.filtering:Filtering._moved",
        "dict(choices), carry, *args",
        "dict(choices), tree_map(torch.zeros_like, carry), *args",
    )
    with planted(fault):
        assert check.valid(particle_filter(coin, 1, move=gibbs), coin, YS[:2]).verdict == "fail"


@program
def level(ys: Tensor) -> Tensor:
    """A level that is unknown, numbers about it, and what is seen of these."""
    mean = sample("mean", dist.Normal(0.0, 1.0))

    def step(carry: tuple[Tensor, Tensor], y: Tensor) -> Any:
        total, count = carry
        x = sample("x", dist.Normal(mean, 1.0))
        observe("y", dist.Normal(x, 0.5), y)
        return (total + x, count + 1.0), None

    scan(step)((f(0.0), f(0.0)), ys)
    return mean


def by_statistics(at: Choices, carry: Any, ys: Tensor) -> Choices:
    total, count = carry
    precision = 1.0 + count
    return {"mean": draw(dist.Normal(total / precision, precision.rsqrt()))}


def test_parameters_do_not_die_out() -> None:
    """Level 1e-6: the posterior mean, which is known, five standard errors of 20 runs."""
    ys = 0.7 + torch.sin(2.3 * torch.arange(30.0))
    exact = float(ys.sum() / 1.25 / (1.0 + 30 / 1.25))
    evidence = dist.MultivariateNormal(torch.zeros(30), 1.25 * torch.eye(30) + 1.0).log_prob(ys)
    run = compiled(particle_filter(level, 300, move=by_statistics))
    torch.manual_seed(1)
    with torch.no_grad():
        kept = particle_filter(level, 300)(ys).values
        found = [run(ys) for _ in range(20)]
    assert len(kept.unique()) < 30 < 290 < len(found[0].values.unique())
    ratios = torch.stack([p.log_evidence() - evidence for p in found]).exp()
    assert abs(float(ratios.mean()) - 1) < 5 * float(ratios.std()) / math.sqrt(20)
    moments = torch.stack(
        [p.probabilities() @ p.values * r for p, r in zip(found, ratios, strict=True)]
    )
    errors = moments - exact * ratios
    assert abs(float(errors.mean())) < 5 * float(errors.std()) / math.sqrt(20)


@pytest.mark.parametrize("ess", [1.0, 0.5])
def test_lane_code_moves_by_the_same_choices(ess: float) -> None:
    ys = torch.sin(torch.arange(6.0))
    for model, move, args in ((level, by_statistics, (ys,)), (coin, metropolis, (YS,))):
        for n in (3, 600):
            filtering = Filtering(model, n, systematic, ess, move=move)
            with torch.no_grad():
                made = Particle(filtering, args)
                torch.manual_seed(n)
                with Written(n) as written:
                    expected = particle_filter(model, n, ess=ess, move=move)(*args)
                none = torch.zeros(2).long()
                found = population(Engine(made), none, *args, given=written.given)
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("move", "error", "what"),
    [
        (lambda at, carry, ys: {"x": at["mean"]}, DataError, "gives no choices of before the scan"),
        (lambda at, carry, ys: at["mean"], DataError, "gives no choices of before the scan"),
        (lambda at, carry, ys: {"mean": ys}, DataError, r"shape \[3\], not \[\]"),
        (lambda at, carry, ys: factor("f", f(1.0)) or {}, ProgramError, "scores"),
    ],
)
def test_moves_that_are_none(move: Any, error: Any, what: str) -> None:
    with pytest.raises(error, match=what):
        particle_filter(level, 2, move=move)(YS)


def test_a_driver_names_what_was_moved() -> None:
    def algorithm(p: Any, n: int) -> Any:
        return particle_filter(p, n, move=lambda at, carry, ys: by_statistics(at, carry, ys))

    ys = 0.7 + torch.sin(2.3 * torch.arange(30.0))
    fit = SMC(200, 2, algorithm, compiled=False, progress=False).run(level, ys, seed=1)
    assert fit["mean"].shape == (2, 200)
    assert len(fit["mean"].unique()) > 200
