"""The check of deterministic proposals: Metropolis kernels whose proposal is an involution."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from ..ppl.language.program import program_name
from .report import Report, decide

TOLERANCE = 1e-12


def check_involution(
    mapping: Callable[[Tensor], Tensor],
    acceptance: Callable[[Tensor], Tensor],
    log_density: Callable[[Tensor], Tensor],
    points: Tensor,
    *,
    tolerance: float = TOLERANCE,
) -> Report:
    """Whether x -> mapping(x), accepted with probability acceptance(x), is reversible.

    Three conditions, which together are detailed balance (Tierney 1998), at each of the points:
    mapping(mapping(x)) = x; |det D mapping(x)| = 1; pi(x) a(x) = pi(y) a(y) with y = mapping(x).
    Deviations are relative to 1 + |x|, to 1, and to max(pi(x), pi(y)).

    Args:
        mapping: rows [n, k] to rows [n, k], each on its own, differentiable by autograd.
        acceptance: the kernel's probability [n] of moving from rows [n, k] to their images.
        log_density: the log density [n] of rows [n, k], known independently of the kernel.
        points: rows [n, k] in float64.
    """
    start = time.perf_counter()
    images, jacobians = _jacobians(mapping, points)
    with torch.no_grad():
        returned = mapping(images)
        here, there = log_density(points), log_density(images)
        top = torch.maximum(here, there)
        forth = (here - top).exp() * acceptance(points)
        back = (there - top).exp() * acceptance(images)
    scale = 1.0 + points.abs().amax(-1)
    deviations = {
        "the map does not return: F(F(x)) - x": (returned - points).abs().amax(-1) / scale,
        "the map changes volume: |det DF(x)| - 1": (torch.linalg.det(jacobians).abs() - 1.0).abs(),
        "no detailed balance: pi(x) a(x, y) - pi(y) a(y, x)": (forth - back).abs(),
    }
    what, gaps = max(deviations.items(), key=lambda item: _worst(item[1]))
    at = int(gaps.nan_to_num(torch.inf).argmax())
    return decide(
        f"{program_name(mapping)} is a reversible proposal",
        _worst(gaps),
        tolerance,
        "for float64 rounding",
        f"{what} is {float(gaps[at]):.3g} at x = {points[at].tolist()}, F(x) = "
        f"{images[at].tolist()} (a = {float(acceptance(points)[at]):.6g} forth and "
        f"{float(acceptance(images)[at]):.6g} back)",
        time.perf_counter() - start,
    )


def _worst(gaps: Tensor) -> float:
    """The largest deviation; NaN counts as infinite."""
    return float(gaps.nan_to_num(torch.inf).max())


def _jacobians(mapping: Callable[[Tensor], Tensor], points: Tensor) -> tuple[Tensor, Tensor]:
    """The images [n, k] of independent rows, and the Jacobian of each, [n, k, k]."""
    with torch.enable_grad():
        x = points.detach().clone().requires_grad_()
        y = mapping(x)
        rows = [
            torch.autograd.grad(y[:, i].sum(), x, retain_graph=True)[0] for i in range(y.shape[1])
        ]
    return y.detach(), torch.stack(rows, 1)
