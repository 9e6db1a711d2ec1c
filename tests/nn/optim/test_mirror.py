"""Optimistic mirror descent: acceptance checks of arXiv 2302.04552, figures computed by hand."""

from __future__ import annotations

import copy
import io
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pushforward.nn.optim import (
    Ball,
    Box,
    DynamicOptimisticMD,
    Free,
    OnlineLearner,
    OptimisticMirrorDescent,
    PositiveOrthant,
    Simplex,
)


def f(x: Any) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


def played(learner: Any, gradients: Any) -> list[Tensor]:
    """Points of all rounds; a gradient may be a function of the point."""
    points = []
    for gradient in gradients:
        points.append(learner.predict())
        learner.update(gradient(points[-1]) if callable(gradient) else gradient)
    return points


def near(found: list[Tensor], expected: Any, atol: float = 1e-8) -> None:
    torch.testing.assert_close(torch.stack(found), f(expected), rtol=0, atol=atol)


def test_convex_by_hand() -> None:
    learner = OnlineLearner(f([0.0]), domain=Ball(1.0), grad_bound=1.0, delta=1.0)
    state = next(iter(learner._optimizer.state.values()))
    etas = []
    points = []
    for g in (1.0, 1.0, -1.0, -1.0):
        points.append(learner.predict())
        etas.append(float(state["eta"]))
        learner.update(f([g]))
    assert etas == pytest.approx([0.89442719, 0.81649658, 0.81649658, 0.63245553], abs=1e-8)
    near(points, [[0.0], [-1.0], [-1.0], [0.44895211]])
    assert float(state["variation"]) == 5
    assert learner.regret(f([1.0])) == pytest.approx(-1 + 1 - 0.44895211, abs=1e-7)


def test_strongly_convex_by_hand() -> None:
    learner = OnlineLearner(
        f([0.0]), domain=Ball(2.0), rule="strongly_convex", strong_convexity=1.0
    )
    points = played(learner, [lambda x, c=c: x - c for c in (1.0, 0.0, 1.0, 0.5)])
    near(points, [[0.0], [2.0], [-1.33333333], [2.0]])


def test_exp_concave_by_hand() -> None:
    learner = OnlineLearner(
        f([0.0, 0.0]), domain=Ball(1.0), rule="exp_concave", geometry="quadratic",
        grad_bound=2.0, exp_concavity=1.0,
    )  # fmt: skip
    points = played(learner, [f([1, 0]), f([1, 1]), f([0, -1])])
    near(points, [[0, 0], [-1, 0], [-0.79786240, -0.60283961]])


ENTROPIC: dict[str, Any] = {
    "geometry": "entropy", "domain": Simplex(), "rule": "constant", "lr": 0.5,
}  # fmt: skip


def test_entropy_by_hand() -> None:
    learner = OnlineLearner(torch.full((3,), 1 / 3, dtype=torch.float64), **ENTROPIC)
    points = played(learner, [f([1, 0, 0]), f([1, 0, 0.5]), f([0, 1, 0])])
    expected = [
        [1 / 3] * 3,
        [0.15536240, 0.42231880, 0.42231880],
        [0.12195165, 0.54654939, 0.33149896],
    ]
    near(points, expected)


def test_a_constant_loss_is_learnt_with_finite_regret() -> None:
    g = f([0.0, 0.5, 1.0])
    learner = OnlineLearner(torch.full((3,), 1 / 3, dtype=torch.float64), **ENTROPIC)
    regrets = {}
    for t in range(1, 3001):
        learner.update(g)
        if t in (1000, 3000):
            regrets[t] = learner.regret(f([1.0, 0.0, 0.0]))
    assert regrets[1000] == pytest.approx(2.0366531724, abs=1e-9)
    assert regrets[3000] == pytest.approx(regrets[1000], abs=1e-9)


