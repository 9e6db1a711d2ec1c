"""Objectives as programs: functions of programs that return a real number in expectation."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from ...ppl.batching import run_batched
from ...ppl.data import as_arguments
from ...ppl.effects import (
    Message,
    Subsets,
    draw,
    is_draw,
    is_latent,
    is_subsample,
    outside,
    stack,
)
from ...ppl.errors import DataError, ObjectiveError, checked, implemented, located
from ...ppl.handlers import Handler, Sealed
from ...ppl.interpret import Recorder, Trace
from ...ppl.program import Callback, Program, program, program_name
from .baselines import Baseline
from .estimators import choose
from .replay import Notes, Run, Score, Settings, current


@dataclass(frozen=True)
class Sampled(Trace):
    """A trace that was sampled in an objective; ``scores`` are those of its choices."""

    scores: tuple[Score, ...] = ()

    def subtract(self, baseline: Tensor) -> None:
        """Subtract a number from what follows this trace, as a baseline of all its scores.

        It must not depend on the trace.
        """
        for score in self.scores:
            score.offset = score.offset + baseline


class Choosing(Handler):
    """Gives every latent the value that its strategy chooses."""

    lane_wise = False

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run = run

    def _process_message(self, msg: Message) -> None:
        if msg["type"] != "sample" or is_draw(msg):
            return
        if is_latent(msg) and msg["value"] is None:
            msg["value"], msg["done"] = choose(self.run, msg["name"], msg["fn"]), True


class Subsampling(Handler):
    """Gives a plate that subsamples the same indices in all programs of a run."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run = run

    def _process_message(self, msg: Message) -> None:
        if msg["type"] != "sample" or not is_subsample(msg) or msg["value"] is not None:
            return
        fn, name, kept = msg["fn"], msg["name"], self.run.subsamples
        if fn.subsample_size is None or fn.subsample_size >= fn.size:
            return
        if name not in kept:
            kept[name] = self.run.decide(f"{name}/indices", lambda: _indices(self.run, fn))
        msg["value"], msg["done"] = kept[name], True


def _indices(run: Run, fn: Any) -> Tensor:
    with outside(run):
        return draw(Subsets(fn.size, fn.subsample_size, ()), label="indices")


def sample_trace(program: Any, *args: Any) -> Sampled:
    """Run a program, each choice by its strategy; ``log_density`` [] is that of its choices.

    Errors:
        ObjectiveError: the program scores (observes), so that its trace is no sample of its law.
        StrategyError: a choice depends on a parameter and has no strategy, or an illegal one.
    """
    if hasattr(program, "sampled"):
        return program.sampled(*args)  # type: ignore[no-any-return]
    run = current()
    before = len(run.scores)
    with (
        checked(),
        implemented(),
        Sealed(),
        Recorder({}, density=False) as recorder,
        Subsampling(run),
        Choosing(run),
    ):
        value = program(*as_arguments(args))
    scored = [n for n, kind in recorder.sites.items() if kind in ("observed", "auxiliary")]
    if scored:
        what = f"{program_name(program)} scores at {', '.join(map(repr, scored))}: what it samples"
        raise ObjectiveError(
            located(f"{what} is not its law", hint="use normalize(...), or leave out the data")
        )
    trace = recorder.trace(value)
    return Sampled(**vars(trace), scores=tuple(run.scores[before:]))


def log_density(program: Any, choices: dict[str, Tensor], *args: Any) -> Tensor:
    """The log density [] of a program, observations and factors included, at its choices.

    Errors:
        DataError: a latent is missing, or a choice names no site.
        SupportError: a choice is outside the support of its site.
    """
    if hasattr(program, "scored"):
        return program.scored(choices, *args)  # type: ignore[no-any-return]
    run = current()
    with (
        checked(),
        implemented(),
        Sealed(),
        Recorder(choices, density=True) as recorder,
        Subsampling(run),
    ):
        program(*as_arguments(args))
    require_same(program, recorder.of("latent"), choices)
    return torch.as_tensor(recorder.log_density)


