"""Sums over time have finite slopes where states are impossible.

The class: hidden Markov chains of which some starts, moves or readings have no probability, written
as a loop, unrolled, and as one law.  Densities and slopes are those of products of matrices of
probabilities, without a logarithm in them.  torch 2.13's logcumsumexp has the slope NaN there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from pushforward import dist, marginal, observe, sample, scan
from pushforward.ppl.interpretations.log_density import LogDensity

pytestmark = pytest.mark.usefixtures("double")

LENGTH = 4
READ = torch.tensor([0, 2, 1, 1])
# Probabilities by a in (0, 1): of the start [3], of moves [3, 3], and of readings [3, 3].
Chain = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]


def table(*rows: list[Any]) -> Tensor:
    return torch.stack([torch.stack([torch.as_tensor(x) + 0.0 for x in row]) for row in rows])


def first_impossible(a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    start = table([0.0, a, 1 - a])[0]
    moves = table([a, 1 - a, 0.0], [0.2, 0.3, 0.5], [0.1, a * 0.9, (1 - a) * 0.9])
    return start, moves, table([0.5, 0.2, 0.3], [0.1, 0.7, 0.2], [a / 2, 1 - a, a / 2])


def one_start(a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """It begins in the first state, and never comes back."""
    start = table([1.0 + 0 * a, 0.0, 0.0])[0]
    moves = table([0.0, a, 1 - a], [0.0, 0.5, 0.5], [0.0, 1.0, 0.0])
    return start, moves, table([1 - a, a, 0.0], [a, 0.2, 0.8 - a], [0.3, 0.3, 0.4])


def one_reading(a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Each state reads as one number."""
    start = table([a, 0.3, 0.7 - a])[0]
    moves = table([a, 0.4, 0.6 - a], [0.3, a, 0.7 - a], [0.2, 1 - a - 0.2, a])
    return start, moves, torch.eye(3) + 0 * a


def dead_end(a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """From the third state all readings are impossible."""
    start = table([0.5, a, 0.5 - a])[0]
    moves = table([a, 0.4, 0.6 - a], [0.3, a, 0.7 - a], [0.0, 0.0, 1.0])
    return start, moves, table([0.5, 0.2, 0.3], [a, 0.6 - a, 0.4], [1.0, 0.0, 0.0])


CHAINS: list[Chain] = [first_impossible, one_start, one_reading, dead_end]


def as_loop(chain: Chain) -> Any:
    def program() -> None:
        a = sample("a", dist.Uniform(0.0, 0.5))
        start, moves, reads = chain(a)

        def step(z: Tensor, y: Tensor) -> tuple[Tensor, None]:
            observe("y", dist.Categorical(reads[z]), y)
            return sample("z", dist.Categorical(moves[z])), None

        scan(step)(sample("first", dist.Categorical(start)), READ)

    return marginal(program, keep="a", exact=True)


def unrolled(chain: Chain) -> Any:
    def program() -> None:
        a = sample("a", dist.Uniform(0.0, 0.5))
        start, moves, reads = chain(a)
        z = sample("z0", dist.Categorical(start))
        for t in range(LENGTH):
            observe(f"y{t}", dist.Categorical(reads[z]), READ[t])
            if t + 1 < LENGTH:
                z = sample(f"z{t + 1}", dist.Categorical(moves[z]))

    return marginal(program, keep="a", exact=True)


def as_law(chain: Chain) -> Any:
    """DiscreteHMM moves before it reads: so the first move is to stay."""

    def program() -> None:
        a = sample("a", dist.Uniform(0.0, 0.5))
        start, moves, reads = chain(a)
        steps = torch.cat([torch.eye(3)[None], moves.expand(LENGTH - 1, 3, 3)])
        law = dist.DiscreteHMM(start.log(), steps.log(), dist.Categorical(reads))
        observe("y", law, READ)

    return program


def exact(chain: Chain, u: Tensor) -> Tensor:
    """The log density at an unconstrained u, by probabilities alone."""
    share = u.sigmoid()
    start, moves, reads = chain(0.5 * share)
    mass = start
    for t, y in enumerate(READ):
        mass = (mass if t == 0 else mass @ moves) * reads[:, y]
    log_density: Tensor = (mass.sum() * share * (1 - share)).log()
    return log_density


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("form", [as_loop, unrolled, as_law])
@pytest.mark.parametrize("at", [-2.0, 0.1, 1.5])
def test_density_and_slope(chain: Chain, form: Any, at: float) -> None:
    u = torch.tensor([at], requires_grad=True)
    found, wanted = LogDensity(form(chain))(u), exact(chain, u[0])
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)
    slopes = [torch.autograd.grad(x, u)[0] for x in (found, wanted)]
    torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-9, atol=1e-9)


def test_torchs_cumulative_sum_would_not_do() -> None:
    logs = torch.tensor([-torch.inf, 0.0, 1.0], requires_grad=True)
    (slope,) = torch.autograd.grad(logs.logcumsumexp(0)[2], logs)
    assert bool(slope.isnan().any())
