"""What objectives are made of: to sample the trace of a program, and to score one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from ....ppl.distributions.data import as_arguments
from ....ppl.distributions.strategies import is_followed, strategy_of
from ....ppl.distributions.subsets import Subsets
from ....ppl.errors import DataError, ObjectiveError, checked, implemented, located
from ....ppl.interpretations.recorder import Trace
from ....ppl.language.effects import Message, is_draw, is_latent, is_subsample
from ....ppl.language.handlers import Handler, Sealed
from ....ppl.language.program import Callback, Program, derived, program_name
from ....ppl.types import Direction
from ..gradients.estimators import choose
from ..gradients.replay import Run, Score, current


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
        self.run, self.auxiliary = run, set[str]()

    def _process_message(self, msg: Message) -> None:
        if msg["type"] == "sample" and is_draw(msg):
            msg["value"], msg["done"] = choose(self.run, msg["name"], msg["fn"]), True
        if msg["type"] != "sample" or is_draw(msg) or not is_latent(msg):
            return
        if msg["infer"].get("is_auxiliary"):
            self.auxiliary.add(msg["name"])
        if msg["value"] is None:
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
    return run.draw(Subsets(fn.size, fn.subsample_size, ()), "indices")


def sample_trace(program: Any, *args: Any) -> Sampled:
    """Run a program, each choice by its strategy; ``log_density`` [] is that of its choices.

    Choices that are marked ``infer={"is_auxiliary": True}`` count there, and are left out of
    ``choices``.

    Errors:
        ObjectiveError: the program scores (observes), so that its trace is no sample of its law.
        StrategyError: a choice depends on a parameter and has no strategy, or an illegal one.
    """
    if hasattr(program, "sampled"):
        found: Sampled = program.sampled(*args)
        return found
    run = current()
    before = len(run.scores)
    with (
        checked(),
        implemented(),
        Sealed(),
        run.recorder({}, density=False) as recorder,
        Subsampling(run),
        Choosing(run) as choosing,
    ):
        value = program(*as_arguments(args))
    scored = [n for n, kind in recorder.sites.items() if kind in ("observed", "auxiliary")]
    if scored:
        what = f"{program_name(program)} scores at {', '.join(map(repr, scored))}: what it samples"
        raise ObjectiveError(
            located(f"{what} is not its law", hint="use normalize(...), or leave out the data")
        )
    trace = recorder.trace(value)
    choices = {n: x for n, x in trace.choices.items() if n not in choosing.auxiliary}
    scores = tuple(run.scores[before:])
    return Sampled(**{**vars(trace), "choices": choices}, scores=scores)


def retrace(
    program: Any,
    choices: dict[str, Tensor],
    args: tuple[Any, ...],
    direction: Direction = "exclusive",
) -> Sampled:
    """The trace of a program at choices that are given, in supports as ``direction`` says."""
    run = current()
    with (
        checked(),
        implemented(),
        Sealed(),
        run.recorder(choices, density=True) as recorder,
        Subsampling(run),
        run.comparing(program, choices, direction),
    ):
        value = program(*as_arguments(args))
    require_same(program, recorder.of("latent"), choices)
    return Sampled(**vars(recorder.trace(value)))


def log_density(program: Any, choices: dict[str, Tensor], *args: Any) -> Tensor:
    """The log density [] of a program, observations and factors included, at its choices.

    Errors:
        DataError: a latent is missing, or a choice names no site.
        SupportError: a choice is outside the support of its site.
    """
    return score(program, choices, args, "exclusive")


def score(
    program: Any, choices: dict[str, Tensor], args: tuple[Any, ...], direction: Direction
) -> Tensor:
    """The log density [], its supports to be as ``ppl.types.compatible`` says."""
    if hasattr(program, "scored"):
        found: Tensor = program.scored(choices, *args)
        return found
    return retrace(program, choices, args, direction).log_density


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
        if any(map(is_followed, choices.values())):
            what = f"frozen({program_name(self.fn)}) cannot tell its parameters from the choices"
            raise ObjectiveError(located(what, hint="make it a torch.nn.Module, or detach these"))
        with torch.no_grad():
            return log_density(self.fn, choices, *args).detach()


def _constant(tree: Any) -> Any:
    return tree_map(lambda x: x.detach() if isinstance(x, Tensor) else x, tree)


def strategic(
    p: Callback, default: Callable[[Any], Any], **by_name: Callable[[Any], Any]
) -> Program:
    """The program p with strategies for the choices that have none: for guides of Pyro, say.

    Args:
        default: a strategy, such as ``reparam``.
        by_name: other strategies for some sites.
    """

    def annotating(*args: Any, **kwargs: Any) -> Any:
        with Annotating(default, by_name):
            return p(*args, **kwargs)

    return derived(annotating, program_name(p))


class Annotating(Handler):
    """Puts strategies on choices that have none."""

    def __init__(
        self, default: Callable[[Any], Any], by_name: dict[str, Callable[[Any], Any]]
    ) -> None:
        super().__init__()
        self.default, self.by_name = default, by_name

    def _process_message(self, msg: Message) -> None:
        if msg["type"] == "sample" and is_latent(msg) and strategy_of(msg["fn"]) is None:
            msg["fn"] = self.by_name.get(msg["name"], self.default)(msg["fn"])


def frozen(program: Any) -> Frozen:
    """The program with its parameters held constant: no derivative goes through what it samples.

    Its density may be differentiated in the choices if it is a ``torch.nn.Module``.
    """
    return Frozen(program)
