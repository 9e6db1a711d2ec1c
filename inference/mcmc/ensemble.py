"""Warm-up from an ensemble of chains: step size, metric and length, learnt from each transition.

The step size is found by dual averaging.  The metric is that of least Fisher divergence between
the posterior and a normal law of independent coordinates (Seyboldt, Carlson and Carpenter 2024),
from the positions and gradients of all chains; what they were early in warm-up is forgotten
(Sountsov and Hoffman, arXiv 2110.11576).  The mean length of trajectories climbs the ChEES criterion

    E (|x' - m|^2 - |x - m|^2)^2 / 4,  m = E x,

for a trajectory from x to x', by Adam on its logarithm (Hoffman, Radul and Sountsov, AISTATS 2021).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..runs.checkpoint import Store
from .adaptation import (
    TARGET,
    DualAveraging,
    Samples,
    Watcher,
    averaging_init,
    averaging_update,
    find_step_size,
    require_finite,
    require_target,
    sample,
)
from .hamiltonian import Kernel, Parameters, Phase, Potential, State

LEAST = 0.01  # stands for smaller acceptances, so that a few chains that are stuck are not all
import os
COST = float(os.environ.get("COST","0.5"))
RATE, MEMORY = 0.05, 0.95  # of Adam: its steps, and how long it remembers sizes of slopes


class Trajectory(NamedTuple):
    """Of a transition: ends with momentum flipped at the second, acceptance [chains], duration."""

    before: Phase
    after: Phase
    probability: Tensor
    duration: Tensor


# The last argument is the length of the trajectory, as a share of twice the mean.
Transition = Callable[[State, Potential, Parameters, float], tuple[State, Any, Trajectory]]

# --------------------------------------------------------------------------------------- step size


def harmonic_mean(probability: Tensor) -> Tensor:
    """Of the acceptances [chains]: less than the mean, where some chains hardly move."""
    return 1.0 / (1.0 / probability.clamp(min=LEAST)).mean()


# ------------------------------------------------------------------------------------------ metric


class Spread(NamedTuple):
    """Mean [d] and variance [d] of recent points."""

    mean: Tensor
    variance: Tensor


def spread(points: Tensor, weight: Tensor) -> Spread:
    """Of points [chains, d] that count by a weight [chains]."""
    share = (weight / weight.sum()).unsqueeze(-1)
    mean = (share * points).sum(0)
    return Spread(mean, (share * (points - mean).square()).sum(0))


def mixed(old: Spread, new: Spread, share: float) -> Spread:
    """The spread of a mixture in which the new has this share."""
    shift = new.mean - old.mean
    within = old.variance + share * (new.variance - old.variance)
    return Spread(old.mean + share * shift, within + share * (1.0 - share) * shift.square())


def inverse_mass(position: Spread, gradient: Spread, before: Tensor) -> Tensor:
    """The ratio of the standard deviations of positions and gradients, [d].

    It is the variance of a normal law, whatever the points.  Coordinates of which nothing can be
    said keep what they had.
    """
    learnt = (position.variance / gradient.variance).sqrt()
    usable = learnt.isfinite() & (learnt > 0.0)
    return torch.where(usable, learnt, before).clamp(1e-20, 1e20)


# ------------------------------------------------------------------------------------------ length


def van_der_corput(n: int) -> float:
    """The n-th number of the sequence 1/2, 1/4, 3/4, 1/8, 5/8, ..., which fills (0, 1) evenly."""
    bits = f"{n:b}"
    return int(bits[::-1], 2) / 2 ** len(bits)


class Climb(NamedTuple):
    """Adam on the log of the mean length, without momentum; all scalars.

    ``log_average`` is what the recent ``log_length`` average to; ``squares`` of slopes, averaged
    with ``seen`` as the sum of the weights.
    """

    log_length: Tensor
    log_average: Tensor
    squares: Tensor
    seen: Tensor


def climb_init(length: Tensor) -> Climb:
    """Start from a length."""
    zero = torch.zeros_like(length)
    return Climb(length.log(), length.log(), zero, zero)


def slope(trajectory: Trajectory, mean: Tensor, scale: Tensor) -> Tensor:
    """An estimate of the criterion's derivative by the log of the length, a scalar.

    Coordinates x are positions over ``scale`` [d], such that dx / dt is the momentum.  The end of a
    trajectory moves by its duration times its momentum.  Chains count by their acceptance.
    """
    before, after, probability, duration = trajectory
    start, end = (before.position - mean) / scale, (after.position - mean) / scale
    gained = end.square().sum(-1) - start.square().sum(-1)
    gain = -2.0 * duration * (end * after.momentum).sum(-1)
    each = probability * (gained * gain / 2.0 - COST * gained.square() / 4.0)
    each = torch.where(probability > 0.0, each, 0.0)
    size = start.square().sum(-1).var()
    return each.sum() / (probability.sum().clamp(min=LEAST) * size)


def climb_update(climb: Climb, slope: Tensor, share: float, low: Tensor, high: Tensor) -> Climb:
    """One step up, not out of [low, high]; a slope that is not finite says nothing."""
    slope = slope.nan_to_num(0.0, 0.0, 0.0)
    squares = MEMORY * climb.squares + (1.0 - MEMORY) * slope.square()
    seen = MEMORY * climb.seen + (1.0 - MEMORY)
    size = (squares / seen).sqrt()
    move = torch.where(size > 0.0, RATE * slope / size, 0.0)
    log_length = (climb.log_length + move).clamp(low.log(), high.log())
    log_average = climb.log_average + share * (log_length - climb.log_average)
    return Climb(log_length, log_average, squares, seen)


# ----------------------------------------------------------------------------------------- warm-up


class Ensemble(NamedTuple):
    """What warm-up has learnt after ``seen`` transitions.

    Step size and length are in units in which coordinates have variance ``inverse_mass`` [d].
    """

    seen: int
    averaging: DualAveraging
    climb: Climb
    position: Spread
    gradient: Spread
    inverse_mass: Tensor

    @property
    def trial(self) -> Parameters:
        """The parameters of the next transition of warm-up."""
        return in_lengths(self.averaging.log_step, self.climb.log_length, self.inverse_mass)

    @property
    def result(self) -> Parameters:
        """The parameters to sample with."""
        return in_lengths(self.averaging.log_average, self.climb.log_average, self.inverse_mass)


def in_lengths(log_step: Tensor, log_length: Tensor, inverse_mass: Tensor) -> Parameters:
    """The parameters in which the mean trajectory is the unit of time."""
    return Parameters((log_step - log_length).exp(), inverse_mass * (2.0 * log_length).exp())


def recent(t: int) -> float:
    """The share of the newest of t transitions; about an eighth of them is remembered."""
    return 1.0 / (t // 8 + 1)


def ensemble_init(
    state: State, potential: Potential, parameters: Parameters | None, length: float | None
) -> Ensemble:
    """From where the chains start, and the metric of given parameters if there are any.

    A length that is to be learnt begins at one standard deviation.
    """
    equal, one = torch.ones_like(state.log_density), state.log_density.new_ones(())
    position, gradient = spread(state.position, equal), spread(state.gradient, equal)
    if parameters is None:
        metric = inverse_mass(position, gradient, torch.ones_like(position.mean))
        parameters = Parameters(one, metric)
    step_size = find_step_size(state, potential, parameters)
    climb = climb_init(one if length is None else length * one)
    averaging = averaging_init(step_size)
    return Ensemble(0, averaging, climb, position, gradient, parameters.inverse_mass)


def ensemble_update(
    ensemble: Ensemble,
    state: State,
    trajectory: Trajectory,
    *,
    target: float,
    length: float | None,
    most: int,
) -> Ensemble:
    """Learn from a transition that ended in ``state``."""
    share, weight = recent(ensemble.seen), trajectory.probability + LEAST
    position = mixed(ensemble.position, spread(state.position, weight), share)
    gradient = mixed(ensemble.gradient, spread(state.gradient, weight), share)
    averaging = averaging_update(
        ensemble.averaging, harmonic_mean(trajectory.probability), target
    )
    climb = ensemble.climb
    if length is None:
        scale = ensemble.trial.inverse_mass.sqrt()
        up = slope(trajectory, ensemble.position.mean, scale)
        step_size = averaging.log_step.exp()
        climb = climb_update(climb, up, share, step_size, 0.5 * most * step_size)
    metric = inverse_mass(position, gradient, ensemble.inverse_mass)
    return Ensemble(ensemble.seen + 1, averaging, climb, position, gradient, metric)


# ------------------------------------------------------------------------------------------ driver


def sample_ensemble(
    kernel: Kernel,
    potential: Potential,
    u0: Tensor,
    warmup: int,
    draws: int,
    *,
    transition: Transition,
    length: float | None,
    most: int,
    parameters: Parameters | None = None,
    target: float = TARGET,
    thin: int = 1,
    progress: Watcher | None = None,
    store: Store | None = None,
    besides: Callable[[], dict[str, Tensor]] | None = None,
) -> Samples:
    """Run warm-up and sampling from u0 [chains, d]; arguments and errors are those of ``sample``.

    A run that is killed in warm-up begins anew.

    Args:
        transition: the step of the kernel, with its trajectory.
        length: of the mean trajectory, in standard deviations; None: learnt.
        most: leapfrogs in a transition.
    """
    require_target(target)
    total, interrupted = warmup + draws * thin, False

    def later(done: int, _: int, info: Any, parameters: Parameters) -> None:
        if progress is not None:
            progress(warmup + done, total, info, parameters)

    state = kernel.init(u0, potential)
    require_finite(state)
    if warmup and (store is None or store.content is None):
        ensemble = ensemble_init(state, potential, parameters, length)
        try:
            for t in range(warmup):
                state, info, trajectory = transition(
                    state, potential, ensemble.trial, van_der_corput(t + 1)
                )
                ensemble = ensemble_update(
                    ensemble, state, trajectory, target=target, length=length, most=most
                )
                if besides is not None:
                    besides()
                if progress is not None:
                    progress(t + 1, total, info, ensemble.result)
        except KeyboardInterrupt:
            interrupted = True
        parameters = ensemble.result
    about: dict[str, Any] = {"progress": later, "store": store, "besides": besides}
    found = sample(
        kernel, potential, state.position, 0, 0 if interrupted else draws,
        parameters=parameters, thin=thin, **about,
    )  # fmt: skip
    return replace(found, interrupted=found.interrupted or interrupted)
