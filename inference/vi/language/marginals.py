"""Programs whose densities are estimated: marginals, and normalised laws.

``sampled`` gives choices x and an estimate w with E[1 / w | x] = 1 / p(x); ``scored`` gives one
with E[w] = p(x).  An objective that takes the logarithm of such an estimate is another one than
with the density itself, and a looser bound; its own gradient is still estimated without bias.

Source: Lew, Ghavamizadeh, Rinard, Mansinghka, Probabilistic Programming with Stochastic
Probabilities (PLDI 2023).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from ....ppl.distributions.strategies import is_followed, reinforce
from ....ppl.errors import ObjectiveError, ZeroMassError, located
from ....ppl.language.program import Callback, program_name
from ....ppl.tensors.hidden import is_known
from ....ppl.tensors.logs import logsumexp
from ..gradients.estimators import choose
from ..gradients.replay import current
from .traces import Sampled, log_density, sample_trace, score


def log_mean_exp(terms: Tensor | Sequence[Tensor]) -> Tensor:
    """log of the mean of exponentials, of numbers [n] or of a list of numbers [].

    Errors:
        ObjectiveError: there are none.
    """
    if len(terms) == 0:
        raise ObjectiveError(located("an objective needs at least one particle"))
    stacked = terms if isinstance(terms, Tensor) else torch.stack(list(terms))
    return logsumexp(stacked, 0) - math.log(len(terms))


class Marginal:
    """The law of some choices of a program; see ``marginal``."""

    def __init__(
        self, p: Callback, keep: Sequence[str], proposal: Callback, particles: int
    ) -> None:
        self.p, self.keep, self.proposal, self.particles = p, frozenset(keep), proposal, particles

    def sampled(self, *args: Any) -> Sampled:
        """Run p; one of the particles is what it chose, the others are proposed."""
        trace = sample_trace(self.p, *args)
        if missing := sorted(self.keep - trace.choices.keys()):
            what = f"marginal keeps {missing}, which {program_name(self.p)} did not sample"
            raise ObjectiveError(located(what))
        kept = {n: x for n, x in trace.choices.items() if n in self.keep}
        rest = {n: x for n, x in trace.choices.items() if n not in self.keep}
        own = trace.log_density - log_density(self.proposal, rest, kept, *args)
        others = [self._weight(kept, args) for _ in range(self.particles - 1)]
        return replace(trace, choices=kept, log_density=log_mean_exp([own, *others]))

    def scored(self, choices: dict[str, Tensor], *args: Any) -> Tensor:
        return log_mean_exp([self._weight(choices, args) for _ in range(self.particles)])

    def _weight(self, kept: dict[str, Tensor], args: tuple[Any, ...]) -> Tensor:
        """log p(u, x) / r(u | x) for a proposed u."""
        rest = sample_trace(self.proposal, kept, *args)
        return score(self.p, {**kept, **rest.choices}, args, "both") - rest.log_density

    def __repr__(self) -> str:
        return f"<marginal of {program_name(self.p)} on {', '.join(sorted(self.keep))}>"


def marginal(
    p: Callback, keep: str | Sequence[str], proposal: Callback, particles: int = 1
) -> Marginal:
    """The law of the choices ``keep`` of p, its density estimated by importance sampling.

    Args:
        proposal: a program ``proposal(kept, *args)`` that samples all other choices of p, given a
            dict of those that are kept.
        particles: over how many proposals the density is averaged; 1 gives hierarchical variational
            inference (Ranganath, Tran, Blei, arXiv 1511.02386), more its importance weighted form
            (Sobolev, Vetrov, arXiv 1905.03290).
    """
    if particles < 1:
        raise ObjectiveError(located(f"marginal needs at least one particle, not {particles}"))
    return Marginal(p, [keep] if isinstance(keep, str) else keep, proposal, particles)


class Normalized:
    """The law of sampling importance resampling; see ``normalize``."""

    def __init__(
        self, p: Callback, proposal: Callback, particles: int, strategy: Callable[[Any], Any]
    ) -> None:
        self.p, self.proposal, self.particles, self.strategy = p, proposal, particles, strategy

    def sampled(self, *args: Any) -> Sampled:
        pairs = [self._proposed(args) for _ in range(self.particles)]
        log_weights = torch.stack([log_p - trace.log_density for trace, log_p in pairs])
        if is_known(log_weights) and bool(torch.isneginf(log_weights).all()):
            raise ZeroMassError(
                located(f"every proposal of {program_name(self.p)} has weight zero")
            )
        law = dist.Categorical(logits=log_weights, validate_args=False)
        law = self.strategy(law) if is_followed(log_weights) else law
        index = choose(current(), "normalize", law)
        choices = {
            name: _picked([trace.choices[name] for trace, _ in pairs], index)
            for name in pairs[0][0].choices
        }
        total = log_mean_exp(log_weights)
        log_p = _picked([each for _, each in pairs], index)
        return replace(pairs[0][0], choices=choices, log_density=log_p - total, value=None)

    def scored(self, choices: dict[str, Tensor], *args: Any) -> Tensor:
        log_p = log_density(self.p, choices, *args)
        own = log_p - log_density(self.proposal, choices, *args)
        others = [self._proposed(args) for _ in range(self.particles - 1)]
        weights = [own, *(each - trace.log_density for trace, each in others)]
        return log_p - log_mean_exp(weights)

    def _proposed(self, args: tuple[Any, ...]) -> tuple[Sampled, Tensor]:
        trace = sample_trace(self.proposal, *args)
        return trace, score(self.p, trace.choices, args, "both")

    def __repr__(self) -> str:
        return f"<{program_name(self.p)} normalised by {self.particles} proposals>"


def _picked(values: list[Tensor], index: Tensor) -> Tensor:
    return torch.stack(values).index_select(0, index.reshape(1).long()).squeeze(0)


def normalize(
    p: Callback,
    proposal: Callback,
    particles: int,
    strategy: Callable[[Any], Any] = reinforce,
) -> Normalized:
    """The law of one of several proposals, chosen by its weight, with the density of that.

    As ``particles`` grows it becomes the law proportional to p.

    Args:
        proposal: a program of the arguments of p that samples all of its latents.
        strategy: of the choice among the proposals: a function of a categorical law.
    """
    if particles < 1:
        raise ObjectiveError(located(f"normalize needs at least one particle, not {particles}"))
    return Normalized(p, proposal, particles, strategy)