@pytest.mark.slow
def test_a_hint_foresees_a_slow_drift() -> None:
    """The loss turns once in 1000 rounds: -15998.1 with a hint, -15326.1 without."""
    turn = 2 * math.pi * torch.arange(16000, dtype=torch.float64) / 1000
    losses = torch.stack([turn.cos(), turn.sin()], 1)
    best = -float(losses.sum(0).norm())
    found = {}
    for hint in ("last", "zero"):
        about = {"grad_bound": 1.0, "delta": 1.0, "hint": hint}
        learner = OnlineLearner(f([0.0, 0.0]), domain=Ball(1.0), **about)
        for g in losses:
            learner.update(g)
        found[hint] = learner._paid - best
    assert found["last"] == pytest.approx(-15998.09, abs=0.01)
    assert found["zero"] == pytest.approx(-15326.1, abs=0.1)


def sea(rule: str, rounds: int, sigma: float) -> float:
    """Regret on quadratics with noisy centres in the unit ball."""
    generator = torch.Generator().manual_seed(0)
    centre = torch.zeros(5, dtype=torch.float64)
    centre[0] = 0.5
    constants: dict[str, Any] = {"strong_convexity": 1.0} if rule == "strongly_convex" else {}
    learner = OnlineLearner(
        torch.zeros(5, dtype=torch.float64), domain=Ball(1.0), rule=rule, grad_bound=4.0,
        smoothness=1.0, **constants,
    )  # fmt: skip
    seen, paid = torch.zeros(5, dtype=torch.float64), 0.0
    squares = 0.0
    for _ in range(rounds):
        noise = sigma * torch.randn(5, generator=generator, dtype=torch.float64)
        c = centre + noise * min(1.0, 2.0 / max(float(noise.norm()), 1e-12))
        x = learner.predict()
        paid += float((x - c).square().sum()) / 2
        seen, squares = seen + c, squares + float(c.square().sum()) / 2
        learner.update(x - c)
    best = seen / rounds
    best = best / max(1.0, float(best.norm()))
    return paid - (rounds * float(best.square().sum()) / 2 - float(best @ seen) + squares)


@pytest.mark.slow
def test_regret_grows_as_the_bounds_say() -> None:
    """With noise like the root of the rounds, or their logarithm; without, not at all."""
    convex = [sea("convex", rounds, 1.0) for rounds in (1000, 4000)]
    strong = [sea("strongly_convex", rounds, 1.0) for rounds in (1000, 4000)]
    assert 1.5 <= convex[1] / convex[0] <= 2.4, convex
    assert strong[1] / strong[0] < 1.35, strong
    for rule in ("convex", "strongly_convex"):
        quiet = [sea(rule, rounds, 0.0) for rounds in (500, 1000)]
        assert quiet[1] == pytest.approx(quiet[0], abs=0.01), quiet
    d, g, smooth, sigma = 2.0, 4.0, 1.0, math.sqrt(5.0)
    for rounds, regret in zip((1000, 4000), convex, strict=True):
        bound = 5 * math.sqrt(10) * d**2 * smooth + 2.5 * math.sqrt(5) * d * g
        bound += 5 * math.sqrt(2) * d * sigma * math.sqrt(rounds) + 5 * d
        assert regret <= bound


