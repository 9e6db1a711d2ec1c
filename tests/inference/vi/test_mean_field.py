"""The mean-field bound and its gradient, compared with exact objectives by quadrature."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pushforward.inference.vi.mean_field import Elbo, elbo
from pushforward.ppl import program
from pushforward.semantics import check, denote

NODES = 5  # exact up to degree 9; the bound's terms are polynomials of degree at most 4
ENTROPY = 0.5 * (1.0 + math.log(2.0 * math.pi))
Density = Callable[[Tensor], Tensor]


def f(x: float | list[float]) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


def gaussian(u: Tensor) -> Tensor:
    return -0.5 * ((u - 1.5) ** 2 / 0.49).sum(-1)


def quartic(u: Tensor) -> Tensor:
    return (-(u**4) / 4 + u**2 / 2 + 0.3 * u).sum(-1)


def gaussian_bound(at: Tensor) -> Tensor:
    """E_q[log p] in closed form, and the entropy."""
    loc, log_scale = at.chunk(2)
    fit = -0.5 * ((loc - 1.5) ** 2 + (2 * log_scale).exp()).sum() / 0.49
    return fit + (log_scale + ENTROPY).sum()


def quartic_bound(at: Tensor) -> Tensor:
    """E_q[log p] by the moments of a Gaussian, and the entropy."""
    loc, log_scale = at.chunk(2)
    v = (2 * log_scale).exp()
    fourth = loc**4 + 6 * loc**2 * v + 3 * v**2
    return (-fourth / 4 + (loc**2 + v) / 2 + 0.3 * loc + log_scale + ENTROPY).sum()


CASES = {"gaussian": (gaussian, gaussian_bound), "quartic": (quartic, quartic_bound)}


def parameters(d: int) -> Tensor:
    """loc [d] and log_scale [d]."""
    return f([0.4, -0.6][:d] + [-0.3, 0.2][:d])


def run(density: Density, at: Tensor, particles: int) -> Elbo:
    def potential(u: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            u = u.detach().requires_grad_()
            value = density(u)
            (gradient,) = torch.autograd.grad(value.sum(), u)
        return value.detach(), gradient

    loc, log_scale = at.detach().chunk(2)
    return elbo(loc, log_scale, potential, particles)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("d", "particles"), [(1, 1), (1, 2), (2, 1), (2, 2)])
def test_the_gradient_is_unbiased(name: str, d: int, particles: int) -> None:
    density, bound = CASES[name]

    @program
    def gradient(at: Tensor) -> Tensor:
        estimate = run(density, at, particles)
        return torch.cat([estimate.loc, estimate.log_scale])

    check.unbiased(gradient, bound, parameters(d), quadrature=NODES).require()


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("d", "particles"), [(1, 1), (2, 1), (2, 2)])
def test_the_expected_value_is_the_bound(name: str, d: int, particles: int) -> None:
    density, bound = CASES[name]
    at = parameters(d)
    value = denote(program(lambda: run(density, at, particles).value), quadrature=NODES).expect()
    assert float(value) == pytest.approx(float(bound(at)), abs=1e-8)


def test_an_entropy_of_one_coordinate_is_rejected() -> None:
    at = parameters(2)
    value = denote(program(lambda: run(quartic, at, 1).value - ENTROPY), quadrature=NODES).expect()
    assert float(value) != pytest.approx(float(quartic_bound(at)), abs=0.1)


FAULTS: dict[str, Callable[[Elbo, Tensor], Tensor]] = {
    "the entropy is missing": lambda e, s: torch.cat([e.loc, e.log_scale - 1.0]),
    "no factor scale": lambda e, s: torch.cat([e.loc, (e.log_scale - 1.0) / s.exp() + 1.0]),
    "the sign of loc": lambda e, s: torch.cat([-e.loc, e.log_scale]),
    "the sign of log_scale": lambda e, s: torch.cat([e.loc, -e.log_scale]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_wrong_gradients_are_rejected(fault: str) -> None:
    @program
    def gradient(at: Tensor) -> Tensor:
        return FAULTS[fault](run(quartic, at, 1), at.chunk(2)[1])

    report = check.unbiased(gradient, quartic_bound, parameters(1), quadrature=NODES)
    assert report.verdict == "fail" and "expectation" in report.counterexample
