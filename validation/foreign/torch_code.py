"""Code that draws from torch's global generator: its numbers become effects.

What intercepts functions of torch is a ``TorchFunctionMode``; code in C++ is not seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from pyro import distributions as dist
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from ...ppl import draw
from ...ppl.errors import UnsupportedDistributionError, located
from ...ppl.language.effects import stack
from ...ppl.language.program import program_name
from ...semantics.evaluation.compared import Compared
from .outside import outside

ANY = "check.stationary takes any code"


def with_effects(function: Callable[..., Any]) -> Callable[..., Any]:
    """A program that calls ``function`` with torch's random functions as effects.

    They are ``rand``, ``randn``, ``randint``, ``randperm``, ``normal``, ``bernoulli``,
    ``multinomial``, those named ``..._like``, the methods ``uniform_``, ``normal_``,
    ``bernoulli_`` and ``exponential_``, and ``sample`` of the laws that are made of these.

    Errors:
        UnsupportedDistributionError: another random function is called.
    """

    def run(*args: Any) -> Any:
        with Effects():
            return function(*args)

    run.__name__ = run.__qualname__ = program_name(function)
    return run


class Effects(TorchFunctionMode):
    """Random functions draw; what changes in place into something undecided stands for that.

    ``beyond``: whether they draw outside of handlers that were put up since this was made.
    """

    def __init__(self, beyond: bool = False) -> None:
        super().__init__()
        self._depth = len(stack()) if beyond else None
        self._standing: dict[int, tuple[Tensor, Any]] = {}  # with the tensors, which keeps ids

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        args = tree_map(self._now, args) if self._standing else args
        if name in CHANGING and len(args) == 2 and _is_undecided(args[1]):
            return self._changed(name, *args)
        if self._standing and any(issubclass(type(x), Compared) for x in args):
            return Compared.__torch_function__(func, types, args, kwargs)
        if name in REFUSED:
            what = f"torch.{name.strip('_')} has no rule as an effect"
            raise UnsupportedDistributionError(located(what, hint=ANY))
        if name not in RULES:
            return func(*args, **kwargs)
        if kwargs.get("out") is not None:
            raise UnsupportedDistributionError(located(f"torch.{name} with out=", hint=ANY))
        kwargs.pop("generator", None)
        place = nullcontext() if self._depth is None else outside(self._depth)
        with torch._C.DisableTorchFunction(), place:
            return RULES[name](*args, **kwargs)

    def _now(self, value: Any) -> Any:
        return self._standing.get(id(value), (None, value))[1]

    def _changed(self, name: str, first: Any, other: Any) -> Any:
        """A function in place, done out of place."""
        found = getattr(torch, name.rstrip("_"))(first.clone(), other)
        self._standing[id(first)] = first, found
        return found


def _is_undecided(value: Any) -> bool:
    return issubclass(type(value), Compared) and not value.interval.settled


def _shape(size: tuple[Any, ...]) -> tuple[int, ...]:
    first = size[0] if len(size) == 1 and not isinstance(size[0], int) else size
    return tuple(first)


def _dtype(kwargs: dict[str, Any]) -> torch.dtype:
    found = kwargs.get("dtype") or torch.get_default_dtype()
    assert isinstance(found, torch.dtype)
    return found


def _uniform(shape: tuple[int, ...], dtype: torch.dtype, low: float, high: float) -> Any:
    law = dist.Uniform(torch.tensor(low, dtype=dtype), torch.tensor(high, dtype=dtype))
    if math.prod(shape) != 1:
        return draw(law, shape)
    number = draw(law)
    return number.reshape(shape) if shape else number


def _normal(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return draw(dist.Normal(torch.zeros((), dtype=dtype), torch.ones((), dtype=dtype)), shape)


def _sizes(size: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[int, ...]:
    return _shape(size) if size else tuple(kwargs.get("size", ()))


def _rand(*size: Any, **kwargs: Any) -> Any:
    return _uniform(_sizes(size, kwargs), _dtype(kwargs), 0.0, 1.0)


def _randn(*size: Any, **kwargs: Any) -> Tensor:
    return _normal(_sizes(size, kwargs), _dtype(kwargs))


def _randint(*args: Any, **kwargs: Any) -> Tensor:
    *ends, size = args if "size" not in kwargs else (*args, kwargs["size"])
    if "high" in kwargs:
        ends = [*ends, kwargs["high"]]
    low, high = (kwargs.get("low", 0), ends[0]) if len(ends) == 1 else ends
    weights = torch.ones(high - low, dtype=torch.float64)
    found: Tensor = low + draw(dist.Categorical(weights), tuple(size))
    return found


def _randperm(n: int, **kwargs: Any) -> Tensor:
    return torch.tensor(_distinct(torch.ones(n), n))


def _distinct(weights: Tensor, count: int) -> list[int]:
    left, found = weights.double().clone(), []
    for _ in range(count):
        found.append(int(draw(dist.Categorical(left))))
        left[found[-1]] = 0.0
    return found


def _multinomial(
    weights: Tensor, num_samples: int, replacement: bool = False, **kwargs: Any
) -> Tensor:
    if weights.ndim > 1:
        rows = [_multinomial(row, num_samples, replacement) for row in weights]
        return torch.stack(rows)
    if replacement:
        return draw(dist.Categorical(weights), (num_samples,))
    return torch.tensor(_distinct(weights, num_samples))


def _gaussian(mean: Any, std: Any = 1.0, size: Any = None, **kwargs: Any) -> Tensor:
    law = dist.Normal(torch.as_tensor(mean), torch.as_tensor(std))
    return draw(law if size is None else law.expand(size))


def _bernoulli(input: Tensor, p: float | None = None, **kwargs: Any) -> Tensor:
    chances = input if p is None else torch.full_like(input, p)
    return draw(dist.Bernoulli(chances).to_event(chances.ndim))


def _fill(self: Tensor, values: Any) -> Tensor:
    return self.copy_(values.number() if issubclass(type(values), Compared) else values)


def _uniform_(self: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
    law = dist.Uniform(torch.tensor(low, dtype=self.dtype), torch.tensor(high, dtype=self.dtype))
    return _fill(self, draw(law, tuple(self.shape)))


def _normal_(self: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    return _fill(self, mean + std * _normal(tuple(self.shape), self.dtype))


def _bernoulli_(self: Tensor, p: Any = 0.5) -> Tensor:
    chances = torch.as_tensor(p, dtype=torch.float64).expand(self.shape)
    return _fill(self, _bernoulli(chances))


def _exponential_(self: Tensor, lambd: float = 1.0) -> Tensor:
    law = dist.Exponential(torch.tensor(lambd, dtype=self.dtype))
    return _fill(self, draw(law, tuple(self.shape)))


def _like(rule: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x, **kwargs: rule(tuple(x.shape), **{"dtype": x.dtype, **kwargs})


RULES: dict[str, Callable[..., Any]] = {
    "rand": _rand,
    "randn": _randn,
    "rand_like": _like(_rand),
    "randn_like": _like(_randn),
    "randint": _randint,
    "randperm": _randperm,
    "multinomial": _multinomial,
    "normal": _gaussian,
    "bernoulli": _bernoulli,
    "uniform_": _uniform_,
    "normal_": _normal_,
    "bernoulli_": _bernoulli_,
    "exponential_": _exponential_,
}
CHANGING = {"add_", "sub_", "mul_", "div_"}  # a tensor, by an undecided number
REFUSED = {"poisson", "binomial", "_standard_gamma", "_sample_dirichlet", "geometric_", "cauchy_"}
REFUSED |= {"log_normal_", "random_", "randint_like", "dropout", "rrelu"}
