"""How precisely tensor cores multiply: as exactly as the tensors that are given deserve."""

from __future__ import annotations

import torch


def of_products(dtype: torch.dtype) -> str:
    """The ``input_precision`` of ``tl.dot`` for inputs of this dtype, held in float32.

    Numbers of half precision are exact in tf32.  For float32 three products in tf32 come close to
    a rounding of float32; where there are none (before compute capability 8, elsewhere than at
    NVIDIA's) products are made one by one.
    """
    capable = torch.version.cuda is not None and torch.cuda.is_available()
    if not (capable and torch.cuda.get_device_capability() >= (8, 0)):
        return "ieee"
    return "tf32x3" if dtype == torch.float32 else "tf32"
