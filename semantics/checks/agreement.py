"""Whether the program of a term, evaluated exactly, has the measure that the reference gives it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import torch

from ...ppl.calculus import syntax as s
from ...ppl.calculus.check import Typing
from ...ppl.calculus.check import check as type_of
from ...ppl.calculus.elaborate import Injection, elaborate
from ...ppl.calculus.types import Measure as MeasureType
from ...ppl.errors import CalculusError
from .. import reference
from ..evaluation.denote import denote
from ..judging.report import Report, decide
from ..reference.laws import CONTINUOUS
from ..reference.values import Left, Listed, Right

DEPTH, NODES = 30, 64
CONVERGED = 1e-2  # the largest relative error of a quadrature that is believed


def agreement(
    term: s.Term | s.Module,
    *,
    depth: int = DEPTH,
    quadrature: int = NODES,
    tolerance: float = 1e-10,
) -> Report:
    """Whether the reference and the exact evaluator of the elaborated program agree on a term.

    Finite measures are compared value by value.  Where the term draws continuously both sides
    integrate with ``quadrature`` nodes for each draw, and the masses and means are compared: the
    tolerance grows by the errors that half the nodes show; beyond a hundredth of the mass the
    verdict is unknown.

    Args:
        depth: nested calls of recursive functions, and listed terms of an infinite support.

    Errors:
        CalculusError: the term is ill-typed, or is no measure.
    """
    start = time.perf_counter()
    typing = type_of(term)
    if not isinstance(typing.type, MeasureType):
        raise CalculusError(f"only measures are compared, not {typing.type}", typing.term.at)
    compare = _integrals if is_continuous(typing.term) else _atoms
    comparison = compare(typing, depth, quadrature)
    report = decide(
        "the program has the measure of the reference",
        comparison.deviation,
        tolerance + comparison.error,
        "with the quadrature errors" if comparison.error else "for float64 rounding",
        comparison.where,
        time.perf_counter() - start,
        (comparison.note,),
    )
    if comparison.error <= CONVERGED:
        return report
    note = "the quadrature has not converged: raise quadrature="
    return replace(report, verdict="unknown", notes=(*report.notes, note))


def is_continuous(term: s.Term) -> bool:
    """Whether a term has a continuous distribution in it."""
    return any(isinstance(part, s.Law) and part.name in CONTINUOUS for part in s.every(term))


def bounded(type_: MeasureType) -> float | None:
    """A bound on the scores of a measure, from its type: what ``denote`` takes as ``bound``."""
    return None if type_.kind == "M" else 1.0


@dataclass(frozen=True)
class _Comparison:
    deviation: float
    where: str
    note: str
    error: float = 0.0


def _atoms(typing: Typing, depth: int, _: int) -> _Comparison:
    assert isinstance(typing.type, MeasureType)
    exact = reference.denote(typing.term, depth=depth)
    found = denote(elaborate(typing.term), depth=depth, bound=bounded(typing.type))
    first, second = collected(exact), collected(found.items())
    gaps = {v: abs(first.get(v, 0.0) - second.get(v, 0.0)) for v in {**first, **second}}
    gaps["what was cut"] = 0.0 if exact.rest == found.rest else abs(float(exact.rest) - found.rest)
    mass = max(math.fsum(first.values()), math.fsum(second.values())) or 1.0
    worst = max(gaps, key=lambda v: gaps[v])
    where = (
        f"the value {worst} has mass {first.get(worst, 0.0):.10g} by the reference, "
        f"{second.get(worst, 0.0):.10g} by the program"
    )
    note = f"{len(exact)} values, of mass {float(exact.mass()):.10g}"
    if exact.rest:
        note += f", and up to {float(exact.rest):.2g} more that both cut"
    return _Comparison(gaps[worst] / mass, where, note)


def _integrals(typing: Typing, depth: int, nodes: int) -> _Comparison:
    """Compare integrals relative to the mass."""
    assert isinstance(typing.type, MeasureType)
    fine, coarse = (
        _moments(reference.denote(typing.term, depth=depth, nodes=n)) for n in (nodes, nodes // 2)
    )
    found = denote(
        elaborate(typing.term), depth=depth, quadrature=nodes, bound=bounded(typing.type)
    )
    other, mass = _moments(found.items()), max(fine["the mass"], 1e-300)
    gaps = {name: abs(fine[name] - other[name]) / mass for name in fine}
    error = (max(abs(fine[name] - coarse[name]) for name in fine) + found.error) / mass
    worst = max(gaps, key=lambda name: gaps[name])
    where = f"{worst} is {fine[worst]:.10g} by the reference, {other[worst]:.10g} by the program"
    note = f"compared by integrals, relative to the mass of {fine['the mass']:.10g}"
    return _Comparison(gaps[worst], where, note, error)


def _moments(weighted: Iterable[tuple[Any, Any]]) -> dict[str, float]:
    """The mass, and the integrals of the numbers in the value."""
    totals: dict[str, list[float]] = {"the mass": []}
    for value, weight in weighted:
        totals["the mass"].append(float(weight))
        for name, number in leaves(plain(value), "the integral of the value"):
            totals.setdefault(name, []).append(float(weight) * number)
    return {name: math.fsum(parts) for name, parts in totals.items()}


def leaves(value: Any, name: str) -> Iterator[tuple[str, float]]:
    """The numbers in a plain value, each with its place; a boolean counts as 0 or 1."""
    if isinstance(value, bool | float):
        yield name, float(value)
    elif isinstance(value, tuple) and value[:1] not in (("list",), ("inl",), ("inr",)):
        for i, part in enumerate(value):
            yield from leaves(part, f"{name}.{i}")


# --------------------------------------------------------------------------------- common values


def plain(value: Any) -> Any:
    """A value of the reference or of the program as nested tuples of floats and strings."""
    match value:
        case torch.Tensor():
            return plain(value.item())
        case bool() | str() | None:
            return value
        case int() | float() | Fraction():
            return round(float(value), 9) + 0.0
        case Left(inner) | Injection("inl", inner):
            return ("inl", plain(inner))
        case Right(inner) | Injection("inr", inner):
            return ("inr", plain(inner))
        case Listed() | list():
            return ("list", *map(plain, value))
        case tuple():
            return tuple(map(plain, value))
    raise TypeError(f"values of {type(value).__name__} cannot be compared")


def collected(weighted: Iterable[tuple[Any, Any]]) -> dict[Any, float]:
    """Weights by plain value."""
    found: dict[Any, float] = {}
    for value, weight in weighted:
        if weight > 0:
            found[plain(value)] = found.get(plain(value), 0.0) + float(weight)
    return found
