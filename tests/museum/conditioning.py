"""Constraints, traces that are changed, hard factors, and guides built from a graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import log
from typing import Any

import torch
from torch import Tensor

from pushforward import dist, draw, factor, observe, program, sample
from pushforward.inference import Population
from pushforward.semantics import check

from .exhibit import Exhibit, f

CHANCE = f([0.3, 0.8])  # of the second coin, after tails and after heads


@program
def pair() -> tuple[Tensor, Tensor]:
    """Two coins, the second of which depends on the first."""
    first = sample("first", dist.Bernoulli(f(0.4)))
    return first, sample("second", dist.Bernoulli(CHANCE[first.long()]))


@program
def pair_with_heads() -> tuple[Tensor, Tensor]:
    """The second is seen to be heads."""
    first = sample("first", dist.Bernoulli(f(0.4)))
    return first, observe("second", dist.Bernoulli(CHANCE[first.long()]), f(1.0))


# -------------------------------------------------------------------------------------- constraints


def looked_up(constraints: dict[str, Any], *path: str) -> Any:
    """The value of a nested choice map at a path, or None."""
    found: Any = constraints
    for name in path:
        found = found.get(name) if isinstance(found, dict) else None
    return found


def flat_only(constraints: dict[str, Any], *path: str) -> Any:
    return constraints.get("/".join(path))


def generated(find: Callable[..., Any]) -> Any:
    """The pair from constraints that lie in a nested map: a value given is kept, and weighs."""
    constraints = {"coins": {"second": f(1.0)}}

    def choose(path: tuple[str, str], law: Any) -> tuple[Tensor, Tensor]:
        given = find(constraints, *path)
        return (draw(law), f(0.0)) if given is None else (given, law.log_prob(given))

    def run() -> tuple[tuple[Tensor, Tensor], Tensor]:
        first, weight = choose(("coins", "first"), dist.Bernoulli(f(0.4)))
        second, other = choose(("coins", "second"), dist.Bernoulli(CHANCE[first.long()]))
        return (first, second), weight + other

    return program(run)


# ----------------------------------------------------------------------------------- changed traces


@dataclass(frozen=True)
class Trace:
    """Choices of the pair, with their score."""

    first: Tensor
    second: Tensor
    score: Tensor


def assessed(first: Tensor, second: Tensor) -> Tensor:
    law = dist.Bernoulli(CHANCE[first.long()])
    return dist.Bernoulli(f(0.4)).log_prob(first) + law.log_prob(second)


def updated(trace: Trace, first: Tensor) -> Trace:
    """The trace with another first choice."""
    return Trace(first, trace.second, assessed(first, trace.second))


def updated_in_part(trace: Trace, first: Tensor) -> Trace:
    """The score loses what the old choice had by itself, not what it meant for the second."""
    lost = dist.Bernoulli(f(0.4)).log_prob(trace.first)
    return Trace(first, trace.second, trace.score - lost + assessed(first, trace.second))


def there_and_back(update: Callable[[Trace, Tensor], Trace]) -> Any:
    """An even proposal, changed and changed back, with the weight of its score."""

    def run() -> tuple[tuple[Tensor, Tensor], Tensor]:
        first, second = draw(dist.Bernoulli(f([0.5, 0.5])))
        begun = Trace(first, second, assessed(first, second))
        back = update(update(begun, 1 - first), first)
        return (back.first, back.second), back.score + log(4.0)

    return program(run)


# ------------------------------------------------------------------------------------- hard factors

PLACES, MASSES = f([-1.0, 0.0, 1.0, 2.0]), f([0.4, 0.3, 0.2, 0.1])


def allowed(x: Tensor) -> Tensor:
    """The log of 1 where x is not negative, of 0 elsewhere."""
    return torch.where(x >= 0, 0.0, -torch.inf)


@program
def constrained() -> Tensor:
    x = PLACES[sample("x", dist.Categorical(MASSES))]
    factor("allowed", allowed(x))
    observe("y", dist.Bernoulli(torch.sigmoid(x)), f(1.0))
    return x


def weighted_by(prior_side: Callable[[Tensor], Tensor]) -> Any:
    """Two particles from the prior, whose weights have its factors in them."""

    def run() -> Population:
        x = PLACES[draw(dist.Categorical(MASSES), (2,))]
        likelihood = dist.Bernoulli(torch.sigmoid(x)).log_prob(f(1.0))
        return Population(x, prior_side(x) + likelihood - log(2))

    return program(run)


# ------------------------------------------------------------------------ guides built from a graph

# Two normal latents with precisions 1 and 2 have the sum 1.5, seen with precision 4.
PRIOR, SEEN, SUM = f([1.0, 2.0]), 4.0, 1.5


def quadratic(at: Tensor) -> Tensor:
    """Half the posterior variance along a direction."""
    precision = torch.diag(PRIOR) + SEEN
    return at @ precision.inverse() @ at / 2


def guide_on(edges: list[tuple[int, int]]) -> Any:
    """x (x, v) for x, of mean zero, by a guide whose precision has entries on edges only."""
    mask = torch.eye(2)
    for i, j in edges:
        mask[i, j] = mask[j, i] = 1.0
    precision = (torch.diag(PRIOR) + SEEN) * mask
    root = torch.linalg.cholesky(precision.inverse())

    def estimator(at: Tensor) -> Tensor:
        x = root @ draw(dist.Normal(torch.zeros(2), 1.0).to_event(1))
        return x * (x @ at)

    return estimator


def parents(moral: bool) -> list[tuple[int, int]]:
    """Edges between latents: where ``moral``, those between the parents of an observation too."""
    graph = {"sum": ("x0", "x1")}
    place = {"x0": 0, "x1": 1}
    married = [(place[a], place[b]) for a, b in graph.values()]
    return married if moral else []


EXHIBITS = [
    Exhibit(
        67,
        "constraints in one kind of choice map are ignored, and the site is drawn anew",
        "probcomp/Gen.jl, issue 442",
        check.valid,
        generated(looked_up),
        generated(flat_only),
        against=(pair_with_heads,),
    ),
    Exhibit(
        68,
        "a trace that is changed and changed back has another score",
        "genjax-community/genjax, issue 477",
        check.valid,
        there_and_back(updated),
        there_and_back(updated_in_part),
        against=(pair,),
    ),
    Exhibit(
        69,
        "a hard constraint, as a factor of the prior, does not enter the weights of particles",
        "TuringLang/Turing.jl, PR 2859",
        check.valid,
        weighted_by(allowed),
        weighted_by(torch.zeros_like),
        against=(constrained,),
    ),
    Exhibit(
        70,
        "a Gaussian guide follows a graph without its observed nodes, so that latents with an "
        "observation in common are taken for independent",
        "pyro-ppl/pyro, PR 2948",
        check.unbiased,
        guide_on(parents(moral=True)),
        guide_on(parents(moral=False)),
        against=(quadratic, f([0.3, 0.8])),
        options={"quadrature": 8},
    ),
]
