"""Weighted particles: the result of importance sampling and of particle filters."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from pyro import distributions as dist
from torch import Tensor
from torch.utils._pytree import tree_map

from ...ppl import draw, factor
from ...ppl.errors import ProgramError, located
from ...ppl.tensors.hidden import is_hidden
from ...ppl.tensors.logs import logsumexp


class Apart(NamedTuple):
    """The values of particles one by one, where their structures may differ."""

    each: tuple[Any, ...]


class Population(NamedTuple):
    """Particles with log weights.

    Meaning: the measure sum_i w_i delta_{x_i}; an algorithm that returns a population is valid for
    a model if the expectation of this measure is the model's.

    ``values``: a tree of tensors with the particle axis first, or ``Apart``; ``log_weights``:
    [particles].
    """

    values: Any
    log_weights: Tensor

    def meaning(self) -> Iterator[tuple[Any, float]]:
        """The atoms (value, log weight) of the measure."""
        for i, log_weight in enumerate(self.log_weights.tolist()):
            yield self.value(i), log_weight

    def value(self, i: int) -> Any:
        """The value of particle i."""
        if isinstance(self.values, Apart):
            return self.values.each[i]
        return tree_map(lambda x: None if x is None else x[i], self.values)

    def values_at(self, ancestors: Tensor) -> Any:
        """The values of the particles [n] with these numbers."""
        if isinstance(self.values, Apart):
            return Apart(tuple(self.values.each[i] for i in ancestors.tolist()))
        return tree_map(lambda x: None if x is None else x.index_select(0, ancestors), self.values)

    def require_weights(self) -> Population:
        """This population; a ``ProgramError`` if a log weight is NaN or infinite."""
        bad = torch.isnan(self.log_weights) | (self.log_weights == math.inf)
        if not is_hidden(bad) and bool(bad.any()):
            raise ProgramError(
                located(
                    f"{int(bad.sum())} of {len(bad)} particles have log weight NaN or infinity",
                    hint="a site has parameters out of range there, or a density without bound",
                )
            )
        return self

    def log_evidence(self) -> Tensor:
        """The log of the total weight; its exponential is an unbiased estimate of the mass."""
        return logsumexp(self.log_weights, 0)

    def probabilities(self) -> Tensor:
        """The weights, normalised."""
        return torch.softmax(self.log_weights, 0)

    def effective_size(self) -> Tensor:
        """1 / sum of squared normalised weights (Kish)."""
        return 1.0 / self.probabilities().square().sum()

    def is_uneven(self, fraction: float) -> Tensor:
        """Whether the effective sample size is at most this fraction of the particles."""
        if fraction >= 1.0:
            return torch.tensor(True, device=self.log_weights.device)
        return self.effective_size().detach() <= fraction * len(self.log_weights)

    def mean(self) -> Any:
        """The self-normalised mean of every tensor of the values: consistent, but biased."""
        p, values = self.probabilities(), together(self.values)
        return tree_map(lambda x: torch.einsum("n...,n->...", x.to(p.dtype), p), values)

    def log_evidence_error(self) -> Tensor:
        """A delta-method standard error of ``log_evidence`` for independent particles."""
        n = len(self.log_weights)
        return torch.sqrt(torch.clamp(1.0 / self.effective_size() - 1.0 / n, min=0.0))


def together(values: Any) -> Any:
    """Values that are apart as one tree of tensors, particles first.

    Errors:
        ProgramError: their structures or shapes differ.
    """
    if not isinstance(values, Apart):
        return values
    try:
        return tree_map(lambda *xs: torch.stack([torch.as_tensor(x) for x in xs]), *values.each)
    except (ValueError, RuntimeError, TypeError) as error:
        raise ProgramError(
            located(
                "the particles have results of different structures or shapes",
                hint="return one structure from all paths, or look at population.value(i)",
            )
        ) from error


def spawn(n: int) -> Population:
    """n particles without a value, each of weight 1/n.

    Invariant: their measure is one unit, so that ``spawn`` may stand before any program.
    """
    return Population(Apart(((),) * n), uniform_log_weights(n))


def collapse(population: Population) -> tuple[Any, Tensor]:
    """One particle, drawn in proportion to the weights, with their total as its log weight.

    Invariant: the expected measure is that of the population.
    """
    total = population.log_evidence()
    alive = torch.where(total == -math.inf, 0.0, population.log_weights - total)
    index = draw(dist.Categorical(logits=alive), label="particle")
    if isinstance(population.values, Apart):
        return population.value(int(index)), total
    picked = population.values_at(index.reshape(1))
    return tree_map(lambda x: None if x is None else x.squeeze(0), picked), total


def push_evidence(population: Population, name: str = "evidence") -> Population:
    """The population with weights that sum to one; their total is scored in the program around.

    Invariant: total score times measure is what it was.
    """
    total = population.log_evidence()
    factor(name, total)
    log_weights = torch.where(total == -math.inf, -math.inf, population.log_weights - total)
    return Population(population.values, log_weights)


def uniform_log_weights(n: int, total: Tensor | None = None) -> Tensor:
    """n equal log weights that sum to exp(total), or to one, in float64."""
    if total is None:
        total = torch.zeros((), dtype=torch.float64)
    return (total - math.log(n)).expand(n)
