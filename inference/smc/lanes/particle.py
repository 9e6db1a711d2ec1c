"""One particle of a filter as functions of numbers and noise: its start, its step, and its end."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from ....ppl.compile.agreement import agrees
from ....ppl.compile.lanes.translation import Unsupported
from ....ppl.errors import DataError, located
from ....ppl.tensors.forms import Form, as_tensors, taken_apart
from ....ppl.tensors.noise import UnknownDraw
from ..filtering import Filtering
from ..population import Population
from .code import Code, Given, captured, looked_at, passed_on, traced
from .layout import Layout


class Particle:
    """A particle of a filter with these arguments, which are given as tensors to each function.

    A particle is ``before`` (all that was chosen before the scan) and what the scan carries.  Of
    both, and of its noise, the numbers make one vector.  The first ``fixed`` stay as they are from
    step to step: those of ``before``, unless they have a move.  Of these, such as no step and no
    end looks at are not ``moved``.

    Errors:
        Unsupported, UnknownDraw: lane code does not know an operation, or noise makes no such draw.
        PushforwardError: a particle looks at numbers in Python.
    """

    def __init__(self, filtering: Filtering, args: tuple[Any, ...]) -> None:
        self.filtering = filtering
        tensors, self.form = taken_apart(args)
        self._types = [x.dtype for x in tensors]
        _require_exact(tensors)
        (before, carry), self.steps, _ = filtering._start(*args)
        if not self.steps:
            raise Unsupported("a scan of no steps")
        _require_exact(taken_apart((before, carry))[0])
        self.before, self.carry = Layout.of(before), Layout.of(carry)
        self.fixed = self.before.size if filtering.move is None else 0
        self.dtype = self._real()
        self.points = self._points(args)
        self.output: Layout | None = None  # until the step has told
        self.value: Form  # of the result, which the end tells
        rest = self.rest(args)
        u, time = torch.full((self.size,), 0.25, dtype=self.dtype), torch.tensor(0)
        begun, onward = (torch.cat([x, x.new_full((k,), 0.25)]) for x, k in
                         zip((u[:0], u), self.points, strict=True))  # fmt: skip
        about: dict[str, Any] = {"places": self.steps}
        self.start = Code(self._start, begun, *rest, points=self.points[0], **about)
        self.step = Code(self._step, onward, time, *rest, points=self.points[1], **about)
        self.first = traced(self._first, onward, time, *rest)[0]
        self.ahead: Code | None = None
        if filtering.ahead is not None and self.steps > 1:
            self.ahead = Code(self._ahead, u, time, *rest, places=self.steps)
        self.end = self._ending(u, rest)
        self._passed = None if self.end is None else passed_on(self.end, self.size)
        graphs = [self.step.graph, *([self.ahead.graph] if self.ahead else []),
                  *([] if self.end is None else [self.end])]  # fmt: skip
        looked = [looked_at(graph, self.fixed) for graph in graphs]
        self.moved = [self.end is None or any(each) for each in zip(*looked, strict=True)]

    @property
    def size(self) -> int:
        """Of a particle, in numbers."""
        return self.before.size + self.carry.size

    @property
    def given(self) -> Layout | None:
        """Of what a step hands to the scan."""
        return self.output

    def rest(self, args: tuple[Any, ...]) -> list[Tensor]:
        """The tensors of arguments, as numbers of the particle's type.

        Errors:
            DataError: a whole number is too large to be one of them.
        """
        tensors = taken_apart(args)[0]
        try:
            _require_exact(tensors)
        except Unsupported as error:
            raise DataError(located(str(error), hint="run the filter without compiled")) from error
        return [x.detach().to(self.dtype).contiguous() for x in tensors]

    def tree(self, numbers: Tensor) -> Any:
        """The particle that has these numbers [size]; or many, [size, n]."""
        k = self.before.size
        return self.before.tree(numbers[:k]), self.carry.tree(numbers[k:])

    def ended(
        self,
        state: Tensor,
        log_weights: Tensor,
        outputs: Any,
        rest: list[Tensor],
        args: tuple[Any, ...],
    ) -> Population:
        """The results of particles [size, n], weighted as of ``Filtering.begin``.

        Args:
            outputs: along the line of each particle [n, steps, ...], or None.
        """
        if self.end is None:
            population = Population(self.tree(state), log_weights)
            return self.filtering.end(population, outputs, *args)
        weights = log_weights - math.log(len(log_weights))
        if self._passed is not None:
            values = [state[at].movedim(-1, 0) for at in self._passed]
            return Population(self.value.tree(values), weights)
        along, _ = taken_apart(outputs)
        axes = (1, *(None for _ in rest), *(0 for _ in along))
        ended = torch.func.vmap(self.end, axes, randomness="different")
        *values, log_weight = ended(state, *rest, *along)
        return Population(self.value.tree(values), weights + log_weight)

    def _points(self, args: tuple[Any, ...]) -> tuple[int, int]:
        """How many coordinates of nets make the start of a particle, and its step."""
        return 0, 0

    def disagreeing(self, rest: list[Tensor]) -> str:
        """What of the code is not what the program does, for one choice of noise; or nothing."""
        return next((name for name, same in self._agreements(rest) if not same), "")

    def _agreements(self, rest: list[Tensor]) -> Iterator[tuple[str, bool]]:
        start, last = self.start, self.steps - 1
        u = self.with_noise(start)
        yield "start", agrees(start.function, start.graph, u[None], *rest)
        begun = start.graph(u, *rest)[0]
        both = self.with_noise(self.step, begun)[None]
        for t, graph in ((0, self.first), (last, self.step.graph)):
            same = agrees(self.step.function, graph, both, torch.tensor(t), *rest)
            yield f"step {t}", same
        if (ahead := self.ahead) is not None:
            both = self.with_noise(ahead, begun)[None]
            same = agrees(ahead.function, ahead.graph, both, torch.tensor(last), *rest)
            yield "look ahead", same

    def with_noise(self, code: Code, begun: Tensor | None = None) -> Tensor:
        """A particle's numbers and some noise: multiples of the golden ratio, as chances."""
        normal = torch.tensor([False] * code.points + code.normal, dtype=torch.bool)
        u = ((torch.arange(len(normal)) + 1) * 0.6180339887498949).frac().to(self.dtype)
        u = torch.where(normal, torch.special.ndtri(u), u)
        both = u if begun is None else torch.cat([begun, u])
        return both if len(both) else torch.zeros(1, dtype=self.dtype)

    def _real(self) -> torch.dtype:
        """The precision of a particle's numbers; whole ones alone are exact in double."""
        kinds = (*self.before.kinds, *self.carry.kinds)
        reals = {dtype for dtype, _ in kinds if dtype.is_floating_point} or {torch.float64}
        if len(reals) > 1:
            raise Unsupported("numbers of several precisions")
        return reals.pop()

    def _args(self, rest: Sequence[Tensor]) -> tuple[Any, ...]:
        typed = (x.to(dtype) for x, dtype in zip(rest, self._types, strict=True))
        args: tuple[Any, ...] = self.form.tree(typed)
        return args

    def _start(self, u: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        (before, carry), _, log_weight = self.filtering._start(*self._args(rest))
        parts = self.before.vector(before, u.dtype), self.carry.vector(carry, u.dtype)
        return torch.cat(parts), log_weight.to(u.dtype)

    def _step(self, u: Tensor, t: int | Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        args = self._args(rest)
        (before, carry), output, log_weight = self.filtering._advance(self.tree(u), t, *args)
        after = self.carry.vector(carry, u.dtype)
        log_weight = _spoilt(log_weight.to(u.dtype), after, self.carry)
        if not self.fixed:
            after = torch.cat([self.before.vector(before, u.dtype), after])
        results = after, log_weight
        if output is None:
            return results
        self.output = Layout.of(output)
        return (*results, self.output.vector(output, u.dtype))

    def _first(self, u: Tensor, t: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        """Step 0, as the program runs it, which knows that it is the first."""
        return self._step(u, 0, *rest)

    def _ahead(self, u: Tensor, t: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        return (self.filtering._worth(self.tree(u), t, *self._args(rest)).to(u.dtype),)

    def _ending(self, u: Tensor, rest: list[Tensor]) -> GraphModule | None:
        """What becomes of a particle at the end, unless chance has a part in it."""
        try:
            with Given(u[:0]):
                return captured(self._end, u, *rest, *self._outputs())
        except (Unsupported, UnknownDraw):
            return None

    def _outputs(self) -> list[Tensor]:
        """Tensors like the outputs of all steps."""
        kinds = () if self.given is None else self.given.kinds
        return [torch.zeros(self.steps, *shape, dtype=dtype) for dtype, shape in kinds]

    def _end(self, u: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
        count = len(self._types)
        rest, along = given[:count], given[count:]
        outputs = None if self.given is None else self.given.form.tree(along)
        value, log_weight = self.filtering._finish(self.tree(u), outputs, *self._args(rest))
        tensors, self.value = taken_apart(as_tensors(value))
        return (*tensors, log_weight.to(u.dtype))


EXACT = 2**53  # whole numbers up to here are numbers in double precision


def _require_exact(tensors: Sequence[Tensor]) -> None:
    for x in tensors:
        if x.dtype == torch.int64 and x.numel() and int(x.abs().max()) > EXACT:
            raise Unsupported("a whole number beyond 2^53")


def _spoilt(log_weight: Tensor, numbers: Tensor, layout: Layout) -> Tensor:
    """The weight; NaN, which is an error later, where a whole number is no longer exact."""
    first = 0
    for size, (dtype, _) in zip(layout.sizes, layout.kinds, strict=True):
        if dtype == torch.int64 and size:
            exact = (numbers[first : first + size].abs() <= EXACT).all()
            log_weight = torch.where(exact, log_weight, torch.nan)
        first += size
    return log_weight
