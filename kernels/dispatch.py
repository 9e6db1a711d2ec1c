"""Which of the two implementations of a kernel runs: the plain torch one, or Triton's.

``auto`` takes Triton where every tensor is on a GPU and Triton is installed, and torch elsewhere
and under forward-mode differentiation, for which Triton's kernels have no rules.
``triton`` insists; on a CPU it then needs Triton's interpreter, the environment variable
``TRITON_INTERPRET=1``, which is for tests.
"""

from __future__ import annotations

import functools
import importlib.util
import os
from typing import Literal

from torch import Tensor
from torch.autograd import forward_ad

Backend = Literal["auto", "torch", "triton"]
"""Who computes a pass: torch, Triton, or whichever suits the tensors (``auto``)."""


@functools.cache
def installed() -> bool:
    """Whether Triton is installed."""
    return importlib.util.find_spec("triton") is not None


def forward_mode() -> bool:
    """Whether tangents are being computed."""
    level: int = forward_ad._current_level
    return level >= 0


def uses_triton(backend: Backend, *tensors: Tensor) -> bool:
    """Whether a call on these tensors runs Triton's kernel.

    Errors:
        ValueError: no such back end, or Triton is asked for where it cannot run.
    """
    if backend == "torch":
        return False
    on_gpu = all(tensor.is_cuda for tensor in tensors)
    if backend == "auto":
        return on_gpu and installed() and not forward_mode()
    if backend != "triton":
        raise ValueError(f"the back end is 'auto', 'torch' or 'triton', not {backend!r}")
    if not installed():
        raise ValueError("back end 'triton': Triton is not installed; pip install triton")
    if not on_gpu and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError("back end 'triton': the tensors are not on a GPU; use 'auto' or 'torch'")
    return True
