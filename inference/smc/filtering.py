"""Particles of a program with a ``scan``: how they begin, go on by a step, and end.

A particle suspended at the scan is (choices and anonymous draws before it, carry).  To advance it,
the program is run again from the start with those given, up to the scan, of which one step is run;
so a step may use anything that was chosen before, and resampling moves all of it together.
Whatever else a program remembers across its scan (weights that it turns into values, answers of
random functions) is no part of a particle, and such a program is refused.
"""

from __future__ import annotations

import functools
import math
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from pyro.poutine.indep_messenger import IndepMessenger
from pyro.poutine.mask_messenger import MaskMessenger
from pyro.poutine.scale_messenger import ScaleMessenger
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from ...ppl import cond, vmap
from ...ppl.errors import (
    BranchError,
    DataError,
    ImpureProgramError,
    ProgramError,
    UnsupportedDistributionError,
    located,
)
from ...ppl.interpretations.abstract_run import check_program
from ...ppl.interpretations.guides import check_guide
from ...ppl.language.combinators import Loop
from ...ppl.language.effects import (
    Message,
    is_draw,
    is_latent,
    is_subsample,
    outside,
    stack,
    whole_indices,
)
from ...ppl.language.handlers import (
    Handler,
    Intervening,
    Proposing,
    Untracing,
    Weighing,
    at_step,
)
from ...ppl.language.program import Callback, Program, program_name
from ...ppl.tensors.hidden import is_hidden
from .population import Population
from .resampling import Scheme, resample, systematic
from .step_choices import Proposed, StepChoices


class _Suspended(BaseException):
    """Leaves the program at its scan."""


Before = tuple[dict[str, Tensor], tuple[Tensor, ...]]  # the choices and draws before the scan


class _AtScan(Handler):
    """Handles the first loop of the program by ``on_loop``, which may suspend the program.

    ``replayed``: what was chosen and drawn before it, on an earlier run.
    """

    def __init__(self, replayed: Before | None = None) -> None:
        super().__init__()
        self.replayed, self.met = replayed, False
        self.lane_wise = False  # what is replayed is that of all lanes
        self.draws: tuple[Tensor, ...] = ()
        self.passed: list[str] = []  # effects that may hide a scan
        self.open: list[str] = []  # those of them that are running

    def _process_message(self, msg: Message) -> None:
        if self.met:
            return
        kind = msg["type"]
        if kind == "loop" and msg["infer"]["loop"].has_outputs:
            self.met = self.lane_wise = True
            self._require_held()
            self.on_loop(msg, msg["infer"].get("suspended", msg["infer"]["loop"]))
        elif kind in ("call", "loop"):
            # the scan may lie inside, and leaving an effect that is denoted on its own would be
            # seen by the first of its paths only: so it is run in place
            msg["stop"] = True
        elif kind in ("cond", "vmap", "fix", "normalize", "memo"):
            self.passed.append(kind)
            self.open.append(kind)
            self.mark(msg, "open")
        elif kind == "sample" and (is_draw(msg) or self._is_subsample(msg)):
            self.mark(msg, "draw")
            if self.replayed is not None:
                msg["value"], msg["done"] = self.replayed[1][len(self.draws)], True
                msg["stop"] = True
        elif self.replayed is not None and kind == "sample":
            # before the scan everything happened already, and was scored when it did
            if is_latent(msg):
                msg["value"], msg["is_observed"] = self.replayed[0][msg["name"]], True
            if msg["is_observed"]:
                msg["type"], msg["infer"]["absorber"], msg["done"] = "absorbed", self, True

    def _postprocess_message(self, msg: Message) -> None:
        if self.marked(msg) == "draw":
            self.draws = (*self.draws, msg["value"])
        elif self.marked(msg) == "open":
            self.open.pop()

    def _is_subsample(self, msg: Message) -> bool:
        return is_subsample(msg) and msg["value"] is None and whole_indices(msg) is None

    def inner(self) -> list[Any]:
        """The handlers between the program and here."""
        handlers = stack()
        return handlers[handlers.index(self) + 1 :]

    def _require_held(self) -> None:
        """Raise unless a particle holds all that the program remembers across its scan."""
        for handler in self.inner():
            if not (isinstance(handler, _HELD) or getattr(handler, "spans_scans", False)):
                what = f"the scan lies inside {_WITHIN.get(type(handler).__name__, 'a handler')}"
                raise self._refused(f"{what} ({type(handler).__name__})")
        if self.open:
            raise self._refused(f"the scan lies inside {self.open[-1]}")
        if "memo" in self.passed:
            raise self._refused("a random function (memo) is made before the scan")

    def _refused(self, what: str) -> ProgramError:
        more = "whose state is no part of a particle, so that it would be lost from step to step"
        hint = "move it out of the way of the scan, or use smc(...), which suspends whole runs"
        return ProgramError(located(f"{what}, {more}", hint=hint))

    def on_loop(self, msg: Message, loop: Loop) -> None:
        raise NotImplementedError


