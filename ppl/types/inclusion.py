"""Inclusion of spaces: whether every value of one event of a space lies in another."""

from __future__ import annotations

import math

import torch

from .spaces import Parameter, Space

_PI = float(f"{torch.pi:.6g}")
# Kinds of scalars as (whether integers, lowest, highest); "a", "b" are the parameters in order.
_SCALARS: dict[str, tuple[bool, float | str, float | str]] = {
    "Real": (False, -math.inf, math.inf),
    "Positive": (False, 0, math.inf),
    "GreaterThan": (False, "a", math.inf),
    "LessThan": (False, -math.inf, "a"),
    "UnitInterval": (False, 0, 1),
    "Interval": (False, "a", "b"),
    "Circle": (False, -_PI, _PI),
    "Bool": (True, 0, 1),
    "Int": (True, -math.inf, math.inf),
    "Nat": (True, 0, math.inf),
    "IntAtLeast": (True, "a", math.inf),
    "IntInterval": (True, "a", "b"),
    "Fin": (True, 0, "a"),
}
# Vectors of full dimension in the reals, with the spaces of their entries.
_VECTORS = {"Ordered": "Real", "PositiveOrdered": "Positive"}


def included(inner: Space, outer: Space) -> bool | None:
    """Whether the values of one event of ``inner`` lie in ``outer``, up to null sets.

    Values count and not their dtype: ``Bool`` is ``Fin(2)``.  Continuous values never lie in a
    discrete space; integers lie in ``Real`` and in no other continuous one.  Vectors lie in a space
    of scalars if they have full dimension there: ``Ordered(3)`` does, and ``Simplex(3)`` does not.

    Returns:
        None where that depends on a bound that is random, or on a support that is unknown.
    """
    if "Unknown" in (inner.kind, outer.kind):
        return None
    if inner.kind in _VECTORS and outer.kind != inner.kind:
        if outer.kind in _VECTORS:
            return inner.kind == "PositiveOrdered" and inner.parameters == outer.parameters
        inner = Space(_VECTORS[inner.kind])
    if inner.kind in _SCALARS and outer.kind in _SCALARS:
        return _ranges(inner, outer)
    if (inner.kind, outer.kind) == ("OneHot", "Multinomial"):
        return outer.parameters == (1, *inner.parameters)
    if (inner.kind, outer.kind) == ("Multinomial", "OneHot"):
        return inner.parameters == (1, *outer.parameters)
    if inner.kind != outer.kind:
        return False
    unknown = None in inner.parameters or None in outer.parameters
    return None if unknown else inner.parameters == outer.parameters


def _ranges(inner: Space, outer: Space) -> bool | None:
    whole, low, high = _range(inner)
    outer_whole, outer_low, outer_high = _range(outer)
    if whole and not outer_whole:
        return outer.kind == "Real"
    if outer_whole and not whole:
        return False
    answers = _at_most(outer_low, low), _at_most(high, outer_high)
    return False if False in answers else None if None in answers else True


def _range(space: Space) -> tuple[bool, Parameter, Parameter]:
    whole, low, high = _SCALARS[space.kind]
    given = dict(zip("ab", space.parameters, strict=False))
    bounds = [given[bound] if isinstance(bound, str) else bound for bound in (low, high)]
    if space.kind == "Fin":
        bounds[1] = space.parameters[0] - 1  # type: ignore[operator]
    return whole, bounds[0], bounds[1]


def _at_most(low: Parameter, high: Parameter) -> bool | None:
    """Whether ``low <= high`` for every element."""
    if low in (-math.inf, math.inf) or high in (-math.inf, math.inf):
        return low == -math.inf or high == math.inf
    if low is None or high is None:
        return None
    lows, highs = _entries(low), _entries(high)
    if len(lows) == len(highs):
        return all(a <= b for a, b in zip(lows, highs, strict=True))
    if len(lows) == 1 or len(highs) == 1 or max(lows) <= min(highs):
        return max(lows) <= min(highs)
    return None


def _entries(bound: int | float | tuple[float, ...]) -> tuple[float, ...]:
    return bound if isinstance(bound, tuple) else (bound,)
