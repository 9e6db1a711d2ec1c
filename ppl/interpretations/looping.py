"""Looping: in the trace of a log density, the steps of a loop are traced once for all of them.

The first step is traced where it stands, since a carry may change its kind there.  The others are
one operation (``turns``), if a step is a function of its carry, its row and what it closes over,
and if each has the sites of each other.  A loop of which this does not hold is unrolled.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from pyro.poutine.broadcast_messenger import BroadcastMessenger
from pyro.poutine.indep_messenger import IndepMessenger
from pyro.poutine.mask_messenger import MaskMessenger
from pyro.poutine.messenger import Messenger
from pyro.poutine.scale_messenger import ScaleMessenger
from torch import Tensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only

from ..errors import PushforwardError
from ..language.combinators import Loop
from ..language.effects import Message, stack
from ..language.handlers import (
    EVERY,
    Conditioning,
    Intervening,
    Scoping,
    Step,
    Taken,
    at_step,
)
from ..language.program import program_name
from ..tensors.capture import (
    Unread,
    apart,
    belongs,
    capture_apart,
    is_traced,
    same_graph,
    untraced,
    without_gradient,
)
from ..tensors.decompositions import IN_LANES
from ..tensors.forms import as_tensors, taken_apart
from ..tensors.turns import KEEPING, Turns, shapes_of_results, turned
from .layout import Values
from .recorder import Recorder

LEAST = 8  # steps that a loop has, or it is unrolled

# Handlers that keep nothing of what passes them, so that they may stand around a step for all.
_PASSING = (
    *(Scoping, Conditioning, Intervening, Taken, Step, IndepMessenger, BroadcastMessenger),
    *(ScaleMessenger, MaskMessenger),
)


class Unkept(PushforwardError):
    """A loop cannot be kept as one; the message says why."""


class Looping(Messenger):  # type: ignore[misc]
    """Runs loops as single operations while a log density is traced, directly inside a recorder."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.recorder = recorder
        self.around: _Outside | None = None  # of the turn that is being traced

    def _process_message(self, msg: Message) -> None:
        if msg["type"] != "loop" or not keeps_loops():
            return
        loop = msg["infer"]["loop"]
        if loop.until is None and loop.length >= LEAST:
            carry, xs = msg["args"]
            carry, y = loop.advance(0, carry, xs)
            msg["value"], msg["done"] = self.rest(loop, carry, y, xs), True

    def rest(self, loop: Loop, carry: Any, y: Any, xs: Any) -> Any:
        """The result of a loop after its first step, which made this carry and output."""
        loops = KEEPING.loops
        assert loops is not None
        tried = False
        try:
            self._require_alone()
            tried = True
            turns, after, ys = _Kept(self, loop, carry, xs).run()
        except (PushforwardError, RuntimeError, TypeError, ValueError) as error:
            loops.unrolled.append(f"of {program_name(loop.step)}: {error}")
            loops.tried = loops.tried or tried
            return _unrolled(loop, carry, y, xs)
        loops.kept.append(turns)
        if not loop.has_outputs:
            return after
        return after, tree_map(_with_first, as_tensors(y), ys)

    def _require_alone(self) -> None:
        handlers = stack()
        for handler in handlers[handlers.index(self) + 1 :]:
            passing = isinstance(handler, _PASSING) or getattr(handler, "passes_steps", False)
            if not passing:
                raise Unkept("something around it hears of its sites")


def keeps_loops() -> bool:
    """Whether a trace is being made that keeps loops."""
    return KEEPING.loops is not None and get_proxy_mode() is not None


def rest_of(loop: Loop, carry: Any, y: Any, xs: Any) -> Any:
    """The result of a loop after its first step, kept as a loop where a trace keeps them.

    No handler hears of it.
    """
    looping = next((h for h in stack() if isinstance(h, Looping)), None)
    if looping is None or not keeps_loops():
        return _unrolled(loop, carry, y, xs)
    return looping.rest(loop, carry, y, xs)


