"""Objectives: functions of programs, with their first arguments bound, to be maximised."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...ppl.errors import BranchError, ObjectiveError, located
from ...ppl.language.batching import run_batched
from ...ppl.language.effects import stack
from ...ppl.language.program import Callback, Program, program, program_name
from ...ppl.tensors.capture import is_tracing
from .checking import ObjectiveType, checked_type
from .gradients.baselines import Baseline
from .gradients.replay import Notes, Run, Settings


def _in_lanes(lane: Callable[[], tuple[Tensor, ...]], n: int) -> tuple[Tensor, ...]:
    """n results of a function, stacked; one by one where Python looks at random values."""
    if n == 1:
        return lane()
    try:
        found: tuple[Tensor, ...] = run_batched(lane, (), (), n)
        return found
    except BranchError:
        if is_tracing():
            raise
    rows = [lane() for _ in range(n)]
    if len({len(row) for row in rows}) > 1:  # not all choices with baselines are met in every run
        what = "how many baselines are met depends on random choices"
        raise ObjectiveError(located(what, hint="use samples=1"))
    return tuple(map(torch.stack, zip(*rows, strict=True)))


class Surrogates(NamedTuple):
    """Surrogates [n], and the costs [n] that baselines predicted: site, baseline, cost."""

    values: Tensor
    costs: list[tuple[str, Baseline, Tensor]]


@dataclass(frozen=True)
class Objective:
    """A real number in expectation, to be maximised: a function with its first arguments bound.

    ``surrogate(*args)`` estimates it; the derivative of that estimates its derivative.
    """

    fn: Callback
    bound: tuple[Any, ...] = ()
    named: tuple[tuple[str, Any], ...] = ()
    settings: Settings = field(default_factory=Settings)

    def surrogate(self, *args: Any, order: int = 1) -> Tensor:
        """A tensor [] whose expected value and derivative are those of the objective.

        Args:
            order: how often it is to be differentiated; to differentiate once more is an error.

        Errors:
            StrategyError: a strategy is missing, not legal, biased, or of too low an order.
        """
        settings = self.settings._replace(order=order)
        run = Run(lambda: self._evaluated(args), settings, Notes())
        with torch.enable_grad():
            surrogate = run.surrogate()
            found: Tensor = Once.apply(surrogate) if order == 1 else surrogate
        return found

    def surrogates(self, n: int, *args: Any) -> Surrogates:
        """n surrogates [n] at once, to be differentiated once."""
        met: list[tuple[str, Baseline]] = []

        def lane() -> tuple[Tensor, ...]:
            notes = Notes()
            value = Run(lambda: self._evaluated(args), self.settings, notes).surrogate()
            met[:] = [(site, baseline) for site, baseline, _ in notes.costs]
            return (value, *(cost for _, _, cost in notes.costs))

        with torch.enable_grad():
            value, *costs = _in_lanes(lane, n)
        known = zip(met, costs, strict=True)
        return Surrogates(value.reshape(n), [(*about, cost) for about, cost in known])

    def value(self, *args: Any) -> Tensor:
        """An unbiased estimate [] of the objective."""
        run = Run(lambda: self._evaluated(args), self.settings, Notes(), forward=True)
        with torch.no_grad():
            return run.surrogate()

    def values(self, n: int, *args: Any) -> Tensor:
        """n unbiased estimates [n] of the objective."""
        with torch.no_grad():
            (found,) = _in_lanes(lambda: (self.value(*args),), n)
            return found.reshape(n)

    def type(self, *args: Any) -> ObjectiveType:
        """The choices of the objective with their strategies, its order and its bias."""
        return checked_type(lambda: self._evaluated(args), self.settings._replace(biased=True))

    def check(self, *args: Any) -> None:
        """Raise what is wrong with the objective at these arguments; nothing is sampled.

        Errors:
            StrategyError: a strategy is missing, not legal, or biased.
            GuideError: what is sampled has another support than where it is scored.
            SmoothnessError: the objective jumps as a choice moves that is followed along its path.
            BranchError, DuplicateNameError: Python looks at a choice, or branches share names, so
                that the rest is only seen when it runs.
        """
        checked_type(lambda: self._evaluated(args), self.settings)

    def allowing_bias(self) -> Objective:
        """The same objective, whose choices may have biased strategies."""
        return replace(self, settings=self.settings._replace(biased=True))

    def budget(self, runs: int) -> Objective:
        """The same objective, for which the program may be run so many times."""
        return replace(self, settings=self.settings._replace(budget=runs))

    @property
    def name(self) -> str:
        return str(self.fn.__name__)

    def __call__(self, *args: Any) -> Any:
        """Its value as a part of another objective, with the noise of that one.

        Errors:
            ObjectiveError: it is called outside of one.
        """
        if not any(isinstance(handler, Run) for handler in stack()):
            what = f"{self!r} has all its arguments but those of a run, and is no function"
            hint = "value(...) estimates it, surrogate(...) is differentiable, SVI maximises it"
            raise ObjectiveError(located(what, hint=hint))
        return self._evaluated(args)

    def _evaluated(self, args: tuple[Any, ...]) -> Any:
        named = dict(self.named)
        try:
            inspect.signature(self.fn).bind(*self.bound, *args, **named)
        except TypeError as error:
            hint = "calling an objective binds its first arguments, and a run supplies the rest"
            raise ObjectiveError(located(f"{self!r}: {error}", hint=hint)) from error
        return self.fn(*self.bound, *args, **named)

    def __repr__(self) -> str:
        shown = [program_name(x) if callable(x) else repr(x) for x in self.bound]
        return f"<objective {self.name}({', '.join(shown)})>"


def estimator(build: Callable[[Tensor], Tensor], order: int = 1) -> Program:
    """The program from parameters [d] to estimates of a value [], its gradient [d], and so on.

    For ``check.unbiased``, which computes their expected values and variances.

    Args:
        build: from parameters to a surrogate.
        order: the highest derivative.
    """

    def estimate(at: Tensor) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            parameters = at.detach().clone().requires_grad_()
            parts = [build(parameters)]
            for i in range(1, order + 1):
                rows = [_gradient(row, parameters, i < order) for row in parts[-1].reshape(-1)]
                parts.append(torch.stack(rows).reshape((*parts[-1].shape, *at.shape)))
        return tuple(part.detach() for part in parts)

    return program(estimate)


def _gradient(x: Tensor, parameters: Tensor, again: bool) -> Tensor:
    if not x.requires_grad:
        return torch.zeros_like(parameters)
    (found,) = torch.autograd.grad(
        x, parameters, retain_graph=True, create_graph=again, allow_unused=True
    )
    return torch.zeros_like(parameters) if found is None else found


class Once(torch.autograd.Function):
    """The identity, of which the derivative has no derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # type: ignore[override]
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        if torch.is_grad_enabled():
            what = "a surrogate of order 1 is differentiated with create_graph=True"
            raise ObjectiveError(located(what, hint="ask for objective.surrogate(..., order=2)"))
        return grad


def objective(fn: Callback) -> Callable[..., Objective]:
    """Make a function an objective: to call it binds its first arguments.

    The function returns a real number.  In it, ``sample_trace``, ``log_density`` and ``expect`` run
    programs; the number may be any tensor operation of what they give.
    """

    @functools.wraps(fn)
    def bind(*args: Any, **named: Any) -> Any:
        made = Objective(fn, args, tuple(named.items()))
        inside = any(isinstance(handler, Run) for handler in stack())
        return fn(*args, **named) if inside else made

    return bind
