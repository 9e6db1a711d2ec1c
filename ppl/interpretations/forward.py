"""Forward filtering: the log mass of finite latents that form a chain along one scan.

Of each step it keeps the log weights of the joint values of the step's finite latents, and the
carry that each of them leaves.  So it is a loop itself, which a trace may keep as one
(``looping``), where elimination in general is one operation after the other.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.utils._pytree import tree_map

from ..errors import ProgramError, PushforwardError, located
from ..language.combinators import Loop
from ..language.effects import Message, is_deterministic, is_draw, is_latent, masked_log_prob
from ..language.handlers import EVERY, is_one, plated, split_name
from ..tensors.capture import is_traced, without_gradient
from ..tensors.forms import Form, as_tensors, taken_apart
from ..tensors.logs import logsumexp
from .looping import LEAST, Memoryless, Unkept, keeps_loops, rest_of

Carry = Any


@dataclass(frozen=True)
class Chain:
    """Finite latents of the steps of one loop, of which each step's sites see this and the last.

    ``values``: of each of a step's latents, by its name without the step, the joint values [k].
    """

    values: dict[str, Tensor]
    length: int


def chain_of(
    values: Mapping[str, Tensor],
    shapes: Mapping[str, torch.Size],
    families: Mapping[str, list[str]],
    given: list[str],
) -> Chain | None:
    """The chain that finite latents form, or None; see ``FiniteLatents`` for what is known."""
    steps: dict[int, dict[str, Tensor]] = {}
    for name, each in values.items():
        base, index = split_name(name)
        if len(index) != 1 or shapes[name] != torch.Size(()):
            return None
        steps.setdefault(index[0], {})[base] = each
    length = len(steps)
    if length < LEAST or sorted(steps) != list(range(length)):
        return None
    first = steps[0]
    alike = all(
        step.keys() == first.keys() and all(torch.equal(x, first[n]) for n, x in step.items())
        for step in steps.values()
    )
    in_loop = any(split_name(name)[1] for name in given)
    if not alike or in_loop or not all(_is_near(n, family) for n, family in families.items()):
        return None
    places = itertools.product(*(range(len(x)) for x in first.values()))
    chosen = torch.tensor(list(places)).unbind(1)
    joint = {n: x[i] for (n, x), i in zip(first.items(), chosen, strict=True)}
    return Chain(joint, length)


def _is_near(name: str, family: list[str]) -> bool:
    """Whether a site sees latents of its own step and of the one before alone."""
    index = split_name(name)[1]
    seen = {split_name(v)[1][0] for v in family}
    return not seen or (len(index) == 1 and seen <= {index[0], index[0] - 1})


class Unfiltered(PushforwardError):
    """The finite latents do not form a chain after all."""


class Filtering(Messenger):  # type: ignore[misc]
    """Runs a program whose finite latents form a chain; ``log_mass`` is that of all it scores.

    ``given``: the values of its other latents, which score nothing here.  With a ``judge`` steps
    that see what an earlier one left behind, other than by the carry, are refused.

    Errors:
        Unfiltered: finite latents stand in several loops.
        Unkept: by the judge.
    """

    passes_steps = True

    def __init__(
        self, chain: Chain, given: dict[str, Tensor], judge: Memoryless | None = None
    ) -> None:
        super().__init__()
        self.chain, self.given, self.judge = chain, given, judge

    def __enter__(self) -> Any:
        self.log_mass: Tensor = torch.zeros(())
        self._choice: dict[str, Tensor] | None = None
        self._met: set[str] = set()
        self._done = False
        return super().__enter__()

    def _process_message(self, msg: Message) -> None:
        if msg["type"] == "loop" and self._choice is None:
            if (found := self._filtered(msg["infer"]["loop"], *msg["args"])) is not None:
                msg["value"], msg["done"] = found[0], True
        elif msg["type"] == "sample" and is_latent(msg):
            msg["value"], msg["done"] = self._chosen(msg["name"]), True
        msg["stop"] = True

    def _chosen(self, name: str) -> Tensor:
        if self._choice is None:
            return self.given[name]
        base = split_name(name.replace(EVERY, ""))[0]
        self._met.add(base)
        if base not in self._choice:
            raise Unfiltered(f"'{name}' is none of a chain")
        return self._choice[base]

    def _postprocess_message(self, msg: Message) -> None:
        scored = msg["type"] == "sample" and not (is_draw(msg) or is_deterministic(msg))
        if not scored or msg["name"] in self.given:
            return
        if not is_one(msg["scale"]):
            what = "a site in a subsampled or scaled plate cannot be summed over"
            raise ProgramError(located(what, site=msg["name"], hint="use all the data"))
        self.log_mass = self.log_mass + masked_log_prob(plated(msg)).sum()

    # ------------------------------------------------------------------------------- the recursion

    def _filtered(self, loop: Loop, carry: Carry, xs: Any) -> tuple[Any] | None:
        """Add the log of the sum over the latents of a loop; its result is in no score's way.

        None for a loop that has none of them.  The state of the recursion is the log weights [k],
        and the tensors [k, ...] of the carries.  Where a trace keeps loops, those that each step
        leaves as they were are no part of the state, since they may be of whole numbers.
        """
        if loop.length != self.chain.length or loop.until is not None:
            return None

        def first(carry: Carry, row: Any = None) -> Any:
            self.lanes = _Lanes(loop, self)
            weights, carries, y = torch.func.vmap(self.lanes.run(row), (None, 0))(
                self.lanes.taken(carry), self.chain.values
            )
            return (weights, carries), [x[0] for x in y]

        self._met = set()
        (weights, carries), y = _advanced(replace(loop, step=first), 0, carry, xs)
        if not self._met:
            return None
        if self._done or self._met != self.chain.values.keys():
            raise Unfiltered("several loops have finite latents")
        self._done = True

        def again(carries: list[Tensor], row: Any = None) -> Any:
            return self._next(torch.zeros(()), carries, row)[1], None

        fixed = [False for _ in carries]
        if keeps_loops():
            after, _ = _advanced(replace(loop, step=again), 1, carries, xs)
            fixed = [_fixed(x, later) for x, later in zip(carries, after, strict=True)]

        known = [without_gradient(x) if same else x for x, same in zip(carries, fixed, strict=True)]

        def whole(moving: list[Tensor]) -> list[Tensor]:
            each = iter(moving)
            return [x if same else next(each) for x, same in zip(known, fixed, strict=True)]

        def step(state: Any, row: Any = None) -> Any:
            weights, later, y = self._next(state[0], whole(state[1]), row)
            pairs = zip(known, later, fixed, strict=True)
            if any(same and not _fixed(x, after) for x, after, same in pairs):
                raise Unkept("what a step's finite latents leave to the next changes")
            state = weights, [x for x, same in zip(later, fixed, strict=True) if not same]
            return (state, y) if loop.has_outputs else state

        moving = [x for x, same in zip(carries, fixed, strict=True) if not same]
        found = rest_of(replace(loop, step=step), (weights, moving), y, xs)
        (weights, moving), ys = found if loop.has_outputs else (found, [])
        self.log_mass = self.log_mass + logsumexp(weights)
        last = self.lanes.carry([x[0] for x in whole(moving)])
        return ((last, self.lanes.output(ys)) if loop.has_outputs else last,)

    def _next(self, weights: Tensor, carries: list[Tensor], row: Any) -> Any:
        """Weights [k], carries [k, ...] and outputs after a step, from those before."""
        inner = torch.func.vmap(self.lanes.run(row), (None, 0))
        scores, after, y = torch.func.vmap(inner, (0, None))(carries, self.chain.values)
        return logsumexp(weights[..., None] + scores), [x[0] for x in after], [x[0, 0] for x in y]

    @contextmanager
    def choosing(self, choice: dict[str, Tensor]) -> Iterator[None]:
        """Within, finite latents have these values, and what is scored counts alone."""
        before = self.log_mass
        self.log_mass, self._choice = torch.zeros(()), choice
        try:
            yield
        finally:
            self.log_mass, self._choice = before, None


class _Lanes:
    """The step of a loop with its finite latents chosen, as a function of tensors alone."""

    def __init__(self, loop: Loop, filtering: Filtering) -> None:
        self.loop, self.filtering = loop, filtering
        self.forms: tuple[Form, Form] | None = None

    def taken(self, carry: Carry) -> list[Tensor]:
        tensors, self.form = taken_apart(as_tensors(carry))
        return tensors

    def run(self, row: Any) -> Callable[..., tuple[Tensor, list[Tensor], list[Tensor]]]:
        """A carry and a choice -> what the step scores, the carry after it, and outputs."""

        def one(carry: list[Tensor], choice: dict[str, Tensor]) -> Any:
            args = (self.form.tree(carry), *([row] if self.loop.has_outputs else []))
            with self.filtering.choosing(choice), self._judged(carry, choice):
                result = self.loop.step(*args)
                scored = self.filtering.log_mass
            after, y = result if self.loop.has_outputs else (result, None)
            tensors, form = taken_apart(as_tensors(after))
            outputs, output_form = taken_apart(as_tensors(y))
            self.forms = form, output_form
            return scored, tensors, outputs

        return one

    def _judged(
        self, carry: list[Tensor], choice: dict[str, Tensor]
    ) -> AbstractContextManager[Any]:
        judge = self.filtering.judge
        if judge is None:
            return nullcontext()
        judge.begin([*(carry if self.forms else []), *choice.values()])  # the first is from outside
        return judge

    def carry(self, tensors: list[Tensor]) -> Carry:
        assert self.forms is not None
        return self.forms[0].tree(tensors)

    def output(self, tensors: list[Tensor]) -> Any:
        assert self.forms is not None
        return self.forms[1].tree(tensors)


def _fixed(x: Tensor, later: Tensor) -> bool:
    """Whether a tensor of the carries is one of numbers that no random value changes, nor time."""
    known = not (is_traced(x) or is_traced(later)) and x.shape == later.shape
    return known and x.dtype == later.dtype and torch.equal(x, later)


def _advanced(loop: Loop, t: int, carry: Any, xs: Any) -> Any:
    """One step, whose output counts although the loop may have none."""
    row = None if xs is None else tree_map(lambda x: x[t], xs)
    return replace(loop, has_outputs=True).advance_by(t, carry, row)
