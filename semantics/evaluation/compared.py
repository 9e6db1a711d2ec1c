"""Uniform numbers that are compared: each comparison is a choice between intervals, and exact.

An accept step asks whether u < r, or log u < log r.  No rule of quadrature is good at that, and
none is needed: u lies in an interval; a comparison cuts it at the threshold, and takes one part
with the probability that is its share of the length.  Only where u is used as a number (it is
returned, or stretched to an angle) are there nodes, in the interval that is left.
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...ppl.errors import ProgramError, located
from ...ppl.tensors.keys import Pending, settled

MOST = 1000  # whole numbers that one may be cut into
Map = Callable[[Tensor], Tensor]


class Interval(ABC):
    """Where a uniform number lies: in ``low`` to ``high``, as far as comparisons have told."""

    def __init__(self, low: Tensor, high: Tensor) -> None:
        self.low, self.high = low.double(), high.double()
        self.settled = False  # whether it is a number by now

    @abstractmethod
    def pick(self, log_shares: Tensor) -> int:
        """Take one of k parts, by the logs [k] of their shares."""

    @abstractmethod
    def node(self) -> Tensor:
        """Take a number of the interval."""

    def __deepcopy__(self, memo: Any) -> Interval:
        return self  # of which a copy is the same number

    def split(self, cuts: Tensor) -> int:
        """Take one of the parts that the cuts [k] leave, and tell which."""
        inner = torch.minimum(torch.maximum(cuts.detach(), self.low), self.high).sort().values
        edges = torch.cat([self.low[None], inner, self.high[None]])
        whole = self.high - self.low
        part = self.pick((edges.diff() / torch.where(whole > 0, whole, 1.0)).log())
        self.low, self.high = edges[part], edges[part + 1]
        return part

    def settle(self) -> None:
        """Make it a number."""
        if not self.settled:
            self.low = self.high = self.node().double()
            self.settled = True

    @property
    def middle(self) -> Tensor:
        """One of its numbers, which compares as all of them do."""
        return (self.low + self.high) / 2


class Known(Interval):
    """That of a number which is known already."""

    def __init__(self) -> None:
        super().__init__(torch.zeros(()), torch.zeros(()))
        self.settled = True

    def pick(self, log_shares: Tensor) -> int:
        return int(log_shares.argmax())

    def node(self) -> Tensor:
        return self.low


class Compared(Pending):
    """A monotone function of a uniform number, in place of a tensor.

    ``forth`` is the function, ``back`` its inverse, and ``rising`` its direction, None where that
    is not known.  Comparisons, and functions that are monotone, leave the number undecided; any
    other function of torch or numpy makes it a number.
    """

    def __init__(
        self, interval: Interval, dtype: torch.dtype, forth: Map, back: Map, rising: bool | None
    ) -> None:
        self.interval, self.dtype = interval, dtype
        self.forth, self.back, self.rising = forth, back, rising

    @staticmethod
    def of(interval: Interval, dtype: torch.dtype) -> Compared:
        """The uniform number itself."""
        return Compared(interval, dtype, lambda u: u, lambda t: t, True)

    @staticmethod
    def known(value: Tensor) -> Compared:
        """A number, or many, that is decided."""
        return Compared(Known(), value.dtype, lambda u: value, lambda t: t, None)

    def number(self) -> Tensor:
        """Its value, after the uniform number has become one."""
        self.interval.settle()
        return self.forth(self.interval.middle).to(self.dtype)

    def then(self, forth: Map, back: Map, rising: bool | None) -> Compared:
        """A monotone function of it."""
        first, last = self.forth, self.back
        direction = None if rising is None or self.rising is None else rising == self.rising
        return Compared(
            self.interval, self.dtype, lambda u: forth(first(u)), lambda t: last(back(t)), direction
        )

    def reshape(self, *shape: Any) -> Compared:
        """The one number in another shape."""
        return self.then(lambda u: u.reshape(*shape), lambda t: t, True)

    def against(self, threshold: Any, name: str) -> Tensor:
        """Whether it is less, or more, than a threshold: a choice.  Nothing is either of NaN."""
        threshold = torch.as_tensor(threshold).double()
        cuts = self.back(threshold)
        if self.rising is None or cuts.numel() > 1:
            self.interval.split(cuts.flatten().nan_to_num(nan=0.0))
            compare: Callable[..., Tensor] = getattr(torch, name)
            return compare(self.forth(self.interval.middle), threshold)
        wanted = int((name in ("lt", "le")) != self.rising)  # the part in which it is so
        never = self.interval.high if wanted else self.interval.low
        cuts = torch.where(threshold.isnan(), never, cuts).reshape(1)
        shape = torch.broadcast_shapes(self.shape, threshold.shape)
        return torch.tensor(self.interval.split(cuts) == wanted).expand(shape)

    def among(self, bounds: Tensor, **sides: Any) -> Tensor:
        """How many of sorted bounds [k] lie below it: a choice."""
        if not self.interval.settled:
            each = bounds.double().reshape(-1, *(1,) * self.ndim)
            self.interval.split(self.back(each).flatten().nan_to_num(nan=0.0))
        return torch.searchsorted(bounds.double(), self.forth(self.interval.middle), **sides)

    def within(self, name: str) -> bool:
        """Whether it lies where a function is defined: a choice, if it may be either.

        Errors:
            Undecided: elements differ.
        """
        low, high = DOMAINS[name]
        ends = [self.forth(x) for x in (self.interval.low, self.interval.high)]
        if not any(map(_is_batched, ends)):
            if all(bool(((low <= end) & (end <= high)).all()) for end in ends):
                return True
            if ends[0].numel() > 1:
                raise Undecided
        if self.rising is None:
            raise Undecided
        edges = torch.tensor([x for x in (low, high) if math.isfinite(x)], dtype=torch.float64)
        part = self.interval.split(torch.stack([self.back(edge).reshape(()) for edge in edges]))
        return part == (1 if len(edges) == 2 or self.rising == math.isfinite(low) else 0)

    def whole(self, part: Callable[[float], int] = int) -> int:
        """Its integral part, or another whole number: a choice among those that it may have."""
        ends = sorted(
            float(self.forth(x).detach()) for x in (self.interval.low, self.interval.high)
        )
        if self.interval.settled or not ends[1] - ends[0] < MOST:
            return part(float(self.number()))
        cuts = torch.arange(math.floor(ends[0]) + 1, math.ceil(ends[1]), dtype=torch.float64)
        self.interval.split(self.back(cuts))
        return part(float(self.forth(self.interval.middle).detach()))

    def wholes(self, name: str) -> Tensor:
        """The whole numbers [...] that rounding gives for many functions of it: one choice.

        Errors:
            Undecided: they may be too many, or lanes differ.
        """
        ends = torch.stack([self.forth(x) for x in (self.interval.low, self.interval.high)])
        if _is_batched(ends) or self.interval.settled:
            raise Undecided
        low, high = math.floor(float(ends.min())) + 1, math.ceil(float(ends.max()))
        if not (high - low) * ends[0].numel() < MOST:
            raise Undecided
        bounds = torch.arange(low, high, dtype=torch.float64).reshape(-1, *(1,) * (ends.ndim - 1))
        self.interval.split(self.back(bounds.expand(-1, *ends.shape[1:])).flatten())
        found: Tensor = getattr(torch, name)(self.forth(self.interval.middle))
        return found

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return apply(func, _name(func), args, kwargs or {})

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        name = SHORT.get(ufunc.__name__, ufunc.__name__)
        if method == "__call__" and not kwargs and name in MONOTONE:
            tensors = [x if issubclass(type(x), Compared) else torch.as_tensor(x) for x in inputs]
            found = apply(getattr(torch, name), name, tuple(tensors), {})
            return found if issubclass(type(found), Compared) else found.numpy()[()]
        return getattr(ufunc, method)(*_deep(inputs, _array), **kwargs)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if func is np.searchsorted and len(args) == 2 and args[1] is self:
            return self.among(torch.as_tensor(np.asarray(args[0])), **kwargs).numpy()[()]
        return func(*_deep(args, _array), **_deep(kwargs, _array))

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        return self.number().numpy().__array__(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or not hasattr(Tensor, name):
            raise AttributeError(name)
        if name in ASPECTS:
            return getattr(self.forth(self.interval.middle).to(self.dtype), name)
        if not callable(function := getattr(Tensor, name)):
            return getattr(self.number(), name)
        return functools.partial(_method, function, name, self)

    def __hash__(self) -> int:
        return id(self)

    def __len__(self) -> int:
        what = "a uniform number is made a tensor by torch.tensor or as_tensor"
        raise TypeError(located(what, hint="use it as it is, or float(u)"))

    def __round__(self, digits: int | None = None) -> Any:
        return round(float(self), digits)

    def __format__(self, form: str) -> str:
        return format(float(self), form) if form else repr(self)

    def __bool__(self) -> bool:
        return bool(self.number())

    def __float__(self) -> float:
        return float(self.number())

    def __int__(self) -> int:
        return self.whole()

    def __repr__(self) -> str:
        return f"Compared({self.interval.low} < u < {self.interval.high})"


def is_uniform(law: Any) -> bool:
    """Whether a law is that of one uniform number, whose ends carry no derivatives."""
    if not isinstance(law, torch.distributions.Uniform) or law.batch_shape:
        return False
    return not (law.low.requires_grad or law.high.requires_grad)


class Undecided(Exception):
    """What is asked of a number needs its value."""


def apply(func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A function of tensors, by its name, some of which are undecided."""
    if name in IN_PLACE and issubclass(type(args[0]), Compared):
        return _in_place(IN_PLACE[name], args, kwargs)
    undecided = [x for x in args if issubclass(type(x), Compared) and not x.interval.settled]
    if len(undecided) == 1 and not kwargs:
        (u,) = undecided
        found = None
        with suppress(Undecided):
            if len(args) == 1:
                found = _of_one(u, name)
            elif name in SHAPES and args[0] is u:
                found = SHAPES[name](u, *args[1:])
            elif len(args) == 2:
                first = args[0] is u
                found = _of_two(u, settled(args[int(first)]), name, first)
        if found is not None:
            return found
    return func(*_deep(args), **_deep(kwargs))