def require_same(program: Any, latents: dict[str, Tensor], choices: dict[str, Tensor]) -> None:
    """Raise unless a program has met exactly the choices that it was given."""
    missing, unused = latents.keys() - choices.keys(), choices.keys() - latents.keys()
    if missing or unused:
        problem = f"no value for {sorted(missing)}" if missing else f"no site {sorted(unused)}"
        hint = f"its latents are {sorted(latents)}; marginal(...) leaves some out"
        raise DataError(located(f"log_density of {program_name(program)}: {problem}", hint=hint))


class Frozen(Program):
    """A program whose parameters are held constant."""

    def sampled(self, *args: Any) -> Sampled:
        with torch.no_grad(), current().held():
            trace = sample_trace(self.fn, *args)
        return replace(trace, **_constant({k: v for k, v in vars(trace).items() if k != "scores"}))

    def scored(self, choices: dict[str, Tensor], *args: Any) -> Tensor:
        if isinstance(self.fn, torch.nn.Module):
            fixed = {name: p.detach() for name, p in self.fn.named_parameters()}
            held = functools.partial(torch.func.functional_call, self.fn, fixed)
            return log_density(lambda *inner: held(inner), choices, *args)
        if any(x.requires_grad for x in choices.values()):
            what = f"frozen({program_name(self.fn)}) cannot tell its parameters from the choices"
            raise ObjectiveError(located(what, hint="make it a torch.nn.Module, or detach these"))
        with torch.no_grad():
            return log_density(self.fn, choices, *args).detach()


def _constant(tree: Any) -> Any:
    return tree_map(lambda x: x.detach() if isinstance(x, Tensor) else x, tree)


def frozen(program: Any) -> Frozen:
    """The program with its parameters held constant: no derivative goes through what it samples.

    Its density may be differentiated in the choices if it is a ``torch.nn.Module``.
    """
    return Frozen(program)


# --------------------------------------------------------------------------------------- objectives


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

    def surrogate(self, *args: Any, order: int = 1, notes: Notes | None = None) -> Tensor:
        """A tensor [] whose expected value and derivative are those of the objective.

        Args:
            order: how often it is to be differentiated; to differentiate once more is an error.

        Errors:
            StrategyError: a strategy is missing, not legal, biased, or of too low an order.
        """
        settings = self.settings._replace(order=order)
        run = Run(lambda: self._evaluated(args), settings, notes or Notes())
        with torch.enable_grad():
            surrogate = run.surrogate()
        return Once.apply(surrogate) if order == 1 else surrogate  # type: ignore[no-any-return]

    def surrogates(self, n: int, *args: Any) -> Surrogates:
        """n surrogates [n] at once, to be differentiated once."""
        met: list[Score] = []

        def lane() -> tuple[Tensor, ...]:
            notes = Notes()
            value = Run(lambda: self._evaluated(args), self.settings, notes).surrogate()
            met[:] = [score for score, _ in notes.costs]
            return (value, *(cost for _, cost in notes.costs))

        with torch.enable_grad():
            value, *costs = run_batched(lane, (), (), n) if n > 1 else lane()
        known = zip(met, costs, strict=True)
        return Surrogates(value.reshape(n), [(s.site, s.baseline, c) for s, c in known])

    def value(self, *args: Any) -> Tensor:
        """An unbiased estimate [] of the objective."""
        run = Run(lambda: self._evaluated(args), self.settings, Notes(), forward=True)
        with torch.no_grad():
            return run.surrogate()

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
        """Its value as a part of another objective, with the noise of that one."""
        current()
        return self._evaluated(args)

    def _evaluated(self, args: tuple[Any, ...]) -> Any:
        return self.fn(*self.bound, *args, **dict(self.named))

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
