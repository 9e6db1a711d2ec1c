"""Frames of columns, as pandas holds them: of pandas, polars and their like, xarray, mappings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import narwhals.stable.v2 as nw
import numpy as np
from torch import Tensor

from ...ppl.errors import DataError, located

if TYPE_CHECKING:
    import pandas


def is_of_xarray(frame: Any) -> bool:
    """Whether it is a dataset of xarray."""
    return type(frame).__module__.startswith("xarray.") and hasattr(frame, "data_vars")


def as_pandas(frame: Any) -> pandas.DataFrame:
    """The columns of a frame, its rows numbered from 0; categories keep their order.

    Args:
        frame: of pandas, or of any library that narwhals knows, such as polars; a ``Dataset`` of
            xarray, whose dimensions become columns too; or columns by name, [rows] each, where
            the masked entries of numpy's masked arrays are missing.

    Errors:
        DataError: it is none of these, or its columns have different lengths.
    """
    import pandas

    if isinstance(frame, pandas.DataFrame):
        return frame.reset_index(drop=True)
    if is_of_xarray(frame):
        return frame.to_dataframe().reset_index()
    if isinstance(frame, Mapping):
        columns = {str(name): _plain(x) for name, x in frame.items()}
        lengths = {name: len(x) for name, x in columns.items()}
        if len(set(lengths.values())) > 1:
            what = f"columns of different lengths: {lengths}"
            raise DataError(located(what, hint="give one entry for each row"))
        return pandas.DataFrame(columns)
    try:
        known = nw.from_native(frame, eager_only=True)
    except TypeError as error:
        what = f"a {type(frame).__name__} is no frame of columns"
        hint = "give a frame of pandas, polars or xarray, or columns by name"
        raise DataError(located(what, hint=hint)) from error
    return pandas.DataFrame({x.name: _of_series(x) for x in known.iter_columns()})


def _plain(column: Any) -> Any:
    """A column as numpy or pandas has it, [rows]."""
    if isinstance(column, Tensor):
        column = column.detach().cpu().numpy()
    if isinstance(column, np.ma.MaskedArray):
        masked, values = np.ma.getmaskarray(column), column.data
        column = values
        if masked.any():
            column = values.astype(float if values.dtype.kind in "biuf" else object)
            column[masked] = np.nan
    return column if hasattr(column, "dtype") else list(column)


def _of_series(series: Any) -> Any:
    """A column of a frame that narwhals knows."""
    import pandas

    values = series.to_list()
    if series.dtype in (nw.Categorical, nw.Enum):
        categories = series.cat.get_categories().to_list()
        return pandas.Categorical(values, categories, ordered=series.dtype == nw.Enum)
    return pandas.Series(values)


def missing_rows(frame: pandas.DataFrame, columns: Sequence[str]) -> dict[str, list[int]]:
    """The rows, from 0, where a column has no value; of the columns that have such."""
    found = {name: np.flatnonzero(frame[name].isna()).tolist() for name in columns}
    return {name: rows for name, rows in found.items() if rows}
