"""What a kernel on traces is, how it accepts, and how kernels are put together."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from pyro import distributions as dist
from torch import Tensor

from ...ppl import draw
from ...ppl.errors import ProgramError, located
from ...ppl.language.program import Callback, Program, program_name
from .traces import Point, Traced, at, total, traced

# From the log of a ratio of flows to the probability to accept; g(r) = r g(1 / r).
Acceptance = Callable[[Tensor], Tensor]


class Moved(NamedTuple):
    """A step of a kernel: where it led, and which of its proposals were accepted, by name."""

    run: Traced
    accepted: dict[str, list[bool]]


class TraceKernel(NamedTuple):
    """A Markov kernel on the runs of a program.

    ``step(run, p, *args)`` leaves the trace measure of ``p(*args)`` invariant.
    """

    step: Callable[..., Moved]
    name: str

    def init(self, p: Callback, point: Point, *args: Any) -> Traced:
        """The run of ``p(*args)`` at a point.

        Errors:
            InitializationError: their density is zero, or they are not those of a run.
        """
        return at(p, point, *args)

    def on(self, p: Callback, *args: Any) -> Program:
        """The kernel as a program from point to point, as ``check.invariant`` takes it.

        It leaves the measure of ``points_of(p)`` invariant.
        """

        def step(point: Point) -> Point:
            return self.step(self.init(p, point, *args), p, *args).run.point

        step.__name__ = step.__qualname__ = f"{self.name} on {program_name(p)}"
        return Program(step)


def metropolis(log_ratio: Tensor) -> Tensor:
    """min(1, r)."""
    return log_ratio.clamp(max=0.0).exp()


def barker(log_ratio: Tensor) -> Tensor:
    """r / (1 + r): accepts less often, by a smooth function of the ratio."""
    return log_ratio.sigmoid()


def decide(
    run: Traced, proposed: Traced | None, log_ratio: Tensor, accept: Acceptance, name: str
) -> Moved:
    """Accept a proposal by the log ratio of the flows there and back; None is impossible.

    Errors:
        ProgramError: the ratio is NaN.
    """
    if proposed is None:
        return Moved(run, {name: [False]})
    if math.isnan(float(log_ratio)):
        what = f"the acceptance ratio of {name} is NaN"
        raise ProgramError(located(what, hint="a density is NaN, or infinite at both ends"))
    accepted = bool(draw(dist.Bernoulli(accept(log_ratio)), label="accept"))
    return Moved(proposed if accepted else run, {name: [accepted]})


def log_ratio(run: Traced, proposed: Traced) -> Tensor:
    """The log of the density of a proposal over that of the run, without what was drawn anew.

    What is drawn from the program's own laws, there or back, cancels against its density: of the
    choices, only those that both runs were given count.
    """
    kept = proposed.choices.keys() - proposed.drawn
    before, after = (total(r.log_probs[name] for name in kept) for r in (run, proposed))
    return proposed.log_score + after - run.log_score - before


def replaced(
    run: Traced, values: dict[str, Tensor], p: Callback, args: tuple[Any, ...], who: str
) -> Traced | None:
    """The run with some values replaced, all others as they are; None if that is impossible.

    Errors:
        ProgramError: the values decide about other choices, or the program draws anonymously.
    """
    kept = {name: law for name, law in run.laws.items() if name not in values}
    found = traced(p, {**run.choices, **values}, kept, *args)
    if found is not None and (found.drawn or found.choices.keys() != run.choices.keys()):
        other = sorted(found.drawn | (found.choices.keys() ^ run.choices.keys()))
        what = f"{who} decides about the choices {other}"
        raise ProgramError(located(what, hint="use block(...) or single_site(), which draw those"))
    if found is not None and found.draws:
        what = f"{program_name(p)} has a density that is drawn anew each time, and no conditionals"
        raise ProgramError(located(what, hint="use block(...) on pseudo-marginal programs"))
    return found


# ------------------------------------------------------------------------------------ compositions


def cycle(*kernels: TraceKernel) -> TraceKernel:
    """One kernel after the other: invariant if each is, though reversible only by chance."""
    _require_some(kernels, "cycle")

    def step(run: Traced, p: Callback, *args: Any) -> Moved:
        accepted: dict[str, list[bool]] = {}
        for kernel in kernels:
            run, found = kernel.step(run, p, *args)
            _add(accepted, found)
        return Moved(run, accepted)

    return TraceKernel(step, f"cycle({', '.join(k.name for k in kernels)})")


def mixture(*kernels: TraceKernel, weights: Sequence[float] | None = None) -> TraceKernel:
    """One of several kernels, at random: invariant or reversible if each is."""
    _require_some(kernels, "mixture")
    probs = torch.as_tensor([1.0] * len(kernels) if weights is None else weights)
    if probs.shape != (len(kernels),) or not bool((probs > 0).all()):
        raise ProgramError(located(f"mixture needs {len(kernels)} positive weights"))

    def step(run: Traced, p: Callback, *args: Any) -> Moved:
        index = int(draw(dist.Categorical(probs.double()), label="kernel"))
        return kernels[index].step(run, p, *args)

    return TraceKernel(step, f"mixture({', '.join(k.name for k in kernels)})")


def repeat(kernel: TraceKernel, times: int) -> TraceKernel:
    """A kernel several times over."""
    if times < 1:
        raise ProgramError(located(f"repeat needs at least one time, not {times}"))
    return cycle(*(kernel,) * times)._replace(name=f"repeat({kernel.name}, {times})")


def _require_some(kernels: tuple[TraceKernel, ...], name: str) -> None:
    if not kernels:
        raise ProgramError(located(f"{name} needs at least one kernel"))


def _add(accepted: dict[str, list[bool]], found: dict[str, list[bool]]) -> None:
    for name, outcomes in found.items():
        accepted[name] = [*accepted.get(name, []), *outcomes]
