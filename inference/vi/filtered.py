"""Particle filters in objectives, and the law of the path that one of them chooses.

The particles of a step are lanes of one program.  Where a choice of theirs forks, has a baseline,
or is looked at in Python, they are run one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from ...ppl.distributions.strategies import Reinforce, is_followed, reinforce, strategy_of
from ...ppl.errors import BranchError, ObjectiveError, located
from ...ppl.language.batching import run_batched
from ...ppl.language.handlers import split_name
from ...ppl.language.program import Callback, program_name
from ...ppl.tensors.capture import is_tracing
from .gradients.estimators import choose
from .gradients.replay import Fork, Run, Score, current
from .language.marginals import log_mean_exp
from .language.traces import Sampled, log_density, retrace, sample_trace

Choices = dict[str, Tensor]
Strategy = Callable[[Any], Any]


class Particles(NamedTuple):
    """One particle after a step, or the same of several, each with an axis in front."""

    choices: Choices
    log_p: Tensor
    log_q: Tensor
    state: Tensor


class Filter(NamedTuple):
    """What a filter of n particles gives.

    log_evidence: [], that of the estimate, which is unbiased.
    choices: at each step, those of all particles, [n, *shape].
    ancestors: before each step but the first, the numbers [n] of the particles that go on.
    log_densities, log_weights: [n], at the end: of the paths with the observations, and of the last
        step.
    """

    log_evidence: Tensor
    choices: list[Choices]
    ancestors: list[Tensor]
    log_densities: Tensor
    log_weights: Tensor

    def path(self, index: Tensor) -> list[Choices]:
        """The choices by step of a particle at the end, whose number [] may not be known yet."""
        at, found = index.reshape(1), list[Choices]()
        for t in reversed(range(len(self.choices))):
            step = {n: x.index_select(0, at).squeeze(0) for n, x in self.choices[t].items()}
            found.append(step)
            at = self.ancestors[t - 1].index_select(0, at) if t else at
        return found[::-1]


class Step(NamedTuple):
    """One step: the model's program and the proposal's, with their arguments but for the state."""

    model: Callback
    proposal: Callback
    t: int
    y: Any
    args: tuple[Any, ...]

    def moved(self, state: Any) -> Particles:
        """A particle that is proposed."""
        return self._scored(sample_trace(self.proposal, self.t, state, self.y, *self.args), state)

    def kept(self, state: Any, choices: Choices) -> Particles:
        """A particle whose choices are given."""
        about = self.t, state, self.y, *self.args
        return self._scored(retrace(self.proposal, choices, about), state)

    def _scored(self, trace: Any, state: Any) -> Particles:
        if trace.value is None:
            what = f"{program_name(self.proposal)} returns no state for the next step"
            raise ObjectiveError(located(what, hint="return a tensor"))
        log_p = log_density(self.model, trace.choices, self.t, state, self.y, *self.args)
        return Particles(trace.choices, log_p, trace.log_density, torch.as_tensor(trace.value))


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
        ObjectiveError: there are no particles, or no observations; or the proposal returns nothing.
    """
    if particles < 1:
        raise ObjectiveError(located(f"a filter needs at least one particle, not {particles}"))
    if len(observations) < 1:
        raise ObjectiveError(located("a filter needs at least one observation"))
    states: Tensor | None = None
    chosen, numbers = list[Choices](), list[Tensor]()
    total = torch.zeros(())
    log_densities = log_weights = torch.zeros(particles)
    fresh = particles - (retained is not None)
    lanes = fresh > 1
    run = current()
    for t, y in enumerate(observations):
        before, past = len(run.scores), total
        if states is not None:
            index = _resampled(t, log_weights, fresh, ancestors)
            states, log_densities = (x.index_select(0, index) for x in (states, log_densities))
            numbers.append(index)
        at = Step(step, proposal, t, y, args)
        parts = list[Particles]()
        if retained is not None:
            own = at.kept(None if states is None else states[0], retained[t])
            parts.append(_joined(torch.stack, [own]))
            states = None if states is None else states[1:]
        if fresh:
            moved, lanes = _moved(at, states, fresh, lanes)
            parts.append(moved)
        choices, log_p, log_q, states = _joined(torch.cat, parts)
        log_weights = log_p - log_q
        total = total + log_mean_exp(log_weights)
        _excuse(run.scores[before:], past)
        log_densities = log_p if t == 0 else log_densities + log_p
        chosen.append(choices)
    return Filter(total, chosen, numbers, log_densities, log_weights)


