"""Gradient-normalised Newton steps: acceptance checks of arXiv 2506.13710."""

from __future__ import annotations

import copy
import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer
from torch import Tensor, nn

from pushforward.nn.optim import (
    GradNormSmooth,
    gns_accept,
    gns_step,
    gradient_normalized_smoothness,
)
from pushforward.nn.optim.smoothness import gns_step_rank_one


def f(x: Any) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


A = f([[1, 2], [-1, 1], [2, -1]])


class Logistic:
    """The mean logistic loss of rows times their labels, with a ridge."""

    def __init__(self, rows: Tensor, start: Any, ridge: float = 0.0, scale: float = 1.0) -> None:
        self.rows, self.ridge, self.scale = rows, ridge, scale
        self.x = nn.Parameter(f(start))

    def per_example_losses(self) -> Tensor:
        return torch.nn.functional.softplus(-(self.rows @ self.x))

    def __call__(self) -> Tensor:
        loss = self.per_example_losses().mean() + self.ridge / 2 * self.x.square().sum()
        return self.scale * loss

    def fisher(self, x: Tensor) -> Tensor:
        p = torch.sigmoid(-(self.rows @ x))
        matrix = (self.rows.T * p**2) @ self.rows / len(self.rows)
        return matrix + self.ridge * torch.eye(len(x), dtype=torch.float64)

    def gradient_norm(self) -> float:
        return float(torch.autograd.grad(self(), self.x)[0].norm())


@pytest.mark.parametrize("hessian", ["exact", "fisher"])
def test_a_step_by_hand(hessian: Any) -> None:
    problem = Logistic(A, [0.0, 0.0])
    made = GradNormSmooth([problem.x], hessian=hessian)
    assert float(made.step(problem)) == pytest.approx(math.log(2))
    expected = f([0.3753452854, 0.3753452854])
    torch.testing.assert_close(problem.x.detach(), expected, rtol=0, atol=1e-9)
    assert float(problem().detach()) == pytest.approx(0.4990087251, abs=1e-9)
    assert problem.gradient_norm() == pytest.approx(0.2692108195, abs=1e-9)
    assert math.log(2) - 0.4990087251 == pytest.approx(0.1941384554, abs=1e-9)
    g0 = math.sqrt(2) / 3
    assert 0.2692108195**2 / (8 * g0) == pytest.approx(0.0192176947, abs=1e-9)
    assert gns_accept(math.log(2), 0.4990087251, g0, 0.2692108195, 1.0, 1e-16)
    assert made.gamma == 2 and made.trials == 1


def test_without_a_hessian_it_is_gradient_descent() -> None:
    problem = Logistic(A, [0.0, 0.0])
    GradNormSmooth([problem.x], hessian="zero").step(problem)
    torch.testing.assert_close(problem.x.detach(), f([0.5**0.5] * 2), rtol=0, atol=1e-9)


def iterates(scale: float, steps: int, **about: Any) -> Tensor:
    problem = Logistic(A, [0.5, -1.0], scale=scale)
    made = GradNormSmooth([problem.x], **about)
    found = []
    for _ in range(steps):
        made.step(problem)
        found.append(problem.x.detach().clone())
    return torch.stack(found)


def test_the_scale_of_the_loss_does_not_matter() -> None:
    torch.testing.assert_close(iterates(1.0, 8), iterates(1000.0, 8), rtol=0, atol=1e-10)


def test_steps_are_short_and_the_loss_falls() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(100):
        rows = torch.randn(12, 3, generator=generator, dtype=torch.float64)
        problem = Logistic(rows, [1.0, -2.0, 0.5], ridge=0.01)
        made = GradNormSmooth([problem.x])
        for _ in range(6):
            before, x = float(problem().detach()), problem.x.detach().clone()
            g0 = problem.gradient_norm()
            made.step(problem)
            gamma = made.gamma / 2
            after, g1 = float(problem().detach()), problem.gradient_norm()
            assert float((problem.x.detach() - x).norm()) <= gamma * (1 + 1e-12)
            assert before - after >= gamma * g1**2 / (8 * g0) - 1e-13


def standardised() -> Tensor:
    data = load_breast_cancer()
    x = (data.data - data.data.mean(0)) / data.data.std(0)
    return f(x * np.where(data.target == 1, 1.0, -1.0)[:, None])


