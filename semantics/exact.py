"""The exact evaluator: a program's measure by enumeration of its choices, states merged on the way.

A run with other choices is a run from the start with the earlier choices fixed (replay).  Calls,
lanes and loop steps are denoted on their own: their outcomes, merged, count as one choice of the
program around them.  The handlers that stand between such an effect and the evaluator take part in
its state: an outcome is (value, their states), and a handler that cannot tell its state switches
merging off there.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyro.poutine as poutine
import torch
from pyro.poutine.indep_messenger import IndepMessenger
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.utils._pytree import tree_map

from ..ppl.combinators import Lanes, Loop, stack_outputs
from ..ppl.effects import (
    Message,
    is_draw,
    is_subsample,
    log_density,
    scaled_log_prob,
    stack,
)
from ..ppl.errors import BudgetError, DuplicateNameError, ImpureProgramError, ProgramError, located
from ..ppl.handlers import Conditioning, Handler, Lane, Step, Taken, Untracing, is_one
from ..ppl.keys import Keys
from ..ppl.support import finite_support, lists_values, quadrature_rule
from ..ppl.validate import check_parameters, check_values
from .measure import EPSILON, logsumexp

_PURE = (
    Lane,
    Step,
    Taken,
    IndepMessenger,
    poutine.scale_messenger.ScaleMessenger,
    poutine.mask_messenger.MaskMessenger,
)
# handlers that rename or relabel only: the measure on results does not depend on them
_TRANSPARENT = (Lane, Step, Untracing)


@dataclass(frozen=True)
class Outcome:
    """One outcome of a choice: its value, the states of the handlers after it, its log weight."""

    value: Any
    states: tuple[Any, ...]
    log_weight: float


@dataclass
class _Path:
    """The run in progress: the choices so far, of which the first ``fixed`` are replayed."""

    log: list[tuple[Hashable, Outcome]]
    fixed: int
    position: int = 0
    log_weight: float = 0.0
    names: set[str] = field(default_factory=set)


class _Dead(BaseException):
    """The path has weight zero."""


class Evaluator(Messenger):  # type: ignore[misc]
    """The outermost handler of an exact evaluation.

    Args:
        budget: the most paths that may be run.
        quadrature: nodes for each continuous choice, or None to refuse them.
        merge: False enumerates every path of the whole program (the test oracle).
    """

    def __init__(self, *, budget: int, quadrature: int | None, merge: bool) -> None:
        super().__init__()
        self.budget, self.quadrature, self.merge = budget, quadrature, merge
        self.paths, self.approximate, self.resolution = 0, False, EPSILON
        self.notes: dict[str, None] = {}
        self._key = Keys()
        self._memo: dict[Hashable, list[Outcome]] = {}
        self._valid: set[Hashable] = set()
        self._current: list[_Path] = []
        self._pending: list[list[tuple[Hashable, Outcome]]] = []
        self.data: dict[int, Conditioning] = {}

    # ----------------------------------------------------------------------------------- exploring

    def run(self, fn: Callable[[], Any]) -> list[Outcome]:
        """All outcomes of a program, with weights; the program is run under this evaluator."""
        before = _ambient_randomness()
        outcomes = self._explore(fn, [], ())
        if _ambient_randomness() != before:
            raise ImpureProgramError(
                located(
                    "the program used random numbers outside its effects",
                    hint="use sample(...) or draw(...) in place of torch, numpy or random",
                )
            )
        return outcomes

    def _explore(
        self, fn: Callable[[], Any], handlers: list[Messenger], states: tuple[Any, ...]
    ) -> list[Outcome]:
        """Every path of ``fn`` from the given handler states, equal outcomes merged."""
        found: dict[Hashable, tuple[Outcome, list[float]]] = {}
        outer, self._pending = self._pending, [[]]
        try:
            first: tuple[Hashable, float] | None = None
            while self._pending:
                path = _Path(prefix := self._pending.pop(), len(prefix))
                if (outcome := self._run_path(fn, path, handlers, states)) is None:
                    continue
                key = self._key((outcome.value, outcome.states))
                if first is None:
                    first = (key, path.log_weight)
                    self._require_repeatable(fn, path, handlers, states, first)
                found.setdefault(key, (outcome, []))[1].append(outcome.log_weight)
        finally:
            self._pending = outer
        return [
            Outcome(outcome.value, outcome.states, logsumexp(logs))
            for outcome, logs in found.values()
        ]

    def _run_path(
        self, fn: Callable[[], Any], path: _Path, handlers: list[Messenger], states: tuple[Any, ...]
    ) -> Outcome | None:
        self.paths += 1
        if self.paths > self.budget:
            raise BudgetError(
                located(
                    f"the exact evaluation needs more than {self.budget} paths",
                    hint="return less of the history (equal states merge), shrink the model, "
                    "or raise budget=",
                )
            )
        _restore(handlers, states)
        self._current.append(path)
        try:
            value = fn()
        except _Dead:
            return None
        finally:
            self._current.pop()
        if path.position < path.fixed:
            raise self._impure("it made fewer choices when it was run again")
        return Outcome(value, _states(handlers), path.log_weight)

    def _require_repeatable(
        self,
        fn: Callable[[], Any],
        path: _Path,
        handlers: list[Messenger],
        states: tuple[Any, ...],
        first: tuple[Hashable, float],
    ) -> None:
        """Run the first path again with every choice fixed: a program must do the same."""
        again = _Path(list(path.log), len(path.log))
        outcome = self._run_path(fn, again, handlers, states)
        if outcome is None or again.position != len(path.log):
            raise self._impure("it took another path when it was run again")
        if (self._key((outcome.value, outcome.states)), outcome.log_weight) != first:
            raise self._impure("it returned another value or weight when it was run again")

    def _impure(self, what: str) -> ImpureProgramError:
        return ImpureProgramError(
            located(
                f"the program is impure: {what} with the same choices",
                hint="remove hidden state (globals, in-place changes, outside randomness)",
            )
        )

    # ------------------------------------------------------------------------------------ choosing

    def _choose(self, identity: Hashable, outcomes: Callable[[], list[Outcome]]) -> Outcome:
        """Take the next outcome: the recorded one on replay, else the first; the others wait."""
        path = self._current[-1]
        if path.position < path.fixed:
            recorded, outcome = path.log[path.position]
            if recorded != identity:
                raise self._impure("a site had another name, distribution or argument")
        else:
            options = outcomes()
            if not options:
                raise _Dead
            for other in reversed(options[1:]):
                self._pending.append([*path.log, (identity, other)])
            outcome = options[0]
            path.log.append((identity, outcome))
        path.position += 1
        path.log_weight += outcome.log_weight
        return outcome

    # ------------------------------------------------------------------------------------ messages

    def _process_message(self, msg: Message) -> None:
        if msg["type"] == "sample":
            self._sample(msg)
        elif msg["type"] == "call" and self.merge:
            self._call(msg)
        elif msg["type"] == "loop" and self.merge:
            self._loop(msg, msg["infer"]["loop"])
        elif msg["type"] == "vmap":
            self._lanes(msg, msg["infer"]["lanes"])
        msg["stop"] = True

    def _sample(self, msg: Message) -> None:
        fn, name = msg["fn"], msg["name"]
        path = self._current[-1]
        if not is_draw(msg) and not is_subsample(msg):
            if name in path.names:
                raise DuplicateNameError(
                    located("the name is used twice on one path", site=name, hint="rename a site")
                )
            path.names.add(name)
            for handler in self._between():
                if isinstance(handler, Conditioning):
                    self.data[id(handler.data)] = handler
        identity = (msg["is_observed"], name, self._key(fn))
        if identity not in self._valid:
            check_parameters(name, fn)
            self._valid.add(identity)
        if msg["is_observed"] or msg["value"] is not None:
            self._score(msg, identity)
        else:
            outcome = self._choose(identity, lambda: self._enumerate(msg))
            msg["value"] = outcome.value
        msg["done"] = True

    def _score(self, msg: Message, identity: Hashable) -> None:
        if msg["infer"].get("_deterministic"):
            return
        if not msg["infer"].get("is_auxiliary"):
            check_values(msg["name"], msg["fn"], msg["value"])
        log_prob = scaled_log_prob(msg)
        self._see(log_prob)
        log_weight = float(log_prob)
        if math.isnan(log_weight):
            raise ProgramError(located("the log density is NaN", site=msg["name"]))
        if log_weight == math.inf:
            raise ProgramError(located("the log density is infinite", site=msg["name"]))
        identity = (identity, self._key(log_weight))
        self._choose(
            identity, lambda: [Outcome(None, (), log_weight)] if log_weight > -math.inf else []
        )

    def _see(self, log_prob: Tensor) -> None:
        if log_prob.is_floating_point():
            self.resolution = max(self.resolution, torch.finfo(log_prob.dtype).eps)

    def _enumerate(self, msg: Message) -> list[Outcome]:
        """The outcomes of a choice; a latent in a scaled context stands for density ** scale."""
        fn = msg["fn"]
        continuous = not (is_subsample(msg) or lists_values(fn) or fn.support.is_discrete)
        if self.quadrature is not None and continuous:
            values, log_probs = quadrature_rule(fn, self.quadrature)
            self.approximate = True
        else:
            values, log_probs = finite_support(fn, limit=self.budget)
            if not is_subsample(msg):
                log_probs = log_density(fn, values)
        self._see(log_probs)
        flat = log_probs.reshape(len(values), -1).sum(1)
        if not is_draw(msg) and not is_subsample(msg) and not is_one(msg["scale"]):
            exponent = [
                scaled_log_prob({**msg, "scale": msg["scale"] - 1.0}, log_prob)
                for log_prob in log_probs
            ]
            flat = flat + torch.stack(exponent)
        return [
            Outcome(value, (), log_weight)
            for value, log_weight in zip(values, flat.tolist(), strict=True)
            if log_weight > -math.inf
        ]

    # ---------------------------------------------------------------------- calls, loops and lanes

    def _between(self) -> list[Messenger]:
        handlers = stack()
        return handlers[handlers.index(self) + 1 :]

    def _mergeable(self, what: str) -> list[Messenger] | None:
        """The handlers between the effect and here if all can tell their state, else None."""
        handlers = self._between()
        for handler in handlers:
            if not isinstance(handler, (Handler, *_PURE)):
                self.notes[f"{what} not merged: {type(handler).__name__} has no state()"] = None
                return None
        return handlers

    def _submeasure(
        self,
        identity: Hashable,
        fn: Callable[[], Any],
        arguments: Any,
        handlers: list[Messenger],
        states: tuple[Any, ...],
    ) -> list[Outcome]:
        """The outcomes of a part of the program, computed once for each distinct input."""
        alone = all(isinstance(handler, _TRANSPARENT) for handler in handlers)
        key = (identity, self._key(arguments))
        if alone and key in self._memo:
            return self._memo[key]
        outcomes = self._explore(fn, handlers, states)
        if self._key(arguments) != key[1]:
            raise self._impure("it changed its argument in place")
        if alone:
            self._memo[key] = outcomes
        return outcomes

    def _take(
        self,
        msg: Message,
        identity: Hashable,
        handlers: list[Messenger],
        outcomes: Callable[[], list[Outcome]],
    ) -> None:
        outcome = self._choose(identity, outcomes)
        _restore(handlers, outcome.states)
        msg["value"], msg["done"] = outcome.value, True

    def _call(self, msg: Message) -> None:
        if (handlers := self._mergeable("call")) is None:
            return
        fn, args = msg["fn"], msg["args"]
        states = _states(handlers)
        identity = ("call", self._key((fn, args, states)))
        self._take(
            msg,
            identity,
            handlers,
            lambda: self._submeasure(identity, lambda: fn(*args), args, handlers, states),
        )

    def _loop(self, msg: Message, loop: Loop) -> None:
        if (handlers := self._mergeable("loop")) is None:
            return
        carry, xs = msg["args"]
        states = _states(handlers)
        identity = ("loop", self._key((loop, carry, xs, states)))
        self._take(
            msg, identity, handlers, lambda: self._loop_outcomes(loop, carry, xs, handlers, states)
        )

    def _loop_outcomes(
        self, loop: Loop, carry: Any, xs: Any, handlers: list[Messenger], states: tuple[Any, ...]
    ) -> list[Outcome]:
        """Advance every distinct (carry, outputs, handler states) one step at a time."""
        front = [Outcome((carry, []), states, 0.0)]
        for t in range(loop.length):
            merged: dict[Hashable, tuple[Outcome, list[float]]] = {}
            for at in front:
                c, ys = at.value
                if (done := loop.done(c)) is not None and bool(done):
                    merged.setdefault(self._key((at.value, at.states)), (at, []))[1].append(
                        at.log_weight
                    )
                    continue
                x = tree_map(lambda leaf: leaf[t], xs) if loop.has_outputs else None  # noqa: B023
                for step in self._submeasure(
                    ("step", self._key(loop.step), t),
                    lambda: loop.advance(t, c, xs),  # noqa: B023
                    (c, x),
                    handlers,
                    at.states,
                ):
                    after, y = step.value
                    value = (after, ys if y is None else [*ys, y])
                    outcome = Outcome(value, step.states, at.log_weight + step.log_weight)
                    key = self._key((value, step.states))
                    merged.setdefault(key, (outcome, []))[1].append(outcome.log_weight)
            front = [Outcome(o.value, o.states, logsumexp(logs)) for o, logs in merged.values()]
            if len(front) > self.budget:
                raise BudgetError(
                    located(
                        f"step {t} of a loop has {len(front)} distinct states, over the budget",
                        hint="carry and return less of the history (equal states merge), "
                        "or raise budget=",
                    )
                )
        return [Outcome(loop.result(*o.value), o.states, o.log_weight) for o in front]

    def _lanes(self, msg: Message, lanes: Lanes) -> None:
        """A product over lanes; the batched rule where a handler holds data for all lanes."""
        handlers = self._mergeable("vmap")
        if handlers is None or not all(getattr(h, "lane_wise", True) for h in handlers):
            return
        args = msg["args"]
        if not self.merge:
            msg["fn"] = lambda *args: stack_outputs(
                [self._lane(lanes, args, i) for i in range(lanes.size)]
            )
            return
        states = _states(handlers)
        identity = ("vmap", self._key((lanes, args, states)))
        self._take(
            msg, identity, handlers, lambda: self._lane_outcomes(lanes, args, handlers, states)
        )

    def _lane(self, lanes: Lanes, args: tuple[Any, ...], i: int) -> Any:
        with Lane(i):
            names, path = set(self._current[-1].names), self._current[-1]
            value = lanes.fn(*lanes.arguments(args, i))
            path.names = names
        return value

    def _lane_outcomes(
        self,
        lanes: Lanes,
        args: tuple[Any, ...],
        handlers: list[Messenger],
        states: tuple[Any, ...],
    ) -> list[Outcome]:
        front = [Outcome((), states, 0.0)]
        fn_key = self._key(lanes.fn)
        for i in range(lanes.size):
            arguments = lanes.arguments(args, i)
            by_state: dict[Hashable, list[Outcome]] = {}
            after = []
            for at in front:
                key = self._key(at.states)
                if key not in by_state:
                    by_state[key] = self._submeasure(
                        ("lane", fn_key),
                        lambda: self._lane(lanes, args, i),  # noqa: B023
                        arguments,
                        handlers,
                        at.states,
                    )
                after += [
                    Outcome((*at.value, o.value), o.states, at.log_weight + o.log_weight)
                    for o in by_state[key]
                ]
            if len(after) > self.budget:
                raise BudgetError(
                    located(
                        f"{i + 1} lanes have {len(after)} joint outcomes, over the budget",
                        hint="use fewer lanes or particles, or raise budget=",
                    )
                )
            front = after
        return [Outcome(stack_outputs(list(o.value)), o.states, o.log_weight) for o in front]


def _states(handlers: list[Messenger]) -> tuple[Any, ...]:
    return tuple(h.state() for h in handlers if isinstance(h, Handler))


def _restore(handlers: list[Messenger], states: tuple[Any, ...]) -> None:
    for handler, state in itertools.zip_longest(
        (h for h in handlers if isinstance(h, Handler)), states
    ):
        handler.restore(state)


def _ambient_randomness() -> Hashable:
    numpy_state: Any = np.random.get_state(legacy=True)
    return (
        torch.get_rng_state().numpy().tobytes(),
        random.getstate(),
        numpy_state[1].tobytes(),
        numpy_state[2],
    )
