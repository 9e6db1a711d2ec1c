"""Bilevel optimisation: acceptance checks of arXiv 2401.09587."""

from __future__ import annotations

import copy
import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pushforward.nn.optim import BOREP, BilevelProblem, GradNormSmooth, hypergradient


def f(x: Any) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


A, B, C = f([[2, 0.5], [0.5, 1]]), f([[1, 0], [1, 2]]), f([1, -1])


def noisy(x: Tensor, batch: Any) -> Tensor:
    """A linear term whose gradient is the batch's noise."""
    return torch.zeros(()) if batch is None else (x * batch).sum()


def quadratic(x: Any = (1.0, 1.0), y: Any = (0.0, 0.0), scale: float = 1.0) -> BilevelProblem:
    def upper(x: Any, y: Any, batch: Any) -> Tensor:
        loss = (y["y"] - C).square().sum() / 2 + 0.05 * x["x"].square().sum()
        return scale * (loss + noisy(y["y"], None if batch is None else batch[0]))

    def lower(x: Any, y: Any, batch: Any) -> Tensor:
        loss = y["y"] @ A @ y["y"] / 2 - x["x"] @ B @ y["y"]
        return loss + noisy(y["y"], batch)

    return BilevelProblem(upper, lower, {"x": nn.Parameter(f(x))}, {"y": f(y)})


@pytest.mark.parametrize("solver", ["exact", "cg"])
def test_a_hypergradient_by_hand(solver: Any) -> None:
    problem = quadratic()
    best = torch.linalg.solve(A, B.T @ f([1, 1]))
    torch.testing.assert_close(best, f([0.57142857, 1.71428571]), rtol=0, atol=1e-8)
    found, z = hypergradient(problem, problem.x, {"y": best}, solver=solver)
    torch.testing.assert_close(z["y"], f([-1.02040816, 3.22448980]), rtol=0, atol=1e-8)
    torch.testing.assert_close(found["x"], f([-0.92040816, 5.52857143]), rtol=0, atol=1e-8)

    def phi(x: Tensor) -> Tensor:
        y = torch.linalg.solve(A, B.T @ x)
        return (y - C).square().sum() / 2 + 0.05 * x.square().sum()

    x = f([1, 1]).requires_grad_()
    (exact,) = torch.autograd.grad(phi(x), x)
    torch.testing.assert_close(found["x"], exact, rtol=0, atol=1e-12)


def begun(problem: BilevelProblem, **about: Any) -> BOREP:
    settings: dict[str, Any] = {"lr": 0.1, "momentum": 0.5, "lower_lr": 0.3, "z_lr": 0.2}
    return BOREP(problem, **{**settings, **about})


def test_four_steps_by_hand() -> None:
    problem = quadratic()
    made = begun(problem)
    made.refine(itertools.repeat(None), epochs=1, steps=5)
    expected = {
        2: ((0.92130990, 0.82960819), (0.70093875, 1.38799875), (-0.14345957, 0.86566078),
            (0.04155834, 0.51915809)),
        4: ((0.92715120, 0.62975483), (0.54465885, 1.36799401), (-0.36734160, 1.44434851),
            (-0.08820979, 1.63259403)),
    }  # fmt: skip
    for step in range(1, 5):
        made.step()
        if step in expected:
            state = made.state[problem.x["x"]]
            found = (problem.x["x"].detach(), made.y["y"], state["z"], state["m"])
            for one, other in zip(found, expected[step], strict=True):
                torch.testing.assert_close(one, f(other), rtol=0, atol=1e-8)


def test_steps_have_one_length_and_scales_do_not_matter() -> None:
    ends = []
    for scale in (1.0, 1e6):
        problem = quadratic(scale=scale)
        made = begun(problem)
        made.refine(itertools.repeat(None))
        for _ in range(20):
            before = problem.x["x"].detach().clone()
            made.step()
            assert float((problem.x["x"].detach() - before).norm()) == pytest.approx(0.1, abs=1e-8)
        ends.append(problem.x["x"].detach())
    torch.testing.assert_close(*ends, rtol=1e-8, atol=0)


