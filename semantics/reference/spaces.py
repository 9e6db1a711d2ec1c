"""Types as quasi-Borel spaces: which values they hold, and which of their functions are random.

A quasi-Borel space is a set with a family of random elements, functions from the unit interval: the
constants are among them, a random element after a measurable map of the interval is one, and so is
what is glued from countably many along a Borel partition ("A Convenient Category for Higher-Order
Probability Theory", arXiv 1701.02547, definition 7).
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from ...ppl.calculus.errors import CalculusError
from ...ppl.calculus.types import Base, Fin, Function, ListOf, Measure, Product, Sum, Type, values
from .measure import Finite
from .values import Left, Listed, Right

RandomElement = Callable[[Fraction], Any]


@dataclass(frozen=True)
class QuasiBorel:
    """The space of the values of a type."""

    type: Type

    def contains(self, value: Any) -> bool:
        """Whether a value belongs to the space (for functions: whether it can be applied)."""
        match self.type:
            case Base("Void"):
                return False
            case Base("Unit"):
                return bool(value == ())
            case Base("Bool"):
                return isinstance(value, bool)
            case Base(name):
                number = isinstance(value, Fraction | float) and not isinstance(value, bool)
                return number and _RANGES[name](value)
            case Fin(size):
                return _RANGES["Nat"](value) and value < size
            case Product(parts):
                return (
                    isinstance(value, tuple)
                    and len(value) == len(parts)
                    and all(space(p).contains(v) for p, v in zip(parts, value, strict=True))
                )
            case Sum(left, right):
                if isinstance(value, Left):
                    return space(left).contains(value.value)
                return isinstance(value, Right) and space(right).contains(value.value)
            case ListOf(item):
                return isinstance(value, Listed) and all(map(space(item).contains, value))
            case Measure(kind, of):
                if not isinstance(value, Finite) or not all(
                    space(of).contains(x) for x, _ in value
                ):
                    return False
                low, high = value.interval()
                return kind == "M" or (low <= 1 and (kind == "S" or high >= 1))
        return callable(value)

    def enumerate(self, at: object = None) -> list[Any]:
        """All values in canonical order.

        Errors:
            CalculusError: there are infinitely many.
        """
        if values(self.type) is None:
            raise CalculusError(
                f"{self.type} has infinitely many values",
                at,
                "only its random elements can be integrated (see `integrate`)",
            )
        return list(self._values())

    def _values(self) -> Iterator[Any]:
        match self.type:
            case Base("Unit"):
                yield ()
            case Base("Bool"):
                yield from (False, True)
            case Fin(size):
                yield from map(Fraction, range(size))
            case Product(parts):
                yield from itertools.product(*(space(part)._values() for part in parts))
            case Sum(left, right):
                yield from map(Left, space(left)._values())
                yield from map(Right, space(right)._values())

    def random_element(self, rng: random.Random) -> RandomElement:
        """One of the random elements of the space, chosen at random.

        A step function on at most four cells for base types; componentwise for products; a choice
        of the summand on each cell for sums; for functions the transpose of a random element of
        the result over pairs (r, x).
        """
        match self.type:
            case Product(parts):
                inner = [space(part).random_element(rng) for part in parts]
                return lambda r: tuple(f(r) for f in inner)
            case Sum(left, right):
                sides: list[tuple[type, RandomElement]] = []
                for side, of in ((Left, left), (Right, right)):
                    if of != Base("Void"):
                        sides.append((side, space(of).random_element(rng)))
                cells = [rng.choice(sides) for _ in range(4)]
                return glue([_injected(c, f) for c, f in cells])
            case ListOf(item):
                lengths = [rng.randint(0, 3) if item != Base("Void") else 0 for _ in range(4)]
                rows = [[space(item).random_element(rng) for _ in range(n)] for n in lengths]
                return glue([_listed(row) for row in rows])
            case Function(argument, result):
                if values(argument) is not None:
                    keys = space(argument).enumerate()
                    rows_by_key = {x: space(result).random_element(rng) for x in keys}
                    return lambda r: lambda x: rows_by_key[x](r)
                constant = space(result).random_element(rng)
                return lambda r: lambda x: constant(r)
            case Measure(_, of):
                outcomes = [space(of).random_element(rng) for _ in range(2)]
                return lambda r: Finite([(outcomes[0](r), r), (outcomes[1](r), 1 - r)])
        return glue([_constant(self._draw(rng)) for _ in range(4)])

    def _draw(self, rng: random.Random) -> Any:
        match self.type:
            case Base("Unit"):
                return ()
            case Base("Bool"):
                return rng.random() < 0.5
            case Base("Nat"):
                return Fraction(rng.randrange(6))
            case Base("Prob"):
                return Fraction(rng.randrange(9), 8)
            case Base("Weight"):
                return Fraction(rng.randrange(33), 8)
            case Base("Real"):
                return Fraction(rng.randrange(-32, 33), 8)
            case Fin(size):
                return Fraction(rng.randrange(size))
        raise CalculusError(f"{self.type} has no values")


_RANGES: dict[str, Callable[[Any], bool]] = {
    "Real": lambda x: True,
    "Weight": lambda x: bool(x >= 0),
    "Prob": lambda x: bool(0 <= x <= 1),
    "Nat": lambda x: bool(x >= 0 and x == int(x)),
}


def space(type_: Type) -> QuasiBorel:
    """The space of a type."""
    return QuasiBorel(type_)


def glue(pieces: list[RandomElement]) -> RandomElement:
    """The random element that follows each piece on one cell of an equal partition."""
    return lambda r: pieces[min(int(r * len(pieces)), len(pieces) - 1)](r)


def _injected(side: type, element: RandomElement) -> RandomElement:
    return lambda r: side(element(r))


def _listed(row: list[RandomElement]) -> RandomElement:
    return lambda r: Listed(element(r) for element in row)


def _constant(value: Any) -> RandomElement:
    return lambda r: value
