"""Gradients in a process group of ``torch.distributed``: each process draws, all are averaged."""

from __future__ import annotations

import torch
from torch import Tensor


def grouped() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def rank() -> int:
    return torch.distributed.get_rank() if grouped() else 0


def averaged(gradients: list[Tensor]) -> list[Tensor]:
    """The gradients averaged over the processes of a group, if there is one."""
    if not grouped():
        return gradients
    flat = torch.cat([g.reshape(-1) for g in gradients])
    torch.distributed.all_reduce(flat)
    flat /= torch.distributed.get_world_size()
    sizes = [g.numel() for g in gradients]
    pairs = zip(flat.split(sizes), gradients, strict=True)
    return [part.reshape(g.shape) for part, g in pairs]
