"""Warm-up and sampling: step size by dual averaging, a diagonal metric from windows, the driver.

Hoffman and Gelman, arXiv 1111.4246, section 3.2; the windows are those of the Stan reference manual
("HMC algorithm parameters").  Everything adapted is shared by all chains and learnt from all, but
for step sizes where there is one for each chain.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from ...ppl import iterate
from ...ppl.errors import InitializationError, located
from ...ppl.tasks.checkpoint import Store, random_state, restore_random_state
from .hamiltonian import Kernel, Parameters, Potential, State, leapfrog, refresh
from .hmc import acceptance
from .thinning import thinned

TARGET = 0.8

# ---------------------------------------------------------------------------------------- step size


class DualAveraging(NamedTuple):
    """The search for the step size at which the acceptance is the target: scalars, or one a chain.

    ``log_step`` is the next to try, ``log_average`` what the tried ones average to.
    """

    tried: int | Tensor
    centre: Tensor
    error: Tensor
    log_step: Tensor
    log_average: Tensor


def averaging_init(step_size: Tensor) -> DualAveraging:
    """Start from a step size, and shrink towards ten times as much."""
    log_step, zero = step_size.log(), torch.zeros_like(step_size)
    return DualAveraging(0, log_step + math.log(10.0), zero, log_step, zero)


def averaging_update(
    state: DualAveraging,
    acceptance: Tensor,
    target: float = TARGET,
    *,
    gamma: float = 0.05,
    t0: float = 10.0,
    kappa: float = 0.75,
) -> DualAveraging:
    """Learn from the acceptance of one transition."""
    count = state.tried + 1
    weight = 1.0 / (count + t0)
    error = (1.0 - weight) * state.error + weight * (target - acceptance)
    log_step = state.centre - count**0.5 / gamma * error
    decay = count**-kappa
    log_average = decay * log_step + (1.0 - decay) * state.log_average
    return DualAveraging(count, state.centre, error, log_step, log_average)


def told(acceptance: Tensor, step_size: Tensor) -> Tensor:
    """What acceptances [chains] say of step sizes: of each its own, of a single one their mean."""
    return acceptance if step_size.ndim else acceptance.mean()


class _Search(NamedTuple):
    step_size: Tensor
    crossed: Tensor


def find_step_size(state: State, potential: Potential, parameters: Parameters) -> Tensor:
    """Double or halve step sizes until the acceptance of one leapfrog crosses the target."""

    def accepts(step_size: Tensor) -> Tensor:
        before = refresh(state)
        scale = Parameters(step_size, parameters.inverse_mass).scale
        rate = acceptance(before, leapfrog(before, potential, scale))
        return told(rate, step_size) > TARGET

    small = accepts(parameters.step_size)
    factor = torch.where(small, 2.0, 0.5)

    def step(search: _Search) -> _Search:
        step_size = torch.where(search.crossed, search.step_size, search.step_size * factor)
        return _Search(step_size, search.crossed | (accepts(step_size) != small))

    search = iterate(step, 50, until=lambda search: search.crossed)
    start = _Search(parameters.step_size, torch.zeros_like(small))
    return cast(_Search, search(start)).step_size


# ------------------------------------------------------------------------------------------- metric


class Moments(NamedTuple):
    """Number seen, mean [d] and summed squared deviations [d] of points (Welford 1962)."""

    seen: int
    mean: Tensor
    squares: Tensor


def moments_init(like: Tensor) -> Moments:
    """No points of the dimension of ``like`` [..., d]."""
    zero = like.new_zeros(like.shape[-1])
    return Moments(0, zero, zero)


def moments_update(moments: Moments, points: Tensor) -> Moments:
    """Add points [chains, d]."""
    n, k = moments.seen, len(points)
    centre = points.mean(0)
    shift = centre - moments.mean
    squares = moments.squares + ((points - centre) ** 2).sum(0) + shift**2 * (n * k / (n + k))
    return Moments(n + k, moments.mean + shift * (k / (n + k)), squares)


def inverse_mass(moments: Moments) -> Tensor:
    """The variances [d], shrunk as in Stan towards 0.001 as if five more points had said so."""
    n = moments.seen
    return (moments.squares / (n - 1)) * (n / (n + 5.0)) + 1e-3 * (5.0 / (n + 5.0))


def windows(warmup: int) -> list[tuple[int, int]]:
    """The windows [start, end) of warm-up after each of which the metric is estimated anew.

    75 steps come before them and 50 after; each is twice as long as the last, from 25, and the last
    takes what is left.  Short warm-ups are divided 15 : 75 : 10, and below 20 there is no window.
    """
    if warmup < 20:
        return []
    start, stop, size = 75, warmup - 50, 25
    if start + size > stop:
        start, stop = int(0.15 * warmup), warmup - int(0.1 * warmup)
        size = stop - start
    found = []
    while start < stop:
        end = start + size if start + 3 * size <= stop else stop
        found.append((start, end))
        start, size = end, 2 * size
    return found


# ------------------------------------------------------------------------------------------ warm-up


class Adaptation(NamedTuple):
    """What warm-up has learnt so far."""

    averaging: DualAveraging
    moments: Moments
    inverse_mass: Tensor

    @property
    def trial(self) -> Parameters:
        """The parameters of the next transition of warm-up."""
        return Parameters(self.averaging.log_step.exp(), self.inverse_mass)

    @property
    def result(self) -> Parameters:
        """The parameters to sample with."""
        return Parameters(self.averaging.log_average.exp(), self.inverse_mass)


def adaptation_init(state: State, potential: Potential, parameters: Parameters) -> Adaptation:
    """Start from given parameters, the step size as a first guess."""
    step_size = find_step_size(state, potential, parameters)
    return Adaptation(
        averaging_init(step_size), moments_init(state.position), parameters.inverse_mass
    )


def adaptation_update(
    adaptation: Adaptation,
    state: State,
    potential: Potential,
    acceptance_rate: Tensor,
    t: int,
    schedule: list[tuple[int, int]],
    target: float = TARGET,
) -> Adaptation:
    """Learn from step ``t`` of warm-up, with ``schedule`` the windows."""
    rate = told(acceptance_rate, adaptation.averaging.log_step)
    averaging = averaging_update(adaptation.averaging, rate, target)
    adaptation = adaptation._replace(averaging=averaging)
    for start, end in schedule:
        if start <= t < end:
            moments = moments_update(adaptation.moments, state.position)
            adaptation = adaptation._replace(moments=moments)
        if t == end - 1:
            moving = adaptation.inverse_mass > 0  # and not the numbers that Gibbs sampling draws
            learnt = Parameters(
                averaging.log_step.exp(), inverse_mass(adaptation.moments).where(moving, 0.0)
            )
            adaptation = adaptation_init(state, potential, learnt)
    return adaptation


# ------------------------------------------------------------------------------------------- driver

# (transitions done, in all, info of those since the last call, parameters)
Watcher = Callable[[int, int, Any, Parameters], None]


class Progressed(NamedTuple):
    """A run between two transitions: how many were made, and all that the next depends on."""

    done: int
    state: State
    parameters: Parameters
    adaptation: Adaptation | None


@dataclass(frozen=True)
class Samples:
    """What a run drew: draws [chains, draws, d] and stats [chains, draws] under ArviZ's names.

    ``state`` and ``parameters`` let a run be continued.  ``interrupted``: it was stopped early, and
    holds the draws made until then.  ``rescued``: chains that warm-up moved to where others were.
    ``report``: what warm-up did.  ``notes``: what a reader should know before believing the draws.
    """

    draws: Tensor
    stats: dict[str, Tensor]
    state: State
    parameters: Parameters
    interrupted: bool
    rescued: tuple[int, ...] = ()
    report: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def sample(
    kernel: Kernel,
    potential: Potential,
    u0: Tensor,
    warmup: int,
    draws: int,
    *,
    parameters: Parameters | None = None,
    target: float = TARGET,
    thin: int = 1,
    progress: Watcher | None = None,
    store: Store | None = None,
    besides: Callable[[], dict[str, Tensor]] | None = None,
) -> Samples:
    """Run warm-up and sampling from u0 [chains, d].

    Args:
        parameters: where adaptation starts, or what to sample with if ``warmup`` is 0; step size 1
            and unit metric unless given.
        target: the mean acceptance that warm-up aims at.
        thin: each so many-th transition is a draw.
        progress: called after each transition.
        store: where the run is kept, and gone on from.
        besides: what to record of the transition just made besides its info, [chains] each.

    Errors:
        InitializationError: the density or its gradient is not finite at some chain's start.
    """
    require_target(target)
    state = kernel.init(u0, potential)
    require_finite(state)
    if parameters is None:
        parameters = Parameters(u0.new_ones(()), u0.new_ones(u0.shape[-1]))
    if kernel.own_steps:
        parameters = parameters._replace(step_size=parameters.step_size.expand(len(u0)))
    schedule, rows, interrupted = windows(warmup), list[dict[str, Tensor]](), False
    try:
        adaptation = adaptation_init(state, potential, parameters) if warmup else None
        at = Progressed(0, state, parameters, adaptation)
        if store is not None and store.content is not None:
            at, rows = _restored(store.content, at)
        while at.done < warmup + draws * thin:
            at, info = _advanced(at, kernel, potential, warmup, schedule, target)
            more = besides() if besides is not None else {}
            if at.done > warmup:
                record = {**info._asdict(), "lp": at.state.log_density, **more}
                rows.append({_POSITION: at.state.position, **record})
            if store is not None:
                store.offer(partial(_content, at, rows))
            if progress is not None:
                progress(at.done, warmup + draws * thin, info, at.parameters)
        if store is not None:
            store.write(_content(at, rows))
    except KeyboardInterrupt:
        interrupted = True
    return _gathered(at, rows, thin, interrupted)


_POSITION = "position"  # the name of the draws among what is recorded of a transition


def _advanced(
    at: Progressed,
    kernel: Kernel,
    potential: Potential,
    warmup: int,
    schedule: list[tuple[int, int]],
    target: float,
) -> tuple[Progressed, Any]:
    """One transition more, and its info."""
    t, adaptation, parameters = at.done, at.adaptation, at.parameters
    if adaptation is None or t >= warmup:
        state, info = kernel.step(at.state, potential, parameters)
        return at._replace(done=t + 1, state=state), info
    state, info = kernel.step(at.state, potential, adaptation.trial)
    adaptation = adaptation_update(
        adaptation, state, potential, info.acceptance_rate, t, schedule, target
    )
    return Progressed(t + 1, state, adaptation.result, adaptation), info


def _content(at: Progressed, rows: list[dict[str, Tensor]]) -> dict[str, Any]:
    """A run as plain values, with the state of the generator."""
    return {"at": tree_flatten(at)[0], "rows": rows, "random": random_state()}


def _restored(content: dict[str, Any], start: Progressed) -> tuple[Progressed, Any]:
    """The run that a content was taken of, if it began at this start."""
    at: Progressed = tree_unflatten(content["at"], tree_flatten(start)[1])
    restore_random_state(content["random"])
    return at, content["rows"]


def _gathered(
    at: Progressed, rows: list[dict[str, Tensor]], thin: int, interrupted: bool
) -> Samples:
    """The draws so far."""
    (chains, d), step_size = at.state.position.shape, at.parameters.step_size
    if len(rows) < thin:
        none = at.state.position.new_empty((chains, 0, d))
        return Samples(none, {}, at.state, at.parameters, interrupted)
    stats = {name: torch.stack([row[name] for row in rows], 1) for name in rows[0]}
    stats = thinned(stats, thin)
    positions = stats.pop(_POSITION)
    stats["step_size"] = step_size.expand(chains)[:, None].expand(positions.shape[:2])
    return Samples(positions, stats, at.state, at.parameters, interrupted)


def require_target(target: float) -> None:
    """Raise unless a mean acceptance can be aimed at."""
    if not 0.0 < target < 1.0:
        raise ValueError(f"sample: target must lie between 0 and 1, not {target}")


def require_finite(state: State) -> None:
    """Raise unless chains may start from here."""
    finite = state.log_density.isfinite() & state.gradient.isfinite().all(-1)
    if not bool(finite.all()):
        bad = [i for i, good in enumerate(finite.tolist()) if not good]
        raise InitializationError(
            located(
                f"the log density or its gradient is not finite at the start of chains {bad}",
                hint="start elsewhere: inference.start finds finite starting points",
            )
        )