@pytest.mark.slow
def test_dynamic_regret() -> None:
    """Eight blocks with alternating centres: four times the rounds, less than twice the regret."""

    def regret(rounds: int) -> float:
        learner = DynamicOptimisticMD(
            torch.zeros(2, dtype=torch.float64), domain=Ball(1.0), grad_bound=2.0,
            smoothness=1.0, horizon=rounds,
        )  # fmt: skip
        total = 0.0
        for t in range(rounds):
            c = f([0.8, 0.0]) * (1 if (8 * t // rounds) % 2 else -1)
            x = learner.predict()
            total += float((x - c).square().sum()) / 2
            learner.update(x - c)
            assert float(learner.weights.sum()) == pytest.approx(1, abs=1e-12)
        return total

    first, last = regret(2000), regret(8000)
    assert last < 2 * first


def test_doubling_goes_on() -> None:
    learner = DynamicOptimisticMD(
        torch.zeros(1, dtype=torch.float64), domain=Box(-1.0, 1.0), grad_bound=1.0, smoothness=1.0
    )
    points = played(learner, [f([1.0])] * 300)
    assert float(points[-1]) == pytest.approx(-1.0, abs=0.05)


def test_projections() -> None:
    torch.manual_seed(0)
    for _ in range(50):
        x = 3 * torch.randn(4, dtype=torch.float64)
        p = Simplex().project(x)
        assert float(p.sum()) == pytest.approx(1, abs=1e-12) and bool((p >= 0).all())
        others = torch.distributions.Dirichlet(torch.ones(4).double()).sample((200,))
        assert bool(((x - p).norm() <= (x - others).norm(dim=-1) + 1e-12).all())
        m = torch.randn(4, 4, dtype=torch.float64)
        h, ball = m @ m.T + 0.1 * torch.eye(4), Ball(0.7)
        q = ball.project_in(h, x)
        assert float(q.norm()) <= 0.7 + 1e-9
        points = ball.project(torch.randn(200, 4, dtype=torch.float64)[..., None])[..., 0]
        points = 0.7 * points / points.norm(dim=-1, keepdim=True)
        away = torch.cat([points, q[None]]) - x
        values = ((away @ h) * away).sum(-1)
        assert float(values[-1]) <= float(values[:-1].min()) + 1e-9
    assert torch.equal(Box(0.0, 1.0).project(f([-1, 0.5, 2])), f([0, 0.5, 1]))
    assert torch.equal(PositiveOrthant().project(f([-1, 2])), f([0, 2]))


def test_rows_of_a_simplex_learn_by_themselves() -> None:
    rows = torch.tensor([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]], dtype=torch.float64)
    about: dict[str, Any] = {
        "geometry": "entropy", "domain": Simplex(), "grad_bound": 1.0, "delta": 1.0,
    }  # fmt: skip
    torch.manual_seed(0)
    gradients = torch.rand(5, 2, 3, dtype=torch.float64)
    both = played(OnlineLearner(rows, **about), gradients)
    for i in range(2):
        alone = played(OnlineLearner(rows[i], **about), gradients[:, i])
        torch.testing.assert_close(torch.stack(both)[:, i], torch.stack(alone))
    assert float((both[-1].sum(-1) - 1).abs().max()) < 1e-12


def test_it_is_an_optimiser() -> None:
    def loss(p: Tensor, w: Tensor) -> Tensor:
        return (p - 2).square().sum() + (w * f([1.0, 0.2, 0.9])).sum()

    def begun() -> tuple[Any, Any, Any]:
        p = nn.Parameter(f([0.5, 0.5]))
        w = nn.Parameter(torch.full((3,), 1 / 3, dtype=torch.float64))
        made = OptimisticMirrorDescent(
            [
                {"params": [p], "domain": Ball(1.0), "grad_bound": 8.0},
                {"params": [w], "domain": Simplex(), "geometry": "entropy", "grad_bound": 1.0},
            ]
        )
        return p, w, made

    def run(p: Tensor, w: Tensor, made: Any, steps: int) -> None:
        for _ in range(steps):
            made.zero_grad()
            loss(p, w).backward()
            made.step()

    p, w, made = begun()
    run(p, w, made, 100)
    q, v, other = begun()
    with torch.no_grad():
        q.copy_(p), v.copy_(w)
    other.load_state_dict(copy.deepcopy(made.state_dict()))
    run(p, w, made, 50)
    run(q, v, other, 50)
    assert torch.equal(p, q) and torch.equal(w, v)
    run(p, w, made, 1500)
    torch.testing.assert_close(p.detach(), f([0.5**0.5] * 2), rtol=0, atol=1e-3)
    assert float(w.detach()[1]) > 0.99


def test_positive_numbers() -> None:
    about: dict[str, Any] = {
        "geometry": "entropy", "domain": PositiveOrthant(), "rule": "constant", "lr": 0.1,
    }  # fmt: skip
    learner = OnlineLearner(f([1.0, 1.0]), **about)
    for _ in range(300):
        learner.update(lambda x: (x - f([3.0, 0.2])).square().sum() / 2)
    torch.testing.assert_close(learner.predict(), f([3.0, 0.2]), rtol=0, atol=1e-3)


X = f([0.0, 0.0])


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: OnlineLearner(X, grad_bound=1.0), "needs a positive diameter"),
        (lambda: OnlineLearner(X, domain=Ball(1.0)), "needs a positive grad_bound"),
        (
            lambda: OnlineLearner(
                X, domain=Ball(1.0), rule="strongly_convex", strong_convexity=0.0
            ),
            "needs a positive strong_convexity",
        ),
        (lambda: OnlineLearner(X, rule="constant"), "needs a positive lr"),
        (lambda: OnlineLearner(X, rule="fast"), "no rule 'fast'"),
        (lambda: OnlineLearner(X, **ENTROPIC), "start from positive"),
        (lambda: OnlineLearner(X, geometry="entropy", domain=Free()), "entropy is for"),
        (lambda: OnlineLearner(X, geometry="quadratic", domain=Ball(1.0)), "go together"),
        (lambda: OnlineLearner(X, geometry="round"), "not 'round'"),
        (lambda: Ball(0.0), "positive radius"),
        (lambda: Box(1.0, 0.0), "low < high"),
        (
            lambda: DynamicOptimisticMD(X, domain=Free(), grad_bound=1.0, smoothness=1.0),
            "not bounded",
        ),
        (
            lambda: DynamicOptimisticMD(X, domain=Ball(1.0), grad_bound=0.0, smoothness=1.0),
            "not positive",
        ),
    ],
)
def test_bad_input(call: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        call()


def test_what_is_noticed() -> None:
    about: dict[str, Any] = {"domain": Ball(1.0), "grad_bound": 1.0}
    with pytest.warns(UserWarning, match="outside"):
        learner = OnlineLearner(f([3.0, 4.0]), **about)
    torch.testing.assert_close(learner.predict(), f([0.6, 0.8]))
    before = copy.deepcopy(learner._optimizer.state_dict())
    with pytest.raises(FloatingPointError, match="no state has changed"):
        learner.update(f([math.nan, 0.0]))
    assert str(learner._optimizer.state_dict()) == str(before)
    with pytest.warns(UserWarning, match="exceeds the bound"):
        learner.update(f([3.0, 0.0]))
    learner.update(f([5.0, 0.0]))
    assert learner._optimizer.exceeded == 2 and float(learner.predict().norm()) <= 1 + 1e-12
    free = OnlineLearner(X, domain=Ball(1.0), grad_bound="max")
    free.update(f([3.0, 0.0]))
    assert float(free.predict().norm()) <= 1
    dynamic = DynamicOptimisticMD(X, domain=Ball(1.0), grad_bound=1.0, smoothness=1.0)
    with pytest.raises(FloatingPointError):
        dynamic.update(f([math.inf, 0.0]))


def test_an_empty_parameter_and_a_plain_load() -> None:
    """A parameter without entries is left alone; a state dict loads as weights only."""
    params = [nn.Parameter(torch.zeros(0, 3)), nn.Parameter(torch.full((3,), 1 / 3))]
    optimizer = OptimisticMirrorDescent(
        params, geometry="entropy", domain=Simplex(), grad_bound="max"
    )
    (params[1] ** 2).sum().backward()
    params[0].sum().backward()
    optimizer.step()
    stored = io.BytesIO()
    torch.save(optimizer.state_dict(), stored)
    stored.seek(0)
    assert torch.load(stored)["param_groups"][0]["domain"] == Simplex()
