"""Warm-up and sampling by the engine, in pieces between which a run can be seen and stopped."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor

from ....ppl import draw
from ....ppl.tasks.checkpoint import Store, random_state, restore_random_state
from ....ppl.tensors.decompositions import NO_DECOMPOSITION
from ..adaptation import TARGET, Samples, Watcher, require_finite, require_target
from ..convergence import diagnosed, slowest
from ..hamiltonian import Parameters, Potential, State
from ..nuts import NUTSInfo
from ..thinning import thinned
from .engine import Advance, Chains, Engine, Metric, StepSizes, step_sizes
from .spread import Spread
from .tensors import TensorEngine
from .warmup import (
    CALM,
    CAREFUL,
    RESCUED,
    SETTLED,
    Form,
    diverging,
    first_root_mass,
    found_step_sizes,
    learnt_metric,
    restarted,
    settled,
    stranded,
    windows,
)

AnyEngine = Engine | TensorEngine | Spread


class Progressed(NamedTuple):
    """A run between two pieces: transitions made, the chains, the metric, and the thinning.

    ``target``: the mean acceptance that warm-up aims at now.  ``rescued``: the chains that warm-up
    moved to others; ``report``: what it did, window by window.
    """

    done: int
    chains: Chains
    metric: Metric
    target: float
    thin: int = 1
    rescued: tuple[int, ...] = ()
    report: tuple[str, ...] = ()


def sample_lanes(
    engine: AnyEngine,
    potential: Potential,
    u0: Tensor,
    warmup: int,
    draws: int,
    *,
    parameters: Parameters | None = None,
    target: float | None = TARGET,
    metric: Form = "auto",
    own_steps: bool = False,
    thin: int | None = 1,
    progress: Watcher | None = None,
    store: Store | None = None,
) -> Samples:
    """Run warm-up and sampling from u0 [chains, d + m]; arguments and errors are ``sample``'s.

    Each chain learns its own step size, and samples with the median of all or, with ``own_steps``,
    with its own; the metric is learnt from all.  Between two windows of warm-up chains do not wait
    for each other.

    Args:
        target: None: ``CALM``, raised to ``CAREFUL`` where warm-up meets divergences.
        metric: see ``learnt_metric``.
        thin: each so many-th transition is a draw; None: as many, up to ``MOST``, as it takes until
            the draws are ``enough``.
    """
    first = CALM if target is None else target
    require_target(first)
    state = State(u0, *potential(u0))
    require_finite(state)
    d = u0.shape[1] - len(engine.sizes)
    at = _started(state, potential, parameters, first, d)._replace(thin=thin or 1)
    run = _Run(engine, at, [], store, progress)
    if store is not None and store.content is not None:
        run.at, run.pieces = _restored(store.content)
    try:
        for end in accumulate(windows(warmup)):
            if run.at.done < end:
                run.advance(end, warmup + draws, warming=True)
                made, run.pieces = joined(run.pieces), []
                how: dict[str, Any] = {"raising": target is None, "own_steps": own_steps}
                run.at = _reported(_learnt(run.at, made, end / warmup, metric, **how), made)
                if store is not None:
                    store.offer(partial(_content, run.at, run.pieces))
        run.advance(warmup + draws * run.at.thin, warmup + draws * run.at.thin)
        while thin is None and run.at.thin < MOST and not enough(run.draws[:, :draws]):
            odd = draws % 2
            run.advance(warmup + (draws + odd) * run.at.thin, warmup + 2 * draws * run.at.thin)
            run.pieces = [grouped(joined(run.pieces), 2)]
            run.at = run.at._replace(thin=2 * run.at.thin)
            run.advance(warmup + draws * run.at.thin, warmup + draws * run.at.thin)
        if store is not None:
            store.write(_content(run.at, run.pieces))
    except KeyboardInterrupt:
        run.interrupted = True
    return _gathered(engine, run.at, run.pieces if run.at.done > warmup else [], run.interrupted)


MOST = 8  # transitions for a draw


def enough(draws: Tensor) -> bool:
    """Whether draws [chains, n, d] will do, or cannot be mended by some more.

    They will do if a fit warns of nothing (R-hat at most 1.01, a hundred effective draws for each
    of four chains or fewer), with a margin.  Chains that are far apart, and runs so short that the
    best draws would not do, are left to the warnings.
    """
    chains, n, _ = draws.shape
    if n * chains < SHORT or n < SHORTEST or chains < 2:
        return True
    ratios, sizes = diagnosed(slowest(draws, LOOKED_AT))
    worst = float(ratios.nan_to_num(1.0).max())  # NaN where nothing moves
    least = float(sizes.nan_to_num(math.inf).min())
    return worst > APART or (worst < 1.008 and least > 110.0 * min(chains, 4))


APART = 1.2
LOOKED_AT = 16  # coordinates
SHORT, SHORTEST = 1600, 16  # draws of all chains, and of each


@dataclass
class _Run:
    """A run with the pieces of its window, or of its draws, each of which is one of ``thin``."""

    engine: AnyEngine
    at: Progressed
    pieces: list[Advance]
    store: Store | None
    progress: Watcher | None
    interrupted: bool = False
    rate: float = 5.0

    def advance(self, end: int, total: int, *, warming: bool = False) -> None:
        """Go on until so many transitions are made of the total.

        What is kept of the end of a window of warm-up is kept when it was learnt from.
        """
        thin, target = (1, self.at.target) if warming else (self.at.thin, 0.0)
        while self.at.done < end:
            start = time.perf_counter()
            count = min(end - self.at.done, thin * max(1, int(self.rate / thin)))
            made = self.engine.advance(self.at.chains, self.at.metric, count, target=target)
            self.pieces.append(grouped(made, thin))
            self.at = self.at._replace(done=self.at.done + count, chains=made.chains)
            if self.store is not None and not (warming and self.at.done == end):
                self.store.offer(partial(_content, self.at, self.pieces))
            self.rate = count * self.engine.piece / max(time.perf_counter() - start, 1e-6)
            if self.progress is not None:
                self.progress(self.at.done, total, made.info, _parameters(self.at))

    @property
    def draws(self) -> Tensor:
        return torch.cat([piece.draws for piece in self.pieces], 1)


def grouped(made: Advance, by: int) -> Advance:
    """Each so many-th draw, with what is told of all transitions until there."""
    stats = {"draws": made.draws, "gradients": made.gradients, "lp": made.log_density}
    found = thinned({**stats, NO_DECOMPOSITION: made.failures, **made.info._asdict()}, by)
    return made._replace(
        draws=found["draws"],
        gradients=found["gradients"],
        info=NUTSInfo(*(found[name] for name in NUTSInfo._fields)),
        log_density=found["lp"],
        failures=found[NO_DECOMPOSITION],
    )


def joined(pieces: list[Advance]) -> Advance:
    """Pieces one after the other."""

    def joint(name: str) -> Tensor:
        return torch.cat([getattr(piece, name) for piece in pieces], 1)

    infos = zip(*(piece.info for piece in pieces), strict=True)
    return pieces[-1]._replace(
        draws=joint("draws"),
        gradients=joint("gradients"),
        info=NUTSInfo(*(torch.cat(parts, 1) for parts in infos)),
        log_density=joint("log_density"),
        failures=joint("failures"),
        evaluations=sum(piece.evaluations for piece in pieces),
    )


def _started(
    state: State, potential: Potential, parameters: Parameters | None, target: float, d: int
) -> Progressed:
    """Chains before their first transition, each with a generator of its own.

    The first d numbers of their positions are moved, the others not.
    """
    n = len(state.position)
    if parameters is None:
        metric = Metric.diagonal(first_root_mass(state.gradient[:, :d]))
        still = metric.root.new_zeros(state.position.shape[1] - d)
        step = found_step_sizes(state, potential, torch.cat([metric.root, still]), target)
    else:
        metric, step = Metric.of(parameters), parameters.step_size.expand(n)
    zero, one = (torch.tensor(x, dtype=torch.float64) for x in (0.0, 1.0))
    bits = (draw(dist.Uniform(zero, one), (n, 4), label="seeds") * 2.0**53).long()
    odd = 0x9E3779B97F4A7C15 - 2**64  # spreads the bits over all 64
    position, gradient = state.position.contiguous(), state.gradient[:, :d].contiguous()
    chains = Chains(position, state.log_density, gradient, step_sizes(step), bits * odd + 1)
    return Progressed(0, chains, metric, target)


def _learnt(
    at: Progressed, made: Advance, share: float, form: Form, *, raising: bool, own_steps: bool
) -> Progressed:
    """After a window that ends this share of warm-up: a new metric, or the final step sizes.

    The last window is too short to learn a metric from, and leaves it as it is.
    """
    if share == 1.0:
        found = at.chains.step_sizes
        sizes = step_sizes(found.log_average.exp() if own_steps else settled(found))
        return at._replace(chains=at.chains._replace(step_sizes=sizes))
    d = len(at.metric.root)
    held = made
    if (
        RESCUED[0] <= share <= RESCUED[1] and 0 < d == made.draws.shape[-1]
    ):  # finite values hold mass
        lost = stranded(made.draws, made.log_density)
        if bool(lost.any()) and not bool(lost.all()):
            at, held = _rescued(at, made, lost)
    metric = learnt_metric(held.draws[..., :d], held.gradients, at.metric.root, share, form)
    chains, target = at.chains, at.target
    if raising and diverging(held.info.diverging, share):
        target = CAREFUL
    changed = target != at.target or len(metric.stretch) != len(at.metric.stretch)
    if share < SETTLED or changed:
        chains = chains._replace(step_sizes=restarted(chains.step_sizes))
    return at._replace(chains=chains, metric=metric, target=target)


def _reported(at: Progressed, window: Advance) -> Progressed:
    """With a line on a window of warm-up: what it cost, and what was learnt from it."""
    info, step = window.info, at.chains.step_sizes.log_step.exp().quantile(0.5)
    line = (
        f"{at.done:5d} transitions: {int(info.n_steps.sum()):7d} gradients, acceptance "
        f"{float(info.acceptance_rate.mean()):.2f}, {int(info.diverging.sum())} divergences; "
        f"step size {float(step):.3g}, diagonal metric"
    )
    if k := len(at.metric.stretch):
        line += f" and {k} directions"
    if at.target == CAREFUL:
        line += f", target {CAREFUL}"
    if moved := at.rescued:
        line += f", moved chains {', '.join(map(str, moved))}"
    return at._replace(report=(*at.report, line))


def _rescued(at: Progressed, made: Advance, lost: Tensor) -> tuple[Progressed, Advance]:
    """Stranded chains moved to a draw of the others, each in turn; and what the others drew."""
    held = torch.nonzero(~lost).flatten()
    places = torch.nonzero(lost).flatten()
    other = held[torch.arange(len(places)) % len(held)]
    middle = made.draws.shape[1] // 2
    chains = at.chains._replace(
        position=at.chains.position.index_copy(0, places, made.draws[other, middle]),
        log_density=at.chains.log_density.index_copy(0, places, made.log_density[other, middle]),
        gradient=at.chains.gradient.index_copy(0, places, made.gradients[other, middle]),
        step_sizes=StepSizes(*(x.index_copy(0, places, x[other]) for x in at.chains.step_sizes)),
    )
    rescued = tuple(sorted({*at.rescued, *places.tolist()}))
    kept = made._replace(
        draws=made.draws[held],
        gradients=made.gradients[held],
        log_density=made.log_density[held],
        info=NUTSInfo(*(x[held] for x in made.info)),
    )
    return at._replace(chains=chains, rescued=rescued), kept


def _parameters(at: Progressed) -> Parameters:
    root, directions, stretch = at.metric
    step = at.chains.step_sizes.log_step.exp().to(root.dtype)
    if len(stretch):
        return Parameters(step, root.square(), directions, stretch)
    return Parameters(step, root.square())


def _gathered(
    engine: AnyEngine, at: Progressed, pieces: list[Advance], interrupted: bool
) -> Samples:
    """The draws so far."""
    chains = at.chains
    state = State(chains.position, chains.log_density, chains.gradient)
    if not pieces:
        none = chains.position.new_empty((len(chains.position), 0, chains.position.shape[1]))
        return Samples(none, {}, state, _parameters(at), interrupted, at.rescued, at.report)

    made = joined(pieces)
    stats = made.info._asdict()
    stats["lp"] = made.log_density
    if engine.decomposes or bool(made.failures.any()):
        stats[NO_DECOMPOSITION] = made.failures
    stats["step_size"] = _parameters(at).step_size[:, None].expand(stats["lp"].shape).clone()
    return Samples(made.draws, stats, state, _parameters(at), interrupted, at.rescued, at.report)


def _content(at: Progressed, pieces: list[Advance]) -> dict[str, Any]:
    """A run as plain values."""
    chains = [*at.chains[:3], *at.chains.step_sizes, at.chains.random]
    kept = [[p.draws, p.gradients, *p.info, p.log_density, p.failures] for p in pieces]
    told = {"rescued": [*at.rescued], "report": [*at.report]}
    now = {"done": at.done, "chains": chains, "metric": [*at.metric], "thin": at.thin}
    now["target"] = at.target
    return {**now, **told, "pieces": kept, "random": random_state()}


def _restored(content: dict[str, Any]) -> tuple[Progressed, list[Advance]]:
    """The run that a content was taken of."""
    position, log_density, gradient, *sizes, random = content["chains"]
    chains = Chains(position, log_density, gradient, StepSizes(*sizes), random)
    restore_random_state(content["random"])
    pieces = [
        Advance(chains, draws, gradients, NUTSInfo(*infos), lp, failures, 0)
        for draws, gradients, *infos, lp, failures in content["pieces"]
    ]
    metric = Metric(*content["metric"])
    told = tuple(content["rescued"]), tuple(content["report"])
    about = content["target"], content["thin"]
    return Progressed(content["done"], chains, metric, *about, *told), pieces
