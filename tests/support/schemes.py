"""Resampling schemes in the manner of ``particles``, right and wrong, of which none is compiled.

``Compiled`` stands for what numba makes: called as it is, it has numbers of its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy import random


class Compiled:
    """A function that is not to be run but as the Python that it was made from."""

    def __init__(self, function: Any) -> None:
        self.py_func = function

    def __call__(self, *args: Any) -> Any:
        raise AssertionError("compiled code draws from a generator of its own")


def in_closure(function: Any) -> Any:
    """As a decorator holds what it decorates."""

    def scheme(weights: Any, taken: int) -> Any:
        return function(weights, taken)

    scheme.__name__ = function.py_func.__name__
    return scheme


@Compiled
def inverse_cdf(points: Any, weights: Any) -> Any:
    j, total = 0, weights[0]
    found = np.empty(len(points), dtype=np.int64)
    for n in range(len(points)):
        while points[n] > total:
            j += 1
            total += weights[j]
        found[n] = j
    return found


def uniform_spacings(count: int) -> Any:
    raise AssertionError("this is never integrated, and has another in its place")


def multinomial(weights: Any, taken: int) -> Any:
    return inverse_cdf(uniform_spacings(taken), weights)


def systematic(weights: Any, taken: int) -> Any:
    return inverse_cdf((random.rand(1) + np.arange(taken)) / taken, weights)


def stratified(weights: Any, taken: int) -> Any:
    return inverse_cdf((random.rand(taken) + np.arange(taken)) / taken, weights)


def searched(weights: Any, taken: int) -> Any:
    return np.searchsorted(np.cumsum(weights), random.rand(taken))


@in_closure
@Compiled
def residual(weights: Any, taken: int) -> Any:
    whole = np.floor(taken * weights).astype(int)
    left = taken - whole.sum()
    found = np.arange(len(weights)).repeat(whole)
    rest = taken * weights - whole
    return np.append(found, multinomial(rest / max(left, 1), left)).astype(int)


def killing(weights: Any, taken: int) -> Any:
    killed = random.rand(taken) * weights.max() >= weights
    found = np.arange(taken)
    found[killed] = multinomial(weights, killed.sum())
    return found


# ------------------------------------------------------------------------- each with a fault


def multinomial_of_squares(weights: Any, taken: int) -> Any:
    return multinomial(weights**2 / (weights**2).sum(), taken)


def systematic_from_the_middle(weights: Any, taken: int) -> Any:
    return inverse_cdf((random.rand(1) / 2 + np.arange(taken)) / taken, weights)


def stratified_over_one_more(weights: Any, taken: int) -> Any:
    return inverse_cdf((random.rand(taken) + np.arange(taken)) / (taken + 1), weights)


def searched_without_the_last(weights: Any, taken: int) -> Any:
    return np.searchsorted(np.cumsum(weights)[:-1], 0.9 * random.rand(taken))


@in_closure
@Compiled
def residual_by_weights(weights: Any, taken: int) -> Any:
    """The rest is drawn by the weights, not by what is left of them."""
    whole = np.floor(taken * weights).astype(int)
    found = np.arange(len(weights)).repeat(whole)
    return np.append(found, multinomial(weights, taken - whole.sum())).astype(int)


def killing_by_weights(weights: Any, taken: int) -> Any:
    """Survival is by the weight, not by its share of the largest; the dead are evenly replaced."""
    killed = random.rand(taken) >= weights
    found = np.arange(taken)
    found[killed] = multinomial(np.full(taken, 1 / taken), killed.sum())
    return found
