"""Finite measures: what a program denotes when its choices are enumerated."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ...ppl.errors import ConvergenceError, InfiniteMassError, ZeroMassError, located
from ...ppl.pages import text
from ...ppl.tensors.keys import Values

EPSILON = torch.finfo(torch.float64).eps


@dataclass(frozen=True)
class Measure:
    """An unnormalised measure with finitely many atoms.

    ``atoms`` holds (value, log weight), one per distinct value.  ``error`` bounds nothing by
    itself: it is the estimated absolute error of the mass, and of the weights of values that
    several nodes of a quadrature share, zero where all was enumerated.
    ``notes`` tell how the measure was computed, and ``resolution`` is the rounding unit of the
    coarsest numbers that took part.  ``rest`` bounds the mass that is missing where recursion or an
    infinite support was cut; it is infinite if nothing is known of the scores beyond.  Both are
    kept as logs, as the weights are: the mass of a model with many data is below any number.
    """

    atoms: tuple[tuple[Any, float], ...]
    log_error: float = -math.inf
    notes: tuple[str, ...] = ()
    resolution: float = EPSILON
    log_rest: float = -math.inf

    @staticmethod
    def of(
        weighted: Iterable[tuple[Any, float]],
        log_error: float = -math.inf,
        notes: Iterable[str] = (),
    ) -> Measure:
        """Merge equal values and drop those of weight zero."""
        key, merged = Values(), dict[Hashable, tuple[Any, list[float]]]()
        for value, log_weight in weighted:
            if log_weight > -math.inf:
                merged.setdefault(key(value), (value, []))[1].append(log_weight)
        atoms = tuple((value, logsumexp(logs)) for value, logs in merged.values())
        return Measure(atoms, log_error, tuple(notes))

    @property
    def error(self) -> float:
        """The estimated absolute error of the mass."""
        return _exp(self.log_error)

    @property
    def rest(self) -> float:
        """A bound of the mass that was cut away."""
        return _exp(self.log_rest)

    def items(self) -> Iterator[tuple[Any, float]]:
        """The atoms as (value, weight)."""
        return ((value, _exp(log_weight)) for value, log_weight in self.atoms)

    def log_mass(self) -> float:
        """The log of the total mass: the log evidence of a conditioned program."""
        return logsumexp([log_weight for _, log_weight in self.atoms])

    def mass(self) -> float:
        """The total mass: the evidence of a conditioned program, infinite beyond 1e308."""
        return _exp(self.log_mass())

    def interval(self) -> tuple[float, float]:
        """Bounds of the total mass: all of it lies among the atoms unless something was cut."""
        return self.mass(), self.mass() + self.rest

    def expect(self, f: Callable[[Any], Any] = lambda value: value) -> Any:
        """The integral of f, which may return numbers or tensors."""
        terms = [torch.as_tensor(f(v), dtype=torch.float64) * w for v, w in self.items()]
        return torch.stack(terms).sum(0) if terms else torch.zeros((), dtype=torch.float64)

    def pmf(self) -> dict[Any, float]:
        """Weights by value, with tensors written as numbers and tuples."""
        return {readable(value): weight for value, weight in self.items()}

    def log_weight(self, value: Any) -> float:
        """The log weight of one value."""
        key = Values()
        wanted = key(value)
        return logsumexp([log_weight for v, log_weight in self.atoms if key(v) == wanted])

    def map(self, f: Callable[[Any], Any]) -> Measure:
        """The pushforward along f."""
        return self._with((f(v), lw) for v, lw in self.atoms)

    def bind(self, f: Callable[[Any], Iterable[tuple[Any, float]]]) -> Measure:
        """The mixture of the measures f(value), given as (value, log weight) pairs."""
        pairs = ((y, lw + ly) for x, lw in self.atoms for y, ly in f(x))
        return self._with(pairs)

    def normalize(self) -> Measure:
        """The probability measure proportional to this one.

        Errors:
            ZeroMassError: no value has positive weight.
            InfiniteMassError: the mass is infinite.
            ConvergenceError: more than a hundredth of it may be missing.
        """
        log_mass = self.log_mass()
        if self.log_rest > -math.inf and not self.log_rest <= log_mass + math.log(0.01):
            raise ConvergenceError(
                located(
                    f"of the mass {_exp(log_mass):.4g} up to {self.rest:.4g} more was cut away",
                    hint="raise depth=, and say bound= if the scores beyond are bounded",
                )
            )
        if log_mass == -math.inf:
            raise ZeroMassError(
                located("the measure is zero: nothing to normalise", hint="every path scores zero")
            )
        if not math.isfinite(log_mass):
            raise InfiniteMassError(located(f"the measure has mass {_exp(log_mass)}"))
        atoms = tuple((v, lw - log_mass) for v, lw in self.atoms)
        error, rest = self.log_error - log_mass, self.log_rest - log_mass
        return replace(self, atoms=atoms, log_error=error, log_rest=rest)

    def then(self, kernel: Callable[[Any], Measure]) -> Measure:
        """The mixture of the measures kernel(value), none of which has a mass beyond one."""
        rows = [(log_weight, kernel(value)) for value, log_weight in self.atoms]
        error = logsumexp([self.log_error, *(product(lw, row.log_error) for lw, row in rows)])
        rest = logsumexp([self.log_rest, *(product(lw, row.log_rest) for lw, row in rows)])
        notes = dict.fromkeys((*self.notes, *(note for _, row in rows for note in row.notes)))
        mixed = Measure.of(((y, lw + ly) for lw, row in rows for y, ly in row.atoms), error, notes)
        resolution = max(self.resolution, *(row.resolution for _, row in rows), 0.0)
        return replace(mixed, log_rest=rest, resolution=resolution)

    def _with(self, weighted: Iterable[tuple[Any, float]]) -> Measure:
        return replace(self, atoms=Measure.of(weighted).atoms)

    def alike(self, other: Measure) -> bool:
        """Whether both have the same values."""
        key = Values()
        return {key(v) for v, _ in self.atoms} == {key(v) for v, _ in other.atoms}

    def log_changes(self, other: Measure) -> float:
        """The log of the sum of all changes of weights, if both have the same values; else -inf."""
        key = Values()
        mine, theirs = ({key(v): lw for v, lw in m.atoms} for m in (self, other))
        if mine.keys() != theirs.keys():
            return -math.inf
        return logsumexp([log_difference(lw, theirs[k]) for k, lw in mine.items()])

    def deviation(self, other: Measure) -> tuple[float, Any]:
        """The largest difference of weights, as a share of the larger mass, and where it is."""
        key, top = Values(), max(self.log_mass(), other.log_mass())
        mine = {key(v): (v, share(lw, top)) for v, lw in self.atoms}
        theirs = {key(v): (v, share(lw, top)) for v, lw in other.atoms}
        worst, where = 0.0, None
        for k in mine.keys() | theirs.keys():
            value = (mine.get(k) or theirs[k])[0]
            gap = abs(mine.get(k, (None, 0.0))[1] - theirs.get(k, (None, 0.0))[1])
            if gap > worst or math.isnan(gap):
                worst, where = gap, value
        return worst, where

    def __len__(self) -> int:
        return len(self.atoms)

    def _repr_html_(self) -> str:
        return text(self)

    def __repr__(self) -> str:
        shown = sorted(self.pmf().items(), key=lambda item: -item[1])[:8]
        rows = [f"  {value!s:<24} {weight:.6g}" for value, weight in shown]
        if len(self) > len(shown):
            rows.append(f"  ... {len(self) - len(shown)} more")
        error = f", error about {self.error:.1g}" if self.error else ""
        if self.rest:
            error += f", and at most {self.rest:.3g} more that was cut"
        return "\n".join([f"Measure of mass {self.mass():.6g} on {len(self)} values{error}", *rows])


def _exp(x: float) -> float:
    """exp x, infinite where it is too large for a number."""
    return math.exp(x) if x < 709.0 else math.inf


def share(log_part: float, log_whole: float) -> float:
    """What part of a whole it is; a part of nothing is infinite."""
    return 0.0 if log_part == -math.inf else _exp(log_part - log_whole)


def product(first: float, second: float) -> float:
    """The log of a product, given by the logs of its factors: nothing times infinity is nothing."""
    return -math.inf if -math.inf in (first, second) else first + second


def log_difference(first: float, second: float) -> float:
    """The log of the difference of two masses, given by their logs."""
    low, high = sorted((first, second))
    return -math.inf if low == high else high + math.log(-math.expm1(low - high))


def logsumexp(logs: list[float]) -> float:
    """The log of the sum of exponentials, summed exactly after scaling."""
    top = max(logs, default=-math.inf)
    if not math.isfinite(top):
        return top
    return top + math.log(math.fsum(math.exp(x - top) for x in logs))


def readable(value: Any) -> Any:
    """A value as plain hashable Python: tensors become numbers and tuples."""
    if isinstance(value, Tensor):
        plain = value.tolist()
        return _frozen(plain)
    if isinstance(value, dict):
        return tuple((name, readable(item)) for name, item in value.items())
    if isinstance(value, list | tuple):
        return tuple(readable(item) for item in value)
    return value


def _frozen(plain: Any) -> Any:
    return tuple(map(_frozen, plain)) if isinstance(plain, list) else plain
