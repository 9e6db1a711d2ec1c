"""Canonical keys: two values with equal keys are the same state of a program.

Finite spaces are keyed by their exact bits.  Floating values are rounded to ``BITS`` digits of
their own, whatever their scale, before they are compared, so that sums in another order still
merge.  Functions are keyed by their code and what they close over, since a
step function that is defined anew on each run of a program is still the same step.
"""

from __future__ import annotations

import functools
import hashlib
import math
import sys
import types
from abc import ABC, abstractmethod
from array import array
from collections import deque
from collections.abc import Hashable, Iterator
from typing import Any

import numpy as np
import torch
from pyro.distributions.distribution import Distribution
from torch import Tensor
from torch.distributions.transforms import Transform, _InverseTransform
from torch.distributions.utils import lazy_property

_BY_IDENTITY = (torch.nn.Module, types.ModuleType, types.BuiltinFunctionType)

BITS = 43  # about 13 decimal digits

_ATOMS = (bool, int, str, bytes, type(None), torch.dtype, torch.device, torch.Size, type)


class Unassigned:
    """Stands for a variable that a function closes over and that has no value yet."""


def closed_over(fn: types.FunctionType) -> tuple[Any, ...]:
    """What a function closes over, in the order of its code's free variables."""
    return tuple(map(_contents, fn.__closure__ or ()))


