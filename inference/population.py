"""Weighted particles: the result of importance sampling and of particle filters."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from ..ppl.errors import ProgramError, located
from ..ppl.validate import is_lane


class Population(NamedTuple):
    """Particles with log weights.

    Meaning: the measure sum_i w_i delta_{x_i}; an algorithm that returns a population is valid for
    a model if the expectation of this measure is the model's.

    ``values``: a tree of tensors with the particle axis first; ``log_weights``: [particles].
    """

    values: Any
    log_weights: Tensor

    def meaning(self) -> Iterator[tuple[Any, float]]:
        """The atoms (value, log weight) of the measure."""
        for i, log_weight in enumerate(self.log_weights.tolist()):
            yield tree_map(lambda x: x[i], self.values), log_weight  # noqa: B023

    def require_weights(self) -> Population:
        """This population; a ``ProgramError`` if a log weight is NaN or infinite."""
        bad = torch.isnan(self.log_weights) | (self.log_weights == math.inf)
        if not is_lane(bad) and bool(bad.any()):
            raise ProgramError(
                located(
                    f"{int(bad.sum())} of {len(bad)} particles have log weight NaN or infinity",
                    hint="a site has parameters out of range there, or a density without bound",
                )
            )
        return self

    def log_evidence(self) -> Tensor:
        """The log of the total weight; its exponential is an unbiased estimate of the mass."""
        return torch.logsumexp(self.log_weights, 0)

    def probabilities(self) -> Tensor:
        """The weights, normalised."""
        return torch.softmax(self.log_weights, 0)

    def effective_size(self) -> Tensor:
        """1 / sum of squared normalised weights (Kish)."""
        return 1.0 / self.probabilities().square().sum()

    def mean(self) -> Any:
        """The self-normalised mean of every tensor of the values: consistent, but biased."""
        p = self.probabilities()
        return tree_map(lambda x: torch.einsum("n...,n->...", x.to(p.dtype), p), self.values)

    def log_evidence_error(self) -> Tensor:
        """A delta-method standard error of ``log_evidence`` for independent particles."""
        n = len(self.log_weights)
        return torch.sqrt(torch.clamp(1.0 / self.effective_size() - 1.0 / n, min=0.0))


def uniform_log_weights(n: int, total: Tensor | float = 0.0) -> Tensor:
    """n equal log weights that sum to exp(total)."""
    return torch.as_tensor(total - math.log(n)).expand(n)