def test_the_minimiser_is_found() -> None:
    problem = quadratic()
    made = begun(problem, lr=0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(made, lambda k: 1 / (1 + k / 20))
    made.refine(itertools.repeat(None))
    for _ in range(3000):
        made.step()
        schedule.step()
    torch.testing.assert_close(problem.x["x"].detach(), f([1.3498, -0.2997]), rtol=0, atol=2e-3)
    for about in ({"solver": "cg"}, {"solver": "exact", "average": True}, {"z_first": True}):
        other = quadratic()
        again = begun(other, lr=0.01, **about)
        again.refine(itertools.repeat(None), radius=5.0)
        for _ in range(600):
            again.step()
        torch.testing.assert_close(other.x["x"].detach(), f([1.35, -0.3]), rtol=0, atol=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(("noise", "most"), [(0.0, 0.45), (0.1, 0.45), (1.0, 0.65)])
def test_noise_on_all_oracles(noise: float, most: float) -> None:
    """The mean norm of the hypergradient over the last 500 of 4000 steps; it begins at 12.6."""
    generator = torch.Generator().manual_seed(0)

    def drawn() -> Tensor:
        return noise * torch.randn(2, generator=generator, dtype=torch.float64)

    problem = quadratic(x=(3.0, 3.0))
    made = begun(problem, lr=0.01, momentum=0.9, lower_lr=0.2, period=5, lower_steps=10)
    norms = []
    for step in range(4000):
        made.step((drawn(),), drawn)
        if step >= 3500:
            x = problem.x["x"].detach()
            y = torch.linalg.solve(A, B.T @ x)
            norms.append(float((0.1 * x + B @ torch.linalg.solve(A, y - C)).norm()))
    assert sum(norms) / 500 < most


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:z is not finite")
def test_smoothness_without_bound() -> None:
    """f = e^y + e^-y: normalised steps find the minimum, plain ones diverge."""

    def run(lr: float, normalize: bool) -> float:
        generator = torch.Generator().manual_seed(0)

        def upper(x: Any, y: Any, batch: Any) -> Tensor:
            return (y["y"].exp() + (-y["y"]).exp() + 0.05 * x["x"].square() + batch * y["y"]).sum()

        def lower(x: Any, y: Any, batch: Any) -> Tensor:
            return ((y["y"] - x["x"]).square() / 2 + batch * y["y"]).sum()

        problem = BilevelProblem(upper, lower, {"x": nn.Parameter(f([6.0]))}, {"y": f([0.0])})
        about: dict[str, Any] = {"lower_lr": 0.2, "z_lr": 0.5, "period": 5, "lower_steps": 10}
        made = BOREP(problem, lr, 0.9, normalize=normalize, **about)
        made.refine(itertools.repeat(0.0))
        for _ in range(3000):
            noise = 0.1 * torch.randn(2, generator=generator, dtype=torch.float64)
            try:
                made.step(noise[0], noise[1])
            except RuntimeError:
                return math.inf
            if not abs(float(problem.x["x"].detach())) < 1e3:
                return math.inf
        return abs(float(problem.x["x"].detach()))

    assert run(0.01, True) < 0.2
    for lr in (0.01, 0.02, 0.05):
        assert run(lr, False) > 50


def test_state_goes_on() -> None:
    problem, other = quadratic(), quadratic()
    made, again = begun(problem), begun(other)
    made.refine(itertools.repeat(None))
    for _ in range(5):
        made.step()
    with torch.no_grad():
        other.x["x"].copy_(problem.x["x"])
    again.load_state_dict(copy.deepcopy(made.state_dict()))
    for _ in range(5):
        made.step()
        again.step()
    assert torch.equal(problem.x["x"], other.x["x"])


class Once(torch.autograd.Function):
    """A square with one derivative, as of recurrent layers in some libraries."""

    @staticmethod
    def forward(ctx: Any, y: Tensor) -> Tensor:
        ctx.save_for_backward(y)
        return y.square()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return 2 * ctx.saved_tensors[0] * gradient


def test_a_lower_loss_with_one_derivative() -> None:
    def lower(x: Any, y: Any, batch: Any) -> Tensor:
        return (x["x"] * Once.apply(y["y"]) + y["y"].square()).sum()

    problem = BilevelProblem(
        lambda x, y, b: y["y"].sum(), lower, {"x": nn.Parameter(f([1.0]))}, {"y": f([1.0])}
    )
    with pytest.raises(RuntimeError, match="no second derivatives"):
        hypergradient(problem, problem.x, problem.y)
    with pytest.raises(RuntimeError, match="no second derivatives"):
        begun(problem).step()
    weight = nn.Parameter(f([1.0]))
    for kind in ("exact", "zero"):
        newton = GradNormSmooth([weight], hessian=kind)  # type: ignore[arg-type]

        def closure() -> Tensor:
            return (Once.apply(weight) + weight.square()).sum()

        if kind == "exact":
            with pytest.raises(RuntimeError, match="another hessian"):
                newton.step(closure)
        else:
            newton.step(closure)


ABOUT: dict[str, Any] = {"lower_lr": 0.1, "z_lr": 0.1}
SHARED = f([1.0])


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: BOREP(quadratic(), lr=0.0, **ABOUT), ValueError, "positive"),
        (lambda: BOREP(quadratic(), momentum=1.0, **ABOUT), ValueError, "momentum"),
        (lambda: BOREP(quadratic(), period=0, **ABOUT), ValueError, "period"),
        (lambda: BOREP(quadratic(), lower_steps=0, **ABOUT), ValueError, "lower_steps"),
        (lambda: BOREP(quadratic(), solver="lu", **ABOUT), ValueError, "not 'lu'"),
        (
            lambda: BilevelProblem(
                lambda *a: SHARED, lambda *a: SHARED, {"x": SHARED}, {"y": SHARED}
            ),
            ValueError,
            "share",
        ),
        (
            lambda: BilevelProblem(lambda *a: SHARED, lambda *a: SHARED, {}, {"y": SHARED}),
            ValueError,
            "both levels",
        ),
        (
            lambda: hypergradient(
                BilevelProblem(
                    lambda x, y, b: y["y"].sum(), lambda x, y, b: 3 * y["y"].sum(), {"x": f([1.0])},
                    {"y": f([1.0])},
                ),
                {"x": f([1.0])}, {"y": f([1.0])},
            ),
            ValueError,
            "no curved function",
        ),
        (
            lambda: hypergradient(
                BilevelProblem(
                    lambda x, y, b: y["y"].sum(), lambda x, y, b: -(y["y"] ** 2).sum(),
                    {"x": f([1.0])}, {"y": f([1.0])},
                ),
                {"x": f([1.0])}, {"y": f([1.0])},
            ),
            RuntimeError,
            "not strongly convex",
        ),
        (
            lambda: hypergradient(quadratic(), {"x": C}, {"y": C}, solver="lu"),  # type: ignore[arg-type]
            ValueError,
            "not 'lu'",
        ),
    ],
)  # fmt: skip
def test_bad_input(call: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        call()


def test_z_that_explodes() -> None:
    made = begun(quadratic(), z_lr=1e200)

    def run() -> None:
        for _ in range(20):
            made.step()

    with (
        pytest.warns(UserWarning, match="begins at zero"),
        pytest.raises(RuntimeError, match="z_lr"),
    ):
        run()
