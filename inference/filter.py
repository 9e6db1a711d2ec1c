"""The particle filter: any program with a ``scan``, run with resampling between its steps.

A particle suspended at the scan is (choices before it, carry).  To advance it, the program is run
again from the start with those choices given, up to the scan, of which one step is run; so a step
may use anything that was chosen before, and resampling moves all of it together.
"""

from __future__ import annotations

import functools
import math
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from ..ppl import cond, scan, vmap
from ..ppl.abstract import check_program
from ..ppl.combinators import Loop
from ..ppl.effects import Message, is_latent
from ..ppl.errors import ProgramError, located
from ..ppl.handlers import Handler, Proposing, Untracing, Weighing
from ..ppl.keys import Bookkeeping
from ..ppl.program import Callback, Program, program_name, signature
from ..ppl.validate import is_hidden
from .population import Population
from .resampling import Scheme, resample, systematic


class _Suspended(BaseException):
    """Leaves the program at its scan."""


class _AtScan(Handler):
    """Handles the first loop of the program by ``on_loop``, which may suspend the program."""

    def __init__(self, replayed: dict[str, Tensor] | None = None) -> None:
        super().__init__()
        self.replayed, self.met = replayed, False

    def _process_message(self, msg: Message) -> None:
        if self.met:
            return
        if msg["type"] == "loop" and msg["infer"]["loop"].has_outputs:
            self.met = True
            self.on_loop(msg, msg["infer"]["loop"])
        elif msg["type"] in ("call", "loop"):
            # the scan may lie inside, and leaving an effect that is denoted on its own would be
            # seen by the first of its paths only: so it is run in place
            msg["stop"] = True
        elif self.replayed is not None and msg["type"] == "sample":
            # before the scan everything happened already, and was scored when it did
            if is_latent(msg):
                msg["value"], msg["is_observed"] = self.replayed[msg["name"]], True
            if msg["is_observed"]:
                msg["type"], msg["infer"]["absorber"], msg["done"] = "absorbed", self, True

    def on_loop(self, msg: Message, loop: Loop) -> None:
        raise NotImplementedError


class _Stop(_AtScan):
    """Suspends at the scan with its initial carry."""

    def on_loop(self, msg: Message, loop: Loop) -> None:
        self.carry, self.length = msg["args"][0], loop.length
        raise _Suspended


class _Advance(_AtScan):
    """Runs step t of the scan from a carry, and suspends again."""

    def __init__(self, replayed: dict[str, Tensor], carry: Any, t: int | Tensor) -> None:
        super().__init__(replayed)
        self.carry, self.t = carry, t

    def on_loop(self, msg: Message, loop: Loop) -> None:
        self.carry, self.output = loop.advance(self.t, self.carry, msg["args"][1])
        raise _Suspended


class _Finish(_AtScan):
    """Gives the scan its result and lets the program run on."""

    def __init__(self, replayed: dict[str, Tensor], carry: Any, outputs: Any) -> None:
        super().__init__(replayed)
        self.result = (carry, outputs)

    def on_loop(self, msg: Message, loop: Loop) -> None:
        msg["value"], msg["done"], msg["stop"] = self.result, True, True


def particle_filter(
    model: Callback, particles: int, scheme: Scheme = systematic, ess: float = 1.0
) -> Program:
    """Sequential Monte Carlo for a program with a ``scan``; it returns a ``Population``.

    Invariant: E[sum_i w_i delta_{x_i}] is the model's measure, for every number of particles.

    Args:
        model: a program; its first scan is run with resampling before each step but the first.
        particles: how many.
        scheme: ``multinomial``, ``systematic``, ``stratified``, or a user's own.
        ess: resample when the effective sample size falls below this fraction (1: always).
    """

    if particles < 1:
        raise ValueError("particle_filter needs at least one particle")

    def start(*args: Any) -> tuple[Any, int, Tensor]:
        with Untracing(), Weighing() as weight, Proposing() as before, _Stop() as at:
            try:
                model(*args)
            except _Suspended:
                particle = before.choices, at.carry
                log_weight = torch.as_tensor(weight.log_weight, dtype=_precision(particle))
                return particle, at.length, log_weight
        raise ProgramError(
            located(
                f"{program_name(model)} has no scan(...) to resample between",
                hint="use importance(...), or write its loop over time with scan",
            )
        )

    def advance(particle: Any, t: int | Tensor, *args: Any) -> tuple[Any, Any, Tensor]:
        choices, carry = particle
        advancing = _Advance(choices, carry, t)
        with suppress(_Suspended), Untracing(), Weighing() as weight, advancing as at:
            model(*args)
        return (choices, at.carry), at.output, torch.as_tensor(weight.log_weight)

    def finish(particle: Any, outputs: Any, *args: Any) -> tuple[Any, Tensor]:
        choices, carry = particle
        with Untracing(), Weighing() as weight, _Finish(choices, carry, outputs):
            value = model(*args)
        return value, torch.as_tensor(weight.log_weight)

    @Program
    def resampled(population: Population, recording: bool) -> tuple[Population, Tensor | None]:
        population, ancestors = resample(population, scheme)
        return population, ancestors if recording else None  # without outputs nobody asks for them

    def kept(population: Population, recording: bool) -> tuple[Population, Tensor | None]:
        everyone = torch.arange(particles, device=population.log_weights.device)
        return population, everyone if recording else None

    def step(state: tuple[Population, bool, Any], t: Tensor) -> tuple[Any, Any]:
        population, recording, args = state
        first = not is_hidden(t) and int(t) == 0  # a traced step is never the first
        if first:
            again: Callback = kept
        elif ess >= 1.0:
            again = resampled
        else:
            again = cond(population.is_uneven(ess), resampled, kept)
        population, ancestors = again(population, recording)
        axes = (0, None, *(None for _ in args))
        particle, output, log_weights = vmap(advance, axes, particles)(
            population.values, t if is_hidden(t) else int(t), *args
        )
        population = Population(particle, population.log_weights + log_weights)
        recording = output is not None
        if first and recording:
            ancestors = kept(population, recording)[1]
        return (population, recording, args), (output, ancestors) if recording else None

    checked = Bookkeeping()

    def run(*args: Any) -> Population:
        if not any(map(is_hidden, tree_leaves(args))) and (key := signature(args)) not in checked:
            check_program(model, *args)
            checked.add(key)
        constants = (None,) * len(args)
        values, lengths, log_weights = vmap(start, constants, particles)(*args)
        population = Population(values, log_weights)  # n times too heavy until the end: no rounding
        carry, steps = (population, False, args), torch.arange(int(lengths[0]))
        (population, _, _), history = scan(step)(carry, steps)
        outputs = None if history is None else ancestry(*history)
        values, log_weights = vmap(finish, (0, 0, *constants), particles)(
            population.values, outputs, *args
        )
        log_weights = population.log_weights + log_weights - math.log(particles)
        return Population(values, log_weights).require_weights()

    run.__name__ = run.__qualname__ = f"particle_filter({particles})"
    return Program(run)


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
