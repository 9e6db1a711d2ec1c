"""Metrics and tuning: what a chain learns, and that it is its own."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pushforward import dist, draw, program
from pushforward.semantics import check

from .exhibit import Exhibit, f
from .metropolis import accept

COVARIANCE = f([[2.0, -0.6], [-0.6, 0.5]])


def quadratic(at: Tensor) -> Tensor:
    """Half the variance along a direction."""
    return at @ COVARIANCE @ at / 2


def linear(root: Tensor) -> Any:
    """x (x, v) for x drawn as noise through a matrix: its mean is the covariance times v."""

    def estimator(at: Tensor) -> Tensor:
        x = root @ draw(dist.Normal(torch.zeros(2), 1.0).to_event(1))
        return x * (x @ at)

    return estimator


# ------------------------------------------------------------------------------------------ metrics


def momentum_root(transposed: bool) -> Tensor:
    """U^-1, or its transpose, where the inverse of the covariance is U^T U."""
    inverse = torch.linalg.inv(torch.linalg.cholesky(COVARIANCE.inverse()).T)
    return inverse.T if transposed else inverse


def geometric_mean(a: Tensor, b: Tensor) -> Tensor:
    """A # B = A^1/2 (A^-1/2 B A^-1/2)^1/2 A^1/2."""
    root = power(a, 0.5)
    inner = power(a, -0.5) @ b @ power(a, -0.5)
    return root @ power(inner, 0.5) @ root


def power(matrix: Tensor, exponent: float) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return vectors @ torch.diag(values**exponent) @ vectors.T


def metric_root(invert: bool) -> Tensor:
    """A root of the metric learnt from four points with the moments of the target.

    It is the geometric mean of the covariance of draws and of that of scores, which is inverted.
    """
    half = 2**0.5 * torch.linalg.cholesky(COVARIANCE).T
    draws = torch.cat([half, -half])
    scores = -draws @ COVARIANCE.inverse()
    of_draws, of_scores = (x.T @ x / len(x) for x in (draws, scores))
    other = of_scores.inverse() if invert else of_scores
    return torch.linalg.cholesky(geometric_mean(of_draws, other))


# ------------------------------------------------------------------------------------------- tuning

PLACES = f([0.1, 0.2, 0.4, 0.2, 0.1])


class Tuning:
    """How far a chain jumps: it doubles, in place, when a jump is taken, and is halved when not."""

    def __init__(self) -> None:
        self.scale = [1]

    def learn(self, taken: bool) -> None:
        self.scale[0] = 2 if taken else 1


def jump(x: Tensor, tuning: Tuning) -> Tensor:
    """A Metropolis step on a ring of five places."""
    side = 2 * int(draw(dist.Bernoulli(f(0.5)))) - 1
    y = (x + side * tuning.scale[0]) % 5
    taken = accept(PLACES[y] / PLACES[x])
    tuning.learn(taken)
    return y if taken else x


STARTS = torch.tensor([0, 2])


@program
def alone() -> tuple[Tensor, ...]:
    """Two steps from each start, by chains that know nothing of each other."""
    ends = []
    for x in STARTS:
        tuning = Tuning()
        for _ in range(2):
            x = jump(x, tuning)
        ends.append(x)
    return tuple(ends)


def side_by_side(copied: Callable[[Tuning], Tuning]) -> Any:
    """All chains step together, each with a copy of one tuning."""

    def run() -> tuple[tuple[Tensor, ...], Tensor]:
        tuning = Tuning()
        states, tunings = list(STARTS), [copied(tuning) for _ in STARTS]
        for _ in range(2):
            states = [jump(x, own) for x, own in zip(states, tunings, strict=True)]
        return tuple(states), torch.zeros(())

    return program(run)


def one_by_one(next_tuning: Callable[[Tuning], Tuning]) -> Any:
    """One chain after the other; ``next_tuning`` gives the next one's from the last one's."""

    def run() -> tuple[tuple[Tensor, ...], Tensor]:
        tuning, ends = Tuning(), []
        for x in STARTS:
            for _ in range(2):
                x = jump(x, tuning)
            ends.append(x)
            tuning = next_tuning(tuning)
        return tuple(ends), torch.zeros(())

    return program(run)


EXHIBITS = [
    Exhibit(
        16,
        "momenta are drawn by the transpose of the triangular factor of a dense metric",
        "blackjax-devs/blackjax, issue 531",
        check.unbiased,
        linear(momentum_root(transposed=False)),
        linear(momentum_root(transposed=True)),
        against=(quadratic, f([0.3, 0.8])),
        options={"quadrature": 8},
    ),
    Exhibit(
        17,
        "a metric averages the covariances of draws and of scores, without inverting the latter",
        "blackjax-devs/blackjax, PR 949",
        check.unbiased,
        linear(metric_root(invert=True)),
        linear(metric_root(invert=False)),
        against=(quadratic, f([0.3, 0.8])),
        options={"quadrature": 8},
    ),
    Exhibit(
        18,
        "a scale that is tuned in place is shared by the shallow copies of parallel chains",
        "pymc-devs/pymc, issue 3731",
        check.valid,
        side_by_side(copy.deepcopy),
        side_by_side(copy.copy),
        against=(alone,),
    ),
    Exhibit(
        19,
        "the next chain begins with the scale that the last one had tuned",
        "pymc-devs/pymc, issue 3733",
        check.valid,
        one_by_one(lambda last: Tuning()),
        one_by_one(lambda last: last),
        against=(alone,),
    ),
]
