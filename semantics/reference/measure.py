"""Measures with finitely many atoms and exact weights, and the algebra of measures.

A measure may be known in part only: ``rest`` bounds the mass that is missing (of recursions that
were cut and of infinite supports), so that every mass is an interval [m, m + rest].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from fractions import Fraction
from typing import Any

from ...ppl.calculus.errors import InfiniteMassError, ZeroMassError
from .values import Left, Number, Right


class Finite:
    """The measure with the given atoms; equal values are one atom, and weights are positive.

    Args:
        atoms: pairs (value, weight).
        rest: an upper bound on the mass that is not among the atoms, perhaps infinite.
    """

    __slots__ = ("_hash", "atoms", "rest")

    def __init__(self, atoms: Iterable[tuple[Any, Number]] = (), rest: Number = 0) -> None:
        weights: dict[Any, Number] = {}
        for value, weight in atoms:
            if weight > 0:
                weights[value] = weights.get(value, 0) + weight
        self.atoms: Mapping[Any, Number] = weights
        self.rest = rest
        self._hash: int | None = None

    def __iter__(self) -> Iterator[tuple[Any, Number]]:
        return iter(self.atoms.items())

    def __len__(self) -> int:
        return len(self.atoms)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Finite) and (self.atoms, self.rest) == (other.atoms, other.rest)

    def __hash__(self) -> int:
        if self._hash is None:
            self._hash = hash((frozenset(self.atoms.items()), self.rest))
        return self._hash

    def __repr__(self) -> str:
        rest = f", rest {self.rest}" if self.rest else ""
        shown = ", ".join(f"{value}: {weight}" for value, weight in list(self)[:12])
        return f"Finite({{{shown}{', ...' if len(self) > 12 else ''}}}{rest})"

    # ----------------------------------------------------------------------------------- integrals

    def mass(self) -> Number:
        """The mass of the atoms: a lower bound of the total."""
        return sum(self.atoms.values(), Fraction(0))

    def interval(self) -> tuple[Number, Number]:
        """Bounds of the total mass."""
        return self.mass(), plus(self.mass(), self.rest)

    def expect(self, f: Callable[[Any], Number] = lambda x: x) -> Number:
        """The integral of f over the atoms."""
        return sum((w * f(x) for x, w in self), Fraction(0))

    # ------------------------------------------------------------------------------------- algebra

    def bind(self, kernel: Callable[[Any], Finite], most: Number = 1) -> Finite:
        """The mixture of kernel(x): first this measure, then the kernel.

        ``most`` bounds the mass of the kernel anywhere, and so what the missing part may become.
        """
        pieces = [(weight, kernel(x)) for x, weight in self]
        rest = times(self.rest, most)
        for weight, piece in pieces:
            rest = plus(rest, times(weight, piece.rest))
        return Finite(((y, w * v) for w, piece in pieces for y, v in piece), rest)

    def map(self, f: Callable[[Any], Any]) -> Finite:
        """The pushforward along f."""
        return Finite(((f(x), w) for x, w in self), self.rest)

    def reweight(self, f: Callable[[Any], Number], most: Number = math.inf) -> Finite:
        """The measure with density f with respect to this one; ``most`` bounds f."""
        return Finite(((x, w * f(x)) for x, w in self), times(self.rest, most))

    def product(self, other: Finite) -> Finite:
        """The product measure on pairs."""
        rest = plus(times(self.rest, other.interval()[1]), times(self.mass(), other.rest))
        return Finite((((x, y), w * v) for x, w in self for y, v in other), rest)

    def normalize(self) -> Left | Right:
        """``Right`` of the probability proportional to this, ``Left(())`` if there is none.

        Errors:
            InfiniteMassError: part of the measure is missing, so the constant is not known.
        """
        if self.rest:
            raise InfiniteMassError(f"cannot normalise a measure of which {self.rest} is missing")
        mass = self.mass()
        if mass == 0 or math.isinf(mass):
            return Left(())
        return Right(Finite((x, w / mass) for x, w in self))

    def derivative(self, base: Finite) -> Callable[[Any], Number]:
        """The Radon-Nikodym derivative of this measure with respect to ``base``.

        Errors:
            ZeroMassError: there is none: an atom of this measure has no mass under the base.
        """
        for x, _ in self:
            if x not in base.atoms:
                raise ZeroMassError(f"not absolutely continuous: {x} has no mass under the base")
        ratios = {x: self.atoms.get(x, Fraction(0)) / w for x, w in base}
        return lambda x: ratios.get(x, Fraction(0))

    def disintegrate(self) -> tuple[Finite, Callable[[Any], Finite]]:
        """A measure on pairs as its first marginal and a kernel: ``mu = marginal (x) kernel``."""
        marginal = self.map(lambda pair: pair[0])
        rows: dict[Any, list[tuple[Any, Number]]] = {}
        for (x, y), w in self:
            rows.setdefault(x, []).append((y, w / marginal.atoms[x]))
        return marginal, lambda x: Finite(rows.get(x, ()))

    def distance(self, other: Finite) -> float:
        """The largest difference of the weights of a value."""
        values = {**self.atoms, **other.atoms}
        gaps = (abs(float(self.atoms.get(x, 0) - other.atoms.get(x, 0))) for x in values)
        return max(gaps, default=0.0)


def dirac(value: Any) -> Finite:
    """The unit mass at a value."""
    return Finite([(value, Fraction(1))])


def scaled(weight: Number) -> Finite:
    """``score weight``: the mass ``weight`` at the unit value."""
    return Finite([((), weight)])


def plus(a: Number, b: Number) -> Number:
    return math.inf if math.inf in (a, b) else a + b


def times(a: Number, b: Number) -> Number:
    """The product of masses, where nothing of infinitely much is nothing."""
    if a == 0 or b == 0:
        return Fraction(0)
    return math.inf if math.inf in (a, b) else a * b