# Pyro's handlers that remember nothing, and what some of ours stand for.
_HELD = (IndepMessenger, ScaleMessenger, MaskMessenger)
_WITHIN = {
    "Weighing": "weighted(...)",
    "Taken": "a branch of cond(...)",
    "Lane": "vmap(...)",
    "Step": "a step of another loop",
}


class _Stop(_AtScan):
    """Suspends at the scan with its initial carry."""

    def on_loop(self, msg: Message, loop: Loop) -> None:
        self.loop, (self.carry, self.xs) = loop, msg["args"]
        raise _Suspended


class _Advance(_AtScan):
    """Runs step t of the scan from a carry, and suspends again.

    ``choices``: those of the step, if something is to be done with them.
    """

    def __init__(
        self, replayed: Before, carry: Any, t: int | Tensor, choices: StepChoices | None
    ) -> None:
        super().__init__(replayed)
        self.carry, self.t, self.choices = carry, t, choices

    def on_loop(self, msg: Message, loop: Loop) -> None:
        if self.choices is not None:
            loop = replace(loop, step=self.choices.around(loop.step))
        self.carry, self.output = loop.advance(self.t, self.carry, msg["args"][1])
        raise _Suspended


class _Look(_AtScan):
    """Asks what a particle at the scan is worth in view of row t, and suspends again."""

    def __init__(self, replayed: Before, t: int | Tensor, worth: Callback) -> None:
        super().__init__(replayed)
        self.t, self.worth = t, worth

    def on_loop(self, msg: Message, loop: Loop) -> None:
        row = tree_map(lambda x: at_step(x, self.t), msg["args"][1])
        with outside(self):
            self.factor = self.worth(row)
        raise _Suspended


class _Finish(_AtScan):
    """Gives the scan its result and lets the program run on."""

    def __init__(self, replayed: Before, carry: Any, outputs: Any) -> None:
        super().__init__(replayed)
        self.result = (carry, outputs)

    def on_loop(self, msg: Message, loop: Loop) -> None:
        msg["value"], msg["done"], msg["stop"] = self.result, True, True
        for handler in self.inner():  # the sites of the steps were met when they ran
            if isinstance(handler, Untracing):
                handler.met = handler.keep
            elif isinstance(handler, Intervening):
                handler.used = frozenset(handler.values)


