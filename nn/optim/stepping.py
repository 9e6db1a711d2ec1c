"""What optimisers share: a step with or without a closure, without gradients."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import overload

import torch
from torch.optim import Optimizer


class Stepping(Optimizer, ABC):
    """An optimiser that says how its parameters move once their gradients are there."""

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Make a step; the closure, if there is one, computes the loss and its gradients again."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._move_all()
        return loss

    @abstractmethod
    def _move_all(self) -> None: ...
