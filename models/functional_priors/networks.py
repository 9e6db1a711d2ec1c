"""Networks of given layers, as functions of their weights and inputs, for many weights at once."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...ppl.errors import located

Layer = tuple[Tensor, Tensor]  # weights [..., n_in, n_out] and biases [..., n_out]
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"tanh": torch.tanh, "relu": torch.relu}


@dataclass(frozen=True)
class Network:
    """f(x): layers x W / sqrt(n_in) + b, with an activation between them.

    Args:
        inputs, hidden, outputs: numbers of units.
        activation: "tanh" or "relu".
        scaled: divide by sqrt(n_in).

    Errors:
        ValueError: a number of units is not positive, or the activation is unknown.
    """

    inputs: int
    hidden: tuple[int, ...] = (50, 50)
    outputs: int = 1
    activation: str = "tanh"
    scaled: bool = True

    def __post_init__(self) -> None:
        if min(self.inputs, self.outputs, *self.hidden) < 1:
            raise ValueError(located(f"a network has units in each layer, not {self}"))
        if self.activation not in ACTIVATIONS:
            what = f"there is no activation {self.activation!r}"
            raise ValueError(located(what, hint=f"take one of {sorted(ACTIVATIONS)}"))

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """(n_in, n_out) of each layer."""
        units = (self.inputs, *self.hidden, self.outputs)
        return tuple(itertools.pairwise(units))

    def __call__(self, layers: Sequence[Layer], x: Tensor) -> Tensor:
        """f [..., M, outputs] at x [M, inputs]."""
        act, h = ACTIVATIONS[self.activation], x
        for k, (weight, bias) in enumerate(layers):
            scale = weight.shape[-2] ** -0.5 if self.scaled else 1.0
            h = h @ (scale * weight) + bias[..., None, :]
            if k < len(layers) - 1:
                h = act(h)
        return h
