"""Entropy of what an activation gives, and the corrections that lower it.

X has density p, and y is the inverse of an activation: its output has density p(y(x)) y'(x), whose
entropy is H[y].  Its variation in the direction eta = -(p(y) y'' / y' + p'(y) y') is minus the
integral of eta^2.

Source: Sun et al., A Method on Searching Better Activation Functions (arXiv 2405.12954); the
derivation was done again.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, distributions, nn

Function = Callable[[Tensor], Tensor]


def correction(inverse: Function, log_density: Function, x: Tensor) -> Tensor:
    """eta(x), the direction in which the inverse of an activation lowers the entropy fastest.

    Args:
        inverse: an increasing function, elementwise, twice differentiable.
        log_density: of the inputs of the activation, elementwise.
        x: points, of any shape.

    Errors:
        ValueError: the inverse does not increase at some point.
    """
    y, slope, curvature = _derivatives(inverse, x)
    _require_increasing(slope)
    p = log_density(y).exp()
    (p_slope,) = torch.autograd.grad(log_density(at := y.detach().requires_grad_()).exp().sum(), at)
    return -(p * curvature / slope + p_slope * slope)


def _derivatives(function: Function, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    with torch.enable_grad():
        at = x.detach().clone().requires_grad_()
        y = function(at)
        (slope,) = torch.autograd.grad(y.sum(), at, create_graph=True)
        second = torch.zeros_like(x)
        if slope.requires_grad:
            (found,) = torch.autograd.grad(slope.sum(), at, allow_unused=True)
            second = second if found is None else found
    return y.detach(), slope.detach(), second.detach()


def _require_increasing(slope: Tensor) -> None:
    if not bool((slope > 0).all()):
        raise ValueError("the inverse must be strictly increasing: the theory needs one")


def entropy(inverse: Function, log_density: Function, grid: Tensor) -> Tensor:
    """H[y], by the trapezoidal rule on a grid [n] of outputs.

    Errors:
        ValueError: the inverse does not increase at some point.
    """
    y, slope, _ = _derivatives(inverse, grid)
    _require_increasing(slope)
    log_out = log_density(y) + slope.log()
    return -torch.trapezoid(torch.special.xlogy(log_out.exp(), log_out.exp()), grid)


class WAFBC(nn.Module):
    """The worst activation with boundaries: low + (high - low) cdf(x), whose output is uniform.

    Args:
        distribution: of the inputs, with a ``cdf``.

    Errors:
        ValueError: ``low`` is not below ``high``.
    """

    def __init__(self, distribution: Any, low: float = -1.0, high: float = 1.0) -> None:
        super().__init__()
        if not low < high:
            raise ValueError(f"the boundaries are low < high, which {low} and {high} are not")
        self.distribution, self.low, self.high = distribution, low, high

    def forward(self, x: Tensor) -> Tensor:
        below: Tensor = self.distribution.cdf(x)
        return self.low + (self.high - self.low) * below

    def extra_repr(self) -> str:
        return f"low={self.low}, high={self.high}"


class EntropyTunedActivation(nn.Module):
    """An activation plus eps times the correction for a normal law fitted to the inputs seen.

    With z = (x - mean) / deviation the correction is z exp(-z^2 / 2); mean and deviation follow the
    batches in training, and are taken over every ``refresh`` steps, so that the activation stands
    still in between.  The paper suggests such a method, and gives no recipe: this one is a choice.

    Args:
        activation: that is corrected.
        init: where eps begins; it is learned.
        refresh: steps between new laws.
        momentum: the share of a new batch in mean and variance.

    Errors:
        ValueError: ``refresh`` is not positive, or the momentum not in (0, 1].
        TypeError: x holds integers.
    """

    running_mean: Tensor
    running_var: Tensor
    mean: Tensor
    deviation: Tensor
    steps: Tensor

    def __init__(
        self,
        activation: Function = torch.relu,
        init: float = 0.01,
        refresh: int = 100,
        momentum: float = 0.1,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if refresh < 1 or not 0 < momentum <= 1:
            raise ValueError(f"refresh >= 1 and 0 < momentum <= 1: {refresh}, {momentum}")
        self.activation, self.refresh, self.momentum = activation, refresh, momentum
        about: dict[str, Any] = {"device": device, "dtype": dtype}
        self.eps = nn.Parameter(torch.tensor(init, **about))
        for name, fill in (("mean", 0.0), ("var", 1.0)):
            self.register_buffer(f"running_{name}", torch.tensor(fill, **about))
        self.register_buffer("mean", torch.tensor(0.0, **about))
        self.register_buffer("deviation", torch.tensor(1.0, **about))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long, device=device))

    def forward(self, x: Tensor) -> Tensor:
        if not x.is_floating_point():
            raise TypeError(f"floating point tensors are activated, not {x.dtype}")
        if self.training and x.numel() > 1:
            self._follow(x)
        z = (x.to(self.mean.dtype) - self.mean) / self.deviation
        bump = z * torch.exp(-0.5 * z.square())
        return self.activation(x) + (self.eps * bump).to(x.dtype)

    @torch.no_grad()
    def _follow(self, x: Tensor) -> None:
        """Numbers that are not finite are left out of the law."""
        wide = x.to(self.mean.dtype)
        variance, mean = torch.var_mean(wide, correction=0)
        finite = variance.isfinite()
        for running, new in ((self.running_mean, mean), (self.running_var, variance)):
            running.copy_(torch.where(finite, torch.lerp(running, new, self.momentum), running))
        self.steps += 1
        due = self.steps % self.refresh == 0
        self.mean.copy_(torch.where(due, self.running_mean, self.mean))
        deviation = self.running_var.clamp(min=torch.finfo(wide.dtype).tiny).sqrt()
        self.deviation.copy_(torch.where(due, deviation, self.deviation))

    def no_weight_decay(self) -> list[str]:
        """The parameters that weight decay should leave alone."""
        return ["eps"]

    def extra_repr(self) -> str:
        return f"refresh={self.refresh}, momentum={self.momentum}"


class Corrected(nn.Module):
    """An activation plus eps times the correction of the identity for inputs of a distribution.

    For standard normal inputs and relu it is CRReLU up to the factor sqrt(2 pi) in eps.

    Args:
        distribution: of numbers, with a differentiable ``log_prob``.

    Errors:
        NotImplementedError: an export, where the distribution is none of Cauchy, Gumbel, Laplace,
            Normal and StudentT.
    """

    def __init__(self, activation: Function, distribution: Any, eps: float = 0.01) -> None:
        super().__init__()
        self.activation, self.distribution = activation, _unchecked(distribution)
        self.eps = nn.Parameter(torch.tensor(eps))

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(x) - self.eps * _slope_of_density(self.distribution, x)


def _unchecked(distribution: Any) -> Any:
    """A law that does not look at the numbers whose density it gives, as compilers need."""
    law = copy.copy(distribution)
    law._validate_args = False
    if hasattr(law, "base_dist"):
        law.base_dist = _unchecked(law.base_dist)
    return law


def _slope_of_density(distribution: Any, x: Tensor) -> Tensor:
    """p'(x), differentiable in x."""
    for kind, score in SCORES.items():
        if isinstance(distribution, kind):
            slope: Tensor = score(distribution, x) * distribution.log_prob(x).exp()
            return slope
    if torch.compiler.is_exporting():
        names = ", ".join(kind.__name__ for kind in SCORES)
        what = f"the slope of the density of {type(distribution).__name__}"
        raise NotImplementedError(f"{what} cannot be exported; those of {names} can")
    slope = torch.func.grad(lambda at: distribution.log_prob(at).exp().sum())(x)
    return slope


def _student_score(law: Any, x: Tensor) -> Tensor:
    away = x - law.loc
    score: Tensor = -(law.df + 1) * away / (law.df * law.scale**2 + away.square())
    return score


# (log p)' by x
SCORES: dict[type[Any], Callable[[Any, Tensor], Tensor]] = {
    distributions.Cauchy: lambda law, x: (
        -2 * (x - law.loc) / (law.scale**2 + (x - law.loc).square())
    ),
    distributions.Gumbel: lambda law, x: torch.expm1(-(x - law.loc) / law.scale) / law.scale,
    distributions.Laplace: lambda law, x: -(x - law.loc).sign() / law.scale,
    distributions.Normal: lambda law, x: -(x - law.loc) / law.scale**2,
    distributions.StudentT: _student_score,
}
