"""Planar flows of normals: by hand, Jacobians, roots, lanes, the density of the sampler."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pushforward import assess, dist, program, sample, vmap
from pushforward.errors import ProgramError
from pushforward.inference.vi import objective, reparam, sample_trace
from pushforward.inference.vi.objective import estimator
from pushforward.ppl.distributions.planar import PlanarFlow, planar, planar_inverse
from pushforward.ppl.interpretations.log_density import LogDensity
from pushforward.semantics import check

pytestmark = pytest.mark.usefixtures("double")


def f(x: Any) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


W, U, C = f([[0.5, -1.0]]), f([[2.0, 1.5]]), f([0.1])


def flows(d: int, n: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    sizes = (n, d), (n, d), (n,)
    w, u, c = (torch.randn(size, generator=g, dtype=torch.float64) for size in sizes)
    return w, u, c


def law(d: int, n: int, seed: int = 0) -> PlanarFlow:
    return PlanarFlow(torch.zeros(d), torch.full((d,), 1.3), *flows(d, n, seed))


@pytest.mark.parametrize("seed", range(4))
def test_the_determinant_is_that_of_the_jacobian(seed: int) -> None:
    w, u, c = (x[0] for x in flows(3, 1, seed))
    u = 4 * u  # so that some w . u are below -1, where only the constrained u is one to one
    z = f([0.3, -0.2, 1.1])
    jacobian: Any = torch.func.jacrev(lambda z: planar(z, w, u, c)[0])(z)
    torch.testing.assert_close(planar(z, w, u, c)[1], torch.linalg.slogdet(jacobian)[1])


@pytest.mark.parametrize("inner", [-30.0, -3.0, -0.9, 0.0, 2.0, 40.0])
def test_the_inverse_is_found_whatever_the_slope(inner: float) -> None:
    """Also where the flow is all but flat, w . v near -1: half of the digits are left there."""
    w = f([1.0, 0.0])
    u, c = torch.stack([f(inner), f(0.7)]), f(0.2)
    z = torch.stack(torch.meshgrid(torch.linspace(-5, 5, 21), f([0.3, -2.0]), indexing="ij"), -1)
    x, log_det = planar(z, w, u, c)
    back, again = planar_inverse(x, w, u, c)
    exact = inner > -4
    torch.testing.assert_close(back, z, rtol=0, atol=1e-9 if exact else 1e-4)
    torch.testing.assert_close(planar(back, w, u, c)[0], x, rtol=0, atol=1e-9)
    if exact:
        torch.testing.assert_close(log_det, again, rtol=0, atol=1e-8)


def test_draws_carry_their_density() -> None:
    torch.manual_seed(0)
    x, density = law(3, 4).rsample_with_density((200,))
    torch.testing.assert_close(law(3, 4).log_prob(x), density)


def test_derivatives_of_the_density_are_those_of_differences() -> None:
    flow = law(3, 4)
    density = LogDensity(lambda: sample("x", flow))
    u, e = f([0.4, -1.2, 0.7]), 1e-5 * torch.eye(3)
    slope, curvature = torch.func.grad(density), torch.func.hessian(density)(u)
    by_difference = torch.stack([density(u + h) - density(u - h) for h in e]) / 2e-5
    torch.testing.assert_close(slope(u), by_difference, rtol=1e-7, atol=1e-8)
    second = torch.stack([slope(u + h) - slope(u - h) for h in e]) / 2e-5
    torch.testing.assert_close(curvature, second, rtol=1e-6, atol=1e-7)


def test_the_sampler_has_the_density() -> None:
    check.density(law(1, 2), draws=1_000, quadrature=32).require()


class Inverted(PlanarFlow):
    """The fault of the public code: the density of the inverse flow at the image."""

    def log_prob(self, value: Tensor) -> Tensor:
        z, total = value, torch.zeros(())
        for k in range(self.c.shape[-1]):
            z, log_det = planar(z, self.w[..., k, :], self.u[..., k, :], self.c[..., k])
            total = total + log_det
        return self._base(z) + total


def test_a_density_of_the_inverse_flow_is_found() -> None:
    one = law(1, 2)
    wrong = Inverted(one.loc, one.scale, one.w, one.u, one.c)
    report = check.density(wrong, draws=1_000, quadrature=32)
    assert report.verdict == "fail"


def test_lanes_are_those_of_a_loop() -> None:
    """Lanes with flows of their own, as many as there are flows: neither is taken for the other."""
    w, u, c = flows(2, 3)
    shifts = f([[0.0, 1.0], [2.0, -1.0], [0.5, 0.5]])

    @program
    def one(shift: Tensor, u: Tensor) -> Tensor:
        return sample("x", PlanarFlow(shift, torch.ones(2), w, u, c))  # type: ignore[no-any-return]

    us = torch.stack([u, 2 * u, -u])
    x = f([[0.1, 0.2], [1.0, -1.0], [0.3, 2.0]])
    lanes, _ = assess(vmap(one), {"x": x}, shifts, us)
    loop = sum(assess(one, {"x": x[i]}, shifts[i], us[i])[0] for i in range(3))
    torch.testing.assert_close(lanes, loop)
    torch.manual_seed(0)
    drawn = vmap(one)(shifts.repeat_interleave(1000, 0), us.repeat_interleave(1000, 0))
    for i in range(3):
        own = PlanarFlow(shifts[i], torch.ones(2), w, us[i], c).rsample((1000,))
        found = drawn[1000 * i : 1000 * (i + 1)]
        error = 5 * ((found.var(0) + own.var(0)) / 1000).sqrt()  # level 1e-6 each
        assert bool(((found.mean(0) - own.mean(0)).abs() < error).all())
    assert str(one.type(shifts[0], u)) == "{x: Real[2]} -> P Real[2]"
    expanded = PlanarFlow(shifts[0], torch.ones(2), w, u, c).expand([4, 5])
    assert expanded.rsample((6,)).shape == (6, 4, 5, 2)
    assert expanded.log_prob(torch.zeros(2)).shape == (4, 5)


@pytest.mark.slow
def test_derivatives_along_paths_are_unbiased() -> None:
    """Of E x^2 in the shift of a flow of one number: quadrature of the flow itself."""
    w, u, c = flows(1, 2, 3)

    @program
    def flow(shift: Tensor) -> Tensor:
        law = reparam(PlanarFlow(shift, torch.ones(1), w, u, c))
        return sample("x", law)  # type: ignore[no-any-return]

    @objective
    def moment(shift: Tensor) -> Tensor:
        return sample_trace(flow, shift).value[0] ** 2

    z = torch.linspace(-9, 9, 20_001)
    weights = dist.Normal(0.0, 1.0).log_prob(z).exp() * (z[1] - z[0])

    def exact(shift: Tensor) -> Tensor:
        x = z[:, None] + shift
        for k in range(2):
            x, _ = planar(x, w[k], u[k], c[k])
        return (weights * x[:, 0] ** 2).sum()

    build = estimator(lambda shift: moment(shift).surrogate())
    check.unbiased(build, exact, f([0.3]), quadrature=128).require()


@pytest.mark.parametrize("shapes", [((2, 3), (2, 2), (2,)), ((1, 2), (1, 2), (2,))])
def test_flows_of_other_sizes_are_refused(shapes: Any) -> None:
    with pytest.raises(ProgramError, match=r"w, u \[T, 2\] and c \[T\]"):
        PlanarFlow(torch.zeros(2), torch.ones(2), *(torch.ones(size) for size in shapes))


def test_a_step_by_hand() -> None:
    """w . u = -0.5, so that v = u + (m(-0.5) + 0.5) w / 1.25 with m(a) = log(1 + e^a) - 1."""
    along = math.log1p(math.exp(-0.5)) - 1
    v = [2.0 + (along + 0.5) * 0.5 / 1.25, 1.5 - (along + 0.5) / 1.25]
    t = math.tanh(0.5 * 0.3 + 0.2 + 0.1)
    x, log_det = planar(f([0.3, -0.2]), W[0], U[0], C[0])
    torch.testing.assert_close(x, f([0.3 + v[0] * t, -0.2 + v[1] * t]))
    assert float(log_det) == pytest.approx(math.log(1 + (1 - t * t) * along), abs=1e-14)
