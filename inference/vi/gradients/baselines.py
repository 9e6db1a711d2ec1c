"""Baselines: predictions of what follows a choice, which lower the variance of its score.

A baseline never changes an expected gradient, whatever it predicts, as long as it does not look at
the choice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor


class Baseline(Protocol):
    """Predicts a cost []; ``learn`` is told what came.  ``state`` is what predictions change by."""

    @property
    def state(self) -> list[Tensor]: ...

    def predict(self) -> Tensor: ...

    def learn(self, cost: Tensor) -> None: ...


class Constant:
    """A number."""

    def __init__(self, value: float | Tensor) -> None:
        self.number = torch.as_tensor(value)

    @property
    def state(self) -> list[Tensor]:
        return []

    def predict(self) -> Tensor:
        return self.number

    def learn(self, cost: Tensor) -> None:
        """Nothing: it stays as it is."""

    def __repr__(self) -> str:
        return f"Constant({self.number.tolist()})"


class MovingAverage:
    """The mean of earlier costs, of which the last ones count most.

    It is state: make it once, outside the program.

    Args:
        decay: how much of the mean is kept at each step.
    """

    def __init__(self, decay: float = 0.9) -> None:
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"decay lies in [0, 1), which {decay} does not")
        self.decay = decay
        self.mean, self.weight = torch.zeros(()), torch.zeros(())

    @property
    def state(self) -> list[Tensor]:
        return [self.mean, self.weight]

    def predict(self) -> Tensor:
        return self.mean.clone()

    def learn(self, cost: Tensor) -> None:
        before = self.decay * self.weight
        self.weight.copy_(before + 1 - self.decay)
        self.mean.copy_((before * self.mean + (1 - self.decay) * cost.mean()) / self.weight)

    def __repr__(self) -> str:
        return f"MovingAverage({self.decay}, now {float(self.mean):.4g})"


class Learned:
    """A function of what is known before the choice, for instance a network of the data.

    The squares of its errors are subtracted from the surrogate, at a value of zero, so that the
    optimiser of the objective fits it too, if it is given its parameters.

    Args:
        function: from ``inputs`` to a tensor [].
    """

    def __init__(self, function: Callable[..., Tensor], *inputs: Tensor) -> None:
        self.function, self.inputs = function, tuple(x.detach() for x in inputs)

    @property
    def state(self) -> list[Tensor]:
        return []

    def predict(self) -> Tensor:
        return self.function(*self.inputs).reshape(())

    def learn(self, cost: Tensor) -> None:
        """Nothing: the optimiser does."""


def as_baseline(given: float | Tensor | Baseline | None) -> Baseline | None:
    """Numbers are constant baselines."""
    return Constant(given) if isinstance(given, int | float | Tensor) else given
