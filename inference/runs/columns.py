"""The arguments of a program from a frame, by the names of its parameters."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from ...ppl.errors import DataError, located, named_rows
from ...ppl.language.program import Callback, program_name
from .frames import as_pandas, is_of_xarray, missing_rows

if TYPE_CHECKING:
    import pandas

Missing = Literal["refuse", "drop", "keep"]


@dataclass(frozen=True)
class Columns:
    """A frame as the arguments of a program.

    arguments: in the order of the parameters: columns [rows], those of categories as numbers; of
        xarray, variables in their own shape.
    coords: the categories of columns, and the labels of dimensions of xarray, by name, as
        ``Fit.to_arviz`` takes them for plates that are called so.
    dims: the dimensions of variables of xarray, by parameter.
    dropped: rows, from 0, that were left out as they have missing values.
    """

    arguments: tuple[Any, ...]
    coords: dict[str, list[Any]]
    dims: dict[str, list[str]]
    dropped: tuple[int, ...]
    _program: Callback = field(repr=False)
    _missing: Missing = field(repr=False)
    _categories: Mapping[str, list[Any]] = field(repr=False)

    def anew(self, frame: Any, **others: Any) -> Columns:
        """Another frame for the same parameters, its categories numbered as in this one.

        Errors:
            DataError: as ``columns``; or a category is new.
        """
        return _found(self._program, frame, self._missing, others, self._categories)


def columns(p: Callback, frame: Any, missing: Missing = "refuse", **others: Any) -> Columns:
    """The arguments of a program from the columns that are called as its parameters.

    Args:
        frame: of pandas, polars or xarray, or columns by name.
        missing: values.  "refuse" names them by column and row; "drop" leaves out the rows of a
            table that lack one; "keep" makes them NaN, for programs that mask or sample them.
        others: arguments that are no columns, by name.

    Errors:
        DataError: a parameter has no column, argument or default; values are missing; a column
            holds neither numbers nor categories.
    """
    if missing not in get_args(Missing):
        raise ValueError(f"missing is one of {get_args(Missing)}, not {missing!r}")
    return _found(p, frame, missing, others, {})


def _found(
    p: Callback,
    frame: Any,
    missing: Missing,
    others: Mapping[str, Any],
    known: Mapping[str, list[Any]],
) -> Columns:
    parameters = _parameters(p)
    coords: dict[str, list[Any]] = {}
    dims: dict[str, list[str]] = {}
    dropped: list[int] = []
    values: dict[str, Any] = {}
    if is_of_xarray(frame):
        for name in (each for each in parameters if each in frame and each not in others):
            variable = frame[name]
            dims[name] = [str(dim) for dim in variable.dims]
            coords |= {d: variable[d].values.tolist() for d in dims[name] if d in variable.coords}
            values[name] = _variable(name, variable, missing)
    else:
        table = as_pandas(frame)
        held = [name for name in parameters if name in table.columns and name not in others]
        table, dropped = _without_gaps(table, held, missing)
        for name in held:
            values[name], levels = _column(name, table[name], known.get(name), missing)
            coords |= {} if levels is None else {name: levels}
    given = {**values, **others}
    if lacking := [name for name, each in parameters.items()
                   if name not in given and each.default is each.empty]:  # fmt: skip
        what = f"{program_name(p)} takes {lacking}, of which the frame has no column"
        raise DataError(located(what, hint="rename columns, or give the argument by its name"))
    if unknown := [name for name in others if name not in parameters]:
        what = f"{program_name(p)} takes no {unknown}"
        raise DataError(located(what, hint=f"it takes {list(parameters)}"))
    arguments = tuple(given.get(name, each.default) for name, each in parameters.items())
    categories = {name: coords[name] for name in values if name in coords and name not in dims}
    return Columns(arguments, coords, dims, tuple(dropped), p, missing, categories)


def _parameters(p: Callback) -> dict[str, inspect.Parameter]:
    """The parameters of a program, below what it is conditioned on, by name."""
    while hasattr(p, "base"):
        p = p.base
    found = inspect.signature(getattr(p, "fn", p)).parameters
    if any(each.kind is not each.POSITIONAL_OR_KEYWORD for each in found.values()):
        what = f"{program_name(p)} has parameters that are not told by name: {list(found)}"
        raise DataError(located(what, hint="write each parameter with its own name"))
    return dict(found)


def _without_gaps(
    table: pandas.DataFrame, names: list[str], missing: Missing
) -> tuple[pandas.DataFrame, list[int]]:
    """The table without the rows that lack a value, and those rows; or as it is."""
    gaps = {} if missing == "keep" else missing_rows(table, names)
    if gaps and missing == "refuse":
        where = "; ".join(f"'{name}' in {named_rows(rows)}" for name, rows in gaps.items())
        hint = 'missing="drop" leaves these rows out, and "keep" makes the values NaN'
        raise DataError(located(f"the data have missing values: {where}", hint=hint))
    rows = sorted({row for each in gaps.values() for row in each})
    return table.drop(index=rows).reset_index(drop=True), rows


def _column(
    name: str, column: pandas.Series, known: list[Any] | None, missing: Missing
) -> tuple[Tensor, list[Any] | None]:
    """A column as a tensor [rows], and its categories, if it is of categories."""
    import pandas

    of_texts = isinstance(column.dtype, pandas.CategoricalDtype) or not (
        pandas.api.types.is_numeric_dtype(column) or column.dtype.kind in "mM"
    )
    if known is None and not of_texts:
        return torch.tensor(_numeric(name, column.to_numpy()).copy()), None
    if rows := np.flatnonzero(column.isna()).tolist():
        what = f"the data have missing values: '{name}' in {named_rows(rows)}"
        raise DataError(located(what, hint="a category cannot be NaN: leave these rows out"))
    values = column.tolist()
    if known is None:
        own = getattr(column, "cat", None)
        known = sorted(set(values), key=str) if own is None else own.categories.tolist()
    place = {category: i for i, category in enumerate(known)}
    if new := [category for category in dict.fromkeys(values) if category not in place]:
        what = f"the column '{name}' has new categories: {new}"
        raise DataError(located(what, hint=f"it had {known}"))
    return torch.tensor([place[each] for each in values], dtype=torch.long), known


def _variable(name: str, variable: Any, missing: Missing) -> Tensor:
    """A variable of xarray in its own shape; nothing can be dropped of it."""
    array = np.array(_numeric(name, variable.values))
    gaps = np.argwhere(np.isnan(array)) if array.dtype.kind == "f" else np.empty((0, 0))
    if len(gaps) and missing != "keep":
        what = f"the data have missing values: '{name}' in entry {gaps[0].tolist()}"
        raise DataError(located(what, hint='missing="keep" makes them NaN'))
    return torch.tensor(array)


def _numeric(name: str, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    if values.dtype.kind not in "biuf":
        what = f"the column '{name}' is of {values.dtype}, neither numbers nor categories"
        raise DataError(located(what, hint="make numbers of it, such as days since a first date"))
    return values
