"""Values of the calculus in exact arithmetic, and its pure primitives.

Unit and tuples are tuples, lists are ``Listed``, numbers are ``Fraction`` (or ``float`` once an
irrational function has been applied), functions are Python callables.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from ...ppl.calculus.errors import CalculusError
from ...ppl.calculus.syntax import Name, Pattern

Number = Fraction | float
Env = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Left:
    value: Any


@dataclass(frozen=True, slots=True)
class Right:
    value: Any


class Listed(tuple[Any, ...]):
    """A list; equal to another with the same items."""


def bind_pattern(pattern: Pattern, value: Any, env: Env) -> Env:
    """The environment with the variables of a pattern."""
    if isinstance(pattern, Name):
        return env if pattern.name == "_" else {**env, pattern.name: value}
    for item, part in zip(pattern.items, value, strict=True):
        env = bind_pattern(item, part, env)
    return env


def apply_operation(name: str, args: tuple[Any, ...], at: object) -> Any:
    """The value of a pure primitive.

    Errors:
        CalculusError: division by zero, or the logarithm of zero.
    """
    if name in ("/", "log") and args[-1] == 0:
        what = "division by zero" if name == "/" else "the logarithm of zero"
        raise CalculusError(what, at)
    return _PURE[name](*args)


def _root(x: Number) -> Number:
    """The square root, exact where it is rational."""
    if isinstance(x, Fraction):
        top, bottom = math.isqrt(x.numerator), math.isqrt(x.denominator)
        if top * top == x.numerator and bottom * bottom == x.denominator:
            return Fraction(top, bottom)
    return math.sqrt(x)


def _exp(x: Number) -> Number:
    return Fraction(1) if x == 0 else math.exp(x)


def _log(x: Number) -> Number:
    return Fraction(0) if x == 1 else math.log(x)


_PURE: dict[str, Callable[..., Any]] = {
    "and": lambda a, b: a and b,
    "or": lambda a, b: a or b,
    "not": lambda a: not a,
    "==": lambda a, b: a == b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
    "%": lambda a, b: a % b,
    "neg": lambda a: -a,
    "abs": abs,
    "min": min,
    "max": max,
    "pred": lambda a: max(a - 1, Fraction(0)),
    "range": lambda n: Listed(Fraction(i) for i in range(int(n))),
    "exp": _exp,
    "log": _log,
    "sqrt": _root,
}
