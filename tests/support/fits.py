"""When two fits are the same, bit for bit."""

from __future__ import annotations

import torch

from pushforward.inference import Fit


def equal(a: Fit, b: Fit) -> bool:
    """Whether two fits hold the same numbers, bit for bit."""
    pairs = [(a.draws, b.draws), (a.stats, b.stats), (a.history, b.history), (a.state, b.state)]
    return all(
        x.keys() == y.keys() and all(torch.equal(x[name], y[name]) for name in x) for x, y in pairs
    )
