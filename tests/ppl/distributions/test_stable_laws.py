"""The density of stable laws: closed forms, Fourier integrals by mpmath, and its own derivatives.

Stabilities on both sides of 1 and at it, skews up to the ends, values near the centre and in either
tail.  Pyro's density fails there.
"""

from __future__ import annotations

import math
from typing import Any

import mpmath as mp
import pytest
import torch
from torch import Tensor

from pushforward import assess, dist, sample
from pushforward.ppl.distributions.densities import log_density

pytestmark = pytest.mark.usefixtures("double")

X = torch.tensor([-200.0, -7.0, -0.5, 0.0, 0.3, 4.0, 50.0, 900.0], dtype=torch.float64)


def t(value: float) -> Tensor:
    return torch.tensor(value)


def law(stability: float, skew: float, **settings: Any) -> Any:
    return dist.Stable(t(stability), t(skew), t(1.0), t(0.0), **settings)


@pytest.mark.parametrize("kind", [dist.Stable, dist.StableWithLogProb])
def test_closed_forms(kind: type) -> None:
    """Normal of variance 2 scale^2 at stability 2, Cauchy at 1, Levy at 1/2 with a skew of 1."""
    normal = log_density(kind(t(2.0), t(0.0), t(3.0), t(1.0)), X)
    exact = dist.Normal(1.0, 3 * math.sqrt(2)).log_prob(X)
    torch.testing.assert_close(normal, exact, rtol=1e-9, atol=1e-8)
    cauchy = log_density(kind(t(1.0), t(0.0), t(3.0), t(1.0)), X)
    torch.testing.assert_close(cauchy, dist.Cauchy(1.0, 3.0).log_prob(X), rtol=0.0, atol=1e-5)
    beyond = torch.tensor([0.05, 0.3, 2.0, 70.0])  # the end of the support, at loc - scale
    levy = log_density(kind(t(0.5), t(1.0), t(3.0), t(1.0)), beyond - 2.0)
    exact = 0.5 * math.log(3 / (2 * math.pi)) - 1.5 * beyond.log() - 1.5 / beyond
    torch.testing.assert_close(levy, exact, rtol=1e-6, atol=1e-8)
    below = log_density(kind(t(0.5), t(1.0), t(3.0), t(1.0)), t(-2.5))
    assert float(below) == -math.inf


def by_fourier(stability: float, skew: float, x: float) -> float:
    """By the characteristic function in S0: the integral of exp(-t^a) cos(x t + b h(t)) / pi."""
    with mp.workdps(20):
        a, b = mp.mpf(stability), mp.mpf(skew)
        bend = mp.tan(mp.pi * a / 2) if a != 1 else mp.mpf(0)
        h = (lambda u: bend * (u - u**a)) if a != 1 else (lambda u: 2 / mp.pi * u * mp.log(u))
        top = mp.mpf(44) ** (1 / a)
        cuts = mp.linspace(0, top, int(abs(x) * top / 6) + 16)
        mass = mp.quad(lambda u: mp.exp(-(u**a)) * mp.cos(x * u + b * h(u)), cuts)
        return float(mp.log(mass / mp.pi))


HARD = [(0.7, 0.9, -1.7664), (0.94, -0.9, 9.0), (0.94, -0.9, 9.52), (0.9, 0.9, -5.68)]
HARD += [
    (1.0, 0.5, -6.0),
    (1.0, 1.0, 1.0),
    (1.0, 0.1, 7.0),
    (1.00005, 0.3, 1.0),
    (0.9999, 0.3, -2.0),
]
HARD += [(1.06, -0.9, -9.5), (1.04, 1.0, -2.0), (1.3, 0.5, 4.0), (1.9, 0.0, 8.0), (1.99, -1.0, 3.0)]


@pytest.mark.parametrize(("stability", "skew", "x"), HARD)
def test_those_of_the_characteristic_function(stability: float, skew: float, x: float) -> None:
    found = float(log_density(law(stability, skew), t(x)))
    assert found == pytest.approx(by_fourier(stability, skew, x), abs=1e-5)


