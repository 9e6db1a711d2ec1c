"""Protected attributes as numbers between which distances mean something."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

Type = Literal["binary", "categorical", "continuous"]


class ProtectedEncoder:
    """Binary attributes as 0 and 1, categories one-hot, continuous ones scaled to [0, 1].

    Two different categories are sqrt(2) apart and two values of a binary attribute 1: weights of
    the penalty change that.  Categories are never numbered, which would put them in an order.

    Args:
        types: by name, "binary", "categorical" or "continuous".  Others are told by their values:
            two are binary, texts categorical, fractions continuous; whole numbers must be told.

    Attributes:
        types_: by name; categories_ of attributes that are not continuous, ranges_ of those that
        are.
    """

    def __init__(self, types: Mapping[str, Type] | None = None) -> None:
        self.types = types

    def fit(self, attributes: Any) -> ProtectedEncoder:
        """Learn categories and ranges.

        Args:
            attributes: a mapping or data frame of columns [n] by name; or a matrix [n, d], whose
                columns are called "0", "1", ...

        Errors:
            ValueError: a type is unknown or does not fit, or there is a NaN.
        """
        columns = columns_of(attributes)
        given = dict(self.types or {})
        if unknown := sorted(set(given) - set(columns)):
            raise ValueError(
                f"types are given of {unknown}, and the attributes are {list(columns)}"
            )
        self.types_: dict[str, Type] = {}
        self.categories_: dict[str, list[Any]] = {}
        self.ranges_: dict[str, tuple[float, float]] = {}
        for name, column in columns.items():
            values = np.unique(column)
            kind = given.get(name) or _kind(name, column.dtype.kind, len(values))
            if len(values) == 1:
                warnings.warn(f"attribute '{name}' is constant: it adds nothing", stacklevel=2)
            if kind == "continuous":
                numbers = values.astype(np.float64)
                self.ranges_[name] = float(numbers[0]), float(numbers[-1])
            elif kind in ("binary", "categorical"):
                if kind == "binary" and len(values) > 2:
                    raise ValueError(f"binary attribute '{name}' has {len(values)} values")
                self.categories_[name] = values.tolist()
            else:
                raise ValueError(f"'{name}' is binary, categorical or continuous, not {kind!r}")
            self.types_[name] = kind
        return self

    def transform(self, attributes: Any) -> dict[str, Tensor]:
        """Numbers [n] or, of categories, [n, k], by name.

        Errors:
            ValueError: an attribute is missing or a category was not seen before.
        """
        columns = columns_of(attributes)
        if set(columns) != set(self.types_):
            raise ValueError(f"the attributes are {list(self.types_)}, not {list(columns)}")
        return {name: self._numbers(name, columns[name]) for name in self.types_}

    def _numbers(self, name: str, column: Any) -> Tensor:
        if self.types_[name] == "continuous":
            low, high = self.ranges_[name]
            return torch.as_tensor((column.astype(np.float64) - low) / ((high - low) or 1.0))
        known = self.categories_[name]
        unseen = sorted(set(column.tolist()) - set(known), key=str)
        if unseen:
            raise ValueError(f"attribute '{name}' has {unseen}, and fit saw {known}")
        places = torch.tensor([known.index(value) for value in column.tolist()])
        if self.types_[name] == "binary":
            return places.double()
        return torch.nn.functional.one_hot(places, len(known)).double()

    def groups(self, attributes: Any) -> Tensor:
        """The number of each row's intersection of binary and categorical attributes [n].

        Errors:
            ValueError: all attributes are continuous.
        """
        columns = columns_of(attributes)
        if not self.categories_:
            raise ValueError("continuous attributes have no groups: give groups")
        places = [
            torch.tensor([known.index(value) for value in columns[name].tolist()])
            for name, known in self.categories_.items()
        ]
        found: Tensor = torch.stack(places, 1).unique(dim=0, return_inverse=True)[1]
        return found


def _kind(name: str, letter: str, count: int) -> Type:
    if count <= 2:
        return "binary"
    if letter in "OUS":
        return "categorical"
    if letter == "f":
        return "continuous"
    what = f"attribute '{name}' has {count} whole numbers, which may be categories or a measure"
    raise ValueError(f"{what}: say types={{'{name}': 'categorical'}} or 'continuous'")


def columns_of(attributes: Any) -> dict[str, Any]:
    """Columns [n] by name, without a NaN."""
    if isinstance(attributes, Mapping) or hasattr(attributes, "columns"):
        found = {str(name): np.asarray(attributes[name]) for name in attributes}
    else:
        matrix = np.asarray(attributes)
        matrix = matrix[:, None] if matrix.ndim == 1 else matrix
        found = {str(i): matrix[:, i] for i in range(matrix.shape[1])}
    for name, column in found.items():
        missing = any(value is None or value != value for value in column.tolist())
        if column.ndim != 1 or missing:
            raise ValueError(f"attribute '{name}' is no column of values, or has a NaN or None")
    return found
