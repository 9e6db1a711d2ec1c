"""Descent in a Sobolev metric, u <- u - eta (I - Lap)^-1 DE(u), and what it does to Barron norms.

If m |v|^2 <= D^2E[v, v] <= M |v|^2 in H^1, the error shrinks by max(|1 - eta m|, |1 - eta M|) a
step.  The a-priori bound of the Barron norm is doubly exponential where the nonlinearity is of a
power above one, while the norm itself stays bounded: both are reported.

Source: Marwah, Lipton, Lu, Risteski, Neural Network Approximations of PDEs Beyond Linearity
(arXiv 2210.12101).  Its constants in terms of ellipticity are not used.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...nn.optim.smoothness import conjugate_gradients
from .problem import EllipticVariational, barron_norm

SMALLEST_ETA = 1e-3
TAIL = 1e-3  # of the coefficients' mass in the last third of the band


@dataclass(frozen=True)
class Descent:
    """What :class:`BarronDescent` found; lists have one entry for the start and for every step.

    ``u`` holds coefficients [n, ...], ``residual`` the H^1 norm of (I - Lap)^-1 DE(u), ``barron``
    the Barron norm, ``bound`` what was known of it before (no number where nothing is).
    """

    u: Tensor
    energy: list[float]
    residual: list[float]
    barron: list[float]
    bound: list[float]
    eta: float

    @property
    def steps(self) -> int:
        """How many steps were taken."""
        return len(self.energy) - 1

    def __repr__(self) -> str:
        last = f"energy {self.energy[-1]:.6g}, residual {self.residual[-1]:.1e}"
        return f"<{self.steps} steps: {last}, Barron norm {self.barron[-1]:.6g}>"


class BarronDescent:
    """The iteration with a step eta, which is halved whenever the energy rises.

    Args:
        problem: what is solved.
        eta, steps: of the iteration, and its greatest number.
        tolerance: of the residual, at which it stops.

    Errors:
        ValueError: eta or steps are not positive.
    """

    def __init__(
        self,
        problem: EllipticVariational,
        eta: float = 0.5,
        steps: int = 30,
        tolerance: float = 1e-10,
    ) -> None:
        if not eta > 0 or steps < 1:
            raise ValueError(f"eta and steps are positive: {eta}, {steps}")
        self.problem, self.eta, self.steps, self.tolerance = problem, eta, steps, tolerance

    @torch.no_grad()
    def run(self, u0: Tensor | None = None) -> Descent:
        """Descend from coefficients u0 [n, ...], or from zero.

        Errors:
            RuntimeError: the energy rises however short the step: it has no minimum.
            FloatingPointError: the Lagrangian's derivatives are no numbers.
        """
        problem, eta = self.problem, self.eta
        c = torch.zeros_like(problem.eigenvalues) if u0 is None else u0.detach()
        of_source = float(barron_norm(problem.source_coefficients))
        energy, slope = problem.both(c)
        energies, residuals, norms = [float(energy)], [], [float(barron_norm(c))]
        bounds = norms[:]
        for step in range(self.steps + 1):
            move = slope / (1 + problem.eigenvalues)
            if not bool(move.isfinite().all()):
                raise FloatingPointError(f"derivatives are not finite after step {step}")
            residuals.append(float(problem.h1_norm(move)))
            if residuals[-1] < self.tolerance or step == self.steps:
                break
            c, energy, slope, eta = self._shorter(c, move, energies[-1], eta)
            energies.append(float(energy))
            norms.append(float(barron_norm(c)))
            bounds.append(self._bound(bounds[-1], eta, of_source))
        self._tell_of_tail(c)
        return Descent(c, energies, residuals, norms, bounds, eta)

    def _shorter(
        self, c: Tensor, move: Tensor, before: float, eta: float
    ) -> tuple[Tensor, Tensor, Tensor, float]:
        """The next coefficients, with eta halved until the energy does not rise."""
        while eta >= SMALLEST_ETA:
            new = c - eta * move
            energy, slope = self.problem.both(new)
            if not float(energy) > before + 1e-13 * max(1.0, abs(before)):
                return new, energy, slope, eta
            eta /= 2
        raise RuntimeError(f"the energy rises at every eta down to {SMALLEST_ETA}: not coercive")

    def _bound(self, bound: float, eta: float, of_source: float) -> float:
        """b <- (1 - eta) b + eta (b + growth(b) + B(f)) / (1 + lambda_min)."""
        growth = getattr(self.problem.lagrangian, "growth", None)
        if growth is None or eta > 1:
            return math.nan
        least = 1 + self.problem.dim * math.pi**2
        more: float = growth(bound)
        return (1 - eta) * bound + eta * (bound + more + of_source) / least

    def _tell_of_tail(self, c: Tensor) -> None:
        kept = c[(slice(2 * self.problem.n // 3),) * c.ndim]
        mass, inner = float(c.abs().sum()), float(kept.abs().sum())
        if mass > 0 and (mass - inner) / mass > TAIL:
            share = f"{(mass - inner) / mass:.1%} of the coefficients' mass"
            warnings.warn(f"{share} is in the last third of the band: take more n", stacklevel=3)


def unrolled(problem: EllipticVariational, steps: int = 30, eta: float = 0.5) -> Tensor:
    """The coefficients after so many steps from zero, whatever the energy does.

    Nothing here looks at a number, so that an equation can stand in a program whose choices its
    Lagrangian or its source hold, and be traced and differentiated there; at the cost of keeping
    all steps.  See :func:`solution` for derivatives that keep none.
    """
    if not eta > 0 or steps < 1:
        raise ValueError(f"eta and steps are positive: {eta}, {steps}")
    c = torch.zeros_like(problem.eigenvalues)
    for _ in range(steps):
        c = c - eta * problem.sobolev_gradient(c)
    return c


class _Implicit(torch.autograd.Function):
    """c, as a function of the residual r(c) = 0 that it solves: the derivative is -H^-1."""

    @staticmethod
    def forward(ctx: Any, residual: Tensor, c: Tensor, problem: EllipticVariational) -> Tensor:
        ctx.save_for_backward(c)
        ctx.problem = problem
        return c.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (c,) = ctx.saved_tensors
        problem: EllipticVariational = ctx.problem
        root = (1 + problem.eigenvalues).sqrt()
        with torch.enable_grad():
            at = c.detach().requires_grad_()
            slope = problem.euler_lagrange(at)

        def preconditioned(v: Tensor) -> Tensor:
            direction = v.reshape(c.shape) / root
            (bent,) = torch.autograd.grad(slope, at, direction, retain_graph=True)
            scaled: Tensor = bent / root
            return scaled.flatten()

        b = (gradient / root).flatten()
        solved = conjugate_gradients(preconditioned, b, 1e-10, 200)
        if solved is None:
            raise RuntimeError("the energy has negative curvature at the solution")
        return -(solved.reshape(c.shape) / root), None, None


def solution(problem: EllipticVariational, descent: BarronDescent | None = None) -> Tensor:
    """The coefficients of the solution, differentiable by what the Lagrangian and the source hold.

    Derivatives are implicit: a linear equation with the second derivative of the energy, solved by
    preconditioned conjugate gradients.
    """
    found = (descent or BarronDescent(problem, steps=200)).run().u
    residual = problem.euler_lagrange(found)
    solved: Tensor = _Implicit.apply(residual, found, problem)
    return solved
