"""Masks M [k2, k1] of the solve: what an entry of a functional map is charged."""

from __future__ import annotations

import torch
from torch import Tensor

from .prior import SpectralDiffusion


def laplacian(source: Tensor, target: Tensor) -> Tensor:
    """(lambda2_i - lambda1_j)^2, for eigenvalues [k1] and [k2]."""
    return (target[:, None] - source).square()


def resolvent(source: Tensor, target: Tensor, power: float = 0.5) -> Tensor:
    """Differences of resolvents at i, of eigenvalues over their common maximum, to that power."""
    most = torch.maximum(source.max(), target.max())
    x, y = (source / most) ** power, (target / most)[:, None] ** power
    real = y / (y**2 + 1) - x / (x**2 + 1)
    return real**2 + (1 / (y**2 + 1) - 1 / (x**2 + 1)) ** 2


def diffusion(
    prior: SpectralDiffusion,
    C: Tensor,
    level: float = 1.0,
    n: int = 200,
    seed: int = 0,
    mask_input: str = "abs",
) -> Tensor:
    """How far the denoiser moves |C| + noise, where that is small: the prior's own mask.

    The published code gives the denoiser the absolute value of its noisy input, at a level far
    above the data; ``mask_input="plain"`` does not take it. A map and the one by eigenvectors of
    other signs have the same mask.

    Errors:
        ValueError: the prior is for maps of another size, or a setting is wrong.
    """
    if mask_input not in ("abs", "plain") or level <= 0 or n < 1:
        raise ValueError("mask_input is 'abs' or 'plain', level and n are positive")
    prior.fits(C)
    noise = torch.randn(n, *C.shape, generator=torch.Generator().manual_seed(seed)).to(C)
    noisy = C.abs() + level * noise
    noisy = noisy.abs() if mask_input == "abs" else noisy
    with torch.no_grad():
        moved = (noisy - prior.denoise(noisy, level)).abs().mean(0) / (2 * level)
    root = (moved / noisy.abs().mean(0)).sqrt()
    return root - root.min()
