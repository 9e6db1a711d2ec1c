"""Enumeration, plates, masks and shapes."""

from __future__ import annotations

from collections.abc import Callable
from math import log
from typing import Any

import torch
from torch import Tensor

from pushforward import dist, draw, observe, program, sample
from pushforward.inference import Population
from pushforward.semantics import check

from .exhibit import Exhibit, f
from .gradients import AT, expected, score
from .metropolis import accept

CLASS, SEEN = f([0.3, 0.7]), f([0.2, 0.9])  # the prior of a class, and the chance of ones in it
DATA = f([1.0, 0.0])
LOG_LIKELIHOOD = dist.Bernoulli(SEEN).log_prob(DATA[:, None])  # [data, classes]
UNIT = torch.zeros(())


@program
def one_class() -> Tensor:
    """The class of both data."""
    z = sample("z", dist.Categorical(CLASS))
    for i, x in enumerate(DATA):
        observe(f"x{i}", dist.Bernoulli(SEEN[z]), x)
    return z


@program
def evidence_of_one_class() -> Tensor:
    one_class()
    return UNIT


def contracted(order: Callable[[Tensor], Tensor]) -> Any:
    """The evidence, by sums of the joint of each datum and the class."""
    return lambda: (UNIT, order(LOG_LIKELIHOOD))


def outside_the_plate(terms: Tensor) -> Tensor:
    return (CLASS.log() + terms.sum(0)).logsumexp(0)


def inside_the_plate(terms: Tensor) -> Tensor:
    return (CLASS.log() + terms).logsumexp(1).sum(0)


# -------------------------------------------------------------------------- a class and its members

MEMBER = f([[0.8, 0.2], [0.1, 0.9]])  # the chance of a local latent, by the class


@program
def members() -> tuple[Tensor, ...]:
    """A class, a latent of each datum, and the data."""
    z = sample("z", dist.Categorical(CLASS))
    local = []
    for i, x in enumerate(DATA):
        y = sample(f"y{i}", dist.Categorical(MEMBER[z]))
        observe(f"x{i}", dist.Bernoulli(SEEN[y]), x)
        local.append(y)
    return z, *local


def posterior_draw(through_the_class: bool) -> Any:
    """Exact draws, with the evidence as weight; local ones by the class that was drawn."""

    def run() -> tuple[tuple[Tensor, ...], Tensor]:
        joint = MEMBER.log() + LOG_LIKELIHOOD[:, None]  # [data, classes, locals]
        of_class = CLASS.log() + joint.logsumexp(2).sum(0)
        z = draw(dist.Categorical(logits=of_class))
        blurred = (CLASS.log()[:, None] + joint).logsumexp(1)
        local = draw(dist.Categorical(logits=joint[:, z] if through_the_class else blurred))
        return (z, *local), of_class.logsumexp(0)

    return program(run)


# ----------------------------------------------------------------------------- two sites of a guide


def first_cost(a: Tensor) -> Tensor:
    return 0.5 * a


def second_cost(a: Tensor, b: Tensor) -> Tensor:
    return (a - 2 * b) ** 2


def total_cost(at: Tensor) -> Tensor:
    return expected(lambda a, b: first_cost(a) + second_cost(a, b), *at)


def enumerated(kept: Callable[[int, int], bool]) -> Any:
    """The gradient by scores of each site, times the mean of the factors that are kept for it."""

    def gradient(at: Tensor) -> Tensor:
        def of_site(i: int) -> Tensor:
            def term(a: Tensor, b: Tensor) -> Tensor:
                costs = first_cost(a), second_cost(a, b)
                total = sum((cost for k, cost in enumerate(costs) if kept(i, k)), f(0.0))
                return score((a, b)[i], at[i]) * total

            return expected(term, *at)

        return torch.stack([of_site(0), of_site(1)])

    return gradient


# --------------------------------------------------------------------------------- branch by branch


@program
def mixed() -> Tensor:
    """A coin, and a normal observation about it."""
    z = sample("z", dist.Bernoulli(f(0.3)))
    observe("x", dist.Normal(2 * z, f(1.0)), f(1.7))
    return z


def sequential(by_the_joint: bool) -> Any:
    """Both branches one after the other, and a draw of one of them."""

    def run() -> tuple[Tensor, Tensor]:
        prior, joint = [], []
        for z in f([0.0, 1.0]):
            prior.append(dist.Bernoulli(f(0.3)).log_prob(z))
            joint.append(prior[-1] + dist.Normal(2 * z, f(1.0)).log_prob(f(1.7)))
        weights = torch.stack(joint if by_the_joint else prior)
        branch = draw(dist.Categorical(logits=weights))
        return branch.double(), torch.stack(joint).logsumexp(0)

    return program(run)


# -------------------------------------------------------------------------- a sum along a dimension

STEPS = f([[0.7, 0.2, 0.1], [0.05, 0.8, 0.15], [0.3, 0.3, 0.4]])
SIGNS = f([0.02, 0.5, 0.9])


