"""Draws of the gamma family move with their parameters as mpmath says, to 1e-8 in float64.

torch 2.13 takes these derivatives from approximations that are wrong by up to 1e-3, in float64 too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mpmath as mp
import pytest
import torch
from torch import Tensor

from pushforward import dist
from pushforward.inference.vi.gradients.implicit import gamma_slope, share_slope
from pushforward.inference.vi.gradients.paths import path

pytestmark = pytest.mark.usefixtures("double")

SHAPES = [1e-3, 0.03, 0.3, 1.0, 2.5, 8.0, 60.0, 2000.0]
PAIRS = [(0.05, 0.05), (0.5, 2.0), (1.0, 0.01), (2.0, 5.0), (8.0, 3.0), (30.0, 20.0), (200.0, 0.2)]
LEVELS = [0.02, 0.3, 0.5, 0.9, 0.999]


def moved(cdf: Callable[[Any], Any], a: float, density: Any) -> float:
    """-dF/da / p."""
    with mp.workdps(40):
        return float(-mp.diff(cdf, mp.mpf(a)) / density)


def gammas() -> list[tuple[float, float]]:
    """Shapes with draws at some levels, roughly (Wilson and Hilferty), and at the seams."""
    found = []
    for a in SHAPES:
        for z in (-2.0, -0.5, 0.0, 1.3, 3.0):
            x = a * max(1 - 1 / (9 * a) + z / (3 * a**0.5), 0.05 * (z + 2.1)) ** 3
            found.append((a, x))
        found += [(a, a), (a, 1.0001 * a)] + [(a, 4.0)] * (a >= 0.01)
    return found


def of_gamma(a: float, x: float) -> float:
    with mp.workdps(40):
        density = mp.mpf(x) ** (a - 1) * mp.exp(-mp.mpf(x)) / mp.gamma(a)
    return moved(lambda s: mp.gammainc(s, 0, x, regularized=True), a, density)


def of_share(a: float, b: float, x: float) -> float:
    with mp.workdps(40):
        x_ = mp.mpf(x)
        density = x_ ** (a - 1) * (1 - x_) ** (b - 1) / mp.beta(a, b) * (1 - x_)
    return moved(lambda s: mp.betainc(s, b, 0, x, regularized=True), a, density)


def test_gamma() -> None:
    points = gammas()
    a, x = torch.tensor(points).T
    exact = torch.tensor([of_gamma(*point) for point in points])
    torch.testing.assert_close(gamma_slope(a, x), exact, rtol=1e-8, atol=0.0)
    theirs = torch._standard_gamma_grad(a, x)
    assert float((theirs / exact - 1).abs().max()) > 1e-5, "torch's would do"


def test_shares() -> None:
    points = [(a, b, x) for a, b in PAIRS for x in (0.03, 0.2, a / (a + b), 0.7, 0.97)]
    a, b, x = torch.tensor(points).T
    exact = torch.tensor([of_share(*point) for point in points])
    torch.testing.assert_close(share_slope(x, a, b), exact, rtol=1e-8, atol=0.0)
    theirs = torch._dirichlet_grad(x, a, a + b)
    assert float((theirs / exact - 1).abs().max()) > 1e-5, "torch's would do"


def test_single_precision_is_good_to_its_last_digits() -> None:
    a, x = torch.tensor([(a, x) for a, x in gammas() if a > 0.01]).T
    found = gamma_slope(a.float(), x.float())
    assert found.dtype == torch.float32
    torch.testing.assert_close(
        found.double(), gamma_slope(a.float().double(), x.float().double()), rtol=1e-6, atol=0.0
    )


def test_ends_of_the_line() -> None:
    zero, one, half = torch.zeros(3), torch.ones(3), torch.tensor([0.01, 1.0, 30.0])
    for slope in (
        gamma_slope(half, zero),
        share_slope(zero, half, half),
        share_slope(one, half, half),
    ):
        assert bool(slope.isfinite().all())
    assert bool((gamma_slope(half, zero) < 1e-290).all())


def quantile(law: Any, noise: Tensor) -> Tensor:
    found: Tensor = path(law).function(noise)
    return found


def test_laws_take_it() -> None:
    """d/da of the value of a path, for laws that are made of gammas and shares."""
    a, x = torch.tensor(2.5, requires_grad=True), torch.tensor(1.7)
    (slope,) = torch.autograd.grad(quantile(dist.Gamma(a, torch.tensor(2.0)), x), a)
    assert float(slope) == pytest.approx(of_gamma(2.5, 1.7) / 2, rel=1e-9)
    (slope,) = torch.autograd.grad(quantile(dist.Chi2(2 * a), x), a)
    assert float(slope) == pytest.approx(2 * of_gamma(2.5, 1.7), rel=1e-9)
    x = torch.tensor(0.3)
    (slope,) = torch.autograd.grad(quantile(dist.Beta(a, torch.tensor(4.0)), x), a)
    assert float(slope) == pytest.approx(of_share(2.5, 4.0, 0.3) * 0.7, rel=1e-9)
    alpha = torch.tensor([2.5, 1.0, 3.0], requires_grad=True)
    value = quantile(dist.Dirichlet(alpha), torch.tensor([0.3, 0.5, 0.2]))
    (slope,) = torch.autograd.grad(value[0], alpha)
    first, second = of_share(2.5, 4.0, 0.3), of_share(1.0, 5.5, 0.5)
    assert slope[:2].tolist() == pytest.approx([0.7 * first, -0.3 * second], rel=1e-9)
