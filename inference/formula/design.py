"""Columns that a formula asks for: of its response, its terms and its groups, also in new data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ...ppl.errors import DataError, located, named_rows
from ..runs.frames import missing_rows
from .reading import read, said

if TYPE_CHECKING:
    import pandas

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Term:
    """A term, such as ``x`` or ``x:c``.

    columns: [rows], or [rows, k] where there are several, or for all categories.
    labels: of each column.
    anew: its columns in other data.
    """

    name: str
    columns: Array
    labels: tuple[str, ...]
    anew: Callable[[pandas.DataFrame], Array]

    @property
    def size(self) -> int:
        """How many columns it has."""
        return self.columns.shape[1] if self.columns.ndim == 2 else 1

    @property
    def is_one(self) -> bool:
        """Whether it is the intercept."""
        return self.name == "Intercept"


@dataclass(frozen=True)
class Block:
    """Effects of one factor that belong together.

    terms: whose coefficients differ from level to level.
    levels: that the data have.
    index: the level of each row [rows].
    find: the levels of the rows of other data, numbered after the known ones where they are new,
        and the new ones.
    """

    factor: str
    terms: tuple[Term, ...]
    levels: tuple[str, ...]
    index: Array
    correlated: bool
    find: Callable[[pandas.DataFrame], tuple[Array, tuple[str, ...]]]

    @property
    def size(self) -> int:
        """How many effects a level has."""
        return sum(term.size for term in self.terms)

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(
            label if term.size > 1 else term.name for term in self.terms for label in term.labels
        )


@dataclass(frozen=True)
class Response:
    """What is explained.

    values: [rows], as numbers; of categories, their place among the levels.
    levels: of categories, or None.
    ordered: whether the data say which category comes after which.
    trials: [rows], of ``prop(successes, trials)``; ``anew`` finds those of other data.
    """

    name: str
    values: Array
    levels: tuple[str, ...] | None
    ordered: bool
    trials: Array | None
    anew: Callable[[pandas.DataFrame], Array]


@dataclass(frozen=True)
class Design:
    """A formula with its data.  ``columns``: of the frame, that predictions need."""

    text: str
    rows: int
    response: Response
    intercept: bool
    terms: tuple[Term, ...]
    offsets: tuple[Term, ...]
    blocks: tuple[Block, ...]
    columns: tuple[str, ...]


def designed(text: str, frame: pandas.DataFrame, depth: int) -> Design:
    """The columns that a formula asks for.

    Args:
        frame: without missing values in what the formula names.
        depth: how many calls above this one stands the function whose names the formula may use.

    Errors:
        DataError: formulae cannot read it; it names no column; a term is not finite somewhere; it
            has no response.
    """
    from formulae import design_matrices

    clean, pieces = read(text)
    with said(text), np.errstate(all="ignore"):
        found = design_matrices(clean, frame, na_action="error", env=depth)
    if found.response is None:
        raise DataError(located(f"formula '{text}' has no response", hint="write y ~ terms"))
    common = list(found.common.terms.values()) if found.common else []
    groups = dict(found.group.terms) if found.group else {}
    offsets = [_term(term, frame) for term in common if term.kind == "offset"]
    terms = [_term(term, frame) for term in common if term.kind not in ("offset", "intercept")]
    blocks = [
        _block(owned, frame, piece.correlated)
        for piece in pieces
        for owned in _by_factor([groups.pop(n) for n in piece.names if n in groups])
    ]
    for term in (*terms, *offsets, *(term for block in blocks for term in block.terms)):
        _require_finite(text, term)
    named = {name for term in found.model.terms for name in term.var_names}
    return Design(
        text,
        len(frame),
        _response(text, found.response, frame),
        any(term.kind == "intercept" for term in common),
        tuple(terms),
        tuple(offsets),
        tuple(blocks),
        tuple(name for name in frame.columns if name in named),
    )


def used_columns(text: str, frame: pandas.DataFrame) -> tuple[str, ...]:
    """The columns of a frame that a formula names."""
    from formulae import model_description

    clean, _ = read(text)
    with said(text):
        named = model_description(clean).var_names
    return tuple(name for name in frame.columns if name in named)


def anew(design: Design, frame: pandas.DataFrame) -> pandas.DataFrame:
    """A frame that has, without gaps, what predictions of the formula need.

    Errors:
        DataError: a column is not there, or has missing values.
    """
    if lacking := [name for name in design.columns if name not in frame.columns]:
        what = f"new data for '{design.text}' lack the columns {lacking}"
        raise DataError(located(what, hint=f"it has {list(frame.columns)}"))
    require_no_gaps(frame, design.columns, hint="leave these rows out")
    return frame


def require_no_gaps(frame: pandas.DataFrame, columns: Sequence[str], hint: str) -> None:
    """Refuse missing values by column and row."""
    if gaps := missing_rows(frame, columns):
        where = "; ".join(f"'{name}' in {named_rows(rows)}" for name, rows in gaps.items())
        raise DataError(located(f"the data have missing values: {where}", hint=hint))


def _term(term: Any, frame: pandas.DataFrame) -> Term:
    """A term of formulae for its data; one with levels is a matrix, even of one column."""
    columns = np.asarray(term.data, dtype=np.float64)
    several = columns.ndim == 2 and (columns.shape[1] > 1 or getattr(term, "levels", None))
    labels = getattr(term, "levels", None) or _short(term.name, term.labels)

    def at(some: pandas.DataFrame) -> Array:
        with said(term.name), np.errstate(all="ignore"):
            found = np.asarray(term.eval_new_data(some), dtype=np.float64)
        return found.reshape(len(some), -1) if several else found.reshape(len(some))

    def again(other: pandas.DataFrame) -> Array:
        half = frame.iloc[::2]
        if not np.allclose(at(half), columns[::2], rtol=1e-6):
            raise _by_other_rows(f"the term '{term.name}'")
        found = at(other)
        if len(rows := _not_finite(found)):
            what = f"the term '{term.name}' is not finite in {named_rows(rows)}"
            raise DataError(located(what, hint="leave these rows out"))
        return found

    rows = len(columns)
    columns = columns.reshape(rows, -1) if several else columns.reshape(rows)
    return Term(str(term.name), columns, tuple(map(str, labels)), again)


def _by_other_rows(what: str) -> DataError:
    """What is said where half of the data have other values than the same rows of all data."""
    hint = "use center(x), scale(x), poly(x, 2) or bs(x), which remember the data, or make a column"
    return DataError(located(f"{what} of a row depends on other rows", hint=hint))


def _short(name: str, labels: Sequence[str]) -> list[str]:
    """Labels without the name in front, as ``0`` for ``bs(x, df=4)[0]``."""
    return [str(x).removeprefix(name).removeprefix("[").removesuffix("]") or name for x in labels]


def _not_finite(columns: Array) -> list[int]:
    finite = np.isfinite(columns)
    return [*map(int, np.flatnonzero(~(finite if finite.ndim == 1 else finite.all(1))))]


def _require_finite(text: str, term: Term) -> None:
    if rows := _not_finite(term.columns):
        what = f"formula '{text}': the term '{term.name}' is not finite in {named_rows(rows)}"
        raise DataError(located(what, hint="change the term, or leave these rows out"))


def _by_factor(terms: list[Any]) -> list[list[Any]]:
    """Terms that stand together, for each factor: ``(1 | a/b)`` has two."""
    found: dict[str, list[Any]] = {}
    for term in terms:
        found.setdefault(term.factor.name, []).append(term)
    return list(found.values())


def _block(owned: list[Any], frame: pandas.DataFrame, correlated: bool) -> Block:
    """Group terms of formulae that have one factor; levels without data are left out."""
    first = owned[0]
    places = [{x: i for i, x in enumerate(each.levels)} for each in first.factor.components]
    rows = _levels(first, frame)
    kept = sorted(set(rows), key=lambda level: [at[x] for at, x in zip(places, level, strict=True)])
    place = {level: i for i, level in enumerate(kept)}

    def find(other: pandas.DataFrame) -> tuple[Array, tuple[str, ...]]:
        with said(first.name):
            if _levels(first, frame.iloc[::2]) != rows[::2]:
                raise _by_other_rows(f"the level of '{first.factor.name}'")
            found = _levels(first, other)
        new = [level for level in dict.fromkeys(found) if level not in place]
        known = place | {level: len(kept) + i for i, level in enumerate(new)}
        return np.array([known[level] for level in found]), tuple(map(_named, new))

    return Block(
        str(first.factor.name),
        tuple(_term(term.expr, frame) for term in owned),  # what stands left of |
        tuple(map(_named, kept)),
        np.array([place[level] for level in rows]),
        correlated,
        find,
    )


Level = tuple[Any, ...]


def _levels(term: Any, frame: pandas.DataFrame) -> list[Level]:
    """The level of each row: the value of each factor that is joined by ``:``."""
    columns = []
    for component in term.factor.components:
        name = getattr(component, "name", None)
        values = frame[name] if name in frame else component.call.eval(frame, component.env)
        columns.append(np.asarray(getattr(values, "data", values), dtype=object).tolist())
    return list(zip(*columns, strict=True))


def _named(level: Level) -> str:
    """The name of a level, as formulae names those of several factors."""
    return ":".join(map(str, level))


def _response(text: str, found: Any, frame: pandas.DataFrame) -> Response:
    values, levels, trials = np.asarray(found.design_matrix), None, None
    ordered = False
    if found.kind == "proportion":
        values, trials = values[:, 0], values[:, 1].astype(np.float64)
    elif found.kind == "categoric" and found.levels is not None:
        levels = tuple(map(str, found.levels))
        values = values.reshape(len(frame), -1).argmax(1)
        ordered = bool(getattr(getattr(frame.get(found.name), "dtype", None), "ordered", False))
    values = values.astype(np.float64)
    if values.ndim != 1:
        raise DataError(located(f"formula '{text}': the response has {values.shape[1]} columns"))

    def again(other: pandas.DataFrame) -> Array:
        with said(found.name):
            return np.asarray(found.evaluate_new_data(other), dtype=np.float64)

    name = str(found.name)
    if rows := _not_finite(values):
        what = f"formula '{text}': the response '{name}' is not finite in {named_rows(rows)}"
        raise DataError(located(what, hint="change it, or leave these rows out"))
    return Response(name, values, levels, ordered, trials, again)
