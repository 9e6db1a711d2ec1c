"""The precision that sums are taken in."""

from __future__ import annotations

import torch
from torch import Tensor


def widened(x: Tensor) -> Tensor:
    """x in float32 if it is in half precision, and as it is otherwise."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