def _unrolled(loop: Loop, carry: Any, y: Any, xs: Any) -> Any:
    rows = [y]
    for t in range(1, loop.length):
        carry, y = loop.advance(t, carry, xs)
        rows.append(y)
    return loop.result(carry, rows)


def _with_first(first: Tensor | None, others: Tensor | None) -> Tensor | None:
    return None if first is None or others is None else torch.cat([first[None], others])


class Memoryless(TorchFunctionMode):
    """Within runs of a step, no tensor that an earlier run was given or made is seen."""

    def __init__(self) -> None:
        super().__init__()
        self.own: dict[int, Tensor] = {}  # of this run
        self.earlier: dict[int, Tensor] = {}

    def begin(self, tensors: list[Tensor]) -> None:
        """A new run, which is given these tensors."""
        self.earlier |= self.own
        self.own = {id(x): x for x in tensors}

    def input(self, x: Tensor) -> Tensor:
        """What an operation is to take for a tensor that it is given."""
        if id(x) not in self.own and id(x) in self.earlier:
            raise Unkept("a step uses what an earlier one left behind, other than its carry")
        return x

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        args, kwargs = tree_map_only(Tensor, self.input, (args, kwargs or {}))
        result = func(*args, **kwargs)
        self.own |= {id(x): x for x in tree_leaves(result) if isinstance(x, Tensor)}
        return result


class _Outside(Memoryless):
    """Within a turn, inputs of its own in place of the tensors of the trace around it.

    ``met``: those tensors.  Unless it is ``open`` they are known, and a further one is refused.
    """

    def __init__(self, tracer: Any, around: _Outside | None) -> None:
        super().__init__()
        self.tracer, self.around = tracer, around
        self.met: list[Tensor] = []
        self.inside: dict[int, Tensor] = {}
        self.open = True

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if _writes(func) and args and self._is_outside(args[0]):
            raise Unkept("a step writes into a tensor from outside")
        return super().__torch_function__(func, types, args, kwargs)

    def _is_outside(self, x: Any) -> bool:
        return isinstance(x, Tensor) and self.input(x) is not x

    def input(self, x: Tensor) -> Tensor:
        """The turn's own input for a tensor."""
        if id(x) in self.inside:
            return self.inside[id(x)]
        if id(super().input(x)) in self.own:
            return x
        if self.around is not None:
            x = self.around.input(x)
        if id(x) in self.inside:
            return self.inside[id(x)]
        if not belongs(x, self.tracer):
            return x if is_traced(x) else without_gradient(x)
        if torch._C._functorch.is_batchedtensor(x):
            raise Unkept("a step runs lanes over a tensor from outside")
        if not self.open:
            raise Unkept("a step uses other tensors when it is run again")
        self.met.append(x)
        self.inside[id(x)] = untraced(x)
        return self.inside[id(x)]


def _writes(func: Any) -> bool:
    name = getattr(func, "__name__", "")
    return name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))


class _Rows(dict[str, Tensor]):
    """Values by name within a turn; those of its own sites are the row of all steps' values."""

    def __init__(self, given: Mapping[str, Tensor], length: int) -> None:
        super().__init__()
        self.given, self.length = given, length
        self.row: dict[str, Tensor] = {}  # by name, in the order in which they are met

    def __contains__(self, name: object) -> bool:
        return self._names(str(name))[0] in self.given

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.row:
            self.row[name] = untraced(self.all(name)[0])
        return self.row[name]

    def all(self, name: str) -> Tensor:
        """Of all steps but the first, [length - 1, ...]."""
        names = self._names(name)
        if missing := [n for n in names if n not in self.given]:
            raise Unkept(f"the steps have different sites: there is no '{missing[0]}'")
        if isinstance(self.given, Values):
            return self.given.stacked(names)
        return torch.stack([self.given[n] for n in names])

    def _names(self, name: str) -> list[str]:
        before, every, after = name.rpartition(EVERY)
        if not every:
            raise Unkept(f"'{name}' is not a site of one step")
        return [f"{before}[{t}]{after}" for t in range(1, self.length)]