def _excuse(scores: list[Score], past: Tensor) -> None:
    """Let the scores of a step not weigh what was before it, which they do not move.

    A graph finds that by itself, from all that is in it; and a baseline stands for all of the cost.
    """
    for score in scores:
        if score.baseline is None and not is_tracing():
            score.offset = score.offset + past.detach()


def _resampled(t: int, log_weights: Tensor, fresh: int, ancestors: Strategy) -> Tensor:
    """The numbers [n] of the particles that go on: ``fresh`` by weight, after a retained first."""
    run, law = current(), dist.Categorical(logits=log_weights, validate_args=False)
    strategy = ancestors if is_followed(log_weights) else (lambda law: law)
    if isinstance(strategy_of(ancestors(law)), Reinforce | None):  # others fork, one by one
        index: Tensor = choose(run, f"ancestor[{t}]", strategy(law.expand((fresh,)))).long()
    else:
        each = [choose(run, f"ancestor[{t}][{k}]", strategy(law)).long() for k in range(fresh)]
        index = torch.stack(each) if each else torch.zeros(0, dtype=torch.long)
    if fresh == len(log_weights):
        return index
    return torch.cat([index.new_zeros(1), index])


def _moved(at: Step, states: Tensor | None, n: int, lanes: bool) -> tuple[Particles, bool]:
    """n particles that are proposed, and whether they were lanes."""
    run = current()
    if lanes:
        found = run.decide(f"particles[{at.t}]", lambda: _in_lanes(run, at, states, n))
        if found is not None:
            moved, scores = found
            run.scores += [replace(score) for score in scores]
            return moved, True
    each = [at.moved(None if states is None else states[k]) for k in range(n)]
    return _joined(torch.stack, each), False


def _in_lanes(
    run: Run, at: Step, states: Tensor | None, n: int
) -> tuple[Particles, list[Score]] | None:
    """n particles as lanes, whose scores are those of one choice of the run; None: they cannot be.

    The sum of their controls is a control of the sum of their scores: a lane's control has mean
    zero under another's score.
    """
    names: list[str] = []

    def lane(state: Any) -> tuple[Particles, list[tuple[Tensor, ...]]]:
        inner = run.nested(lambda: None)
        with inner:
            found = at.moved(state)
        if any(score.baseline is not None for score in inner.scores):
            raise Fork("", lambda follow: torch.zeros(()))
        names[:] = [score.site for score in inner.scores]
        parts = [(s.value, s.elements, s.control, s.mean) for s in inner.scores]
        return found, [tuple(torch.as_tensor(x) for x in part) for part in parts]

    try:
        found, parts = run_batched(lane, (states,), (states is not None,), n)
    except Fork:
        return None
    except BranchError:
        if is_tracing():
            raise
        return None
    scores = [
        Score(f"{name}[{at.t}]", value, elements, control=control.sum(0), mean=mean.sum(0))
        for name, (value, elements, control, mean) in zip(names, parts, strict=True)
    ]
    return found, scores


def _joined(join: Callable[..., Any], parts: Sequence[Particles]) -> Particles:
    joined: Particles = tree_map(lambda *x: join(x), *parts)
    return joined


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
        log_p = found.log_densities.index_select(0, index.reshape(1)).squeeze(0)
        path = found.path(index)
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
