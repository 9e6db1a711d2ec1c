"""Loops and lanes as machine code: traced and compiled once, and run by what came of it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.utils._pytree import tree_leaves

from ..distributions.validate import no_validation, spoilt
from ..errors import PushforwardError
from ..language.combinators import Lanes, Loop
from ..language.effects import Message, is_draw, is_subsample, stack
from ..language.handlers import Conditioning, Handler, Scoping, Step
from ..language.program import Callback, Program, derived, program_name
from ..tensors.capture import DataStayReal, Unread, refusing, traced
from ..tensors.forms import Form, as_tensors, taken_apart
from ..tensors.keys import Contents, Unkeyed
from .folding import fold
from .inductor import Notify, compile_graph


def compiled(p: Callback, notify: Notify | None = None) -> Program:
    """The program p with its outermost loops and lanes run as machine code; its meaning is p's.

    The second step of a ``scan`` or ``iterate``, or the function of a ``vmap``, is traced into a
    graph for all, which Inductor compiles: seconds the first time for shapes and dtypes, then
    microseconds a step.  It draws from torch's generator in the order of p, but that both branches
    of a ``cond`` draw.  Loops and lanes are run as they are where another handler looks on (so an
    exact evaluator sees p itself), where ``until`` may stop them, and where gradients of the
    arguments are followed; also, with a warning, where they look at their arguments in Python, or
    where a carry changes its shape.

    A particle filter is one loop of lane code where it can be, on a CPU.  It draws by a generator
    of its own, for which a key is drawn from torch's.

    What is closed over may change between runs: it is compiled anew then.  What often changes is
    better passed as an argument.

    Args:
        notify: is told, in words, about compilation.
    """
    machine = Machine(notify)

    def run(*args: Any, **kwargs: Any) -> Any:
        with machine:
            return p(*args, **kwargs)

    return derived(run, f"compiled({program_name(p)})")


@dataclass(frozen=True)
class Code:
    """A compiled function of tensors, and the form of its result."""

    call: Callable[..., tuple[Tensor, ...]]
    form: Form


class _Heard(PushforwardError):
    """A named choice or a score would leave code to which other handlers listen."""


class Machine(Handler, Unkeyed):
    """Runs outermost loops and lanes by compiled code, which it keeps.

    Where other handlers listen, only those that send them nothing but anonymous draws.
    """

    def __init__(self, notify: Notify | None) -> None:
        super().__init__()
        self.notify = notify
        self.known: dict[Hashable, Code | None] = {}
        self.whole: dict[Hashable, Callback | None] = {}
        self.tracing = False
        self.contents = Contents()  # which keeps alive what its keys know by identity

    def _process_message(self, msg: Message) -> None:
        if self.tracing:
            named = msg["type"] == "sample" and not (is_draw(msg) or is_subsample(msg))
            if named and _heard():
                raise _Heard("a choice or a score that other handlers hear of")
            return
        quick = (
            getattr(msg["infer"].get("program"), "quick", None) if msg["type"] == "call" else None
        )
        if msg["type"] not in ("loop", "vmap") and quick is None:
            return
        if not _unobserved() or _followed(msg["args"]):
            return
        if quick is not None:
            found = self._whole(quick, msg["infer"]["program"], msg["args"])
        elif msg["type"] == "vmap":
            found = self._lanes(msg["infer"]["lanes"], msg["fn"], msg["args"])
        else:
            found = self._loop(msg["infer"]["loop"], *msg["args"])
        if found is not None:
            msg["value"], msg["done"] = found[0], True

    def _postprocess_message(self, msg: Message) -> None:
        if self.tracing and msg["type"] == "sample" and not msg["is_observed"]:
            msg["value"] = spoilt(msg["fn"], msg["value"])

    def _whole(self, quick: Callback, fn: Callback, args: tuple[Any, ...]) -> tuple[Any] | None:
        """The result of a program that knows how to be quick, in a tuple, or None.

        What it draws is made of a key, two whole numbers from torch's generator.
        """
        followed = torch.is_grad_enabled()
        key = (self.contents((fn, _surroundings())), _kind(args), followed)
        with torch.no_grad(), self._tracing():
            if key not in self.whole:
                with torch.random.fork_rng(devices=[]):
                    self.whole[key] = quick(args, self.notify, followed)
            code = self.whole[key]
            return None if code is None else (code(torch.randint(2**62, (2,)), *args),)

    @contextmanager
    def _tracing(self) -> Iterator[None]:
        self.tracing = True
        try:
            yield
        finally:
            self.tracing = False

    def _lanes(self, lanes: Lanes, run: Callback, args: tuple[Any, ...]) -> tuple[Any] | None:
        """The result of a vmap in a tuple, or None."""
        code = self._code((lanes.fn, lanes.mapped, lanes.size), run, args)
        return None if code is None else (code.form.tree(code.call(*taken_apart(args)[0])),)

    def _loop(self, loop: Loop, carry: Any, xs: Any) -> tuple[Any] | None:
        """The result of a loop in a tuple, or None; its first step, which may differ, is run."""
        if loop.until is not None or loop.length < 2:
            return None
        carry, y = loop.advance(0, carry, xs)
        if (code := self._step(loop, carry, xs)) is None:
            rows = [y]
            for t in range(1, loop.length):
                carry, y = loop.advance(t, carry, xs)
                rows.append(y)
            return (loop.result(carry, rows),)
        outputs = [taken_apart(as_tensors(y))[0]]
        state = tuple(taken_apart(carry)[0])
        call, inputs, carried = code.call, taken_apart(xs)[0], len(state)
        for step in torch.arange(loop.length).unbind()[1:]:
            out = call(step, *state, *inputs)
            state = out[:carried]
            outputs.append(list(out[carried:]))
        stacked = [torch.stack(column) for column in zip(*outputs, strict=True)]
        after, ys = code.form.tree((*state, *stacked))
        return ((after, ys) if loop.has_outputs else after,)

    def _step(self, loop: Loop, carry: Any, xs: Any) -> Code | None:
        """The code of ``t, carry, xs -> carry, output``, if the carry stays of one kind."""

        def step(t: Tensor, carry: Any, xs: Any) -> tuple[Any, Any]:
            carry, y = loop.advance(t, carry, xs)
            return carry, as_tensors(y)

        def changed(result: Any) -> str:
            if _kind(result[0]) == _kind(carry):
                return ""
            return f"the carry of {program_name(loop.step)} changes its structure or shape"

        args = (torch.tensor(1), carry, xs)
        return self._code((loop.step, loop.has_outputs), step, args, changed, often=True)

    def _code(
        self,
        what: Any,
        run: Callback,
        args: tuple[Any, ...],
        complaint: Callable[[Any], str] = lambda result: "",
        often: bool = False,
    ) -> Code | None:
        """The code of ``run(*args)``, if it can be traced and there is no complaint of its result.

        ``what`` is all that ``run`` depends on besides its arguments.
        """
        key = (self.contents((what, _surroundings())), _kind(args))
        if key not in self.known:
            self.known[key] = self._made(run, args, complaint, often)
        return self.known[key]

    def _made(
        self, run: Callback, args: tuple[Any, ...], complaint: Callable[[Any], str], often: bool
    ) -> Code | None:
        given, form = taken_apart(args)
        tensors = [x.detach() for x in given]  # a tensor that is also closed over is no input there
        forms: list[Form] = []

        def flat(*given: Tensor) -> tuple[Tensor, ...]:
            results, result_form = taken_apart(run(*form.tree(given)))
            forms[:] = [result_form]
            return tuple(results)

        with torch.no_grad(), torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            self.tracing = True
            try:
                graph = trace(flat, *tensors)
            except _Heard:
                return None
            except PushforwardError as error:
                warnings.warn(f"not compiled: {error}", RuntimeWarning, stacklevel=2)
                return None
            finally:
                self.tracing = False
            if what := complaint(forms[0].tree(graph(*tensors))):
                warnings.warn(f"not compiled: {what}", RuntimeWarning, stacklevel=2)
                return None
        call = compile_graph(fold(graph), *tensors, notify=self.notify, random=True, often=often)
        return Code(call, forms[0])


def _unobserved() -> bool:
    """Whether no handler in force does more than to rename sites, and to give them data.

    Others may be there if they ignore anonymous draws; see ``Machine`` for what is not anonymous.
    The first step of a loop is met once; what its others hold would be compiled at each.
    """
    return all(
        h.t == 0
        if isinstance(h, Step) and isinstance(h.t, int)
        else isinstance(h, Machine | Scoping | Conditioning) or getattr(h, "ignores_draws", False)
        for h in stack()
    )


def _surroundings() -> Any:
    """What a run depends on besides its function and its arguments."""
    given = [h.data for h in stack() if isinstance(h, Conditioning)]
    names = [h.prefix for h in stack() if isinstance(h, Scoping)]
    made = torch.get_default_dtype(), torch.get_default_device()
    parameters = sorted(pyro.get_param_store()._params.items())
    state = [(name, x if x.numel() <= _FEW else _version(x)) for name, x in parameters]
    return given, names, made, _heard(), state


_FEW = 4096  # numbers of a parameter that are compared one by one


def _version(x: Tensor) -> tuple[int, int]:
    return x.data_ptr(), x._version


def _heard() -> bool:
    """Whether a handler in force would hear of named choices and scores."""
    return any(not isinstance(h, Machine | Scoping | Conditioning | Step) for h in stack())


def _followed(tree: Any) -> bool:
    """Whether gradients of a tree are wanted."""
    leaves = tree_leaves(tree)
    return torch.is_grad_enabled() and any(
        isinstance(x, Tensor) and x.requires_grad for x in leaves
    )


def _kind(tree: Any) -> Hashable:
    """What code is made for: dtypes, devices, shapes and strides of tensors, and other values."""
    tensors, form = taken_apart(tree)
    shapes = ((x.dtype, x.device, x.shape, x.stride()) for x in tensors)
    return (form.spec, Contents()(form.others), *shapes)


def trace(fn: Callable[..., tuple[Tensor, ...]], *example: Tensor) -> GraphModule:
    """The graph of a function of tensors that may draw; what depends on data alone is constant.

    Errors:
        BranchError: the function looks at a tensor that depends on its arguments or on a draw.
    """

    def watched(*tensors: Tensor) -> tuple[Tensor, ...]:
        with DataStayReal(), Unread():
            return fn(*tensors)

    with refusing(), no_validation():
        return traced(watched, _SIMPLER)(*example)


def _normal(mean: Tensor, std: Tensor, *, generator: None = None) -> Tensor:
    """What torch does, of which Inductor makes less: the same draws, scaled and moved."""
    shape = torch.broadcast_shapes(mean.shape, std.shape)
    return torch.randn(shape, dtype=mean.dtype, device=mean.device) * std + mean


def _bernoulli(p: Tensor, *, generator: None = None) -> Tensor:
    """What torch does, where Inductor would draw by other numbers."""
    return torch.empty_like(p, memory_format=torch.contiguous_format).bernoulli_(p)


_SIMPLER: dict[Any, Callback] = {
    torch.ops.aten.normal.Tensor_Tensor: _normal,
    torch.ops.aten.bernoulli.default: _bernoulli,
}
