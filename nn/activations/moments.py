"""How mean and variance of activations pass through a layer of scaled exponential linear units.

Source: Klambauer, Unterthiner, Mayr, Hochreiter, Self-Normalizing Neural Networks (arXiv
1706.02515).
"""

from __future__ import annotations

import math

import torch
from scipy.optimize import fsolve
from torch import Tensor

# The fixed point (0, 1): equations 14 of the paper, to sixteen digits.
ALPHA = 1.6732632423543772
SCALE = 1.0507009873554805

Number = Tensor | float


def moment_map(
    mean: Number,
    var: Number,
    omega: Number,
    tau: Number,
    alpha: float = ALPHA,
    scale: float = SCALE,
) -> tuple[Tensor, Tensor]:
    """Mean and variance of ``selu(z)``, z normal of mean ``mean omega`` and variance ``var tau``.

    Args:
        mean, var: of the inputs of a layer; of any shapes that broadcast.
        omega, tau: sum of the weights of a unit, and of their squares.
        alpha, scale: of the unit.

    Returns:
        Both in float64, differentiable.

    Errors:
        ValueError: ``var`` or ``tau`` is negative.

    Source: equations 4 and 5 of arXiv 1706.02515, written by erfcx lest exponentials overflow.
    """
    given = (torch.as_tensor(x, dtype=torch.float64) for x in (mean, var, omega, tau))
    mu, nu, sum_, squares = torch.broadcast_tensors(*given)
    if bool((nu < 0).any() or (squares < 0).any()):
        raise ValueError("moment_map: var and tau are not negative")
    m, v = mu * sum_, nu * squares
    certain = v == 0
    safe = torch.where(certain, torch.ones_like(v), v)
    s = (2 * safe).sqrt()
    ratio = m / s
    peak = torch.exp(-(ratio**2))  # of which both exponentials below are multiples
    below = torch.special.erfc(ratio)
    first = peak * torch.special.erfcx((m + safe) / s)
    second = peak * torch.special.erfcx((m + 2 * safe) / s)
    bell = (2 * safe / math.pi).sqrt() * peak
    new_mean = scale / 2 * (m * torch.erf(ratio) + alpha * (first - below) + bell + m)
    square = (m**2 + safe) * (2 - below) + alpha**2 * (second - 2 * first + below) + m * bell
    new_var = scale**2 / 2 * square - new_mean**2
    at_m = scale * torch.where(m > 0, m, alpha * torch.expm1(m.clamp(max=0)))
    return torch.where(certain, at_m, new_mean), torch.where(certain, 0.0, new_var)


def selu_parameters(mean: float = 0.0, var: float = 1.0) -> tuple[float, float]:
    """alpha and scale for which activations of this mean and variance stay as they are.

    Errors:
        ValueError: the variance is not positive, or a number is not finite.
        RuntimeError: no such parameters were found.
    """
    if not (math.isfinite(mean) and math.isfinite(var) and var > 0):
        raise ValueError(f"a fixed point needs a positive finite variance, not ({mean}, {var})")
    if (mean, var) == (0.0, 1.0):
        return ALPHA, SCALE

    def gap(parameters: list[float]) -> list[float]:
        # omega = 1 and tau = 1, so that the preactivation has the moments themselves
        new_mean, new_var = moment_map(mean, var, 1.0, 1.0, *(float(x) for x in parameters))
        return [float(new_mean) - mean, float(new_var) - var]

    found, _, status, _ = fsolve(gap, [ALPHA, SCALE], full_output=True, xtol=1e-14)
    residual = max(map(abs, gap(list(found))))
    if status != 1 and residual > 1e-9:
        raise RuntimeError(
            f"no fixed point ({mean}, {var}) was found: the residual is {residual:.2g}"
        )
    return float(found[0]), float(found[1])
