"""What the processes of a group of ``torch.distributed`` tell each other: gradients above all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def grouped() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def rank() -> int:
    return torch.distributed.get_rank() if grouped() else 0


def size_of_group() -> int:
    return torch.distributed.get_world_size() if grouped() else 1


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


def made_equal(parameters: Sequence[Tensor]) -> None:
    """Give parameters the values that they have in process 0."""
    if grouped():
        for parameter in parameters:
            torch.distributed.broadcast(parameter.data, 0)


def told(value: T) -> T:
    """What process 0 calls with, in all processes."""
    if not grouped():
        return value
    values = [value]
    torch.distributed.broadcast_object_list(values, 0)
    return values[0]


def gathered(value: T) -> list[T] | None:
    """The values of all processes, in process 0."""
    if not grouped():
        return [value]
    values: list[Any] | None = None if rank() else [None] * size_of_group()
    torch.distributed.gather_object(value, values, 0)
    return values


def state_of(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """That of an optimiser, whole, in process 0; of one that each process holds a part of, too."""
    if hasattr(optimizer, "consolidate_state_dict"):  # ZeroRedundancyOptimizer
        optimizer.consolidate_state_dict(0)
    return {} if rank() else optimizer.state_dict()
