"""Logs of probabilities, which may be zero: minus infinity there, with derivative zero."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .abstract_tensor import concrete


def log_of(p: Tensor) -> Tensor:
    """log p."""
    none = p == 0
    return torch.where(none, -math.inf, torch.where(none, 1.0, p).log())


def log_rest(p: Tensor) -> Tensor:
    """log(1 - p)."""
    none = p == 1
    return torch.where(none, -math.inf, torch.log1p(-torch.where(none, 0.0, p)))


def logsumexp(logs: Tensor, dim: int = 0) -> Tensor:
    """The log of a sum along a dimension; where all is impossible, -inf with derivative zero.

    To see that all is impossible is no jump of its own: the log goes to -inf there.
    """
    dead = torch.isneginf(concrete(logs)).all(dim, keepdim=True)
    safe = torch.where(dead, torch.zeros_like(logs), logs)
    return torch.where(dead.squeeze(dim), -math.inf, torch.logsumexp(safe, dim))
