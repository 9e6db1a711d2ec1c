"""Newton steps, regularised by the norm of the gradient, whose radius finds itself.

A step solves (H + |g| / gamma) d = -g, so that |d| <= gamma, and is accepted where the loss falls
by gamma |g_new|^2 / (8 |g|); otherwise gamma is halved, and after success doubled.  Any positive
semidefinite H will do; how good it is decides how great gamma becomes, and no constant is given.

Source: Semenov, Jaggi, Doikov, Gradient-Normalized Smoothness for Optimization with Approximate
Hessians (arXiv 2506.13710); the rule for trials is the public code's, its slips left out.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor

from ...kernels.precision import as_given
from .second import require_second
from .stepping import Resuming

Matvec = Callable[[Tensor], Tensor]
Curvature = Tensor | Matvec | None
SYMMETRIC = 1e-6


def gns_step(g: Tensor, H: Tensor | None, gamma: float) -> Tensor:
    """-(H + lam)^(-1) g with lam = |g| / gamma, for H [n, n], or none: plain gradient descent.

    Errors:
        ValueError: gamma is not positive.
        LinAlgError: H + lam is not positive definite.
    """
    if not gamma > 0:
        raise ValueError(f"gamma is positive, which {gamma} is not")
    lam = torch.linalg.vector_norm(g) / gamma
    step: Tensor
    if H is None:
        step = g / lam
        return -step
    factor = torch.linalg.cholesky(H + lam * torch.eye(len(g), dtype=g.dtype, device=g.device))
    step = torch.cholesky_solve(g[:, None], factor)[:, 0]
    return -step


def gns_step_rank_one(g: Tensor, c: float, v: Tensor, gamma: float) -> Tensor:
    """:func:`gns_step` for H = c v v^T, in O(n)."""
    if not gamma > 0:
        raise ValueError(f"gamma is positive, which {gamma} is not")
    lam = torch.linalg.vector_norm(g) / gamma
    step: Tensor = (g - c * v * (v @ g) / (lam + c * (v @ v))) / lam
    return -step


def gns_accept(f0: float, f1: float, g0: float, g1: float, gamma: float, eps: float) -> bool:
    """Whether the loss fell enough, by norms of the gradients before and after.

    Where the fall is lost in rounding, of relative size ``eps``, the gradient's norm must fall.
    """
    if not (math.isfinite(f1) and math.isfinite(g1)):
        return False
    if abs(f0 - f1) < 10 * eps * abs(f0):
        return g1 < g0
    return f0 - f1 >= gamma / 8 * g1**2 / g0


def conjugate_gradients(matvec: Matvec, b: Tensor, tolerance: float, most: int) -> Tensor | None:
    """x with A x = b up to a relative residual, or None if A shows negative curvature."""
    x, r = torch.zeros_like(b), b.clone()
    p, square = r, r @ r
    stop = tolerance**2 * float(square)
    for _ in range(most):
        if float(square) <= stop:
            break
        ap = matvec(p)
        bend = p @ ap
        if float(bend) <= 0:
            return None
        step = square / bend
        x, r = x + step * p, r - step * ap
        last, square = square, r @ r
        p = r + square / last * p
    return x


class GradNormSmooth(Resuming):
    """Gradient-normalised Newton steps, for losses without noise: MAP, Laplace, fixed noise.

    ``step`` needs a closure that returns the loss and does **not** call ``backward``; on a
    mini-batch it must return the same loss for the same parameters during one step.

    Args:
        gamma0: the first radius.
        hessian: "exact"; "fisher", the mean of squares of the gradients of
            ``closure.per_example_losses()`` [N]; "zero", which is gradient descent; or a function
            of the flat parameters that gives a matrix [n, n], or a function H v of v.
        factor: by which gamma shrinks and grows.
        max_trials: of one step.
        dense_up_to: parameters, up to which an exact Hessian is a matrix, whose eigenvalues make
            every trial O(n^2); beyond it conjugate gradients are used.
        cg_maxiter: their iterations.
        lr: the share of the step found that is made, for schedulers; one is the method.

    Parameters that ask for no gradient stay.  ``gamma``, ``trials`` and ``converged`` (the gradient
    is zero) tell of the last step.

    Errors:
        RuntimeError: there is no closure, two evaluations of the loss differ, or an exact Hessian
            is asked of a loss without second derivatives.
        ValueError: a setting is out of range, the loss is not finite at the start, or a matrix is
            not symmetric.
        LinAlgError: no trial had a positive definite matrix.
        TypeError: a parameter is complex.
    """

    carried = ("hessian", "factor", "max_trials", "dense_up_to", "cg_maxiter", "converged")

    def __init__(
        self,
        params: Iterable[Any],
        gamma0: float = 1.0,
        hessian: Literal["exact", "fisher", "zero"] | Callable[[Tensor], Tensor | Matvec] = "exact",
        factor: float = 2.0,
        max_trials: int = 60,
        dense_up_to: int = 2000,
        cg_maxiter: int = 100,
        lr: float = 1.0,
    ) -> None:
        if not lr >= 0:
            raise ValueError(f"lr is not negative, which {lr} is")
        if not gamma0 > 0 or not factor > 1 or max_trials < 1:
            raise ValueError(
                f"gamma0 > 0, factor > 1, max_trials > 0: {gamma0}, {factor}, {max_trials}"
            )
        if isinstance(hessian, str) and hessian not in ("exact", "fisher", "zero"):
            raise ValueError(
                f"the Hessian is 'exact', 'fisher', 'zero' or a function, not {hessian!r}"
            )
        super().__init__(params, {"gamma0": gamma0, "lr": lr})
        self.hessian, self.factor, self.max_trials = hessian, factor, max_trials
        self.dense_up_to, self.cg_maxiter = dense_up_to, cg_maxiter
        self._own.update(gamma=float(gamma0), trials=0, steps=0)
        self.converged = False

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        if any(p.is_complex() for p in self.param_groups[-1]["params"]):
            raise TypeError("complex parameters are not supported")

    @property
    def _own(self) -> dict[str, Any]:
        """What is known of all parameters together; it stands with the first."""
        own: dict[str, Any] = self.state[self.param_groups[0]["params"][0]]
        return own

    @property
    def _params(self) -> list[Tensor]:
        every = (p for group in self.param_groups for p in group["params"])
        return [p for p in every if p.requires_grad]

    @property
    def gamma(self) -> float:
        """The radius that the next step tries first."""
        return float(self._own["gamma"])

    @property
    def trials(self) -> int:
        """All trials so far."""
        return int(self._own["trials"])

    def _shares(self) -> Tensor | float:
        """The flat shares of the step found that are made."""
        if all(group["lr"] == 1 for group in self.param_groups):
            return 1.0
        each = [(p, g["lr"]) for g in self.param_groups for p in g["params"] if p.requires_grad]
        return torch.cat([p.new_full((p.numel(),), float(lr)) for p, lr in each])

    def _flat(self) -> Tensor:
        return torch.cat([p.detach().flatten() for p in self._params])

    @torch.no_grad()
    def _put(self, x: Tensor) -> None:
        at = 0
        for p in self._params:
            p.copy_(x[at : at + p.numel()].reshape(p.shape))
            at += p.numel()

    def _value(self, closure: Callable[[], Tensor], graph: bool) -> tuple[Tensor, Tensor]:
        """The loss and its flat gradient."""
        with torch.enable_grad():
            loss = closure()
            gradients = torch.autograd.grad(
                loss, self._params, create_graph=graph, allow_unused=True
            )
        parts = [
            torch.zeros_like(p).flatten() if g is None else g.flatten()
            for p, g in zip(self._params, gradients, strict=True)
        ]
        slope = torch.cat(parts)
        if graph and self._own["steps"] == 0:
            require_second(loss, slope, "take another hessian than 'exact'")
        return loss.detach(), slope

    def _curvature(self, closure: Any, gradient: Tensor) -> Curvature:
        if self.hessian == "zero":
            return None
        if callable(self.hessian):
            return self.hessian(self._flat())
        if self.hessian == "fisher":
            with torch.enable_grad():
                losses = closure.per_example_losses()
                rows = torch.autograd.grad(
                    losses,
                    self._params,
                    torch.eye(len(losses)).to(losses),
                    is_grads_batched=True,
                    allow_unused=True,
                )
            jacobian = torch.cat(
                [
                    p.new_zeros(len(losses), p.numel()) if row is None else row.flatten(1)
                    for p, row in zip(self._params, rows, strict=True)
                ],
                1,
            )
            with as_given(jacobian.device):
                return jacobian.T @ jacobian / len(losses)

        self._gradient = gradient

        def product(v: Tensor) -> Tensor:
            if not self._gradient.requires_grad:
                return torch.zeros_like(v)
            parts = torch.autograd.grad(
                self._gradient, self._params, v, retain_graph=True, materialize_grads=True
            )
            return torch.cat([part.flatten() for part in parts])

        n = len(gradient)
        if n > self.dense_up_to:
            return product
        eye = torch.eye(n, dtype=gradient.dtype, device=gradient.device)
        return torch.stack([product(row) for row in eye])

    def _solver(self, h: Curvature, g: Tensor, size: float) -> Callable[[float], Tensor | None]:
        """The step by lam, or None if the matrix is not positive definite."""
        if h is None:
            return lambda lam: -g / lam
        if not isinstance(h, Tensor):
            tolerance = min(0.1, math.sqrt(size))

            def iterated(lam: float) -> Tensor | None:
                about = (-g, tolerance, self.cg_maxiter)
                return conjugate_gradients(lambda v: h(v) + lam * v, *about)

            return iterated
        apart = float((h - h.T).abs().max())
        if apart > SYMMETRIC * float(h.abs().max().clamp(min=1e-300)):
            raise ValueError(f"the Hessian is not symmetric, by {apart:.3g}")
        values, vectors = torch.linalg.eigh(h.double())
        along = vectors.T @ g.double()
        self._least = float(values[0])

        def solved(lam: float) -> Tensor | None:
            if float(values[0]) + lam <= 0:
                return None
            move: Tensor = (vectors @ (along / (values + lam))).to(g.dtype)
            return -move

        return solved

    def step(self, closure: Any = None) -> Tensor:  # type: ignore[override]
        """Make a step, and return the loss before it."""
        if closure is None:
            raise RuntimeError("GradNormSmooth needs a closure that returns the loss")
        if not self._params:
            raise ValueError("no parameter of GradNormSmooth asks for a gradient")
        own = self._own
        f0, g = self._value(closure, graph=self.hessian == "exact")
        if not bool(f0.isfinite()) or not bool(g.isfinite().all()):
            raise ValueError("the loss or its gradient is not finite where the step starts")
        if own["steps"] == 0 and float(closure().detach()) != float(f0):
            raise RuntimeError("two evaluations of the loss differ: the closure draws at random")
        own["steps"] += 1
        g0 = float(torch.linalg.vector_norm(g.detach()))
        self.converged = g0 == 0
        if self.converged:
            return f0
        solve = self._solver(self._curvature(closure, g), g.detach(), g0)
        start, gamma, definite = self._flat(), own["gamma"], False
        eps = float(torch.finfo(g.dtype).eps)
        lazily = self.hessian == "exact" and len(g) > self.dense_up_to
        for trial in range(self.max_trials):
            own["trials"] += 1
            if lazily and trial:  # the last trial moved what the gradient's graph reads
                self._put(start)
                self._gradient = self._value(closure, graph=True)[1]
            move = solve(g0 / gamma)
            if move is not None:
                definite = True
                self._put(start + move)
                f1, after = self._value(closure, graph=False)
                g1 = float(torch.linalg.vector_norm(after))
                if gns_accept(float(f0), float(f1), g0, g1, gamma, eps):
                    own["gamma"] = gamma * self.factor
                    shares = self._shares()
                    if isinstance(shares, Tensor):
                        self._put(start + shares * move)
                    return f0
            gamma /= self.factor
        self._put(start)
        if not definite:
            what = f"the Hessian has the eigenvalue {self._least:.3g}"
            raise torch.linalg.LinAlgError(what)  # type: ignore[attr-defined]
        warnings.warn(f"no step in {self.max_trials} trials: |g| = {g0:.3g}", stacklevel=2)
        return f0

    _least = -math.inf
    _gradient: Tensor
