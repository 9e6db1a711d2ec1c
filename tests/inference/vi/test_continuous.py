"""Flows in continuous time: the density of the steps that are run, and that they are bijections."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from support.normals import numbers
from torch import Tensor

from pushforward import dist, factor, sample
from pushforward.errors import GuideError
from pushforward.inference.vi import SVI, Captured, Continuous, FullRank, elbo
from pushforward.inference.vi import continuous as module
from pushforward.inference.vi.captured import Replayed
from pushforward.inference.vi.continuous import MOST, Field, flowed, stepped


@pytest.fixture(autouse=True)
def _double(double: None) -> None:
    """All of this is in float64."""


def field_of(d: int, size: float, seed: int = 0, hidden: int = 7) -> Field:
    def part(k: int, *shape: int) -> Tensor:
        return numbers(10 * seed + k, math.prod(shape)).reshape(shape)

    return Field(part(1, hidden, d), part(2, hidden), part(3, hidden), size * part(4, d, hidden))


SIZES = [0.0, 0.3, 5.0, 1000.0]


# ----------------------------------------------------------------------------------------- density


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("d", [1, 2, 5])
@pytest.mark.parametrize("steps", [1, 8])
def test_the_log_determinant_is_that_of_the_jacobian(d: int, size: float, steps: int) -> None:
    for seed in range(3):
        field, u = field_of(d, size, seed), numbers(seed + 50, d)
        jacobian = torch.func.jacrev(lambda at, f=field: flowed(f, at, steps)[0])(u)
        sign, wanted = torch.linalg.slogdet(jacobian)
        assert float(sign) == 1.0
        assert float(flowed(field, u, steps)[1]) == pytest.approx(float(wanted), abs=1e-10)


def divergence(field: Field, u: Tensor, steps: int) -> Tensor:
    """What the log-determinant is in continuous time, by the same steps: the integral of tr f'."""
    field, h, total = field.bounded(steps), 1.0 / steps, torch.zeros(())
    for i in range(steps):
        t = i * h
        slope, inner = field.at(u, t)
        whole, sums = slope, inner.trace()
        for part, weight in ((0.5, 2.0), (0.5, 2.0), (1.0, 1.0)):
            slope, inner = field.at(u + part * h * slope, t + part * h)
            whole, sums = whole + weight * slope, sums + weight * inner.trace()
        u, total = u + h / 6.0 * whole, total + h / 6.0 * sums
    return total


def at_start(field: Field, u: Tensor, steps: int) -> Tensor:
    """The same by the divergence where each step begins."""
    field, h, total = field.bounded(steps), 1.0 / steps, torch.zeros(())
    for i in range(steps):
        total = total + h * field.at(u, i * h)[1].trace()
        u = stepped(field, u, i * h, h)[0]
    return total


def mass(log_det: Any, field: Field, steps: int) -> float:
    """Of a normal law drawn back along the flow, by a grid on two coordinates: 1 if it is right."""
    at = torch.linspace(-9.0, 9.0, 121)
    grid = torch.cartesian_prod(at, at)
    moved = torch.func.vmap(lambda u: flowed(field, u, steps)[0])(grid)
    logs = torch.func.vmap(lambda u: log_det(field, u, steps))(grid)
    law = dist.Normal(torch.zeros(2), 1.0).to_event(1)
    return float((law.log_prob(moved) + logs).exp().sum() * (at[1] - at[0]) ** 2)


def test_the_density_has_mass_one_and_that_of_continuous_time_has_not() -> None:
    """Seeded faults: the divergence by the rule of the steps, and where each step begins."""
    field = field_of(2, 0.8)
    assert mass(lambda *about: flowed(*about)[1], field, 2) == pytest.approx(1.0, abs=1e-8)
    assert abs(mass(divergence, field, 2) - 1.0) > 1e-6
    assert abs(mass(at_start, field, 2) - 1.0) > 1e-2


def test_the_two_differ_by_the_fourth_power_of_a_step() -> None:
    field, u = field_of(3, 0.1), numbers(6, 3)
    gaps = [abs(float(flowed(field, u, n)[1] - divergence(field, u, n))) for n in (4, 8, 16)]
    assert gaps[0] / gaps[1] == pytest.approx(16.0, rel=0.4)
    assert gaps[1] / gaps[2] == pytest.approx(16.0, rel=0.4)


