"""What distillation costs and gains: bias and variance, and the error after n stages.

Source: after the theses of Flouro and Chadwick, Sparse Knowledge Distillation (arXiv 2601.03195);
the statements are derived anew, since the body of the paper was not available.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor


class Decomposition(NamedTuple):
    """An expected loss ``total``, which is ``bias`` plus ``variance``."""

    bias: float
    variance: float
    total: float


def bias_variance(
    predictions: Tensor, truth: Tensor, loss: Literal["mse", "kl"] = "mse"
) -> Decomposition:
    """The exact split of the mean loss over repetitions.

    Squared errors are split at the mean of the predictions; divergences KL(truth, prediction) at
    their normalised geometric mean.  Both are sums over the last dimension and means over others.

    Args:
        predictions: [r, ..., k] of r repetitions; probabilities for "kl".
        truth: [..., k].

    Errors:
        ValueError: shapes do not fit, or probabilities are none.
    """
    if predictions.ndim < 2 or predictions.shape[1:] != truth.shape:
        shapes = f"{list(predictions.shape)} and {list(truth.shape)}"
        raise ValueError(f"[r, ..., k] and [..., k] are expected, not {shapes}")
    if loss == "mse":
        centre = predictions.mean(0)
        parts = (
            (centre - truth).square(),
            (predictions - centre).square(),
            (predictions - truth).square(),
        )
    elif loss == "kl":
        for p in (predictions, truth):
            if bool((p < 0).any()) or bool(((p.sum(-1) - 1).abs() > 1e-4).any()):
                raise ValueError("probabilities are not negative and sum to one")
        log_p = predictions.log()
        log_centre = log_p.mean(0).log_softmax(-1)
        entropy = torch.special.xlogy(truth, truth)
        centre = log_centre.exp()
        parts = (
            entropy - truth * log_centre,
            centre * (log_centre - log_p),
            entropy - truth * log_p,
        )
    else:
        raise ValueError(f"the loss is 'mse' or 'kl', not {loss!r}")
    return Decomposition(*(float(part.sum(-1).mean()) for part in parts))


def homotopy_bound(L: float, rho: float, n: int, e0: float = 0.0) -> float:
    """A bound of the error after n stages: O(1 / n).

    The target moves by at most L / n in a stage, and the stage shrinks the error by rho < 1, so
    e_n <= rho^n e_0 + (L / n) rho (1 - rho^n) / (1 - rho), with equality on a straight path.

    Errors:
        ValueError: a number is out of range.
    """
    if not (L >= 0 and 0 <= rho < 1 and n >= 1 and e0 >= 0):
        raise ValueError(f"L >= 0, 0 <= rho < 1, n >= 1, e0 >= 0: {L}, {rho}, {n}, {e0}")
    return float(rho**n * e0 + L / n * rho * (1 - rho**n) / (1 - rho))
