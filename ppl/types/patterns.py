"""Patterns of spaces: spaces whose sizes may be named, ``Real[n]`` and ``Simplex(k)[n]``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyro.distributions import constraints
from torch.distributions.constraints import Constraint

from ..errors import ProgramError, located
from .spaces import EVENT_DIMS, TURN, Space, space_of_support
from .zero_sum import zero_sum

Number = int | float
Size = int | str

# Each kind: the number of its parameters, and its support for them (None: the last is a size).
_KINDS: dict[str, tuple[int, Callable[..., Constraint]]] = {
    "Real": (0, lambda: constraints.real),
    "Positive": (0, lambda: constraints.positive),
    "GreaterThan": (1, constraints.greater_than),
    "LessThan": (1, constraints.less_than),
    "Interval": (2, constraints.interval),
    "UnitInterval": (0, lambda: constraints.unit_interval),
    "Circle": (0, lambda: TURN),
    "Bool": (0, lambda: constraints.boolean),
    "Int": (0, lambda: constraints.integer),
    "Nat": (0, lambda: constraints.nonnegative_integer),
    "Fin": (1, lambda k: constraints.integer_interval(0, k - 1)),  # type: ignore[no-untyped-call]
    "IntInterval": (2, constraints.integer_interval),
    "Simplex": (1, lambda k: constraints.simplex),
    "Ordered": (1, lambda k: constraints.ordered_vector),
    "PositiveOrdered": (1, lambda k: constraints.positive_ordered_vector),
    "Sphere": (1, lambda k: constraints.sphere),
    "OneHot": (1, lambda k: constraints.one_hot),
    "Multinomial": (2, lambda n, k: constraints.multinomial(n)),  # type: ignore[no-untyped-call]
    "CorrCholesky": (1, lambda k: constraints.corr_cholesky),
    "CorrMatrix": (1, lambda k: constraints.corr_matrix),
    "LowerCholesky": (1, lambda k: constraints.lower_cholesky),
    "PositiveDefinite": (1, lambda k: constraints.positive_definite),
    "ZeroSum": (1, lambda k: zero_sum),
    "Dim": (1, lambda n: constraints.nonnegative_integer),
    "Anything": (0, lambda: constraints.dependent),
}


class Annotation:
    """What may stand in an annotation, also as one of several: ``Real | None``."""

    def __or__(self, other: Any) -> Either:
        return Either((self, other))

    def __ror__(self, other: Any) -> Either:
        return Either((other, self))


@dataclass(frozen=True)
class Either(Annotation):
    """An annotation of values that fit one of several."""

    options: tuple[Any, ...]


@dataclass(frozen=True, repr=False)
class Pattern(Annotation):
    """A space of tensors whose parameters and batch shape may be names of sizes.

    ``Dim`` is the kind of Python integers that give a size; ``Anything`` holds every value.
    """

    kind: str
    parameters: tuple[Number | str, ...] = ()
    batch_shape: tuple[Size, ...] = ()

    @property
    def name(self) -> str:
        inside = ", ".join(map(_printed, self.parameters))
        return f"{self.kind}({inside})" if inside else self.kind

    def __repr__(self) -> str:
        sizes = ", ".join(map(str, self.batch_shape))
        return self.name + (f"[{sizes}]" if sizes else "")

    @property
    def shape(self) -> tuple[Size, ...]:
        """The whole shape, batch and event."""
        last = self.parameters[-1:] * EVENT_DIMS.get(self.kind, 0)
        return self.batch_shape + tuple(p for p in last if isinstance(p, int | str))

    def space(self, sizes: Mapping[str, Size]) -> Space | None:
        """The space, with the names replaced by these sizes; None if one is missing."""
        known = [_meant(p, sizes) if isinstance(p, str) else p for p in self.parameters]
        shape = tuple(size for s in self.shape if isinstance(size := _meant(s, sizes), int))
        if any(isinstance(p, str) for p in known) or len(shape) < len(self.shape):
            return None
        support = _KINDS[self.kind][1](*known)
        if self.kind == "Circle":
            return Space("Circle", (), shape, support)
        return space_of_support(support, shape)


def unify(
    left: Sequence[Size], right: Sequence[Size], sizes: Mapping[str, Size]
) -> dict[str, Size] | None:
    """The sizes of names, those given among them, that make two shapes one; None if none do.

    A name whose size is not known yet may stand for another name.
    """
    if len(left) != len(right):
        return None
    found = dict(sizes)
    for a, b in zip(left, right, strict=True):
        a, b = _meant(a, found), _meant(b, found)
        if isinstance(a, str) and a != b:
            found[a] = b
        elif isinstance(b, str) and a != b:
            found[b] = a
        elif a != b:
            return None
    return found


def _meant(size: Size, sizes: Mapping[str, Size]) -> Size:
    while isinstance(size, str) and size in sizes:
        size = sizes[size]
    return size


@dataclass(frozen=True)
class Kind(Annotation):
    """A constructor of patterns: ``Real("n")``, ``Fin(3)``, ``Simplex("k", 8)``."""

    kind: str

    def __call__(self, *sizes: Any) -> Pattern:
        """The kind with its parameters, and then the sizes of a batch of values.

        Errors:
            ProgramError: a parameter is missing, or a size is no integer and no name.
        """
        count = _KINDS[self.kind][0]
        if len(sizes) < count:
            what = f"{self.kind} needs {count} parameter{'s' if count > 1 else ''}"
            raise ProgramError(located(what, hint=f"write {self.kind}({', '.join('23'[:count])})"))
        events = 1 if self.kind in EVENT_DIMS or self.kind in {"Fin", "Dim"} else 0
        for size in sizes[count - events :]:
            if not _is_size(size):
                what = f"{self.kind}: {size!r} is no size"
                raise ProgramError(located(what, hint="sizes are integers, or names such as 'n'"))
        return Pattern(self.kind, sizes[:count], sizes[count:])

    def __repr__(self) -> str:
        return self.kind


def _is_size(value: Any) -> bool:
    whole = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    return whole or (isinstance(value, str) and value.isidentifier())


def _printed(parameter: Number | str) -> str:
    return f"{parameter:g}" if isinstance(parameter, float) else str(parameter)