class _Kept:
    """One loop as an operation, after its first step.

    The state that turns carry is that of the loop and then what the step scores, summed so far:
    the log densities of all sites and of latents, and whether a matrix had no decomposition.  Whole
    numbers and truth values that stay as they are are no part of it.
    """

    def __init__(self, looping: Looping, loop: Loop, carry: Any, xs: Any) -> None:
        mode = get_proxy_mode()
        assert mode is not None
        self.looping, self.loop = looping, loop
        self.recorder = looping.recorder
        self.outside = _Outside(mode.tracer, looping.around)
        self.carry = _Apart(carry)
        self.state = self.carry.real
        if any(belongs(x, mode.tracer) for x in self.carry.others):
            raise Unkept("it carries whole numbers or truth values that depend on random ones")
        xs_tensors, self.xs_form = taken_apart(xs)
        self.xs = [x if looping.around is None else looping.around.input(x) for x in xs_tensors]
        self.moving = [belongs(x, mode.tracer) for x in self.xs]
        self.rows = _Rows(self.recorder.given, loop.length)

    def run(self) -> tuple[Turns, Any, Any]:
        """The operation, the last carry, and the outputs of all turns."""
        require_real(self.state)
        state = [untraced(x) for x in self.state]
        moving = [x for x, on in zip(self.xs, self.moving, strict=True) if on]
        first = [untraced(x[1]) for x in moving]
        with apart(), torch.no_grad():
            scored = self._searched(state, first)
        shared = self.outside.met
        names = list(self.rows.row)
        like = [*first, *(self.rows.row[name] for name in names)]
        example = [*state, *scored, *like, *(self.outside.inside[id(x)] for x in shared)]
        require_real(example)
        with apart():
            turns = self._traced(example, len(scored), names, len(first))
        others = [x.expand(turns.length, *x.shape) for x in self.outputs.others]
        if not (turns.carry or self.outputs.real):
            return turns, self.carry.tree([]), self.outputs.tree([], others)
        rows = [*(x[1:] for x in moving), *map(self.rows.all, names)]
        totals = [torch.zeros_like(x) for x in scored]
        after, outputs = turned(turns, *self.state, *totals, *rows, *shared)
        self._score(after[len(state) :])
        return turns, self.carry.tree(after[: len(state)]), self.outputs.tree(outputs, others)

    def _searched(self, state: list[Tensor], row: list[Tensor]) -> list[Tensor]:
        """Run a step, and note what it meets; what it scores."""
        after, self.outputs, scored = self._step(torch.tensor(1), state, row)
        if not self.carry.is_like(after):
            raise Unkept("its carry changes its structure or shape")
        require_real(self.outputs.real)
        self.scores = list(scored)
        return list(scored.values())

    def _step(
        self, t: Tensor, state: list[Tensor], moving: list[Tensor]
    ) -> tuple[_Apart, _Apart, dict[str, Tensor]]:
        """One step of the loop for all: the carry, outputs and what is scored."""
        each = iter(moving)
        pairs = zip(self.xs, self.moving, strict=True)
        entries = [next(each) if on else at_step(x, t) for x, on in pairs]
        self.outside.begin([t, *state, *self.carry.others, *entries, *self.rows.row.values()])
        row = self.xs_form.tree(entries)
        with self._apart() as found, self.outside, IN_LANES.collected() as failed, Unread():
            after, y = self.loop.advance_by(t, self.carry.tree(state), row)
        carry, outputs = _Apart(after), _Apart(y)
        if not self.carry.has_others_of(carry):
            raise Unkept("it carries whole numbers or truth values that change")
        scored = {name: x for name, x in found.items() if isinstance(x, Tensor)}
        if failed:
            like = next(iter((*state, *scored.values())))
            scored["failed"] = torch.stack([x.any() for x in failed]).any().to(like.dtype)
        return carry, outputs, scored

    @contextmanager
    def _apart(self) -> Iterator[dict[str, Any]]:
        """Within, a turn of this loop is recorded apart."""
        before, self.looping.around = self.looping.around, self.outside
        found: dict[str, Any] = {}
        try:
            with self.recorder.apart(self.rows) as scored:
                yield found
                found.update(scored())
        finally:
            self.looping.around = before

    def _traced(self, example: list[Tensor], scored: int, names: list[str], moving: int) -> Turns:
        carry, rows = len(self.state) + scored, moving + len(names)
        self.outside.open = False

        def step(t: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
            state, totals = given[: len(self.state)], given[len(self.state) : carry]
            row, shared = given[carry : carry + rows], given[carry + rows :]
            self.outside.inside = dict(zip(map(id, self.outside.met), shared, strict=True))
            self.rows.row = dict(zip(names, row[moving:], strict=True))
            after, outputs, found = self._step(t, list(state), list(row[:moving]))
            if list(found) != self.scores:
                raise Unkept("a step scores otherwise when it is run again")
            if any(map(is_traced, outputs.others)) or not self.outputs.has_others_of(outputs):
                raise Unkept("its outputs are whole numbers or truth values that change")
            sums = [_joined(n, a, found[n]) for n, a in zip(self.scores, totals, strict=True)]
            return (*after.real, *sums, *outputs.real)

        def back(t: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
            primals, by = given[: len(example)], given[len(example) :]
            pull = torch.func.vjp(lambda *x: step(t, *x), *primals)[1]
            found: tuple[Tensor, ...] = pull(by)
            return found

        t = torch.tensor(1)
        forward = capture_apart(step, t, *example)
        if not same_graph(forward, capture_apart(step, t, *example)):
            raise Unkept("a step changes when it is run again")
        like = next(iter((*example, *self.outputs.real)), t)
        results = [like.new_zeros(shape) for shape in shapes_of_results(forward)]
        backward = capture_apart(back, t, *example, *results) if results else forward
        return Turns(self.loop.length - 1, 1, carry, rows, forward, backward)

    def _score(self, totals: list[Tensor]) -> None:
        for name, total in zip(self.scores, totals, strict=True):
            if name == "failed":
                IN_LANES.tell(total > 0)
            else:
                self.recorder.add(name, total)


def _joined(name: str, before: Tensor, now: Tensor) -> Tensor:
    return torch.maximum(before, now) if name == "failed" else before + now


class _Apart:
    """A tree with its tensors of real numbers apart from others."""

    def __init__(self, tree: Any) -> None:
        self.tensors, self.form = taken_apart(as_tensors(tree))
        self.real = [x for x in self.tensors if x.is_floating_point()]
        self.others = [x for x in self.tensors if not x.is_floating_point()]

    def tree(self, real: list[Tensor], others: list[Tensor] | None = None) -> Any:
        """The tree with other real numbers."""
        reals, rest = iter(real), iter(self.others if others is None else others)
        return self.form.tree(
            next(reals) if x.is_floating_point() else next(rest) for x in self.tensors
        )

    def is_like(self, other: _Apart) -> bool:
        """Whether both are of one structure, and their tensors of the same kinds."""
        kinds = [[(x.dtype, x.shape) for x in each.tensors] for each in (self, other)]
        return self.form == other.form and kinds[0] == kinds[1]

    def has_others_of(self, other: _Apart) -> bool:
        """Whether what is not real is known, and the same in both."""
        pairs = list(zip(self.others, other.others, strict=False))
        known = not any(is_traced(y) for _, y in pairs)
        return known and all(x.shape == y.shape and torch.equal(x, y) for x, y in pairs)


def require_real(tensors: list[Tensor]) -> None:
    """Raise unless all are of one kind of real numbers."""
    if not all(x.is_floating_point() for x in tensors) or len({x.dtype for x in tensors}) > 1:
        raise Unkept("it carries, or has for outputs, other tensors than real numbers of one kind")
