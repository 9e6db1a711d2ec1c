"""Sequential Monte Carlo: weights, resampling, evidence."""

from __future__ import annotations

from collections.abc import Callable
from math import log
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pushforward import dist, draw, observe, program, sample, scan
from pushforward.inference import Population
from pushforward.semantics import check

from .exhibit import Exhibit, f

RAIN, WET = f([0.2, 0.7]), f([0.1, 0.8])  # after a dry and a rainy day
SEEN = f([1.0, 0.0, 1.0])
N = 2  # particles


@program
def weather(wet: Tensor) -> Tensor:
    """A hidden Markov model of two states; it returns the last one."""

    def day(rain: Tensor, w: Tensor) -> tuple[Tensor, None]:
        rain = sample("rain", dist.Bernoulli(RAIN[rain.long()]))
        observe("wet", dist.Bernoulli(WET[rain.long()]), w)
        return rain, None

    last: Tensor = scan(day)(f(0.0), wet)[0]
    return last


class Particles(NamedTuple):
    """States, their log weights since they were last resampled, and the log evidence so far."""

    states: Tensor
    log_weights: Tensor
    log_evidence: Tensor


def total(log_weights: Tensor) -> Tensor:
    return log_weights.logsumexp(0)


# --------------------------------------------------------------------- the parts of a filter, right


def increment(before: Tensor, now: Tensor) -> Tensor:
    """Of the log evidence: the log of sum_i W_i w_i, with the weights W as they were carried."""
    return total(now) - total(before)


def reset(log_weights: Tensor, ancestors: Tensor) -> Tensor:
    """The log weights of particles that were resampled."""
    return torch.zeros(N)


def output(last: Particles) -> Population:
    """Particles by their weights, which sum to the evidence."""
    normalised = last.log_weights - total(last.log_weights)
    return Population(last.states, normalised + last.log_evidence)


def bootstrap(
    increment: Callable[[Tensor, Tensor], Tensor] = increment,
    reset: Callable[[Tensor, Tensor], Tensor] = reset,
    output: Callable[[Particles], Population] = output,
) -> Any:
    """A filter that resamples where the effective size is at most 0.6 of the particles."""

    def day(at: Particles, w: Tensor) -> tuple[Particles, None]:
        states, log_weights, log_evidence = at
        size = 1 / torch.softmax(log_weights, 0).square().sum()
        if size <= 0.6 * N:
            ancestors = draw(dist.Categorical(logits=log_weights), (N,))
            states, log_weights = states[ancestors], reset(log_weights, ancestors)
        states = draw(dist.Bernoulli(RAIN[states.long()]))
        now = log_weights + dist.Bernoulli(WET[states.long()]).log_prob(w)
        return Particles(states, now, log_evidence + increment(log_weights, now)), None

    def run(wet: Tensor) -> Population:
        return output(scan(day)(Particles(torch.zeros(N), torch.zeros(N), f(0.0)), wet)[0])

    return program(run)


# ---------------------------------------------------------------------------------------- and wrong


def of_accumulated(before: Tensor, now: Tensor) -> Tensor:
    return total(now) - log(N)


def of_last_weights(before: Tensor, now: Tensor) -> Tensor:
    return total(now - before) - log(N)


def of_mean_logs(before: Tensor, now: Tensor) -> Tensor:
    return (torch.softmax(before, 0) * (now - before)).sum()


def even_output(last: Particles) -> Population:
    return Population(last.states, last.log_evidence - torch.full((N,), log(N)))


def copied(log_weights: Tensor, ancestors: Tensor) -> Tensor:
    return log_weights[ancestors]


# ------------------------------------------------------------------------------- particles that die


@program
def gate() -> Tensor:
    """A branch that is not allowed is taken with probability one half."""
    side = sample("side", dist.Bernoulli(f(0.5)))
    observe("open", dist.Bernoulli(side), f(1.0))
    return side


def through_the_gate(over: Callable[[Tensor], Tensor]) -> Any:
    """Two particles, of which the weights are averaged over a number of them."""

    def run() -> Population:
        sides = draw(dist.Bernoulli(f([0.5, 0.5])))
        return Population(sides, sides.log() - over(sides).log())

    return program(run)


def filtered(number: int, fault: str, source: str, mutant: Any) -> Exhibit:
    against = (weather, SEEN)
    return Exhibit(number, fault, source, check.valid, bootstrap(), mutant, against=against)


EXHIBITS = [
    filtered(
        20,
        "the evidence of a step is that of the accumulated weights, as if they had been resampled",
        "TuringLang/Turing.jl, issue 359",
        bootstrap(increment=of_accumulated),
    ),
    filtered(
        21,
        "the evidence of a step is the plain mean of the last weights, though resampling waits for "
        "a small effective size",
        "TuringLang/Turing.jl, PR 1266",
        bootstrap(increment=of_last_weights),
    ),
    filtered(
        22,
        "the evidence of a filter is not that of the forward algorithm: here logs are averaged",
        "TuringLang/Turing.jl, issue 718",
        bootstrap(increment=of_mean_logs),
    ),
    filtered(
        23,
        "after the last observation particles are neither weighted nor resampled",
        "TuringLang/Turing.jl, PR 405 and issue 2656",
        bootstrap(output=even_output),
    ),
    filtered(
        24,
        "weights are copied with the particles that are resampled, and so count twice",
        "rlabbe/Kalman-and-Bayesian-Filters-in-Python, issue 146",
        bootstrap(reset=copied),
    ),
    Exhibit(
        25,
        "particles of weight zero are taken out before the mean of the weights",
        "treeppl/treeppl, issue 64",
        check.valid,
        through_the_gate(lambda sides: f(2.0)),
        through_the_gate(lambda sides: sides.sum().clamp(min=1.0)),
        against=(gate,),
    ),
]