@program
def three_states() -> Tensor:
    """The last of two states of a chain, with a sign of each."""
    state = sample("first", dist.Categorical(f([0.98, 0.01, 0.01])))
    observe("sign", dist.Bernoulli(SIGNS[state]), f(1.0))
    state = sample("second", dist.Categorical(STEPS[state]))
    observe("other", dist.Bernoulli(SIGNS[state]), f(1.0))
    return state


def forward(place_of_maximum: Callable[[int], int]) -> Any:
    """The forward algorithm, with a sum of exponentials over the first dimension."""

    def log_sum_exp(x: Tensor, d: int) -> Tensor:
        top = x.amax(d)
        return (x - top.unsqueeze(place_of_maximum(d))).exp().sum(d).log() + top

    def run() -> Population:
        message = f([0.98, 0.01, 0.01]).log() + SIGNS.log()
        message = log_sum_exp(message[:, None] + STEPS.log(), 0) + SIGNS.log()
        return Population(torch.arange(3), message)

    return program(run)


# --------------------------------------------------------------------------------- masks and shapes


@program
def unseen() -> Tensor:
    """A coin, whose datum is masked."""
    return sample("z", dist.Bernoulli(f(0.3)))


def with_a_mask(skips: bool) -> Any:
    """An even proposal, weighted by the log density of a masked site and of the coin after it."""

    def log_density(z: Tensor) -> Tensor:
        total = f(0.0)
        masked, scored = (dist.Normal(z, f(1.0)), f(0.4)), (dist.Bernoulli(f(0.3)), z)
        for mask, (law, value) in ((False, masked), (True, scored)):
            if mask:
                total = total + law.log_prob(value)
            elif not skips:
                return f(0.0)
        return total

    def run() -> tuple[Tensor, Tensor]:
        z = draw(dist.Bernoulli(f(0.5)))
        return z, log_density(z) + log(2)

    return program(run)


def proposed_class(joint: Callable[[Tensor, Tensor], Tensor]) -> Any:
    """An even proposal of the class, weighted by its prior [] and by the terms [2] of the data."""

    def run() -> tuple[Tensor, Tensor]:
        z = draw(dist.Categorical(torch.ones(2)))
        return z, joint(CLASS[z].log(), LOG_LIKELIHOOD[:, z]) + log(2)

    return program(run)


def metropolis(subsample: bool) -> Any:
    """The other class is proposed, and accepted by all data, or by one of the two, twice."""

    def kernel(z: Tensor) -> Tensor:
        terms = LOG_LIKELIHOOD
        if subsample:
            terms = 2 * terms[draw(dist.Categorical(torch.ones(2)))][None]
        joint = (CLASS.log() + terms.sum(0)).exp()
        return 1 - z if accept(joint[1 - z] / joint[z]) else z

    return kernel


EXHIBITS = [
    Exhibit(
        59,
        "a global enumerated variable is summed out in each member of a plate",
        "pyro-ppl/pyro, issue 846",
        check.valid,
        contracted(outside_the_plate),
        contracted(inside_the_plate),
        against=(evidence_of_one_class,),
    ),
    Exhibit(
        60,
        "posterior draws of local variables do not know the global one that links them",
        "pyro-ppl/pyro, issue 1460",
        check.valid,
        posterior_draw(through_the_class=True),
        posterior_draw(through_the_class=False),
        against=(members,),
    ),
    Exhibit(
        61,
        "factors are dropped by a coarse order, and with them terms of an enumerated expectation",
        "pyro-ppl/pyro, issue 2678",
        check.unbiased,
        enumerated(lambda site, factor: factor >= site),
        enumerated(lambda site, factor: factor == site),
        against=(total_cost, AT),
    ),
    Exhibit(
        62,
        "sequential enumeration draws a branch whatever the others weigh",
        "pyro-ppl/pyro, issue 3080",
        check.valid,
        sequential(by_the_joint=True),
        sequential(by_the_joint=False),
        against=(mixed,),
    ),
    Exhibit(
        63,
        "a sum of exponentials over one dimension subtracts the maximum along the last one",
        "pyro-ppl/pyro, PR 1214",
        check.valid,
        forward(lambda d: d),
        forward(lambda d: -1),
        against=(three_states,),
    ),
    Exhibit(
        64,
        "a site that is masked altogether ends the log density, with all that comes after it",
        "pyro-ppl/numpyro, issue 568",
        check.valid,
        with_a_mask(skips=True),
        with_a_mask(skips=False),
        against=(unseen,),
    ),
    Exhibit(
        65,
        "terms of unlike shape are added before they are summed, so that the smaller counts often",
        "aesara-devs/aeppl, issue 49",
        check.valid,
        proposed_class(lambda prior, terms: prior + terms.sum()),
        proposed_class(lambda prior, terms: (prior + terms).sum()),
        against=(one_class,),
    ),
    Exhibit(
        66,
        "data are subsampled in each accept step of MCMC, whose target is then nobody's",
        "pyro-ppl/pyro, issue 2394",
        check.invariant,
        metropolis(subsample=False),
        metropolis(subsample=True),
        against=(one_class,),
    ),
]
