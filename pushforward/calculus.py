"""What the command line says of a ``.pf`` file: types, agreement, and the exact posterior."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path
from typing import Any

from .ppl.calculus import syntax as s
from .ppl.calculus.check import check as type_of
from .ppl.calculus.elaborate import elaborate
from .ppl.calculus.parse import parse_module
from .ppl.calculus.types import Measure as MeasureType
from .ppl.errors import CalculusError
from .semantics import denote, reference
from .semantics.checks.agreement import bounded, is_continuous, leaves, plain
from .semantics.reference.values import Left, Listed, Right

ROWS = 20  # of a posterior, that are printed
WIDTH = 60  # of the text on either side of a mistake


def read(path: Path) -> s.Module:
    """The definitions of a file, type-checked.

    Errors:
        CalculusError: with the file, the line and a mark under the place in it.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CalculusError(f"{path} is no text in UTF-8 (byte {error.start})") from error
    try:
        module = parse_module(text)
        type_of(module)
        return module
    except CalculusError as error:
        raise CalculusError(marked(error, path, text)) from error


def marked(error: CalculusError, path: Path, text: str) -> str:
    """The message of an error with the line of the text that it is about."""
    if not isinstance(error.at, s.Position) or error.at == s.NOWHERE:
        return f"{path}: {error}"
    line, column = error.at
    written = text.splitlines()[line - 1] if line <= len(text.splitlines()) else ""
    start = max(0, column - WIDTH)
    number, shown = f"{line} | ", written[start : start + 2 * WIDTH]
    return f"{path}:{error}\n{number}{shown}\n{' ' * (len(number) + column - start - 1)}^"


def types(module: s.Module) -> str:
    """The definitions with their types, one to a line."""
    width = max(len(d.name) for d in module.definitions)
    return "\n".join(f"{d.name:<{width}} : {d.type}" for d in module.definitions)


def posterior(module: s.Module, depth: int, quadrature: int) -> str:
    """The evidence and the normalised measure: in rationals if finite, else by quadrature."""
    type_ = type_of(module).type
    if not isinstance(type_, MeasureType):
        return f"{shown(reference.value(module))}"
    if is_continuous(module.term()):
        return _integrated(module, type_, depth, quadrature)
    measure = reference.denote(module, depth=depth)
    low, high = measure.interval()
    lines = [f"evidence {_evidence(measure, depth)}"]
    if low == 0:
        return "\n".join([*lines, "no value has positive weight"])
    rows = sorted(measure, key=lambda atom: -atom[1])
    names = [shown(value) for value, _ in rows[:ROWS]]
    width = max(map(len, names))
    for name, (_, weight) in zip(names, rows, strict=False):
        lines.append(f"  {name:<{width}}  {_share(weight, low, high)}")
    if len(rows) > ROWS:
        lines.append(f"  ... {len(rows) - ROWS} more")
    return "\n".join(lines)


def _evidence(measure: reference.Finite, depth: int) -> str:
    low, high = measure.interval()
    if not measure.rest:
        return _number(low)
    if high == math.inf:
        return f"at least {_decimal(low)}: nothing bounds the scores of an M beyond --depth {depth}"
    return f"{_decimal(low)}, and up to {float(measure.rest):.2g} more beyond --depth {depth}"


def _share(weight: Any, low: Any, high: Any) -> str:
    """The posterior of a value: an interval if part of the mass is unknown."""
    if low == high:
        return _number(weight / low)
    if high == math.inf:
        return "unknown"
    least, most = _decimal(weight / high), _decimal((weight + high - low) / high)
    return least if least == most else f"{least} to {most}"


def _integrated(module: s.Module, type_: MeasureType, depth: int, quadrature: int) -> str:
    """Evidence, means and standard deviations by quadrature."""
    measure = denote(elaborate(module), quadrature=quadrature, depth=depth, bound=bounded(type_))
    error = f" (error about {measure.error:.1g})" if measure.error else ""
    lines = [f"evidence {measure.mass():.8g}{error}"]
    sums: dict[str, list[tuple[float, float]]] = {}
    for value, weight in measure.normalize().items():
        for name, number in leaves(plain(value), "value"):
            sums.setdefault(name, []).append((weight, number))
    width = max(map(len, sums), default=0)
    for name, weighted in sums.items():
        mean = math.fsum(w * x for w, x in weighted)
        variance = math.fsum(w * (x - mean) ** 2 for w, x in weighted)
        lines.append(f"  {name:<{width}}  mean {mean:.6g}, sd {math.sqrt(variance):.6g}")
    return "\n".join(lines)


def shown(value: Any) -> str:
    """A value as the calculus writes it."""
    match value:
        case bool():
            return "true" if value else "false"
        case Fraction():
            return str(value)
        case float():
            return f"{value:.8g}"
        case Left(inner):
            return f"inl {shown(inner)}"
        case Right(inner):
            return f"inr {shown(inner)}"
        case Listed():
            return f"[{', '.join(map(shown, value))}]"
        case tuple():
            return f"({', '.join(map(shown, value))})"
        case reference.Finite():
            return "a measure"
    return "a function"


def _decimal(x: Any) -> str:
    return f"{float(x):.8g}"


def _number(x: Any) -> str:
    """A rational with its decimals, if it is short enough to read."""
    if isinstance(x, Fraction) and x.denominator > 1 and len(str(x)) <= 24:
        return f"{x} = {_decimal(x)}"
    return _decimal(x)
