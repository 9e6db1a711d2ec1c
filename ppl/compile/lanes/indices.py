"""Indices: sums of loop variables, of quotients and remainders, and of entries of known tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from threading import local
from typing import TypeAlias


class _Numbers(local):
    """Numbers of variables, from 0 on in each translation, so that equal graphs have equal code."""

    def __init__(self) -> None:
        self.next = count()


_numbers = _Numbers()


def restart_numbers() -> None:
    """Let the variables of a new translation, which meet no earlier ones, count from 0."""
    _numbers.next = count()


@dataclass(frozen=True)
class Var:
    """A variable of a loop, from 0 to ``size`` - 1."""

    size: int
    number: int = field(default_factory=lambda: next(_numbers.next))

    @property
    def bounds(self) -> tuple[int, int]:
        return 0, self.size - 1

    def __str__(self) -> str:
        return f"i{self.number}"


@dataclass(frozen=True)
class Quotient:
    """``of`` // ``by``; ``of`` is never negative."""

    of: Index
    by: int

    @property
    def bounds(self) -> tuple[int, int]:
        low, high = self.of.bounds
        return low // self.by, high // self.by

    def __str__(self) -> str:
        return f"({self.of}) / {self.by}"


@dataclass(frozen=True)
class Remainder:
    """``of`` % ``by``; ``of`` is never negative."""

    of: Index
    by: int

    @property
    def bounds(self) -> tuple[int, int]:
        return 0, self.by - 1

    def __str__(self) -> str:
        return f"({self.of}) % {self.by}"


@dataclass(frozen=True)
class Entry:
    """The entry at ``at`` of a table of whole numbers, all within ``bounds``."""

    table: str
    at: Index
    bounds: tuple[int, int]

    def __str__(self) -> str:
        return f"{self.table}[{self.at}]"


Atom: TypeAlias = Var | Quotient | Remainder | Entry


@dataclass(frozen=True)
class Index:
    """``constant`` + the sum of ``terms``, each an atom by its coefficient."""

    terms: tuple[tuple[Atom, int], ...] = ()
    constant: int = 0

    @cached_property
    def bounds(self) -> tuple[int, int]:
        """The least and the largest value, or numbers beyond them."""
        low = high = self.constant
        for atom, k in self.terms:
            ends = [k * end for end in atom.bounds]
            low, high = low + min(ends), high + max(ends)
        return low, high

    @cached_property
    def variables(self) -> frozenset[Var]:
        return frozenset(v for atom, _ in self.terms for v in _variables(atom))

    def __add__(self, other: Index | int) -> Index:
        if isinstance(other, int):
            return Index(self.terms, self.constant + other)
        total = dict(self.terms)
        for atom, k in other.terms:
            total[atom] = total.get(atom, 0) + k
        return _index(total.items(), self.constant + other.constant)

    def __sub__(self, other: Index) -> Index:
        return self + other * -1

    def __mul__(self, k: int) -> Index:
        return _index(((atom, c * k) for atom, c in self.terms), self.constant * k)

    def __floordiv__(self, by: int) -> Index:
        whole, rest = self._split(by)
        low, high = (end // by for end in rest.bounds)
        if low == high:
            return whole + low
        return whole + low + of_atom(Quotient(rest + -low * by, by))

    def __mod__(self, by: int) -> Index:
        _, rest = self._split(by)
        low, high = (end // by for end in rest.bounds)
        if low == high:
            return rest + -low * by
        return of_atom(Remainder(rest + -low * by, by))

    def _split(self, by: int) -> tuple[Index, Index]:
        """The whole multiples of ``by``, divided by it, and the rest."""
        whole = tuple((atom, k // by) for atom, k in self.terms if k % by == 0)
        rest = tuple((atom, k) for atom, k in self.terms if k % by)
        return Index(whole, self.constant // by), Index(rest, self.constant % by)

    def coefficient(self, v: Var) -> int | None:
        """What ``v`` is multiplied by; None if it also occurs within another atom."""
        if any(atom != v and v in _variables(atom) for atom, _ in self.terms):
            return None
        return dict(self.terms).get(v, 0)

    def replace(self, by: Mapping[Var, Index]) -> Index:
        """The index with variables replaced."""
        if not self.variables & by.keys():
            return self
        total = Index((), self.constant)
        for atom, k in self.terms:
            total = total + _replaced(atom, by) * k
        return total

    def __str__(self) -> str:
        parts = [str(atom) if k == 1 else f"{k} * ({atom})" for atom, k in self.terms]
        if self.constant or not parts:
            parts.append(str(self.constant))
        return " + ".join(parts)


def _index(terms: Iterable[tuple[Atom, int]], constant: int) -> Index:
    kept = ((atom, k) for atom, k in terms if k and atom.bounds != (0, 0))
    return Index(tuple(sorted(kept, key=lambda term: str(term[0]))), constant)


def of_atom(atom: Atom) -> Index:
    """The index that is this atom."""
    return _index([(atom, 1)], 0)


def number(k: int) -> Index:
    """The index that is this number."""
    return Index((), k)


def _variables(atom: Atom) -> frozenset[Var]:
    match atom:
        case Var():
            return frozenset({atom})
        case Entry():
            return atom.at.variables
        case _:
            return atom.of.variables


def _replaced(atom: Atom, by: Mapping[Var, Index]) -> Index:
    match atom:
        case Var():
            return by.get(atom, of_atom(atom))
        case Entry(table, at, bounds):
            return of_atom(Entry(table, at.replace(by), bounds))
        case Quotient(of, divisor):
            return of.replace(by) // divisor
        case Remainder(of, divisor):
            return of.replace(by) % divisor


def strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Of a contiguous tensor of this shape."""
    found, step = [], 1
    for n in reversed(shape):
        found.append(step)
        step *= n
    return tuple(reversed(found))


def flat(at: Iterable[Index], shape: tuple[int, ...]) -> Index:
    """The place of an entry in a contiguous tensor."""
    total = number(0)
    for index, step in zip(at, strides(shape), strict=True):
        total = total + index * step
    return total


def unflat(place: Index, shape: tuple[int, ...]) -> tuple[Index, ...]:
    """The entry at a place of a contiguous tensor; the inverse of ``flat``."""
    return tuple(
        (place // step) % n if n > 1 else number(0)
        for n, step in zip(shape, strides(shape), strict=True)
    )