def _in_place(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A function that changes its first argument: that stands for another function from now on."""
    first, found = args[0], None
    certain = name in ROUNDED or first.interval.settled
    if name in MONOTONE or (certain and hasattr(torch, name)):
        found = apply(getattr(torch, name), name, args, kwargs)
    if certain and isinstance(found, Tensor):
        found = Compared.known(found)
    if not issubclass(type(found), Compared):
        what = f"a uniform number is changed in place, by {name}_"
        raise ProgramError(located(what, hint=f"use {name}, without the underscore"))
    vars(first).update(vars(found))
    return first


def _of_one(u: Compared, name: str) -> Any:
    if name in SAME:
        return u
    if name in SHAPES:
        return SHAPES[name](u)
    if (name in ROUNDED or name == "long") and math.prod(u.shape) > 1:
        found = u.wholes("trunc" if name == "long" else name)
        return found.long() if name == "long" else found.to(u.dtype)
    if name in ROUNDED:
        return torch.tensor(float(u.whole(ROUNDED[name])), dtype=u.dtype)
    if name == "long":
        return torch.tensor(u.whole())
    if name in DOMAINS and not u.within(name):
        return torch.tensor(math.nan, dtype=u.dtype)
    return u.then(*UNARY[name]) if name in UNARY else None


def _of_two(u: Compared, other: Any, name: str, first: bool) -> Any:
    if name in MIRRORED:
        return u.against(other, name if first else MIRRORED[name])
    if name in ("eq", "ne"):
        shape = torch.broadcast_shapes(u.shape, torch.as_tensor(other).shape)
        return torch.tensor(name == "ne").expand(shape)  # of one number in a continuum
    if name in BINARY and _is_plain(other) and not bool(_double(other).isfinite()):
        nan = bool(_double(other).isnan())
        if nan or BINARY[name] in (_sum, _difference) or name == "rsub":
            number = u.forth(u.interval.middle)
            pair = (number, other) if first == (name[0] != "r") else (other, number)
            return getattr(torch, name.removeprefix("r"))(*map(_double, pair)).to(u.dtype)
        raise Undecided
    if name == ("bucketize" if first else "searchsorted"):
        return u.among(other)
    maps = BINARY[name](other, first) if name in BINARY else None
    return None if maps is None else u.then(*maps)


def _method(function: Any, name: str, *args: Any, **kwargs: Any) -> Any:
    return apply(function, SHORT.get(name, name), args, kwargs)


def _operate(self: Compared, function: Any, name: str, *args: Any) -> Any:
    return apply(function, name, (self, *args), {})


def _name(function: Any) -> str:
    """What a function of torch does, by its name without underscores."""
    name = str(function.__name__)
    name = name.strip("_") if name.startswith("__") else name
    return SHORT.get(name, name)


def _array(value: Any) -> Any:
    return value.number().numpy() if issubclass(type(value), Compared) else value


def _deep(value: Any, settle: Callable[[Any], Any] = settled) -> Any:
    """With numbers in place of what is undecided, in lists, too."""
    if isinstance(value, list | tuple):
        return type(value)(_deep(item, settle) for item in value)
    if isinstance(value, dict):
        return {key: _deep(item, settle) for key, item in value.items()}
    return settle(value)


def _sum(x: Any, _: bool) -> tuple[Map, Map, bool | None]:
    return lambda u: u + _double(x), lambda t: t - _double(x), True


def _difference(x: Any, first: bool) -> tuple[Map, Map, bool | None]:
    if first:
        return lambda u: u - _double(x), lambda t: t + _double(x), True
    return lambda u: _double(x) - u, lambda t: _double(x) - t, False


def _product(x: Any, _: bool) -> tuple[Map, Map, bool | None] | None:
    if _is_zero(x):
        return None
    return lambda u: u * _double(x), lambda t: t / _double(x), _is_positive(x)


def _quotient(x: Any, first: bool) -> tuple[Map, Map, bool | None] | None:
    if not first or _is_zero(x):
        return None
    return lambda u: u / _double(x), lambda t: t * _double(x), _is_positive(x)


def _is_zero(x: Any) -> bool:
    """Whether a factor is known to be zero."""
    return _is_plain(x) and float(torch.as_tensor(x).detach()) == 0


def _is_positive(x: Any) -> bool | None:
    """Whether a factor is positive; None where elements or lanes may differ."""
    return float(torch.as_tensor(x).detach()) > 0 if _is_plain(x) else None


def _is_plain(x: Any) -> bool:
    """Whether it is one number, the same in all lanes."""
    value = torch.as_tensor(x)
    return not _is_batched(value) and value.ndim == 0


def _is_batched(value: Tensor) -> bool:
    """Whether lanes have different ones."""
    return bool(torch._C._functorch.is_batchedtensor(value))


def _item(u: Compared, at: Any) -> Compared:
    if u.ndim != 1 or at not in (0, -1, (0,)):
        raise Undecided
    return u.reshape(())


def _cast(u: Compared, *wanted: Any) -> Compared:
    if not all(isinstance(x, torch.dtype) and x.is_floating_point for x in wanted):
        raise Undecided
    dtype = wanted[0] if wanted else u.dtype
    return Compared(u.interval, dtype, u.forth, u.back, u.rising)


def _double(x: Any) -> Any:
    return torch.as_tensor(x).double()


UNARY: dict[str, tuple[Map, Map, bool]] = {
    "log": (torch.log, torch.exp, True),
    "exp": (torch.exp, lambda t: t.clamp(min=0.0).log(), True),
    "log1p": (torch.log1p, torch.expm1, True),
    "expm1": (torch.expm1, lambda t: t.clamp(min=-1.0).log1p(), True),
    "sqrt": (torch.sqrt, lambda t: t.clamp(min=0.0).square(), True),
    "neg": (torch.neg, torch.neg, False),
    "logit": (torch.logit, torch.sigmoid, True),
}
UNARY["negative"] = UNARY["neg"]
BINARY: dict[str, Callable[[Any, bool], tuple[Map, Map, bool | None] | None]] = {
    "add": _sum,
    "radd": _sum,
    "sub": _difference,
    "subtract": _difference,
    "rsub": lambda x, first: _difference(x, not first),
    "mul": _product,
    "multiply": _product,
    "rmul": _product,
    "div": _quotient,
    "truediv": _quotient,
    "true_divide": _quotient,
}
MIRRORED = {"lt": "gt", "le": "ge", "gt": "lt", "ge": "le"}
SHORT = {"less": "lt", "less_equal": "le", "greater": "gt", "greater_equal": "ge", "divide": "div"}
MONOTONE = {*UNARY, *BINARY, *MIRRORED}
SAME = {"detach", "cpu", "contiguous", "requires_grad_"}
SHAPES: dict[str, Callable[..., Compared]] = {
    "item": lambda u: u.reshape(()),
    "squeeze": lambda u, *dim: u.reshape(()),
    "flatten": lambda u: u.reshape(1),
    "unsqueeze": lambda u, dim: u.reshape((1,) * (u.ndim + 1)),
    "view": lambda u, *shape: u.reshape(*shape),
    "reshape": lambda u, *shape: u.reshape(*shape),
    "getitem": _item,
    "clone": lambda u: _cast(u),
    "to": _cast,
    "double": lambda u: _cast(u, torch.float64),
    "float": lambda u: _cast(u, torch.float32),
}
ROUNDED: dict[str, Callable[[float], int]] = {
    "floor": math.floor,
    "ceil": math.ceil,
    "trunc": math.trunc,
}
DOMAINS = {
    "log": (0.0, math.inf),
    "sqrt": (0.0, math.inf),
    "log1p": (-1.0, math.inf),
    "logit": (0.0, 1.0),
}
ASPECTS = {"shape", "ndim", "dtype", "device", "requires_grad", "size", "dim", "numel"}
IN_PLACE = {
    f"{name}_": name for name in (*MONOTONE, *ROUNDED, "clamp", "round", "abs", "pow", "copy")
}
IN_PLACE |= {"iadd": "add", "isub": "sub", "imul": "mul", "itruediv": "div"}
OPERATORS = (
    "eq ne iadd isub imul itruediv abs floordiv rfloordiv rmod "
    "lt le gt ge neg add radd sub rsub mul rmul truediv rtruediv pow rpow mod matmul getitem"
)
for _operator in OPERATORS.split():
    _function = getattr(Tensor, f"__{_operator}__")
    setattr(Compared, f"__{_operator}__", functools.partialmethod(_operate, _function, _operator))
