"""Code that takes a generator of numpy: one whose numbers are effects stands in its place."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from pyro import distributions as dist
from torch import Tensor

from ...ppl import draw
from ...ppl.errors import ProgramError, located
from ...ppl.language.program import program_name
from ...semantics.compared import Compared


def with_generator(function: Callable[..., Any]) -> Callable[..., Any]:
    """A program that calls ``function(*args, rng)`` with a generator whose numbers are effects.

    States may be tensors, arrays or numbers, as the function takes and gives them.
    """

    def run(*args: Any) -> Any:
        return function(*args, Generator())

    run.__name__ = run.__qualname__ = program_name(function)
    return run


class Generator:
    """In place of ``numpy.random.Generator`` (and ``RandomState``): each number is a ``draw``.

    Uniform numbers that are only compared, whole numbers, choices and permutations are enumerated
    exactly by the judge; numbers of continuous laws need its nodes.  Arrays of uniform numbers hold
    objects that compare as numbers do.

    Errors:
        ProgramError: a method has no rule here.
    """

    def random(self, size: Any = None) -> Any:
        return _many(lambda: draw(_unit()), size)

    def uniform(self, low: float = 0.0, high: float = 1.0, size: Any = None) -> Any:
        return _many(lambda: low + (high - low) * draw(_unit()), size)

    def integers(
        self, low: int, high: int | None = None, size: Any = None, endpoint: bool = False
    ) -> Any:
        first, last = (0, low) if high is None else (low, high)
        count = int(last) - int(first) + endpoint
        return _many(lambda: int(first) + _index(torch.ones(count)), size)

    def choice(self, a: Any, size: Any = None, replace: bool = True, p: Any = None) -> Any:
        values = np.arange(a) if isinstance(a, int | np.integer) else np.asarray(a)
        weights = torch.ones(len(values)) if p is None else torch.as_tensor(np.asarray(p))
        if replace or size is None:
            return _many(lambda: values[_index(weights)], size)
        return values[_distinct(weights, int(np.prod(size)))].reshape(size)

    def permutation(self, x: Any) -> Any:
        values = np.arange(x) if isinstance(x, int | np.integer) else np.asarray(x)
        return values[_distinct(torch.ones(len(values)), len(values))]

    def shuffle(self, x: Any) -> None:
        x[:] = self.permutation(np.asarray(x))

    def binomial(self, n: int, p: float, size: Any = None) -> Any:
        return _many(lambda: int(draw(dist.Binomial(int(n), _number(p)))), size)

    def standard_normal(self, size: Any = None) -> Any:
        return self.normal(size=size)

    def normal(self, loc: Any = 0.0, scale: Any = 1.0, size: Any = None) -> Any:
        standard = dist.Normal(_number(0.0), _number(1.0))
        shape = np.broadcast_shapes(np.shape(loc), np.shape(scale)) or None
        return loc + scale * _many(lambda: float(draw(standard)), shape if size is None else size)

    def exponential(self, scale: float = 1.0, size: Any = None) -> Any:
        return scale * _many(lambda: float(draw(dist.Exponential(_number(1.0)))), size)

    def gamma(self, shape: float, scale: float = 1.0, size: Any = None) -> Any:
        law = dist.Gamma(_number(shape), _number(1.0))
        return scale * _many(lambda: float(draw(law)), size)

    def beta(self, a: float, b: float, size: Any = None) -> Any:
        return _many(lambda: float(draw(dist.Beta(_number(a), _number(b)))), size)

    rand = random_sample = random
    randint = integers
    standard_exponential = exponential

    def randn(self, *size: int) -> Any:
        return self.normal(size=size or None)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        known = [each for each in vars(Generator) if not each.startswith("_")]
        hint = f"known are {', '.join(known)}; check.stationary takes any code"
        raise ProgramError(located(f"a generator has no rule for {name}", hint=hint))


def _number(x: Any) -> Tensor:
    return torch.as_tensor(float(x), dtype=torch.float64)


def _unit() -> Any:
    return dist.Uniform(_number(0.0), _number(1.0))


def _index(weights: Tensor) -> int:
    return int(draw(dist.Categorical(weights.double())))


def _distinct(weights: Tensor, count: int) -> list[int]:
    """So many different indices, one after the other."""
    left, found = weights.double().clone(), []
    for _ in range(count):
        found.append(_index(left))
        left[found[-1]] = 0.0
    return found


def _many(one: Callable[[], Any], size: Any) -> Any:
    """One number, or an array of them."""
    if size is None:
        return one()
    shape = (int(size),) if isinstance(size, int | np.integer) else tuple(size)
    values = [one() for _ in range(math.prod(shape))]
    held = np.empty(len(values), dtype=object)
    for i, value in enumerate(values):
        held[i] = value
    plain = not any(isinstance(value, Compared) for value in values)
    return (np.asarray(values) if plain else held).reshape(shape)
