"""Particle Gibbs, Gibbs with supports that move, and chains that do not get everywhere."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pushforward import dist, draw, observe, program, sample
from pushforward.semantics import check

from .exhibit import Exhibit, f
from .filters import RAIN, WET
from .metropolis import accept, grid

# ----------------------------------------------------------------------------------- particle Gibbs


@program
def two_days() -> Tensor:
    """The first two days of a rainy season, one dry and one wet, as a path."""
    first = sample("first", dist.Bernoulli(RAIN[0]))
    observe("dry", dist.Bernoulli(WET[first.long()]), f(0.0))
    second = sample("second", dist.Bernoulli(RAIN[first.long()]))
    observe("wet", dist.Bernoulli(WET[second.long()]), f(1.0))
    return torch.stack([first, second])


def conditional_filter(retains: bool) -> Any:
    """Two particles, of which the last is the retained path at each step."""

    def kernel(path: Tensor) -> Tensor:
        first = draw(dist.Bernoulli(RAIN[torch.zeros(2).long()]))
        if retains:
            first = torch.stack([first[0], path[0]])
        weights = dist.Bernoulli(WET[first.long()]).log_prob(f(0.0))
        ancestors = draw(dist.Categorical(logits=weights), (2,))
        if retains:
            ancestors = torch.stack([ancestors[0], torch.tensor(1)])
        second = draw(dist.Bernoulli(RAIN[first[ancestors].long()]))
        if retains:
            second = torch.stack([second[0], path[1]])
        weights = dist.Bernoulli(WET[second.long()]).log_prob(f(1.0))
        chosen = draw(dist.Categorical(logits=weights))
        return torch.stack([first[ancestors[chosen]], second[chosen]])

    return kernel


# ----------------------------------------------------------------------------- a support that moves


def log_uniform_below_uniform(rows: Tensor) -> Tensor:
    """x even in (0.1, 10), y even in (0, x), and a proposal for x, even in (0.1, 10)."""
    x, y, _ = rows.unbind(1)
    return torch.where((y > 0) & (y < x), -x.log(), -torch.inf)


def with_the_current_support(rows: Tensor) -> Tensor:
    """x is exchanged for its proposal; y stays the same share of x."""
    x, y, proposed = rows.unbind(1)
    return torch.stack([proposed, y / x * proposed, x], 1)


def with_the_old_support(rows: Tensor) -> Tensor:
    """The share becomes y by the old x."""
    x, y, proposed = rows.unbind(1)
    return torch.stack([proposed, y / x * x, x], 1)


def shares() -> Tensor:
    """Points inside, off the edges."""
    x, share, proposed = grid((0.5, 9.5), (0.1, 0.8), (0.7, 8.0), n=5).unbind(1)
    return torch.stack([x, share * x, proposed], 1)


def always(rows: Tensor) -> Tensor:
    """The density of x and a share does not depend on x."""
    return torch.ones(len(rows))


# --------------------------------------------------------------------------------------- Monty Hall


@program
def quiz() -> tuple[Tensor, Tensor]:
    """The first door is picked; the host opens the last one that has no prize."""
    prize = sample("prize", dist.Categorical(torch.ones(3)))
    opened = sample("opened", dist.Categorical(opens(prize)))
    return prize, opened


def opens(prize: Tensor) -> Tensor:
    return f([0.0, 1.0, 0.0] if prize == 2 else [0.0, 0.0, 1.0])


def site_by_site(state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Redraw one of the two, and accept if the other has as much density with it."""
    prize, opened = state
    if draw(dist.Bernoulli(f(0.5))) == 1:
        fresh = draw(dist.Categorical(torch.ones(3)))
        return (fresh, opened) if accept(opens(fresh)[opened]) else state
    return prize, draw(dist.Categorical(opens(prize)))


def both_at_once(state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    prize = draw(dist.Categorical(torch.ones(3)))
    return prize, draw(dist.Categorical(opens(prize)))


# ---------------------------------------------------------------------------------------- two coins


@program
def coins() -> Tensor:
    return sample("coins", dist.Bernoulli(f([0.5, 0.5])).to_event(1))


def flips(coins: Tensor) -> Tensor:
    """Propose the other side of each coin, which is always accepted."""
    return 1 - coins


def redraws(coins: Tensor) -> Tensor:
    return draw(dist.Bernoulli(f([0.5, 0.5])).to_event(1))


EXHIBITS = [
    Exhibit(
        26,
        "particle Gibbs draws all particles anew and keeps no reference path",
        "TuringLang/Turing.jl, issue 1598",
        check.invariant,
        conditional_filter(retains=True),
        conditional_filter(retains=False),
        against=(two_days,),
    ),
    Exhibit(
        27,
        "an unconstrained value is kept while its support changes, and mapped back by the old one",
        "TuringLang/Turing.jl, issue 2801",
        check.involution,
        (with_the_current_support, always),
        (with_the_old_support, always),
        against=(log_uniform_below_uniform, shares()),
    ),
    Exhibit(
        28,
        "single-site moves cannot pass between traces that differ at two sites",
        "tweag/monad-bayes, issue 121",
        check.ergodic,
        both_at_once,
        site_by_site,
        against=(quiz,),
    ),
    Exhibit(
        29,
        "flips of fair coins are always accepted: two coins flip together for ever",
        "pymc-devs/pymc, issue 2866",
        check.ergodic,
        redraws,
        flips,
        against=(coins,),
    ),
]