def test_a_linear_field_flows_by_the_exponential_of_its_matrix() -> None:
    """tanh is linear near zero: u -> exp(A) u, with log-determinant tr A."""
    field = field_of(2, 0.2)._replace(bias=torch.zeros(7), rate=torch.zeros(7))
    matrix, u = field.last @ field.first, torch.tensor([2e-5, -1e-5])
    moved, log_det = flowed(field, u, 64)
    torch.testing.assert_close(moved, torch.linalg.matrix_exp(matrix) @ u, rtol=1e-6, atol=0.0)
    assert float(log_det) == pytest.approx(float(matrix.trace()), abs=1e-6)


# --------------------------------------------------------------------------------------- bijections


def undone(field: Field, u: Tensor, steps: int) -> Tensor:
    """The vector that flows to u: each step undone by Banach's iteration."""
    field, h = field.bounded(steps), 1.0 / steps
    for i in reversed(range(steps)):
        at = u
        for _ in range(1500):
            at = u - (stepped(field, at, i * h, h)[0] - at)
        u = at
    return u


@pytest.mark.parametrize("size", SIZES)
def test_every_step_can_be_undone(size: float) -> None:
    for d in (1, 3):
        field, u = field_of(d, size), numbers(d, d)
        torch.testing.assert_close(undone(field, flowed(field, u, 2)[0], 2), u, rtol=0, atol=1e-7)


def test_without_the_bound_the_map_folds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: a step too long for its field has points of a negative determinant."""
    u = torch.linspace(-3.0, 3.0, 200)[:, None]
    field = field_of(1, 20.0)

    def least() -> float:
        slope = torch.func.vmap(torch.func.jacrev(lambda at: flowed(field, at, 1)[0]))(u)
        return float(slope.min())

    assert least() > 0.0
    monkeypatch.setattr(module, "MOST", 50.0)
    assert least() < 0.0


def test_the_bound_leaves_weak_fields_alone() -> None:
    field = field_of(2, 0.1)
    size = float(torch.linalg.matrix_norm(field.last, 2) * torch.linalg.matrix_norm(field.first, 2))
    steps = math.ceil(size / MOST)
    assert torch.equal(field.bounded(steps).last, field.last)
    assert not torch.equal(field.bounded(1)._replace().last, field.last) or steps == 1


# ------------------------------------------------------------------------------------------ guides


def banana() -> None:
    x = sample("x", dist.Normal(0.0, 1.0))
    y = sample("y", dist.Normal(0.0, 3.0))
    factor("bend", dist.Normal(x**2 - 1.0, 0.3).log_prob(y))


def bound_of(made: Any, steps: int) -> float:
    optimizer = torch.optim.Adam(made.parameters(), lr=0.02)
    svi = SVI(elbo(banana, made), optimizer, samples=16, compiled=False, progress=False)
    svi.run(steps=steps, seed=1)
    with torch.no_grad():
        return float(elbo(banana, made).values(2000).mean())


@pytest.mark.slow
def test_a_bent_posterior_is_followed() -> None:
    """Log evidence by quadrature; the normal law stays behind."""
    at = torch.linspace(-8.0, 12.0, 801)
    x, y = torch.meshgrid(at, at, indexing="ij")
    logs = dist.Normal(0.0, 1.0).log_prob(x) + dist.Normal(0.0, 3.0).log_prob(y)
    logs = logs + dist.Normal(x**2 - 1.0, 0.3).log_prob(y)
    evidence = float(logs.exp().sum().log() + 2 * torch.log(at[1] - at[0]))
    flow, normal = bound_of(Continuous(banana, steps=4), 500), bound_of(FullRank(banana), 500)
    assert normal + 0.2 < flow < evidence + 0.05


def test_graph_and_replay_agree() -> None:
    made = Continuous(banana, steps=2, hidden=5)
    with torch.no_grad():
        made.last += 0.5 * numbers(1, 10).reshape(2, 5)
    bound, parameters = elbo(banana, made), list(made.parameters())
    graph, replay = (
        Captured(bound, parameters, 3, compiled=False),
        Replayed(bound, parameters, 3),
    )
    torch.manual_seed(0)
    found = graph()
    torch.manual_seed(0)
    wanted = replay()
    torch.testing.assert_close(found.values, wanted.values)
    for a, b in zip(found.by, wanted.by, strict=True):
        torch.testing.assert_close(a, b)
        assert bool(a.isfinite().all())


def test_a_fresh_flow_is_the_normal_law_that_it_starts_from() -> None:
    made, noise = Continuous(banana), numbers(3, 2)
    u, log_det = made.move(noise)
    torch.testing.assert_close(u, 0.1 * noise)
    assert float(log_det.detach()) == pytest.approx(2 * math.log(0.1))
    u.sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in made.parameters() if p.grad is not None)


def test_a_flow_needs_steps() -> None:
    with pytest.raises(GuideError, match="needs steps"):
        Continuous(banana, steps=0)
