"""Resampling schemes, as distributions over vectors of ancestors.

Each satisfies the one equation that validity needs: index i is drawn n w_i times in expectation.
Their laws are finite, so the exact evaluator enumerates them.  The order of the ancestors means
nothing; where it is free they come sorted, which is faster to gather, and merges equal outcomes.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from pyro import distributions as dist
from torch import Tensor

from ...ppl import draw
from ...ppl.distributions.ancestors import MultinomialAncestors, Strata, Systematic
from ...ppl.errors import ProgramError, located
from ...ppl.language.program import program_name
from ...ppl.tensors.hidden import is_hidden
from ...ppl.tensors.logs import logsumexp
from .population import Population, uniform_log_weights

Scheme = Callable[[Tensor], Tensor]


def multinomial(log_weights: Tensor) -> Tensor:
    """n independent ancestors, each i with probability w_i, in increasing order."""
    return draw(MultinomialAncestors(log_weights), label="ancestors")


def systematic(log_weights: Tensor) -> Tensor:
    """The ancestors at the n points (u + j) / n of the cumulated weights, for one uniform u."""
    return draw(Systematic(log_weights), label="ancestors")


def stratified(log_weights: Tensor) -> Tensor:
    """The ancestors at the points (u_j + j) / n of the cumulated weights, u_j independent."""
    n = len(log_weights)
    return draw(Strata(log_weights), label="ancestors").reshape(n)


def residual(log_weights: Tensor) -> Tensor:
    """Floor(n w_i) copies of each particle, and the rest drawn by the fractions that are left.

    The number of what is left is random to torch, so particles are resampled by it one population
    at a time.
    """
    n, weights = len(log_weights), torch.softmax(log_weights, 0)
    expected = n * weights + 1e-9  # a whole number may lie a rounding below itself
    copies = expected.floor().long()
    left = n - int(copies.sum())
    kept = torch.repeat_interleave(torch.arange(n, device=log_weights.device), copies)
    if not left:
        return kept
    fractions = (n * weights - copies).clamp(min=0.0)
    drawn = draw(dist.Categorical(fractions), (left,), label="ancestors")
    return torch.cat([kept, drawn]).sort().values


def resample(
    population: Population, scheme: Scheme = systematic, ahead: Tensor | None = None
) -> tuple[Population, Tensor]:
    """Draw n ancestors; the particles get equal weights with the same total.

    Invariant: the expected measure of the result is that of the population.  A population of total
    weight zero is returned as it is (in lanes, with other values of weight zero).

    Args:
        ahead: log factors [n], finite, by which particles are preferred; their weights are divided
            by them afterwards (Pitt and Shephard 1999, auxiliary particle filters).

    Errors:
        ProgramError: a weight is NaN or infinite, a factor is not finite, or the scheme does not
            give each particle an ancestor.
    """
    n = len(population.log_weights)
    log_weights = population.log_weights
    if ahead is not None:
        finite = torch.isfinite(ahead)
        if is_hidden(ahead):  # then no weight is a number, which is seen at the end
            ahead = torch.where(finite, ahead, torch.nan)
        elif not bool(finite.all()):
            what = "a factor to look ahead by is zero, infinite or NaN"
            raise ProgramError(located(what, hint="what might matter must keep a positive factor"))
        log_weights = log_weights + ahead
    total = logsumexp(log_weights, 0)
    log_weights = (log_weights - total).detach()
    if is_hidden(total):  # a dead or wrong population draws too, and stays dead or wrong
        log_weights = torch.where(torch.isfinite(total), log_weights, 0.0)
    elif (known := float(total.detach())) == -math.inf:
        return population, torch.arange(n, device=total.device)
    elif not math.isfinite(known):
        population.require_weights()
    ancestors = scheme(log_weights)
    if ancestors.shape != (n,):
        what = f"{program_name(scheme)} gives {list(ancestors.shape)} ancestors to {n} particles"
        raise ProgramError(located(what, hint="a scheme returns one ancestor for each particle"))
    try:
        values = population.values_at(ancestors)
    except IndexError as error:
        what = f"{program_name(scheme)} gives ancestors that are no particles"
        raise ProgramError(located(what, hint=f"they are numbers from 0 to {n - 1}")) from error
    equal = uniform_log_weights(n, total)
    return Population(values, equal if ahead is None else equal - ahead[ancestors]), ancestors
