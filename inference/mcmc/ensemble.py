"""Warm-up from an ensemble of chains: step size, metric and length, learnt from each transition.

The step size is found by dual averaging.  The metric is that of least Fisher divergence between
the posterior and a normal law of independent coordinates (Seyboldt, Carlson and Carpenter 2024),
from the positions and gradients of all chains; what they were early in warm-up is forgotten
(Sountsov and Hoffman, arXiv 2110.11576).  The mean length of trajectories climbs the ChEES
criterion

    E (|x' - m|^2 - |x - m|^2)^2 / 4,  m = E x,

for a trajectory from x to x', by Adam on its logarithm (Hoffman, Radul and Sountsov, AISTATS 2021).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...ppl.tasks.checkpoint import Store
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

STUCK = 0.02  # chains with smaller acceptances take smaller steps
FEW = 10  # leapfrogs of the first transition of warm-up at most; of the next one more, and so on
RATE = 0.05  # of Adam
STEEPEST = 10.0  # slopes are about a duration at most, unless some chains are far away


class Trajectory(NamedTuple):
    """Of a transition: ends with momentum flipped at the second, acceptance [chains], duration."""

    before: Phase
    after: Phase
    probability: Tensor
    duration: Tensor


# The last arguments: the length of the trajectory, as a share of twice the mean; most leapfrogs.
Transition = Callable[[State, Potential, Parameters, float, int], tuple[State, Any, Trajectory]]

# ---------------------------------------------------------------------------- steps of one chain


def careful(caution: Tensor, probability: Tensor) -> Tensor:
    """By how much smaller steps than the common one each chain is to take next, [chains].

    A chain that starts where the density is steep does not move by steps that suit the others.
    It takes a quarter of its step where it is all but sure to be rejected, and else twice as much.
    """
    return torch.where(probability < STUCK, caution / 4.0, (caution * 2.0).clamp(max=1.0))


def trusted(caution: Tensor, probability: Tensor) -> Tensor:
    """The weights [chains] by which chains count: the acceptance of those that take common steps.

    Their mean is that of all chains, as if common steps did not move the others.
    """
    return torch.where(caution == 1.0, probability, 0.0)


# ------------------------------------------------------------------------------------------ metric


class Spread(NamedTuple):
    """Mean and variance of points, each [d]."""

    mean: Tensor
    variance: Tensor


def mean(values: Tensor, weight: Tensor) -> Tensor:
    """Over the chains, of values [chains, ...] that count by a weight [chains], if it is not 0."""
    column = weight.reshape(-1, *(1,) * (values.ndim - 1))
    return torch.where(column > 0.0, column * values, 0.0).sum(0) / weight.sum()


def spread(points: Tensor, weight: Tensor) -> Spread:
    """Of points [chains, ...] that count by a weight [chains]."""
    centre = mean(points, weight)
    return Spread(centre, mean((points - centre).square(), weight))


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
    return int(bits[::-1], 2) / (1 << len(bits))


class Climb(NamedTuple):
    """Adam on the log of the mean length, without momentum; all scalars.

    ``log_average`` is what recent ones average to, and ``squares`` what recent slopes squared do.
    """

    log_length: Tensor
    log_average: Tensor
    squares: Tensor


def climb_init(length: Tensor) -> Climb:
    """Start from a length."""
    return Climb(length.log(), length.log(), torch.zeros_like(length))


def slope(trajectory: Trajectory, weight: Tensor, position: Spread, scale: Tensor) -> Tensor:
    """An estimate of the criterion's derivative by the log of the length, a scalar.

    Coordinates x are positions over ``scale`` [d], such that dx / dt is the momentum, and the
    criterion is taken relative to the variance of |x - m|^2.  The end of a trajectory moves by its
    duration times its momentum.  Chains count by their weight [chains].
    """
    before, after, _, duration = trajectory
    start, end = ((x.position - position.mean) / scale for x in (before, after))
    gained = end.square().sum(-1) - start.square().sum(-1)
    gain = -2.0 * duration * (end * after.momentum).sum(-1)
    return mean(gained * gain / 2.0, weight) / spread(start.square().sum(-1), weight).variance


def climb_update(climb: Climb, slope: Tensor, share: float, longest: Tensor) -> Climb:
    """One step up, not beyond the longest; a slope that is not finite says nothing.

    The newest of what is remembered has this share.
    """
    slope = slope.nan_to_num(0.0, 0.0, 0.0).clamp(-STEEPEST, STEEPEST)
    squares = climb.squares + share * (slope.square() - climb.squares)
    move = torch.where(squares > 0.0, RATE * slope / squares.sqrt(), 0.0)
    log_length = torch.minimum(climb.log_length + move, longest)
    return Climb(log_length, climb.log_average + share * (log_length - climb.log_average), squares)


# ----------------------------------------------------------------------------------------- warm-up


class Ensemble(NamedTuple):
    """What warm-up has learnt after ``seen`` transitions.

    Step size and length are in units in which coordinates have variance ``inverse_mass`` [d]; the
    steps of the chains are those of all times their ``caution`` [chains], until sampling begins.
    """

    seen: int
    averaging: DualAveraging
    caution: Tensor
    climb: Climb
    position: Spread
    gradient: Spread
    inverse_mass: Tensor

    @property
    def trial(self) -> Parameters:
        """The parameters of the next transition of warm-up."""
        log_steps = self.averaging.log_step + self.caution.log()
        return in_lengths(log_steps, self.climb.log_length, self.inverse_mass)

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
    averaging = averaging_init(step_size)._replace(centre=(2.0 * step_size).log())
    climb = climb_init(one if length is None else length * one)
    return Ensemble(0, averaging, equal, climb, position, gradient, parameters.inverse_mass)


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
    seen, averaging, caution, climb, position, gradient, metric = ensemble
    share, weight = recent(seen), trusted(caution, trajectory.probability)
    averaging = averaging_update(averaging, weight.mean(), target)
    if bool(weight.any()):
        if length is None:
            up = slope(trajectory, weight, position, ensemble.trial.inverse_mass.sqrt())
            longest = averaging.log_step + math.log(most / 2.0)
            climb = climb_update(climb, up, share, longest)
        position = mixed(position, spread(state.position, weight), share)
        gradient = mixed(gradient, spread(state.gradient, weight), share)
        metric = inverse_mass(position, gradient, metric)
    caution = careful(caution, trajectory.probability)
    return Ensemble(seen + 1, averaging, caution, climb, position, gradient, metric)


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
                    state, potential, ensemble.trial, van_der_corput(t + 1), min(FEW + t, most)
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
