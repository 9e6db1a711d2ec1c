"""Two-layer networks for elliptic equations: read off a solution, or trained on the energy.

A product of d sines is a sum of 2^(d - 1) cosines, so that a series is a network of cosines.
Drawing m of its units with probability proportional to their amplitudes gives an expected error in
L^2 of at most (sum of the amplitudes) / sqrt(m).

Source: Marwah, Lipton, Lu, Risteski, Neural Network Approximations of PDEs Beyond Linearity
(arXiv 2210.12101), which rests on Barron (1993).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .problem import EllipticVariational


class CosineNetwork(nn.Module):
    """sum_j a_j cos(<w_j, x> + b_j) of points [..., d].

    Args:
        amplitudes, weights, bias: a [m], w [m, d] and b [m].
    """

    amplitudes: Tensor
    weights: Tensor
    bias: Tensor

    def __init__(self, amplitudes: Tensor, weights: Tensor, bias: Tensor) -> None:
        super().__init__()
        if weights.ndim != 2 or not len(amplitudes) == len(weights) == len(bias):
            raise ValueError("as many amplitudes and biases as rows of weights are expected")
        self.amplitudes = nn.Parameter(amplitudes)
        self.weights = nn.Parameter(weights)
        self.bias = nn.Parameter(bias)

    @classmethod
    def from_coefficients(
        cls,
        c: Tensor,
        m: int | None = None,
        generator: torch.Generator | None = None,
        threshold: float = 1e-12,
    ) -> CosineNetwork:
        """The network of a series [n, ...].

        Args:
            c: coefficients of products of sines.
            m: units to draw; all unless given.
            threshold: coefficients below it are left out.

        Errors:
            ValueError: m is not positive, or no coefficient is above the threshold.
            TypeError: coefficients are complex.
        """
        if c.is_complex():
            raise TypeError("coefficients are real")
        if m is not None and m < 1:
            raise ValueError(f"units are drawn, not {m}")
        d, places = c.ndim, (c.abs() > threshold).nonzero()
        if len(places) == 0:
            raise ValueError(f"no coefficient is above {threshold}")
        rest = list(itertools.product((1.0, -1.0), repeat=d - 1))
        signs = torch.tensor([(1.0, *each) for each in rest], dtype=c.dtype)
        kept = c[tuple(places.T)]
        amplitudes = (kept[:, None] * 2.0 ** (1 - d) * signs.prod(1)).flatten()
        weights = math.pi * ((places + 1).to(c.dtype)[:, None] * signs).flatten(0, 1)
        if m is not None:
            total = amplitudes.abs().sum()
            drawn = torch.multinomial(amplitudes.abs(), m, replacement=True, generator=generator)
            amplitudes, weights = total * amplitudes[drawn].sign() / m, weights[drawn]
        return cls(amplitudes, weights, torch.full_like(amplitudes, -d * math.pi / 2))

    def forward(self, x: Tensor) -> Tensor:
        u: Tensor = torch.cos(x @ self.weights.T + self.bias) @ self.amplitudes
        return u

    def barron_norm(self) -> Tensor:
        """sum |a| (1 + |w|)."""
        size: Tensor = 1 + self.weights.norm(dim=1)
        return (self.amplitudes.abs() * size).sum()


class TwoLayerNetwork(nn.Module):
    """prod_i x_i (1 - x_i) sum_j a_j tanh(<w_j, x> + b_j): zero at the sides of the cube.

    Args:
        dim: of points [..., dim].
        width: units; weights are drawn from N(0, 16), biases from U(-4, 4).
    """

    def __init__(
        self,
        dim: int,
        width: int,
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        super().__init__()
        if dim < 1 or width < 1:
            raise ValueError(f"dim and width are positive: {dim}, {width}")
        about: dict[str, Any] = {"generator": generator, "dtype": dtype}
        self.weights = nn.Parameter(4 * torch.randn(width, dim, **about))
        self.bias = nn.Parameter(8 * torch.rand(width, **about) - 4)
        self.amplitudes = nn.Parameter(torch.zeros(width, dtype=dtype))

    def features(self, x: Tensor) -> Tensor:
        """prod_i x_i (1 - x_i) tanh(...) [..., width] of points [..., dim]."""
        return (x * (1 - x)).prod(-1, keepdim=True) * torch.tanh(x @ self.weights.T + self.bias)

    def forward(self, x: Tensor) -> Tensor:
        u: Tensor = self.features(x) @ self.amplitudes
        return u

    def path_norm(self) -> Tensor:
        """sum |a| (|w| + |b|), which stands for the Barron norm."""
        size: Tensor = self.weights.norm(dim=1) + self.bias.abs()
        return (self.amplitudes.abs() * size).sum()


def fit_ritz(
    problem: EllipticVariational,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    steps: int,
    points: int | None = None,
    generator: torch.Generator | None = None,
) -> list[float]:
    """Minimise the energy over the parameters of a network that vanishes at the sides.

    Args:
        network: [..., dim] to [...].
        points: drawn uniformly in each step; None takes the problem's grid.

    Returns the energies of all steps, noisy ones where points are drawn.
    """
    if steps < 1 or (points is not None and points < 1):
        raise ValueError(f"steps and points are positive: {steps}, {points}")
    energies = []
    for _ in range(steps):
        if points is None:
            x, weight = problem.points.flatten(0, -2).clone(), problem.weight.flatten()
        else:
            about: dict[str, Any] = {"generator": generator, "dtype": torch.float64}
            x = torch.rand(points, problem.dim, **about)
            weight = torch.full((points,), 1 / points, dtype=torch.float64)
        x = x.requires_grad_()
        u = network(x)
        (slopes,) = torch.autograd.grad(u.sum(), x, create_graph=True)
        x = x.detach()
        density = problem.lagrangian(x, u, slopes) - problem.source(x) * u
        energy = (density * weight).sum()
        optimizer.zero_grad()
        energy.backward()
        optimizer.step()
        energies.append(energy.item())
    return energies


@torch.no_grad()
def projected_descent(
    problem: EllipticVariational,
    network: TwoLayerNetwork,
    eta: float = 0.5,
    steps: int = 15,
    ridge: float = 1e-10,
    report: Callable[[Tensor], None] | None = None,
) -> None:
    """Descent in the Sobolev metric whose every iterate is fitted by the amplitudes of a network.

    Args:
        ridge: of the least squares, relative to their largest singular value squared.  Without one
            the fit is closer and the path norm means nothing.
        report: is called with the coefficients of every iterate.
    """
    if not eta > 0 or steps < 1 or ridge < 0:
        raise ValueError(
            f"eta and steps are positive, the ridge not negative: {eta}, {steps}, {ridge}"
        )
    inner = tuple(slice(1, -1) for _ in range(problem.dim))
    features = network.features(problem.points[inner]).flatten(0, -2)
    left, sizes, right = torch.linalg.svd(features, full_matrices=False)
    shrunk = sizes / (sizes.square() + ridge * sizes[0].square())
    c = torch.zeros_like(problem.eigenvalues)
    for _ in range(steps):
        target = problem.values(c - eta * problem.sobolev_gradient(c))[inner].flatten()
        network.amplitudes.copy_(right.T @ (shrunk * (left.T @ target)))
        c = problem.project(network(problem.points))
        if report is not None:
            report(c)
