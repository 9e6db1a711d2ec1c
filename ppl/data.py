"""Data of users as tensors: numbers, lists, numpy arrays, pandas columns and frames."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .errors import DataError, located


def as_data(name: str, value: Any) -> Tensor:
    """Tensors as they are; numbers and lists in torch's default dtype; arrays in their own.

    No number is narrowed: float64 arrays stay float64, and so does what is computed from them.
    """
    if isinstance(value, Tensor):
        return value
    try:
        array = _array(value)
        return torch.as_tensor(value) if array is None else torch.tensor(array)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            located(f"data for '{name}' are not numeric: {error}", site=name)
        ) from error


def as_arguments(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments of a program, its arrays and pandas objects as tensors."""
    return tuple(
        arg if _array(arg) is None else as_data(f"argument {i}", arg) for i, arg in enumerate(args)
    )


def _array(value: Any) -> np.ndarray[Any, Any] | None:
    """The numpy array of an array or a pandas object, else None."""
    if isinstance(value, np.ndarray | np.generic):
        return np.asarray(value)
    if hasattr(value, "to_numpy"):
        return np.asarray(value.to_numpy())
    return None