def _contents(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return Unassigned


class Keys:
    """Builds keys, and keeps alive every object that could only be keyed by identity."""

    def __init__(self) -> None:
        self._alive: dict[int, Any] = {}
        self._open: list[int] = []
        self.cells: set[int] = set()  # the addresses of the cells met since this was last emptied

    def __call__(self, value: Any) -> Hashable:
        kind = type(value)
        if kind is tuple:
            return (tuple, *map(self, value))
        if issubclass(kind, Pending):
            return self(value.number())
        if isinstance(value, Tensor):
            return _tensor_key(value)
        if kind in _ATOMS or isinstance(value, _ATOMS):
            return (kind, value)
        if isinstance(value, float):
            return _rounded(value)
        if isinstance(value, np.ndarray):
            return _tensor_key(torch.as_tensor(value))
        if id(value) in self._open:  # a function may close over itself
            return ("cycle", len(self._open) - self._open.index(id(value)))
        self._open.append(id(value))
        try:
            return self._structure(value)
        finally:
            self._open.pop()

    def _structure(self, value: Any) -> Hashable:
        if isinstance(value, Unkeyed):
            return (type, type(value).__qualname__)
        if isinstance(value, Cell):
            self.cells.add(value.address)
            return (Cell, value.address)
        if isinstance(value, list | tuple | deque):
            return (type(value), *map(self, value))
        if isinstance(value, np.generic):
            return (type(value), value.tobytes())
        if isinstance(value, set | frozenset):
            return (type(value), frozenset(map(self, value)))
        if isinstance(value, dict):
            names = sorted(value, key=repr)  # equal dictionaries differ in order
            return (dict, *((name, self(value[name])) for name in names))
        if isinstance(value, types.FunctionType):
            return (
                value.__code__,
                self(closed_over(value)),
                self(value.__defaults__),
                self(value.__kwdefaults__),
            )
        if isinstance(value, types.MethodType):
            return (self(value.__func__), self(value.__self__))
        if isinstance(value, functools.partial):
            return (self(value.func), self(value.args), self(value.keywords))
        if isinstance(value, Distribution):
            return (type(value), self(_fields(value)))
        if hasattr(value, "__dict__") and not isinstance(value, _BY_IDENTITY):
            fields = {k: v for k, v in vars(value).items() if not k.startswith("__")}
            if isinstance(value, Transform):
                fields.pop("_cached_x_y", None)  # what it was last used for
                if not isinstance(value, _InverseTransform):
                    fields.pop("_inv", None)  # whether its inverse was asked for
            return (type(value), self(fields))
        return self._identity(value)

    def _identity(self, value: Any) -> Hashable:
        self._alive[id(value)] = value
        return (type(value), id(value))


class Contents(Keys):
    """Keys of functions that also hold what they read from their module, and modules' tensors.

    So a change of anything that a function uses changes its key; only libraries are taken as they
    are.
    """

    def _structure(self, value: Any) -> Hashable:
        key = super()._structure(value)
        if isinstance(value, types.FunctionType):
            return (key, *self._globals(value))
        if isinstance(value, torch.nn.Module):
            tensors = (*value.parameters(), *value.buffers())
            plain = [self(_plain(each)) for each in value.modules()]
            return (key, *plain, *((x.data_ptr(), x._version) for x in tensors))
        slots = {name: getattr(value, name) for name in _slots(type(value)) if hasattr(value, name)}
        shared = {} if _of_library(type(value)) else _data(type(value))
        return (key, self(slots), self(shared)) if slots or shared else key

    def _globals(self, fn: types.FunctionType) -> Iterator[Hashable]:
        """What a function reads from its module, and from modules and classes that it names."""
        if _of_library(fn):
            return
        names = sorted(names_in(fn.__code__))
        for name in names:
            if name not in fn.__globals__:
                continue
            found = fn.__globals__[name]
            yield (name, self._identity(found) if _is_fixed(found) else self(found))
            if isinstance(found, types.ModuleType | type) and not _of_library(found):
                here = vars(found)
                for inner in names:
                    if inner in here and not _is_fixed(here[inner]):
                        yield (name, inner, self(here[inner]))


def _plain(module: torch.nn.Module) -> dict[str, Any]:
    """What a module holds besides tensors and other modules."""
    kept = (Tensor, torch.nn.Module, dict)
    return {k: v for k, v in vars(module).items() if k[0] != "_" and not isinstance(v, kept)}


def _slots(kind: type) -> list[str]:
    found = (each.__dict__.get("__slots__", ()) for each in kind.__mro__)
    names = ((slots,) if isinstance(slots, str) else tuple(slots) for slots in found)
    return [name for group in names for name in group if not name.startswith("__")]


def _data(kind: type) -> dict[str, Any]:
    """What a class holds besides what it does."""
    return {
        name: value
        for name, value in vars(kind).items()
        if not name.startswith("__") and not callable(value) and not hasattr(value, "__get__")
    }


def _of_library(value: Any) -> bool:
    """Whether a module, class or function is of a library, whose contents do not change."""
    name = value.__name__ if isinstance(value, types.ModuleType) else value.__module__
    return _is_library(str(name).partition(".")[0])


@functools.cache
def _is_library(root: str) -> bool:
    """Whether a package comes with Python, or is installed where packages are."""
    if root in LIBRARIES or root in sys.stdlib_module_names:
        return True
    place = str(getattr(sys.modules.get(root), "__file__", "") or "")
    return "site-packages" in place or "dist-packages" in place


def _is_fixed(value: Any) -> bool:
    """Whether a global is a module, a class, or a function of a library."""
    package = str(getattr(value, "__module__", "")).partition(".")[0]
    functions = types.FunctionType | types.BuiltinFunctionType | types.MethodType
    fixed = isinstance(value, functions) and package in LIBRARIES
    return fixed or isinstance(value, types.ModuleType | type)


LIBRARIES = {"builtins", "math", "numpy", "pushforward", "pyro", "scipy", "torch", "typing"}
LIBRARIES |= {"_pytest", "pluggy", "pytest"}  # which functions name whose asserts pytest rewrote


class Lasting(Contents):
    """Keys that another process would make too: what has only an identity goes by its type."""

    def _structure(self, value: Any) -> Hashable:
        if isinstance(value, types.FunctionType):
            inner = self((closed_over(value), value.__defaults__, value.__kwdefaults__))
            return (_lasting_function(value), inner, *self._globals(value))
        if isinstance(value, torch.nn.Module):
            return (type(value).__qualname__, value.training, self(dict(value.state_dict())))
        if isinstance(value, set | frozenset) and not isinstance(value, Unkeyed):
            return (type(value), *sorted(map(repr, map(self, value))))
        return super()._structure(value)

    def _identity(self, value: Any) -> Hashable:
        return type(value).__qualname__


def _lasting_function(fn: types.FunctionType) -> Hashable:
    """Its code; of a library its place, since pytest rewrites asserts of libraries with plugins."""
    if _of_library(fn):
        return (fn.__module__, fn.__qualname__, fn.__code__.co_firstlineno)
    return _lasting_code(fn.__code__)


def _lasting_code(code: types.CodeType) -> Hashable:
    constants = (
        _lasting_code(each) if isinstance(each, types.CodeType) else repr(each)
        for each in code.co_consts
    )
    return (code.co_code, code.co_names, *constants)


def fingerprint(value: Any) -> str:
    """A short text that tells values apart, and that is the same in another process."""
    return hashlib.sha256(repr(Lasting()(value)).encode()).hexdigest()[:16]


def names_in(code: types.CodeType) -> set[str]:
    """The global names and attributes that a function and those defined in it may read."""
    inner = (names_in(each) for each in code.co_consts if isinstance(each, types.CodeType))
    return set(code.co_names).union(*inner)


class Cell:
    """A place in the store of an evaluation: it is known by its address, not by its contents."""

    address: int


class Pending(ABC):
    """A number that is not known yet: it becomes one where its key is asked for."""

    @abstractmethod
    def number(self) -> Tensor:
        """The number that it becomes."""


def settled(value: Any) -> Any:
    """A value, or the number that it becomes."""
    return value.number() if issubclass(type(value), Pending) else value


class Unkeyed:
    """What a key does not look into: no result depends on it."""


class Bookkeeping(set[str], Unkeyed):
    """A set that a program fills while it runs, and that no result depends on."""


def _fields(distribution: Any) -> dict[str, Any]:
    """What a distribution was made of, without what it has cached since."""
    kind, fields = type(distribution), vars(distribution)
    made = {
        k: v for k, v in fields.items() if not isinstance(getattr(kind, k, None), lazy_property)
    }
    made["by_logits"] = "_param" in fields and fields["_param"] is fields.get("logits")
    return made


_FEW = 16  # so many numbers are quicker to round by Python


_EXACT = 2**53  # integers below are numbers of double precision


def _tensor_key(value: Tensor) -> tuple[torch.Size, torch.dtype, bytes]:
    if value.dtype in (torch.float64, torch.float32) and value.numel() <= _FEW:
        numbers = value.detach().flatten().tolist()
        rounded = array("d", map(_rounded, numbers))
        return (value.shape, value.dtype, rounded.tobytes())
    if value.dtype in (torch.bfloat16, torch.float16):
        return (value.shape, value.dtype, _tensor_key(value.double())[2])
    found = value.numpy(force=True)
    if found.dtype.kind in "fc":
        found = _shortened(found.view(found.real.dtype) if found.dtype.kind == "c" else found)
    return (value.shape, value.dtype, found.tobytes())


def shortened(values: Tensor) -> Tensor:
    """Numbers in double precision, each rounded as keys round it: equal where their keys are."""
    return torch.as_tensor(_shortened(values.double().numpy(force=True)))


def _shortened(values: Any) -> Any:
    fraction, exponent = np.frexp(values)
    return np.ldexp(np.round(np.ldexp(fraction, BITS)), exponent - BITS) + 0.0


class Values(Keys):
    """Keys of results: numbers are equal whatever holds them (0, 0.0, tensor(0.)); so are lists."""

    def __call__(self, value: Any) -> Hashable:
        if isinstance(value, float) or (isinstance(value, int) and abs(value) < _EXACT):
            return (torch.Size(), array("d", [_rounded(float(value))]).tobytes())
        if isinstance(value, np.ndarray | np.generic):
            value = torch.as_tensor(value)
        if issubclass(type(value), Pending):
            value = value.number()
        if isinstance(value, Tensor) and not value.is_complex():
            double = value.detach().double()
            if value.is_floating_point() or bool((double.abs() < _EXACT).all()):
                shape, _, rounded = _tensor_key(double)
                return (shape, rounded)
        return super().__call__(tuple(value) if type(value) is list else value)


def _rounded(x: float) -> float:
    """The nearest number of so many digits; -0.0 is 0.0."""
    if not math.isfinite(x):
        return x
    fraction, exponent = math.frexp(x)
    return math.ldexp(round(math.ldexp(fraction, BITS)), exponent - BITS) + 0.0