@dataclass(frozen=True)
class Filtering:
    """The parts of a particle filter, for algorithms that are made of them.

    ``proposal``, ``ahead`` and ``move``: see ``particle_filter``.
    """

    model: Callback
    particles: int
    scheme: Scheme = systematic
    ess: float = 1.0
    proposal: Callback | None = None
    ahead: Callback | None = None
    move: Callback | None = None

    def check(self, *args: Any) -> None:
        """Raise what is wrong with the model, or with the proposal at its first step."""
        check_program(self.model, *args)
        if self.proposal is None:
            return

        def at_first(then: Callback, name: str) -> Callback:
            def run(*args: Any) -> None:
                with suppress(_Suspended), Untracing(), Weighing(), _Stop() as at:
                    self.model(*args)
                if at.met and at.loop.length:
                    then(at, tree_map(lambda x: x[0], at.xs))

            run.__name__ = run.__qualname__ = name
            return run

        name = program_name(self.proposal)
        proposal = at_first(lambda at, row: self._propose(args, at.carry, row), name)
        step = at_first(
            lambda at, row: at.loop.step(at.carry, row), f"a step of {program_name(self.model)}"
        )
        with suppress(BranchError, ImpureProgramError, UnsupportedDistributionError):
            check_guide(proposal, step, *args, direction="inclusive", partial=True)

    def begin(self, *args: Any) -> tuple[Population, int]:
        """Particles that stand at the scan, and how many steps it has.

        Until the end their weights are n times too heavy, so that no rounding enters.
        """
        constants = (None,) * len(args)
        values, lengths, log_weights = vmap(self._start, constants, self.particles)(*args)
        return Population(values, log_weights), int(lengths[0])

    def step(
        self, population: Population, t: Tensor, recording: bool, *args: Any
    ) -> tuple[Population, Any, Tensor | None]:
        """Resample, but before the first step, and run step t.

        Returns the particles with the outputs of the step, and with their ancestors if these were
        asked for (``recording``) or there are outputs.
        """
        time = t if is_hidden(t) else int(t)
        first = not is_hidden(t) and time == 0  # a traced step is never the first
        ahead = None if first else self._looked(population, time, args)
        if first:
            again: Callback = self._kept
        elif self.ess >= 1.0:
            again = Program(self._resampled)
        else:
            preferred = 0.0 if ahead is None else ahead
            seen = population._replace(log_weights=population.log_weights + preferred)
            again = cond(seen.is_uneven(self.ess), Program(self._resampled), self._kept)
        population, ancestors = again(population, recording, ahead)
        axes = (0, None, *(None for _ in args))
        particle, output, log_weights = vmap(self._advance, axes, self.particles)(
            population.values, time, *args
        )
        population = Population(particle, population.log_weights + log_weights)
        if first and output is not None:
            ancestors = self._kept(population, True, None)[1]
        return population, output, ancestors

    def end(self, population: Population, outputs: Any, *args: Any) -> Population:
        """The results of the program, with their weights.

        Args:
            outputs: of the scan, along the line of each particle, [particles, steps, ...], or None.
        """
        axes = (0, 0, *(None for _ in args))
        values, log_weights = vmap(self._finish, axes, self.particles)(
            population.values, outputs, *args
        )
        log_weights = population.log_weights + log_weights - math.log(self.particles)
        return Population(values, log_weights)

    def _start(self, *args: Any) -> tuple[Any, int, Tensor]:
        with Untracing(), Weighing() as weight, Proposing() as before, _Stop() as at:
            try:
                self.model(*args)
            except _Suspended:
                particle = (before.choices, at.draws), at.carry
                log_weight = torch.as_tensor(weight.log_weight, dtype=_precision(particle))
                return particle, at.loop.length, log_weight
        what = f"{program_name(self.model)} has no scan(...) to resample between"
        if hiding := [kind for kind in dict.fromkeys(at.passed) if kind != "memo"]:
            what += f", or has it inside {' or '.join(hiding)}"
        hint = "use importance(...) or smc(...), or write its loop over time with scan"
        raise ProgramError(located(what, hint=hint))

    def _advance(self, particle: Any, t: int | Tensor, *args: Any) -> tuple[Any, Any, Tensor]:
        if self.move is not None:
            particle = self._moved(self.move, particle, args)
        if self.proposal is None:
            return self.through(particle, t, None, args)
        choices = self.proposed(args)
        particle, output, log_weight = self.through(particle, t, choices, args)
        return particle, output, log_weight - choices.log_density

    def proposed(self, args: tuple[Any, ...]) -> Proposed:
        """The choices of a step, with those that the proposal draws."""
        return Proposed(partial(self._propose, args), program_name(self.proposal))  # type: ignore[arg-type]

    def through(
        self, particle: Any, t: int | Tensor, choices: StepChoices | None, args: tuple[Any, ...]
    ) -> tuple[Any, Any, Tensor]:
        """One particle after step t, the output of the step, and the log weight of its scores."""
        before, carry = particle
        advancing, noting = _Advance(before, carry, t, choices), choices or nullcontext()
        with suppress(_Suspended), Untracing(), Weighing() as weight, noting, advancing as at:
            self.model(*args)
        return (before, at.carry), at.output, torch.as_tensor(weight.log_weight)

    def _propose(self, args: tuple[Any, ...], carry: Any, row: Any) -> None:
        assert self.proposal is not None
        self.proposal(carry, row, *args)

    def _looked(
        self, population: Population, t: int | Tensor, args: tuple[Any, ...]
    ) -> Tensor | None:
        """The log factors by which particles are preferred before step t; what is dead has none."""
        if self.ahead is None:
            return None
        axes = (0, None, *(None for _ in args))
        found = vmap(self._worth, axes, self.particles)(population.values, t, *args)
        return torch.where(torch.isneginf(population.log_weights), 0.0, found)

    def _worth(self, particle: Any, t: int | Tensor, *args: Any) -> Tensor:
        before, carry = particle
        looking = _Look(before, t, lambda row: self.ahead(carry, row, *args))  # type: ignore[misc]
        with suppress(_Suspended), Untracing(), Weighing(), looking as at:
            self.model(*args)
        if not isinstance(at.factor, Tensor | float | int) or torch.as_tensor(at.factor).ndim:
            what = f"{program_name(self.ahead)} gives no number"  # type: ignore[arg-type]
            hint = "ahead(carry, next_row, *args) returns one log factor for one particle"
            raise ProgramError(located(what, hint=hint))
        return torch.as_tensor(at.factor)

    def _moved(self, move: Callback, particle: Any, args: tuple[Any, ...]) -> Any:
        """The particle with other choices before the scan."""
        (choices, draws), carry = particle
        with Untracing(), Weighing() as scored:
            new = move(dict(choices), carry, *args)
        if not isinstance(new, dict) or new.keys() - choices.keys():
            what = f"the move {program_name(move)} gives no choices of before the scan"
            hint = f"return a dict of some of {sorted(choices)}, each with its new value"
            raise DataError(located(what, hint=hint))
        if isinstance(scored.log_weight, Tensor):
            hint = "a move keeps the law of what it moves, so that no weight changes"
            raise ProgramError(located(f"the move {program_name(move)} scores", hint=hint))
        for name, x in new.items():
            if (old := choices[name]).shape != (now := torch.as_tensor(x)).shape:
                what = f"a move gives a value of shape {list(now.shape)}, not {list(old.shape)}"
                raise DataError(located(what, site=name, hint="keep the shape of the choice"))
            choices = {**choices, name: now.to(old.dtype)}
        return (choices, draws), carry

    def _finish(self, particle: Any, outputs: Any, *args: Any) -> tuple[Any, Tensor]:
        before, carry = particle
        with Untracing(), Weighing() as weight, _Finish(before, carry, outputs):
            value = self.model(*args)
        return value, torch.as_tensor(weight.log_weight)

    def _resampled(
        self, population: Population, recording: bool, ahead: Tensor | None
    ) -> tuple[Population, Any]:
        population, ancestors = resample(population, self.scheme, ahead)
        return population, ancestors if recording else None  # without outputs nobody asks for them

    def _kept(
        self, population: Population, recording: bool, ahead: Tensor | None
    ) -> tuple[Population, Any]:
        everyone = torch.arange(self.particles, device=population.log_weights.device)
        return population, everyone if recording else None


def _precision(particle: Any) -> torch.dtype:
    """The precision of a particle; weights that begin in it keep it."""
    dtypes = [x.dtype for x in tree_leaves(particle) if isinstance(x, Tensor)]
    floating = [dtype for dtype in dtypes if dtype.is_floating_point]
    return functools.reduce(torch.promote_types, floating, torch.get_default_dtype())


def ancestry(outputs: Any, ancestors: Tensor) -> Any:
    """The outputs [steps, particles, ...] along each final particle's line, particles first."""
    steps, particles = ancestors.shape
    line, lines = torch.arange(particles, device=ancestors.device), []
    for later in ancestors.flip(0).unbind():
        lines.append(line)
        line = later[line]
    index = torch.stack(lines[::-1])
    rows = torch.arange(steps, device=ancestors.device)[:, None]
    return tree_map(lambda x: None if x is None else x[rows, index].movedim(0, 1), outputs)
