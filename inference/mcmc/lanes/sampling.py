"""Warm-up and sampling by the engine, in pieces between which a run can be seen and stopped."""

from __future__ import annotations

import time
from collections.abc import Iterable
from functools import partial
from itertools import accumulate
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor

from ....ppl import draw
from ....ppl.tensors.decompositions import NO_DECOMPOSITION
from ...runs.checkpoint import Store, random_state, restore_random_state
from ..adaptation import TARGET, Samples, Watcher, require_finite, require_target
from ..hamiltonian import Parameters, Potential, State
from ..nuts import NUTSInfo
from .engine import Advance, Chains, Engine, Metric, StepSizes, step_sizes
from .warmup import (
    SETTLED,
    first_root_mass,
    found_step_sizes,
    learnt_metric,
    restarted,
    settled,
    windows,
)

PIECE = 0.2  # seconds between two looks at a run


class Progressed(NamedTuple):
    """A run between two pieces: transitions made, the chains, and the metric."""

    done: int
    chains: Chains
    metric: Metric


def sample_lanes(
    engine: Engine,
    potential: Potential,
    u0: Tensor,
    warmup: int,
    draws: int,
    *,
    parameters: Parameters | None = None,
    target: float = TARGET,
    progress: Watcher | None = None,
    store: Store | None = None,
) -> Samples:
    """Run warm-up and sampling from u0 [chains, d]; arguments and errors are those of ``sample``.

    Each chain learns its own step size, and samples with the median of all; the metric is learnt
    from all.  Between two windows of warm-up chains do not wait for each other.
    """
    require_target(target)
    state = State(u0, *potential(u0))
    require_finite(state)
    at, pieces = _started(state, potential, parameters, target), list[Advance]()
    if store is not None and store.content is not None:
        at, pieces = _restored(store.content)
    ends = accumulate([*windows(warmup), draws])
    interrupted, rate = False, 5.0
    try:
        for end in ends:
            while at.done < end:
                start = time.perf_counter()
                count = min(end - at.done, max(1, int(rate)))
                aim = target if end <= warmup else 0.0
                made = engine.advance(at.chains, at.metric, count, target=aim)
                pieces.append(made)
                at = at._replace(done=at.done + count, chains=made.chains)
                if at.done == end and end <= warmup:
                    at, pieces = _learnt(at, pieces, end / warmup), []
                if store is not None:
                    store.offer(partial(_content, at, pieces))
                rate = count * PIECE / max(time.perf_counter() - start, 1e-6)
                if progress is not None:
                    last = NUTSInfo(*(x[:, -1] for x in made.info))
                    progress(at.done, warmup + draws, last, _parameters(at))
        if store is not None:
            store.write(_content(at, pieces))
    except KeyboardInterrupt:
        interrupted = True
    return _gathered(engine, at, pieces if at.done > warmup else [], interrupted)


def _started(
    state: State, potential: Potential, parameters: Parameters | None, target: float
) -> Progressed:
    """Chains before their first transition, each with a generator of its own."""
    n = len(state.position)
    if parameters is None:
        metric = Metric.diagonal(first_root_mass(state.gradient))
        step = found_step_sizes(state, potential, metric.root, target)
    else:
        metric, step = Metric.of(parameters), parameters.step_size.expand(n)
    zero, one = (torch.tensor(x, dtype=torch.float64) for x in (0.0, 1.0))
    bits = (draw(dist.Uniform(zero, one), (n, 4), label="seeds") * 2.0**53).long()
    odd = 0x9E3779B97F4A7C15 - 2**64  # spreads the bits over all 64
    position, gradient = state.position.contiguous(), state.gradient.contiguous()
    chains = Chains(position, state.log_density, gradient, step_sizes(step), bits * odd + 1)
    return Progressed(0, chains, metric)


def _learnt(at: Progressed, window: list[Advance], share: float) -> Progressed:
    """After a window that ends this share of warm-up: a new metric, or the final step size.

    The last window is too short to learn a metric from, and leaves it as it is.
    """
    chains = at.chains
    if share == 1.0:
        return at._replace(
            chains=chains._replace(step_sizes=step_sizes(settled(chains.step_sizes)))
        )
    draws = torch.cat([piece.draws for piece in window], 1)
    gradients = torch.cat([piece.gradients for piece in window], 1)
    metric = learnt_metric(draws, gradients, at.metric.root, share)
    if share < SETTLED or len(metric.stretch) != len(at.metric.stretch):
        chains = chains._replace(step_sizes=restarted(chains.step_sizes))
    return at._replace(chains=chains, metric=metric)


def _parameters(at: Progressed) -> Parameters:
    root, directions, stretch = at.metric
    step = at.chains.step_sizes.log_step.exp().to(root.dtype)
    if len(stretch):
        return Parameters(step, root.square(), directions, stretch)
    return Parameters(step, root.square())


def _gathered(engine: Engine, at: Progressed, pieces: list[Advance], interrupted: bool) -> Samples:
    """The draws so far."""
    chains = at.chains
    state = State(chains.position, chains.log_density, chains.gradient)
    if not pieces:
        none = chains.position.new_empty((len(chains.position), 0, chains.position.shape[1]))
        return Samples(none, {}, state, _parameters(at), interrupted)

    def joined(parts: Iterable[Tensor]) -> Tensor:
        return torch.cat(list(parts), 1)

    draws = joined(piece.draws for piece in pieces)
    infos = zip(*(piece.info for piece in pieces), strict=True)
    stats = dict(zip(NUTSInfo._fields, map(joined, infos), strict=True))
    stats["lp"] = joined(piece.log_density for piece in pieces)
    if engine.density.results > 2:
        stats[NO_DECOMPOSITION] = joined(piece.failures for piece in pieces)
    stats["step_size"] = _parameters(at).step_size[:, None].expand(draws.shape[:2]).clone()
    return Samples(draws, stats, state, _parameters(at), interrupted)


def _content(at: Progressed, pieces: list[Advance]) -> dict[str, Any]:
    """A run as plain values."""
    chains = [*at.chains[:3], *at.chains.step_sizes, at.chains.random]
    kept = [[p.draws, p.gradients, *p.info, p.log_density, p.failures] for p in pieces]
    return {"done": at.done, "chains": chains, "metric": [*at.metric], "pieces": kept,
            "random": random_state()}  # fmt: skip


def _restored(content: dict[str, Any]) -> tuple[Progressed, list[Advance]]:
    """The run that a content was taken of."""
    position, log_density, gradient, *sizes, random = content["chains"]
    chains = Chains(position, log_density, gradient, StepSizes(*sizes), random)
    restore_random_state(content["random"])
    pieces = [
        Advance(chains, draws, gradients, NUTSInfo(*infos), lp, failures, 0)
        for draws, gradients, *infos, lp, failures in content["pieces"]
    ]
    return Progressed(content["done"], chains, Metric(*content["metric"])), pieces
