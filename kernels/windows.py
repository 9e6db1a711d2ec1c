"""Statistics of a window of mean squares, by which unified normalisation tells outliers.

Source: Yang et al., Unified Normalization for Accelerating and Stabilizing Transformers
(arXiv 2208.01313).
"""

from __future__ import annotations

from torch import Tensor

LEAST = 1e-30  # of a mean square, in its logarithm
LIMIT = 5.0  # of the rescaling, and one over it below


def gap(window: Tensor) -> Tensor:
    """Arithmetic less geometric mean of each channel of a window [m, c]."""
    return window.mean(0) - geometric(window)


def geometric(window: Tensor) -> Tensor:
    """The geometric mean [c] of a window [m, c]."""
    return window.clamp(min=LEAST).log().mean(0).exp()


def spread(window: Tensor, per_channel: bool) -> Tensor:
    """The variance of root mean squares: population's [c], or unbiased of the whole window."""
    roots = window.sqrt()
    if per_channel:
        return roots.var(0, correction=0)
    return roots.var(correction=min(1, roots.numel() - 1))
