"""Data of users as tensors: numbers, lists, numpy arrays, pandas columns and frames."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from ..errors import DataError, PrecisionError, PushforwardError, located, raising_line
from .masks import core


def has_dtype(value: Any) -> bool:
    """Whether data come with a dtype of their own, which Python's numbers and lists do not."""
    return isinstance(value, Tensor) or _array(value) is not None


def as_data(name: str, value: Any) -> Tensor:
    """Tensors as they are, everything else as a tensor that loses nothing: see ``fitted``."""
    if isinstance(value, Tensor):
        return value
    try:
        array = _array(value)
        return torch.tensor(np.asarray(value) if array is None else array)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            located(f"data for '{name}' are not numeric: {error}", site=name)
        ) from error


def fitted(value: Tensor, distribution: Any, *, exact: bool) -> Tensor:
    """Data in the dtype of a site's own values.

    Integers become what the site samples.  Floats do so only where they are Python's own (not
    ``exact``): arrays and tensors keep their precision, and what is computed with them takes it on.
    """
    own = value_dtype(distribution)
    if own == value.dtype or (exact and value.is_floating_point()):
        return value
    return value.to(own) if own.is_floating_point or not value.is_floating_point() else value


def as_numbers(value: Tensor, distribution: Any) -> Tensor:
    """Data as the numbers that they stand for: integers of few bits overflow, and truth values.

    Points are compared as they are.  What may be an index stays whole, as all data do of laws that
    users write; else data get the precision of the law, if theirs is lower.
    """
    if value.is_complex() or value.dtype == torch.float64 or isinstance(distribution, dist.Delta):
        return value
    numeric = type(distribution).__module__.startswith(("torch.", "pyro."))
    if value.is_floating_point():
        own = own_dtype(distribution) if numeric else value.dtype
        return value.to(torch.promote_types(value.dtype, own))
    if not numeric or isinstance(distribution, _OF_INDICES):
        return value.long()
    return value.to(own_dtype(distribution))


_OF_INDICES = (
    torch.distributions.Categorical,
    dist.OneOneMatching,
    dist.OneTwoMatching,
    dist.SpanningTree,
)


def value_dtype(distribution: Any) -> torch.dtype:
    """The dtype of what a distribution samples, told from its parameters."""
    counts = hasattr(core(distribution), "total_count")  # whose values may differ in their number
    if getattr(distribution, "has_enumerate_support", False) and not counts:
        dtype: torch.dtype = distribution.enumerate_support(expand=False).dtype
        return dtype
    return own_dtype(distribution)


def own_dtype(distribution: Any) -> torch.dtype:
    """The dtype of the first floating parameter of a distribution."""
    pending = [distribution]
    while pending:
        for value in vars(pending.pop()).values():
            if isinstance(value, Tensor) and value.is_floating_point():
                return value.dtype
            if isinstance(value, torch.distributions.Distribution):
                pending.append(value)
    return torch.get_default_dtype()


def as_arguments(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments of a program, its arrays and pandas objects as tensors."""
    return tuple(
        arg if _array(arg) is None else as_data(f"argument {i}", arg) for i, arg in enumerate(args)
    )


@contextmanager
def one_precision(args: tuple[Any, ...]) -> Iterator[None]:
    """Within, what torch says of mixed dtypes is an error that names the arguments that differ.

    Arrays and tensors keep the precision that they come with, so that nothing is lost unseen; torch
    mixes precisions in sums and products, and in no matrix product.
    """
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, PushforwardError) or not _OF_PRECISION.search(str(error)):
            raise
        own = torch.get_default_dtype()
        others = {i: x.dtype for i, arg in enumerate(args) for x in _tensors(arg) if x.dtype != own}
        given = [f"argument {i} is {_name(dtype)}" for i, dtype in others.items()]
        what = f"dtypes are mixed: {', '.join([*given, f'new tensors are {_name(own)}'])}"
        wide = any(dtype == torch.float64 for dtype in others.values())
        hint = "give dtype=torch.float64 to the driver, or convert" if wide else "convert"
        raise PrecisionError(
            located(
                f"{what} (torch says: {error})",
                line=raising_line(error),
                hint=f"{hint} one of them by x.to({own})",
            )
        ) from error


_OF_PRECISION = re.compile(r"same dtype|scalar type|mat\d must have|dtype mismatch", re.IGNORECASE)


def _tensors(arg: Any) -> list[Tensor]:
    return [x for x in tree_leaves(arg) if isinstance(x, Tensor)]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _array(value: Any) -> np.ndarray[Any, Any] | None:
    """The numpy array of an array or a pandas object, else None; masked entries are NaN."""
    if isinstance(value, np.ma.MaskedArray) and np.ma.getmaskarray(value).any():
        return np.ma.filled(value.astype(np.promote_types(value.dtype, np.float32)), np.nan)
    if isinstance(value, np.ndarray | np.generic):
        return np.asarray(value)
    if hasattr(value, "to_numpy"):
        return np.asarray(value.to_numpy())
    return None