def count(problem: Logistic, made: GradNormSmooth, goals: list[float], most: int) -> list[int]:
    """Steps until the norm of the gradient is below each of the goals."""
    found: list[int] = []
    for step in range(most + 1):
        while len(found) < len(goals) and problem.gradient_norm() < goals[len(found)]:
            found.append(step)
        if len(found) == len(goals):
            break
        made.step(problem)
    return found


@pytest.mark.parametrize(("hessian", "most"), [("exact", 12), ("fisher", 260), ("zero", 700)])
def test_breast_cancer(hessian: str, most: int) -> None:
    """Measured 10, 196 and 559 steps."""
    problem = Logistic(standardised(), [0.0] * 30, ridge=1e-3)
    kind: Any = problem.fisher if hessian == "fisher" else hessian
    steps = count(problem, GradNormSmooth([problem.x], hessian=kind), [1e-8], most)
    assert steps and steps[0] <= most
    assert float(problem().detach()) == pytest.approx(0.0598397745424, abs=1e-12)


def test_a_linear_rate_on_separable_data() -> None:
    """Measured 26 and 27 steps a decade, 83 in all; 16 with the exact Hessian.

    With rows divided by the greatest norm the rate is linear later: 15 and 28 steps, 52 in all.
    """
    rng = np.random.default_rng(0)
    w = rng.normal(size=20)
    w /= np.linalg.norm(w)
    x = rng.normal(size=(200, 20))
    y = np.sign(x @ w)
    x = x + 0.3 * y[:, None] * w
    rows = f(x * y[:, None])
    problem = Logistic(rows, [0.0] * 20)
    made = GradNormSmooth([problem.x], hessian="fisher")
    four, five, six = count(problem, made, [1e-4, 1e-5, 1e-6], 200)
    assert abs((five - four) - (six - five)) < 0.3 * (six - five)
    assert six <= 100
    exact = Logistic(rows, [0.0] * 20)
    assert count(exact, GradNormSmooth([exact.x]), [1e-6], 25)


def test_a_quartic() -> None:
    """At x = 1 the ball where the model errs by |g| |h| / gamma ends where s^3 + 3 s^2 = 1."""
    root = np.roots([1, 3, 0, -1])
    assert float(root[(root.imag == 0) & (root.real > 0)][0].real) == pytest.approx(0.5320888862)
    x = nn.Parameter(f([1.0]))
    made = GradNormSmooth([x])
    for _ in range(40):
        made.step(lambda: (x**4).sum() / 4)
    assert abs(float(x.detach())) < 1e-3


