"""Code of JAX that takes a key: its random functions become effects.  It runs uncompiled.

A key stands for what was drawn by it: drawn alike twice it gives the same again, as in JAX, and
another draw by it is an error, since the two would not be independent.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import numpy as np
import torch
from pyro import distributions as dist
from torch import Tensor
from torch.utils._pytree import tree_map

from ...ppl import draw
from ...ppl.errors import ProgramError, UnsupportedDistributionError, located
from ...ppl.language.program import program_name
from ...semantics.evaluation.compared import Compared
from .numpy_code import Generator
from .replacing import Replacement, held_in, replaced

KEYS = {"PRNGKey", "key", "key_data", "key_dtype", "key_impl", "wrap_key_data"}  # draw nothing
PARTS = ("split", "fold_in", "clone")  # keys of a key
ANY = "check.stationary takes any code"


def with_jax(function: Callable[..., Any], packages: Sequence[str] = ()) -> Callable[..., Any]:
    """A program that calls ``function(*args, key)`` with what ``jax.random`` draws as effects.

    States are trees of tensors; the function gets and gives arrays, in double precision.  Loops
    and branches of ``jax.lax`` run as those of Python.  Single uniform numbers that are only
    compared, or searched for, are enumerated exactly, as are choices; other laws need nodes.

    Args:
        packages: those which the function draws by, where they hold functions of ``jax.random``
            by their own names; the function's own module is one.

    Errors:
        UnsupportedDistributionError: a function has no rule, or is called within ``jax.vmap``.
        ProgramError: a key serves for two draws, or does not come from the one handed over.
    """

    def run(*args: Any) -> Any:
        with as_effects({*packages, function.__module__}) as key:
            return tree_map(_tensor, _leaves(function(*tree_map(_array, args), key)))

    run.__name__ = run.__qualname__ = program_name(function)
    return run


@contextmanager
def as_effects(packages: set[str], more: Sequence[Replacement] = ()) -> Iterator[Any]:
    """Within, JAX runs uncompiled in double precision, and draws by effects; gives a key."""
    import jax
    import jax.experimental

    double = (jax if hasattr(jax, "enable_x64") else jax.experimental).enable_x64
    with ExitStack() as stack:
        stack.enter_context(double(True))
        stack.enter_context(jax.disable_jit())
        key = jax.random.PRNGKey(0)
        drawing = _Drawing(jax, key)
        public = [name for name in vars(jax.random) if not name.startswith("_")]
        stands = {id(getattr(jax.random, name)): drawing.standing(name) for name in public}
        found = [
            Replacement(jax.random, name, stands[id(getattr(jax.random, name))]) for name in public
        ]
        compiled = type(jax.jit(lambda: None))

        def rule(value: Any) -> Any:
            if id(value) in stands:
                return stands[id(value)]
            return functools.partial(_of_floats, value) if isinstance(value, compiled) else None

        for package in packages:
            found += held_in(package, rule)
        found += [
            Replacement(module, name, functools.partial(_of_arrays, name, function))
            for module in (jax.numpy, jax.lax)
            for name, function in vars(module).items()
            if callable(function) and not isinstance(function, type) and not name.startswith("_")
        ]
        stack.enter_context(replaced([*(each for each in found if each.value is not None), *more]))
        yield key


class _Drawing:
    """The functions of ``jax.random`` in one run, and the keys that it has used."""

    def __init__(self, jax: Any, key: Any) -> None:
        self._data = jax.random.key_data
        self._parts = {
            name: getattr(jax.random, name) for name in PARTS if hasattr(jax.random, name)
        }
        self._known = {self._bytes(key)}
        self._made: dict[bytes, tuple[Any, Any]] = {}

    def standing(self, name: str) -> Any:
        """What stands for a function, or None where that is itself."""
        if name in KEYS:
            return None
        if name in PARTS:
            return functools.partial(self._part, name)
        return functools.partial(self._draw, name)

    def _bytes(self, key: Any) -> bytes:
        try:
            return np.asarray(self._data(key)).tobytes()
        except Exception as error:
            if "Tracer" not in type(error).__name__:
                raise
            what = "a key within jax.vmap, jax.grad or compiled code has no rule"
            raise UnsupportedDistributionError(located(what, hint=ANY)) from error

    def _part(self, name: str, key: Any, *args: Any, **kwargs: Any) -> Any:
        found = self._parts[name](key, *args, **kwargs)
        if self._bytes(key) in self._known:
            data = np.asarray(self._data(found))
            self._known |= {row.tobytes() for row in data.reshape(-1, data.shape[-1])}
        return found

    def _draw(self, name: str, key: Any, *args: Any, **kwargs: Any) -> Any:
        if name not in RULES:
            what = f"jax.random.{name} has no rule as an effect"
            raise UnsupportedDistributionError(located(what, hint=ANY))
        used, call = self._bytes(key), (name, *map(_told, (args, sorted(kwargs.items()))))
        if used not in self._known:
            what = f"jax.random.{name} has a key that does not come from the one handed over"
            raise ProgramError(located(what, hint="split the key that is an argument"))
        if used not in self._made:
            self._made[used] = call, RULES[name](*args, **kwargs)
        before, value = self._made[used]
        if before != call:
            what = f"jax.random.{name} has a key by which {before[0]} has drawn other numbers"
            raise ProgramError(located(what, hint="split keys, and use each once"))
        return value


def _told(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return tuple(map(_told, value))
    return np.asarray(value).tobytes() if hasattr(value, "__array__") else repr(value)


class Uniform:
    """A uniform number that is not decided yet, in place of an array of JAX."""

    __array_ufunc__ = None  # operations with numbers of numpy are its own

    def __init__(self, number: Compared) -> None:
        self.number = number

    def settle(self) -> Any:
        """The array of its value, now decided."""
        return _array(self.number.number())

    def _operate(self, name: str, other: Any) -> Any:
        other = _tensor(other.settle() if isinstance(other, Uniform) else other)
        return _held(getattr(operator, name)(self.number, other))

    def _reflect(self, name: str, other: Any) -> Any:
        return _held(getattr(operator, name)(_tensor(other), self.number))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.settle(), name)

    def __neg__(self) -> Any:
        return _held(operator.neg(cast(Any, self.number)))

    def __float__(self) -> float:
        return float(self.number)

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        return self.number.__array__(*args, **kwargs)


for _name in ("lt", "le", "gt", "ge", "add", "sub", "mul", "truediv"):
    setattr(Uniform, f"__{_name}__", functools.partialmethod(Uniform._operate, _name))
for _name in ("add", "sub", "mul", "truediv"):
    setattr(Uniform, f"__r{_name}__", functools.partialmethod(Uniform._reflect, _name))


def _of_floats(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """A compiled function that runs uncompiled, whose numbers are arrays as if it were compiled."""
    import jax.numpy

    return function(*(jax.numpy.asarray(x) if type(x) is float else x for x in args), **kwargs)


def _of_arrays(name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """A function of ``jax.numpy`` or ``jax.lax``, of arguments some of which are undecided."""
    if name in MONOTONE and len(args) == 1 and isinstance(args[0], Uniform):
        return _held(getattr(torch, name)(args[0].number))
    if name == "searchsorted" and len(args) == 2 and not kwargs.get("sorter"):
        side = kwargs.get("side", "left")
        if isinstance(args[1], Uniform):
            return _array(args[1].number.among(_tensor(args[0]), side=side))
        if isinstance(args[1], np.ndarray) and args[1].dtype == object:
            bounds = np.asarray(args[0])
            return _array(torch.tensor([sum(x > b for b in bounds) for x in args[1].tolist()]))
    return function(*_settled(args), **_settled(kwargs))


def _settled(value: Any) -> Any:
    if isinstance(value, Uniform):
        return value.settle()
    if type(value) in (tuple, list):
        return type(value)(map(_settled, value))
    return {k: _settled(v) for k, v in value.items()} if type(value) is dict else value


def _held(value: Any) -> Any:
    return Uniform(value) if issubclass(type(value), Compared) else _array(value)


def _array(value: Any) -> Any:
    """An array of JAX for a tensor, or what was no tensor."""
    import jax.numpy

    return jax.numpy.asarray(value.detach().numpy()) if isinstance(value, Tensor) else value


def _tensor(value: Any) -> Tensor:
    return torch.as_tensor(np.array(value))


def _leaves(value: Any) -> Any:
    """A tree with undecided numbers decided."""
    return tree_map(lambda leaf: leaf.settle() if isinstance(leaf, Uniform) else leaf, value)


def _number(x: Any) -> Tensor:
    return torch.as_tensor(float(x), dtype=torch.float64)


def _full(law: Any, shape: Sequence[int]) -> Any:
    return _array(draw(law, tuple(shape)))


def _uniform(shape: Any = (), dtype: Any = None, minval: Any = 0.0, maxval: Any = 1.0) -> Any:
    if np.ndim(minval) or np.ndim(maxval):
        raise UnsupportedDistributionError(located("uniform numbers of many ranges", hint=ANY))
    law = dist.Uniform(_number(minval), _number(maxval))
    return _full(law, shape) if shape else Uniform(cast(Compared, draw(law)))


def _normal(shape: Any = (), dtype: Any = None) -> Any:
    return _full(dist.Normal(_number(0.0), _number(1.0)), shape)


def _exponential(shape: Any = (), dtype: Any = None) -> Any:
    return _full(dist.Exponential(_number(1.0)), shape)


def _bernoulli(p: Any = 0.5, shape: Any = None, **kwargs: Any) -> Any:
    chances = _tensor(p).double().expand(np.shape(p) if shape is None else tuple(shape))
    return _array(draw(dist.Bernoulli(chances).to_event(chances.ndim)).bool())


def _rademacher(shape: Any = (), dtype: Any = int) -> Any:
    return 2 * _bernoulli(0.5, shape).astype(dtype) - 1


def _randint(shape: Any, minval: Any, maxval: Any, dtype: Any = int) -> Any:
    found = Generator().integers(int(minval), int(maxval), size=tuple(shape))
    return _array(torch.as_tensor(found)).astype(dtype)


def _categorical(logits: Any, axis: int = -1, shape: Any = None, **kwargs: Any) -> Any:
    rows = _tensor(logits).double().movedim(axis, -1)
    if shape is not None and tuple(shape) != tuple(rows.shape[:-1]):
        rows = rows.expand(*shape, rows.shape[-1])
    law = dist.Categorical(logits=rows)
    return _array(draw(law.to_event(rows.ndim - 1)))


def _choice(a: Any, shape: Any = (), replace: bool = True, p: Any = None, axis: int = 0) -> Any:
    values = np.arange(int(a)) if np.ndim(a) == 0 else np.moveaxis(np.asarray(a), axis, 0)
    size = tuple(shape) or None
    chosen = Generator().choice(len(values), size, replace, None if p is None else np.asarray(p))
    return _array(torch.as_tensor(values[chosen]))


def _permutation(x: Any, axis: int = 0, independent: bool = False) -> Any:
    if axis or independent:
        raise UnsupportedDistributionError(located("permutations along other axes", hint=ANY))
    return _array(
        torch.as_tensor(Generator().permutation(int(x) if np.ndim(x) == 0 else np.array(x)))
    )


MONOTONE = {"log", "log1p", "exp", "expm1", "sqrt", "negative"}
RULES: dict[str, Callable[..., Any]] = {
    "uniform": _uniform,
    "normal": _normal,
    "exponential": _exponential,
    "bernoulli": _bernoulli,
    "rademacher": _rademacher,
    "randint": _randint,
    "categorical": _categorical,
    "choice": _choice,
    "permutation": _permutation,
}
