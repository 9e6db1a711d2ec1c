"""The network of the bridge: a perceptron of a point, its time, and the values of both ends."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn


class Denoiser(nn.Module):
    """Three hidden layers with Swish; weights of n inputs start at normal(0, 0.64^2 / n).

    For the published width of hidden layers, 1024, that is the published 0.02; narrow ones that
    start at 0.02 stay nearly linear.

    Args:
        d: of points; hidden: width of the layers.
        bit: whether it is told that values are hidden. Without, values of 0 say so, as in the
            published code, where they are also the mean of what was standardised.
    """

    def __init__(
        self, d: int, hidden: int = 1024, bit: bool = True, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.bit = bit
        widths = [d + 4 if bit else d + 3, hidden, hidden, hidden]
        layers: list[nn.Module] = []
        for a, b in itertools.pairwise(widths):
            layers += [nn.Linear(a, b, dtype=dtype), nn.SiLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(hidden, d, dtype=dtype))
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, 0.0, 0.64 / layer.in_features**0.5)
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, time: Tensor, y: Tensor, known: Tensor) -> Tensor:
        """Of x [n, d], time [n, 1] in [0, 1), y [n, 2] (high, low), known [n, 1] (1 or 0)."""
        told = [x, time, y * known, *([known] if self.bit else [])]
        found: Tensor = self.layers(torch.cat(told, 1))
        return found