def test_rank_one_and_conjugate_gradients() -> None:
    torch.manual_seed(0)
    g, v = torch.randn(6, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    dense = gns_step(g, 2.5 * torch.outer(v, v), 0.7)
    torch.testing.assert_close(gns_step_rank_one(g, 2.5, v, 0.7), dense, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(gns_step(g, None, 0.7), -0.7 * g / g.norm())
    exact = iterates(1.0, 12)
    iterated = iterates(1.0, 12, dense_up_to=0)
    torch.testing.assert_close(iterated[-1], exact[-1], rtol=1e-2, atol=1e-2)


def test_state_goes_on() -> None:
    def run(problem: Logistic, made: Any, steps: int) -> Tensor:
        for _ in range(steps):
            made.step(problem)
        return problem.x.detach().clone()

    one = Logistic(A, [0.5, -1.0], ridge=0.01)
    made = GradNormSmooth([one.x], hessian="zero")
    start = run(one, made, 5)
    other = Logistic(A, start.tolist(), ridge=0.01)
    again = GradNormSmooth([other.x], hessian="zero")
    again.load_state_dict(copy.deepcopy(made.state_dict()))
    assert again.gamma == made.gamma and again.trials == made.trials
    assert torch.equal(run(one, made, 10), run(other, again, 10))


def test_the_radius_of_a_quartic() -> None:
    """x^4 / 4 at 1: the root of s^3 + 3 s^2 = 1 in the ball, 9 / 8 in the ellipsoid."""
    about: Any = (lambda x: x**3, f([1.0]), f([[3.0]]))
    for region, expected in (("ball", 0.5320888862), ("ellipsoid", 9 / 8)):
        found = gradient_normalized_smoothness(*about, region)
        assert found.exact and found.gamma == pytest.approx(expected, abs=1e-9)
    root = 0.5320888862
    assert root**3 + 3 * root**2 == pytest.approx(1, abs=1e-9)


def test_the_radius_of_simple_models() -> None:
    """A quadratic with its Hessian has none; with H = 0 it is |g| / L, that of descent."""
    matrix = f([[3.0, 1.0], [1.0, 2.0]])
    gradient = matrix.mv
    x = f([1.0, -0.5])
    assert gradient_normalized_smoothness(gradient, x, matrix).gamma == math.inf
    largest = float(torch.linalg.eigvalsh(matrix)[-1])
    size = float(gradient(x).norm())
    found = gradient_normalized_smoothness(
        gradient, x, 0 * matrix, "ball", generator=torch.Generator().manual_seed(0)
    )
    assert not found.exact
    assert size / largest <= found.gamma <= 1.01 * size / largest


def test_the_radius_of_a_logistic_loss() -> None:
    """Quasi-self-concordant with M = max |a|: in the ellipsoid gamma is 1.256 / M at least."""
    problem = Logistic(A, [0.5, -1.0])

    def gradient(x: Tensor) -> Tensor:
        return -(A.T @ torch.sigmoid(-(A @ x))) / 3

    x = problem.x.detach()
    p = torch.sigmoid(-(A @ x))
    found = gradient_normalized_smoothness(gradient, x, (A.T * (p * (1 - p))) @ A / 3, samples=64)
    assert found.gamma >= 1.2564312086 / math.sqrt(5)
    assert math.exp(1.2564312086) == pytest.approx(1 + 2 * 1.2564312086, abs=1e-9)
    for wrong in ({"region": "cube"}, {"H": A}, {"samples": -1}):
        with pytest.raises(ValueError, match=r"not 'cube'|are expected"):
            gradient_normalized_smoothness(**{"gradient": gradient, "x": x, "H": A.T @ A} | wrong)  # type: ignore[arg-type]


def test_several_parameters_of_a_network() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)).double()
    x = torch.randn(20, 2, dtype=torch.float64)
    y = (x[:, :1] * x[:, 1:]).tanh()
    made = GradNormSmooth(net.parameters(), hessian="zero")
    losses = [float(made.step(lambda: (net(x) - y).square().mean())) for _ in range(30)]
    assert all(b <= a for a, b in itertools.pairwise(losses))


def test_what_goes_wrong() -> None:
    x = nn.Parameter(f([1.0, 1.0]))
    with pytest.raises(RuntimeError, match="needs a closure"):
        GradNormSmooth([x]).step()
    for about in ({"gamma0": 0.0}, {"factor": 1.0}, {"hessian": "newton"}):
        with pytest.raises(ValueError, match=r"gamma0 > 0|'exact'"):
            GradNormSmooth([x], **about)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="complex"):
        GradNormSmooth([nn.Parameter(torch.ones(2, dtype=torch.complex64))])
    with pytest.raises(RuntimeError, match="draws at random"):
        GradNormSmooth([x]).step(lambda: (x * torch.randn(2)).square().sum())
    with pytest.raises(ValueError, match="not finite"):
        GradNormSmooth([x]).step(lambda: x.sum() / 0)
    skew = f([[1, 1], [0, 1]])
    with pytest.raises(ValueError, match="not symmetric"):
        GradNormSmooth([x], hessian=lambda x: skew).step(lambda: x.square().sum())
    with pytest.raises(ValueError, match="gamma is positive"):
        gns_step(f([1.0]), None, 0.0)
    bent = -1e300 * torch.eye(2, dtype=torch.float64)
    with pytest.raises(torch.linalg.LinAlgError, match="eigenvalue -1e"):  # type: ignore[attr-defined]
        GradNormSmooth([x], hessian=lambda x: bent).step(lambda: x.square().sum())
    with pytest.warns(UserWarning, match="no step in 3 trials"):
        GradNormSmooth([x], hessian="zero", max_trials=3, gamma0=1e9).step(lambda: x.square().sum())
    assert torch.equal(x.detach(), f([1.0, 1.0]))
    still = nn.Parameter(f([0.0]))
    made = GradNormSmooth([still])
    made.step(lambda: still.square().sum())
    assert made.converged
