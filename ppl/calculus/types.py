"""Types of the calculus, and their order.

Numbers are ordered by inclusion: ``Fin n`` (0 to n - 1) in ``Nat`` in ``Weight`` (not negative) in
``Real``, and ``Prob`` (the unit interval) in ``Weight``.  Measures are ordered by what is known of
their mass: ``D`` (a distribution with a density), ``P`` (mass one, may be dropped), ``S`` (mass at
most one) and ``M`` (any mass).  Every type contains ``Void``, which has no values.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Base:
    """``Void``, ``Unit``, ``Bool``, ``Nat``, ``Prob``, ``Weight`` or ``Real``."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Fin:
    """The numbers 0 to size - 1."""

    size: int

    def __str__(self) -> str:
        return f"Fin {self.size}"


@dataclass(frozen=True, slots=True)
class Product:
    """Tuples of two or more."""

    parts: tuple[Type, ...]

    def __str__(self) -> str:
        return " * ".join(_inside(part, (Product, Sum, Function)) for part in self.parts)


@dataclass(frozen=True, slots=True)
class Sum:
    left: Type
    right: Type

    def __str__(self) -> str:
        left, right = _inside(self.left, (Sum, Function)), _inside(self.right, (Function,))
        return f"{left} + {right}"


@dataclass(frozen=True, slots=True)
class ListOf:
    item: Type

    def __str__(self) -> str:
        return f"List {_inside(self.item, _WIDE)}"


@dataclass(frozen=True, slots=True)
class Function:
    argument: Type
    result: Type

    def __str__(self) -> str:
        return f"{_inside(self.argument, (Function,))} -> {self.result}"


@dataclass(frozen=True, slots=True)
class Measure:
    """Measures on a type; ``kind`` is one of ``KINDS``."""

    kind: str
    of: Type

    def __str__(self) -> str:
        return f"{self.kind} {_inside(self.of, _WIDE)}"


Type = Base | Fin | Product | Sum | ListOf | Function | Measure

KINDS = "DPSM"
_WIDE = (Fin, Product, Sum, ListOf, Function, Measure)

VOID, UNIT, BOOL = Base("Void"), Base("Unit"), Base("Bool")
NAT, PROB, WEIGHT, REAL = Base("Nat"), Base("Prob"), Base("Weight"), Base("Real")
NUMBERS = (NAT, PROB, WEIGHT, REAL)


def _inside(type_: Type, wide: tuple[type, ...]) -> str:
    return f"({type_})" if isinstance(type_, wide) else str(type_)


def is_number(type_: Type) -> bool:
    return isinstance(type_, Fin) or type_ in NUMBERS or type_ == VOID


def subtype(a: Type, b: Type) -> bool:
    """Whether every value of ``a`` is a value of ``b``."""
    match a, b:
        case _ if a in (VOID, b):
            return True
        case Fin(m), Fin(n):
            return m <= n
        case Fin(m), Base(name):
            return name in ("Nat", "Weight", "Real") or (name == "Prob" and m <= 2)
        case Base(x), Base(y):
            return (x, y) in _ABOVE
        case Product(xs), Product(ys):
            return len(xs) == len(ys) and all(map(subtype, xs, ys))
        case Sum(l1, r1), Sum(l2, r2):
            return subtype(l1, l2) and subtype(r1, r2)
        case ListOf(x), ListOf(y):
            return subtype(x, y)
        case Function(x1, y1), Function(x2, y2):
            return subtype(x2, x1) and subtype(y1, y2)
        case Measure("D", x), Measure("D", y):
            return x == y  # a density is one of x: observing a value outside it is an error
        case Measure(k1, x), Measure(k2, y):
            return KINDS.index(k1) <= KINDS.index(k2) and subtype(x, y)
    return False


_ABOVE = {
    ("Nat", "Weight"),
    ("Nat", "Real"),
    ("Prob", "Weight"),
    ("Prob", "Real"),
    ("Weight", "Real"),
}


def join(a: Type, b: Type) -> Type | None:
    """The least type above both, or None."""
    if subtype(a, b):
        return b
    if subtype(b, a):
        return a
    if is_number(a) and is_number(b):
        return next(n for n in NUMBERS if subtype(a, n) and subtype(b, n))
    match a, b:
        case Product(xs), Product(ys) if len(xs) == len(ys):
            parts = [join(x, y) for x, y in zip(xs, ys, strict=True)]
            return None if None in parts else Product(tuple(p for p in parts if p is not None))
        case Sum(l1, r1), Sum(l2, r2):
            left, right = join(l1, l2), join(r1, r2)
            return None if left is None or right is None else Sum(left, right)
        case ListOf(x), ListOf(y):
            item = join(x, y)
            return None if item is None else ListOf(item)
        case Function(x1, y1), Function(x2, y2) if x1 == x2:
            result = join(y1, y2)
            return None if result is None else Function(x1, result)
        case Measure(k1, x), Measure(k2, y):
            of = join(x, y)
            kind = max(k1, k2, "P", key=KINDS.index)
            return None if of is None else Measure(kind, of)
    return None


def combined(first: str, second: str) -> str:
    """The kind of a measure that is made of two, one after the other."""
    return max(first, second, "P", key=KINDS.index)


def values(type_: Type) -> int | None:
    """How many values a type has; None if they are not finitely many (or are functions of many)."""
    match type_:
        case Base("Void"):
            return 0
        case Base("Unit"):
            return 1
        case Base("Bool"):
            return 2
        case Fin(size):
            return size
        case Product(parts):
            counts = [values(part) for part in parts]
            total = 1
            for count in counts:
                if count is None:
                    return None
                total *= count
            return total
        case Sum(left, right):
            lefts, rights = values(left), values(right)
            return None if lefts is None or rights is None else lefts + rights
    return None
