"""Scikit-learn's digits for training tests: 70/30, stratified, standardised by their pixels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images [n, 1, 8, 8] and their labels [n]: to train, then to test."""
    data = load_digits()
    images = (data.images / 16).astype(np.float32)[:, None]
    parts = train_test_split(
        images, data.target, test_size=0.3, random_state=0, stratify=data.target
    )
    x, x_test, y, y_test = (torch.as_tensor(part) for part in parts)
    mean, sd = x.mean(), x.std()
    return (x - mean) / sd, (x_test - mean) / sd, y.long(), y_test.long()


def tokens_of_digits(x: Tensor, size: int) -> Tensor:
    """Images [b, 1, 8, 8] as rows of tokens [b, 64 / size, size] of neighbouring pixels."""
    return x.flatten(1).unflatten(1, (-1, size))


def accuracy(
    net: nn.Module, *, batch: int, rate: float, steps: int, momentum: float = 0.0
) -> float:
    """On the test images, after steps of SGD."""
    optimizer = torch.optim.SGD(net.parameters(), lr=rate, momentum=momentum)
    return trained_accuracy(net, optimizer, batch=batch, steps=steps)


def trained_accuracy(
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    batch: int,
    steps: int,
    clip: float | None = None,
    spoiled: Callable[[int, Tensor], Tensor] = lambda step, x: x,
) -> float:
    """On the test images, after steps of training; batches are drawn from torch's generator."""
    x, x_test, y, y_test = digits()
    for step in range(steps):
        rows = torch.randint(len(x), (batch,))
        loss = nn.functional.cross_entropy(net(spoiled(step, x[rows])), y[rows])
        optimizer.zero_grad()
        loss.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(net.parameters(), clip)
        optimizer.step()
    net.eval()
    with torch.no_grad():
        return float((net(x_test).argmax(1) == y_test).float().mean())
