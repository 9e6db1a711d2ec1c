"""The precision that sums are taken in."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def widened(x: Tensor) -> Tensor:
    """x in float32 if it is in half precision, and as it is otherwise."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def as_given(device: torch.device) -> AbstractContextManager[object]:
    """Within it products are taken in the precision of their factors, autocast or not."""
    kind = device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return nullcontext()
