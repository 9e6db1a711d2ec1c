"""Code that draws from numpy: a generator whose numbers are effects stands in its place."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from pyro import distributions as dist
from torch import Tensor

from ...ppl import draw
from ...ppl.errors import UnsupportedDistributionError, located
from ...ppl.language.program import program_name
from ...semantics.evaluation.compared import Compared
from .replacing import Replacement, replaced

STATES = {"seed", "get_state", "set_state"}  # of numpy's global generator, which stay
SLACK = 1e-8  # in the sum of probabilities, as numpy allows


def with_generator(function: Callable[..., Any]) -> Callable[..., Any]:
    """A program that calls ``function(*args, rng)`` with a generator whose numbers are effects.

    States may be tensors, arrays or numbers, as the function takes and gives them.
    """

    def run(*args: Any) -> Any:
        return function(*args, Generator())

    run.__name__ = run.__qualname__ = program_name(function)
    return run


def with_numpy(function: Callable[..., Any]) -> Callable[..., Any]:
    """A program that calls ``function`` with numpy's global random functions as effects.

    They are those read as ``numpy.random.NAME`` at the call, ``default_rng()`` among them; a name
    that was imported from there, code in C and code that numba has compiled draw as before.

    Errors:
        UnsupportedDistributionError: a function is called that ``Generator`` has no rule for.
    """

    def run(*args: Any) -> Any:
        with replaced(globals_as(Generator())):
            return function(*args)

    run.__name__ = run.__qualname__ = program_name(function)
    return run


def globals_as(generator: Generator) -> list[Replacement]:
    """The random functions of ``numpy.random``, each done by a generator of effects."""
    fresh = np.random.default_rng
    found = [
        Replacement(np.random, name, functools.partial(_method, generator, name))
        for name in dir(np.random.RandomState)
        if not name.startswith("_") and name not in STATES and hasattr(np.random, name)
    ]

    def default_rng(seed: Any = None) -> Any:
        return generator if seed is None else fresh(seed)

    return [*found, Replacement(np.random, "default_rng", default_rng)]


def _method(generator: Generator, name: str, *args: Any, **kwargs: Any) -> Any:
    return getattr(generator, name)(*args, **kwargs)


class Generator:
    """In place of ``numpy.random.Generator`` (and ``RandomState``): each number is a ``draw``.

    Uniform numbers that are only compared, whole numbers, choices and permutations are enumerated
    exactly by the judge; numbers of continuous laws need its nodes.  Arrays of uniform numbers hold
    objects that compare as numbers do.

    Args:
        end: where uniform numbers end; a little less than one leaves out what rounding does there.

    Errors:
        UnsupportedDistributionError: a method has no rule here.
    """

    def __init__(self, end: float = 1.0) -> None:
        self._end = end

    def _unit(self) -> Any:
        return draw(dist.Uniform(_number(0.0), _number(self._end)))

    def random(self, size: Any = None) -> Any:
        return _many(self._unit, size)

    def uniform(self, low: Any = 0.0, high: Any = 1.0, size: Any = None) -> Any:
        return _many(lambda a, b: a + (b - a) * self._unit(), size, low, high)

    def integers(self, low: Any, high: Any = None, size: Any = None, endpoint: bool = False) -> Any:
        ends = (0, low) if high is None else (low, high)
        return _many(lambda a, b: int(a) + _index(torch.ones(int(b - a) + endpoint)), size, *ends)

    def choice(self, a: Any, size: Any = None, replace: bool = True, p: Any = None) -> Any:
        values = np.arange(a) if isinstance(a, int | np.integer) else np.asarray(a)
        weights = torch.ones(len(values)) if p is None else torch.as_tensor(np.array(p))
        if p is not None and abs(float(weights.sum()) - 1.0) > SLACK:
            raise ValueError(f"choice: the probabilities sum to {float(weights.sum())}, not to 1")
        if replace or size is None:
            return _many(lambda: values[_index(weights)], size)
        return values[_distinct(weights, int(np.prod(size)))].reshape(size)

    def permutation(self, x: Any) -> Any:
        values = np.arange(x) if isinstance(x, int | np.integer) else np.asarray(x)
        return values[_distinct(torch.ones(len(values)), len(values))]

    def shuffle(self, x: Any) -> None:
        x[:] = self.permutation(np.asarray(x))

    def binomial(self, n: Any, p: Any, size: Any = None) -> Any:
        return _many(lambda n, p: int(draw(dist.Binomial(int(n), _number(p)))), size, n, p)

    def standard_normal(self, size: Any = None) -> Any:
        return self.normal(size=size)

    def normal(self, loc: Any = 0.0, scale: Any = 1.0, size: Any = None) -> Any:
        law = dist.Normal(_number(0.0), _number(1.0))
        return _many(lambda m, s: m + s * float(draw(law)), size, loc, scale)

    def exponential(self, scale: Any = 1.0, size: Any = None) -> Any:
        law = dist.Exponential(_number(1.0))
        return _many(lambda s: s * float(draw(law)), size, scale)

    def gamma(self, shape: Any, scale: Any = 1.0, size: Any = None) -> Any:
        def one(a: float, s: float) -> float:
            return s * float(draw(dist.Gamma(_number(a), _number(1.0))))

        return _many(one, size, shape, scale)

    def standard_gamma(self, shape: Any, size: Any = None) -> Any:
        return self.gamma(shape, 1.0, size)

    def beta(self, a: Any, b: Any, size: Any = None) -> Any:
        return _many(lambda a, b: float(draw(dist.Beta(_number(a), _number(b)))), size, a, b)

    def rand(self, *size: int) -> Any:
        return self.random(size or None)

    random_sample = sample = ranf = random
    randint = integers
    standard_exponential = exponential

    def randn(self, *size: int) -> Any:
        return self.normal(size=size or None)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        known = [each for each in vars(Generator) if not each.startswith("_")]
        hint = f"known are {', '.join(known)}; check.stationary takes any code"
        what = f"a generator has no rule for {name}"
        raise UnsupportedDistributionError(located(what, hint=hint))


def _number(x: Any) -> Tensor:
    return torch.as_tensor(float(x), dtype=torch.float64)


def _index(weights: Tensor) -> int:
    return int(draw(dist.Categorical(weights.double())))


def _distinct(weights: Tensor, count: int) -> list[int]:
    """So many different indices, one after the other."""
    left, found = weights.double().clone(), []
    for _ in range(count):
        found.append(_index(left))
        left[found[-1]] = 0.0
    return found


def _many(one: Callable[..., Any], size: Any, *parameters: Any) -> Any:
    """One number, or an array of them, each with parameters of its own."""
    shape = np.broadcast_shapes(*map(np.shape, parameters))
    if size is not None:
        shape = (int(size),) if isinstance(size, int | np.integer) else tuple(size)
    elif not shape:
        return one(*parameters)
    columns = [np.broadcast_to(np.asarray(x), shape).reshape(-1) for x in parameters]
    values = [one(*(column[i] for column in columns)) for i in range(math.prod(shape))]
    if not any(issubclass(type(value), Compared) for value in values):
        return np.asarray(values).reshape(shape)
    held = np.empty(len(values), dtype=object)
    for i, value in enumerate(values):
        held[i] = value
    return held.reshape(shape).view(Numbers)


class Numbers(np.ndarray[Any, Any]):
    """Uniform numbers, undecided as objects, of which each is compared by itself."""

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if func is np.searchsorted and len(args) == 2 and isinstance(args[1], Numbers):
            found = [np.searchsorted(args[0], number, **kwargs) for number in args[1].flat]
            return np.asarray(found).reshape(args[1].shape)
        return super().__array_function__(func, types, args, kwargs)