def test_pyros_own_is_off() -> None:
    assert float(law(2.0, 0.0).log_prob(t(50.0))) > 300 - 626.3
    wrong = float(law(0.94, -0.9).log_prob(t(9.0))) - by_fourier(0.94, -0.9, 9.0)
    assert abs(wrong) > 2


@pytest.mark.parametrize("stability", [0.6, 0.9, 1.2, 1.7, 1.99])
@pytest.mark.parametrize("skew", [0.0, 0.8, -1.0])
def test_the_centre_in_closed_form(stability: float, skew: float) -> None:
    """Zolotarev's value at the centre, and no step beside it."""
    bend = skew * math.tan(math.pi * stability / 2)
    angle = math.atan(bend) / stability
    exact = math.lgamma(1 + 1 / stability) + math.log(math.cos(angle) / math.pi)
    exact -= math.log1p(bend**2) / (2 * stability)
    beside = t(-bend) + torch.tensor([-1.1e-4, -0.9e-4, -1e-6, 0.0, 1e-6, 0.9e-4, 1.1e-4])
    found = log_density(law(stability, skew), beside)
    if abs(skew) < 1 or stability > 1:
        assert float(found[3]) == pytest.approx(exact, abs=1e-5)
        assert float(found.diff().abs().max()) < 2e-3
    inner = log_density(law(stability, skew, coords="S"), t(0.0))
    assert float(inner) == pytest.approx(float(found[3]), abs=1e-9)


@pytest.mark.parametrize("stability", [0.6, 0.95, 1.5, 1.95])
@pytest.mark.parametrize("x", [-6.0, 0.4, 30.0])
def test_slopes_are_those_of_differences(stability: float, x: float) -> None:
    point = torch.tensor([stability, 0.3, 1.4, 0.2, x], requires_grad=True)

    def at(p: Tensor) -> Tensor:
        return log_density(dist.Stable(p[0], p[1], p[2], p[3]), p[4])

    (slopes,) = torch.autograd.grad(at(point), point)
    h = 1e-5
    with torch.no_grad():
        differences = [(at(point + h * e) - at(point - h * e)) / (2 * h) for e in torch.eye(5)]
    torch.testing.assert_close(slopes, torch.stack(differences), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("stability", "skew"), [(0.9, 0.3), (1.0, -0.5), (1.5, 0.9), (1.9, 0.0)])
def test_draws_have_it(stability: float, skew: float) -> None:
    """Mass within bounds, by the density, against 40 000 draws: level 1e-6 for each bound."""
    bounds = torch.tensor([-5.0, -1.0, 0.0, 0.7, 2.0, 6.0])
    grid = torch.linspace(-5.0, 6.0, 1101)
    density = log_density(law(stability, skew), grid).exp()
    below = torch.cumulative_trapezoid(density, grid)
    masses = [float(below[torch.searchsorted(grid[1:], b - 1e-9)]) for b in bounds[1:]]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        draws = law(stability, skew).sample((40_000,))
    for mass, b in zip(masses, bounds[1:], strict=True):
        share = float(((draws > -5.0) & (draws <= b)).double().mean())
        assert abs(share - mass) < 5 * math.sqrt(mass * (1 - mass) / 40_000) + 1e-4


def test_of_a_program_in_single_precision() -> None:
    def model() -> None:
        sample("x", dist.Stable(t(1.5).float(), t(0.0).float(), t(1.0).float(), t(0.0).float()))

    found, _ = assess(model, {"x": torch.tensor(1.0, dtype=torch.float32)})
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(by_fourier(1.5, 0.0, 1.0), abs=1e-6)


@pytest.mark.parametrize("stability", [0.6, 0.95, 1.0, 1.3, 1.95, 2.0])
@pytest.mark.parametrize("skew", [0.0, 0.7])
def test_its_mass_is_one(stability: float, skew: float) -> None:
    """By the trapezoidal rule in u, x = sinh(u)."""
    u = torch.linspace(-40.0, 40.0, 1201)
    density = (log_density(law(stability, skew), u.sinh()) + u.cosh().log()).exp()
    assert float(torch.trapezoid(density, u)) == pytest.approx(1.0, abs=1e-5)
