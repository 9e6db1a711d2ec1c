"""The quadratic approximation of the loss of an episode, found without any graph.

Source: arXiv 2306.09702; the estimator of the curvature was not confirmed there, and is ours.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ...ppl.errors import located
from .likelihoods import Likelihood

Net = Callable[[Tensor, Tensor], Tensor]  # parameters [d] and inputs [n, ...] to outputs [n, k]
Curvature = Literal["swag", "ggn", "exact"]
FLOOR = 1e-6


class Quadratic(NamedTuple):
    """(theta - centre)^T A (theta - centre) / 2 of episodes: a diagonal [E, d] of A, or all of it.

    Both are data: no derivative goes through them.
    """

    centre: Tensor
    precision: Tensor


def quadratic(
    net: Net,
    likelihood: Likelihood,
    start: Tensor,
    x: Tensor,
    y: Tensor,
    curvature: Curvature = "swag",
    steps: int = 3,
    lr: float = 1e-2,
    most: float = 1e3,
) -> Quadratic:
    """That of the losses of episodes x [E, n, ...], y [E, n], from parameters start [d].

    Args:
        curvature: "swag", the inverse variance of the iterates of gradient descent; "ggn", the
            diagonal of Gauss and Newton at their mean; "exact", the Hessian at the start, which
            is right for a loss that is quadratic.
        steps, lr: of gradient descent on the mean loss of a datum.
        most: what a diagonal curvature is clipped to.

    Errors:
        FloatingPointError: the loss or its curvature is not a number.
    """

    def loss(theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return likelihood.loss(net(theta, x), y)

    episodes, n = x.shape[0], max(x.shape[1], 1)
    with torch.no_grad():
        theta = start.detach().expand(episodes, -1)
        if curvature == "exact":
            return _exact(loss, theta, x, y)
        slopes = torch.func.vmap(torch.func.grad(loss))
        centre, squares = torch.zeros_like(theta), torch.zeros_like(theta)
        for i in range(1, steps + 1):  # Welford's mean and sum of squares: no iterate is kept
            theta = theta - lr / n * slopes(theta, x, y)
            apart = theta - centre
            centre = centre + apart / i
            squares.addcmul_(apart, theta - centre)
        if curvature == "swag":
            diagonal = steps / squares
        else:
            diagonal = torch.func.vmap(
                lambda t, x: likelihood.gauss_newton(net(t, x), torch.func.jacrev(net)(t, x))
            )(centre, x)
        return Quadratic(_number("parameters", centre), _clipped(diagonal, most))


def _exact(loss: Callable[..., Tensor], theta: Tensor, x: Tensor, y: Tensor) -> Quadratic:
    """By one Newton step of least norm: directions of no curvature stay where they are."""
    slope = torch.func.vmap(torch.func.grad(loss))(theta, x, y)
    hessian = _number("curvature", torch.func.vmap(torch.func.hessian(loss))(theta, x, y))
    values, vectors = torch.linalg.eigh(hessian)
    least = values.shape[-1] * torch.finfo(values.dtype).eps * values.abs().amax(-1, keepdim=True)
    if bool((values < -least).any()):
        warnings.warn("a negative curvature of an episode is clipped to zero", stacklevel=4)
    some = values > least
    inverse = torch.where(some, 1 / torch.where(some, values, 1.0), 0.0)
    along = (vectors.mT @ slope[..., None])[..., 0] * inverse
    centre = theta - (vectors @ along[..., None])[..., 0]
    kept = torch.where(some, values, 0.0)
    return Quadratic(_number("parameters", centre), (vectors * kept[..., None, :]) @ vectors.mT)


def _clipped(diagonal: Tensor, most: float) -> Tensor:
    """An iterate that does not move has an infinite curvature, which is clipped as well."""
    if bool(diagonal.isnan().any()):
        raise FloatingPointError(located("the curvature of an episode is not a number"))
    if bool((diagonal < 0).any()):
        warnings.warn("a negative curvature of an episode is clipped to its floor", stacklevel=4)
    return diagonal.clamp(FLOOR, most if math.isfinite(most) else None)


def _number(what: str, x: Tensor) -> Tensor:
    if not bool(x.isfinite().all()):
        hint = "take a smaller inner_lr, or scale the data"
        raise FloatingPointError(located(f"{what} of an episode are not finite", hint=hint))
    return x
