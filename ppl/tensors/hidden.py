"""Whether Python may look at a tensor: not while it is a lane, traced or abstract."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch._C import _functorch as functorch

from .abstract_tensor import dependence
from .capture import is_traced


def is_hidden(value: Any) -> bool:
    """Whether Python cannot look at a tensor: it is one lane of many, or is being traced."""
    if isinstance(value, Tensor) and is_traced(value):
        return True
    while isinstance(value, Tensor) and functorch.is_functorch_wrapped_tensor(value):
        if functorch.is_batchedtensor(value):
            return True
        value = functorch.get_unwrapped(value)  # a constant whose derivative is followed
        if is_traced(value):
            return True
    return False


def is_followed(value: Tensor) -> bool:
    """Whether a derivative is followed through a tensor, or through what it is a lane of."""
    while functorch.is_functorch_wrapped_tensor(value):
        value = functorch.get_unwrapped(value)
    return value.requires_grad


def is_known(value: Any) -> bool:
    """Whether Python may look at a value: it is not hidden, and stands for no random value."""
    return not is_hidden(value) and not dependence(value)
