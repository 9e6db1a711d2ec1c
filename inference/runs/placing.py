"""Where a driver computes, and in which precision."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from ...ppl import condition
from ...ppl.language.combinators import Conditioned
from ...ppl.language.program import Callback

Device = torch.device | str | None

_ALONE = threading.RLock()


@contextmanager
def placed(device: Device, dtype: torch.dtype | None) -> Iterator[None]:
    """Within, new tensors are made on this device and in this precision, if they are given.

    One thread at a time: handlers, generators and default types are those of the process.
    """
    with _ALONE:
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype or before)
        try:
            if device is None:
                yield
            else:
                with torch.device(device):
                    yield
        finally:
            torch.set_default_dtype(before)


def moved(value: Any, device: Device, dtype: torch.dtype | None) -> Any:
    """A tree of data on this device, its floating point tensors in this precision."""

    def one(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        return x.to(device=device, dtype=dtype if x.is_floating_point() else None)

    return tree_map(one, value)


def with_data_there(p: Callback, device: Device, dtype: torch.dtype | None) -> Callback:
    """A program with the data that it is conditioned on moved; what it closes over stays."""
    if not isinstance(p, Conditioned) or (device is None and dtype is None):
        return p
    return condition(p.base, moved(p.data, device, dtype), p.missing)
