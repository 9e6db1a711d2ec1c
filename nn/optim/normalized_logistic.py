"""Normalised gradient descent on the logistic loss of margins, for any model that gives margins.

For margins that are linear in the parameters it separates separable data in at most
R^2 / mu^2 + 2 log(2 n - 1) / (lr mu^2) steps from zero; for others nothing is known.

Source: Tyurin, From Logistic Regression to the Perceptron Algorithm: Exploring Gradient Descent
with Large Step Sizes (arXiv 2412.08424).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class NormalizedLogisticGD(Optimizer):
    """Steps along the mean gradient of the margins, weighted by how misfit they are.

    ``step`` needs a closure that returns the margins [n], positive where right; it calls
    ``backward`` itself, with the weights softmax(-softplus(margins)), which never underflow.

    Args:
        lr: the step; great ones are the point: 100 for rows of norm one.

    Errors:
        ValueError: lr is not positive, or the margins are not [n] and finite.
        RuntimeError: there is no closure.
    """

    def __init__(self, params: Iterable[Any], lr: float = 100.0) -> None:
        if not lr > 0:
            raise ValueError(f"lr is positive, which {lr} is not")
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor:  # type: ignore[override]
        """Make a step, and return the margins before it."""
        if closure is None:
            raise RuntimeError("NormalizedLogisticGD needs a closure that returns margins")
        self.zero_grad()
        with torch.enable_grad():
            margins = closure()
            if margins.ndim != 1 or not bool(margins.isfinite().all()):
                raise ValueError(f"finite margins [n] are expected, not {list(margins.shape)}")
            weights = (-torch.nn.functional.softplus(margins.detach())).softmax(0)
            (-(weights @ margins)).backward()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.add_(p.grad, alpha=-group["lr"])
        return margins.detach()
