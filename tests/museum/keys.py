"""Samplers of primitives, and the keys that they draw by.

Keys are whole numbers, of which 2 k and 2 k + 1 are split from k; what a key gives is drawn when it
is first asked for, and stays: so a law of keys that are used twice can be enumerated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pushforward import dist, draw, memo, program, sample
from pushforward.semantics import check

from .exhibit import Exhibit, f
from .laws import ByHand

BIT = 0.3


def split(key: int) -> tuple[int, int]:
    return 2 * key, 2 * key + 1


def site_gets_a_part(key: int) -> tuple[int, int]:
    """The key of a site, and the one that is left."""
    left, own = split(key)
    return own, left


def site_gets_all(key: int) -> tuple[int, int]:
    return key, split(key)[0]


def by_seeds(handed: Callable[[int], tuple[int, int]]) -> Any:
    """A count of two bits, whose sampler splits its key, then a site of one bit."""

    def run() -> tuple[tuple[Tensor, Tensor], Tensor]:
        bit = memo(lambda key: draw(dist.Bernoulli(f(BIT))))
        own, left = handed(1)
        first = bit(split(own)[0]) + bit(split(own)[1])
        own, _ = handed(left)
        return (first, bit(own)), f(0.0)

    return program(run)


@program
def independent() -> tuple[Tensor, Tensor]:
    return sample("count", dist.Binomial(2, f(BIT))), sample("bit", dist.Bernoulli(f(BIT)))


def chain(keys: tuple[int, int]) -> Any:
    """A start in a law of two states by one key, then a Metropolis step by another."""

    def run() -> tuple[Tensor, Tensor]:
        sixth = memo(lambda key: draw(dist.Categorical(torch.ones(6))))
        at_one = sixth(keys[0]) < 2
        moves = at_one | (sixth(keys[1]) < 3)  # from 1 always, from 0 with chance one half
        return (at_one ^ moves).double(), f(0.0)

    return program(run)


@program
def third() -> Tensor:
    return sample("x", dist.Bernoulli(f(1 / 3)))


# ---------------------------------------------------------------------------------- single samplers


def beta(axis_of_pair: Callable[[int], int]) -> ByHand:
    """Beta(2, 3) as a gamma over the sum of two, which lie side by side along an axis."""
    law = dist.Beta(f(2.0), f(3.0))

    def sampler(shape: torch.Size) -> Tensor:
        pair = [dist.Gamma(f(a), f(1.0)).sample(shape) for a in (2.0, 3.0)]
        axis = axis_of_pair(len(shape))
        both = torch.stack(pair, axis)
        return (both / both.sum(-1, keepdim=True)).select(axis, 0)

    return ByHand(dist.constraints.unit_interval, law.log_prob, sampler)


@program
def coin() -> Tensor:
    return sample("x", dist.Bernoulli(f(0.5)))


def binomial(uniforms: Tensor) -> Any:
    """Binomial(1, 1/2) by inversion of a geometric law, from a uniform of three bits."""

    def run() -> tuple[Tensor, Tensor]:
        u = uniforms[draw(dist.Categorical(torch.ones(8)))]
        waiting = (u.log() / f(0.5).log()).ceil() - 1
        return waiting.clamp(max=1.0), f(0.0)

    return program(run)


EIGHTHS = torch.arange(8.0, dtype=torch.float64) / 8

EXHIBITS = [
    Exhibit(
        48,
        "a site gets the key of which the next one's is split: a sampler that splits it itself "
        "shares its numbers",
        "pyro-ppl/numpyro, PR 263",
        check.valid,
        by_seeds(site_gets_a_part),
        by_seeds(site_gets_all),
        against=(independent,),
    ),
    Exhibit(
        49,
        "the key that starts a chain is used again by its first step",
        "pyro-ppl/numpyro, issue 1949",
        check.valid,
        chain(keys=split(1)),
        chain(keys=(1, 1)),
        against=(third,),
    ),
    Exhibit(
        50,
        "Beta draws are normalised along the wrong axis where the last one has length one",
        "pytorch/pytorch, issue 10118",
        check.density,
        beta(lambda dims: dims),
        beta(lambda dims: min(dims, 1)),
    ),
    Exhibit(
        51,
        "a uniform number is rounded to one, whose logarithm makes a count of -1",
        "pytorch/pytorch, issue 42153",
        check.valid,
        binomial(EIGHTHS + 1 / 16),
        binomial(EIGHTHS + 1 / 8),
        against=(coin,),
    ),
]
