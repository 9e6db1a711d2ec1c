"""Checks of data against the distributions that they are observed under."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from .errors import DataError, SupportError, located


def is_lane(value: Any) -> bool:
    """Whether a tensor stands for one lane of many, so that its value cannot be looked at."""
    return isinstance(value, Tensor) and torch._C._functorch.is_functorch_wrapped_tensor(value)


def check_data(name: str, distribution: Any, value: Any) -> None:
    """Raise unless ``value`` has the shape of the site, no NaN, and lies in its support."""
    if not isinstance(value, Tensor) or not hasattr(distribution, "batch_shape"):
        return
    shape = distribution.batch_shape + distribution.event_shape
    try:
        fits = torch.broadcast_shapes(value.shape, shape)
    except RuntimeError:
        fits = None
    event = tuple(distribution.event_shape)
    if fits is None or (event and tuple(value.shape[len(value.shape) - len(event) :]) != event):
        raise DataError(
            located(
                f"data of shape {tuple(value.shape)} do not fit the shape {tuple(shape)}",
                site=name,
                hint="transpose or index the data, or put the site in a plate",
            )
        )
    check_values(name, distribution, value)


def check_values(name: str, distribution: Any, value: Any) -> None:
    """Raise on NaN and on values outside the support."""
    if is_lane(value) or not isinstance(value, Tensor) or get_proxy_mode() is not None:
        return
    if value.is_floating_point() and bool(torch.isnan(value).any()):
        count = int(torch.isnan(value).sum())
        raise DataError(
            located(
                f"observed data hold {count} NaN",
                site=name,
                hint="drop them, mask the site, or sample the missing entries",
            )
        )
    try:
        support = distribution.support
        inside = support.check(value) if support is not None else None
    except (NotImplementedError, AttributeError, RuntimeError, ValueError):
        return
    if inside is not None and not is_lane(inside) and not bool(inside.all()):
        worst = value[~inside.expand(value.shape[: inside.ndim])] if inside.ndim else value
        shown = worst.flatten()[:1].tolist() if isinstance(worst, Tensor) else worst
        raise SupportError(
            located(
                f"observed value {shown[0] if shown else value} is outside the support {support}",
                site=name,
                hint=f"{type(distribution).__name__} gives it no mass",
            )
        )
