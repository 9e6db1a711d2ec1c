"""Particle filters in objectives, and the law of the path that one of them chooses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor

from ...ppl.distributions.strategies import is_followed, reinforce
from ...ppl.errors import ObjectiveError, located
from ...ppl.language.handlers import split_name
from ...ppl.language.program import Callback, program_name
from .gradients.estimators import choose
from .gradients.replay import current
from .language.marginals import log_mean_exp
from .language.traces import Sampled, log_density, retrace, sample_trace

Choices = dict[str, Tensor]
Strategy = Callable[[Any], Any]


class Filter(NamedTuple):
    """What a filter gives: ``log_evidence`` [] is that of the estimate, which is unbiased.

    Of each particle at the end: its choices by step, their log density with the observations [n],
    and its log weight [n].
    """

    log_evidence: Tensor
    paths: list[list[Choices]]
    log_densities: Tensor
    log_weights: Tensor


def filtered_by(
    step: Callback,
    proposal: Callback,
    particles: int,
    observations: Sequence[Any],
    args: tuple[Any, ...],
    ancestors: Strategy,
    retained: list[Choices] | None = None,
) -> Filter:
    """Run a filter that resamples between all steps; the first particle keeps a retained path.

    Errors:
        ObjectiveError: there are no particles, or no observations.
    """
    if particles < 1:
        raise ObjectiveError(located(f"a filter needs at least one particle, not {particles}"))
    if len(observations) < 1:
        raise ObjectiveError(located("a filter needs at least one observation"))
    states: list[Any] = [None] * particles
    paths: list[list[Choices]] = [[] for _ in range(particles)]
    total = torch.zeros(())
    log_densities = log_weights = torch.zeros(particles)
    for t, y in enumerate(observations):
        if t > 0:
            law = dist.Categorical(logits=log_weights, validate_args=False)
            law = ancestors(law) if is_followed(log_weights) else law
            index = torch.stack(
                [
                    torch.zeros((), dtype=torch.long, device=log_weights.device)
                    if retained is not None and k == 0
                    else choose(current(), f"ancestor[{t}][{k}]", law).long()
                    for k in range(particles)
                ]
            )
            paths = [_followed(paths, i) for i in index]
            states = list(torch.stack(states).index_select(0, index))
            log_densities = log_densities.index_select(0, index)
        traces = [
            retrace(proposal, retained[t], (t, state, y, *args))
            if retained is not None and k == 0
            else sample_trace(proposal, t, state, y, *args)
            for k, state in enumerate(states)
        ]
        log_p = torch.stack(
            [
                log_density(step, trace.choices, t, state, y, *args)
                for trace, state in zip(traces, states, strict=True)
            ]
        )
        log_weights = log_p - torch.stack([trace.log_density for trace in traces])
        total = total + log_mean_exp(log_weights)
        log_densities = log_p if t == 0 else log_densities + log_p
        states = [torch.as_tensor(trace.value) for trace in traces]
        paths = [[*path, trace.choices] for path, trace in zip(paths, traces, strict=True)]
    return Filter(total, paths, log_densities, log_weights)


def _followed(paths: list[list[Choices]], index: Tensor) -> list[Choices]:
    """The path of a particle whose number may be known to a machine only."""
    at = index.reshape(1)
    return [
        {
            name: torch.stack([each[name] for each in steps]).index_select(0, at).squeeze(0)
            for name in steps[0]
        }
        for steps in zip(*paths, strict=True)
    ]


class Filtered:
    """The law of a path of a particle filter; see ``filtered``."""

    def __init__(
        self,
        step: Callback,
        proposal: Callback,
        particles: int,
        observations: Sequence[Any],
        strategy: Strategy,
    ) -> None:
        self.step, self.proposal, self.particles = step, proposal, particles
        self.observations, self.strategy = observations, strategy

    def sampled(self, *args: Any) -> Sampled:
        found = self._run(args, None)
        law = dist.Categorical(logits=found.log_weights, validate_args=False)
        law = self.strategy(law) if is_followed(found.log_weights) else law
        index = choose(current(), "path", law).long()
        path = _followed(found.paths, index)
        log_p = found.log_densities.index_select(0, index.reshape(1)).squeeze(0)
        choices = {f"{name}[{t}]": x for t, at in enumerate(path) for name, x in at.items()}
        return Sampled(choices, {}, {}, log_p - found.log_evidence, None)

    def scored(self, choices: Choices, *args: Any) -> Tensor:
        path: list[Choices] = [{} for _ in self.observations]
        for name, x in choices.items():
            base, index = split_name(name)
            if len(index) != 1 or index[0] >= len(path):
                what = f"{self!r} has no choice '{name}'"
                raise ObjectiveError(located(what, hint="its choices are called name[step]"))
            path[index[0]][base] = x
        found = self._run(args, path)
        return found.log_densities[0] - found.log_evidence

    def _run(self, args: tuple[Any, ...], retained: list[Choices] | None) -> Filter:
        about = self.step, self.proposal, self.particles, self.observations
        return filtered_by(*about, args, self.strategy, retained)

    def __repr__(self) -> str:
        return f"<{self.particles} particles of {program_name(self.step)}>"


def filtered(
    step: Callback,
    proposal: Callback,
    particles: int,
    observations: Sequence[Any],
    strategy: Strategy = reinforce,
) -> Filtered:
    """The law of a path that a particle filter chooses by its weight, for guides and objectives.

    Its choices are called ``name[t]``, as those of a ``scan`` of the steps.  Its density is
    estimated by a filter that keeps the path (conditional SMC).  As ``particles`` grows it becomes
    the posterior.

    Args:
        step: a program ``step(t, state, y, *args)`` of one step of the model, ``state`` None at
            first, with its observation of y.
        proposal: a program of the same arguments that samples the latents of the step, and returns
            the state, a tensor.
        strategy: of ancestors and of the path: a function of a categorical law.

    Source: Andrieu, Doucet, Holenstein (2010); Cusumano-Towner, Mansinghka (arXiv 1606.00787).
    """
    return Filtered(step, proposal, particles, observations, strategy)
