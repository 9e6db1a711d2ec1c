"""Groups, copies, pickles, frozen parameters, schedulers and states, of every optimiser."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler

from pushforward.nn.optim import (
    BOREP,
    SGDP,
    AdamP,
    Ball,
    BilevelProblem,
    ExponentiatedSGD,
    GradNormSmooth,
    NormalizedLogisticGD,
    OptimisticMirrorDescent,
    Simplex,
)


def f(x: Any) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


def upper(x: Any, y: Any, batch: Any) -> Tensor:
    return (y["y"] - 1).square().sum() + sum(0.01 * p.square().sum() for p in x.values())


def lower(x: Any, y: Any, batch: Any) -> Tensor:
    return (y["y"] - sum(p.sum() for p in x.values())).square().sum()


def two_levels(start: Any = (0.0,)) -> BilevelProblem:
    return BilevelProblem(upper, lower, {"x": nn.Parameter(f(start))}, {"y": f([0.0])})


def hessian(x: Tensor) -> Tensor:
    return 2 * torch.eye(len(x), dtype=x.dtype)


def borep(p: nn.Parameter) -> BOREP:
    problem = BilevelProblem(upper, lower, {"x": p}, {"y": f([0.0])})
    return BOREP(problem, 0.1, lower_lr=0.2, z_lr=0.2)


ABOUT: dict[str, Any] = {"domain": Ball(2.0), "grad_bound": 100.0}
MAKERS: dict[str, Callable[[nn.Parameter], Any]] = {
    "AdamP": lambda p: AdamP([p], 0.1),
    "SGDP": lambda p: SGDP([p], 0.1, momentum=0.9),
    "ExponentiatedSGD": lambda p: ExponentiatedSGD([p], 0.1, momentum=0.5),
    "NormalizedLogisticGD": lambda p: NormalizedLogisticGD([p], 0.1),
    "GradNormSmooth": lambda p: GradNormSmooth([p]),
    "GradNormSmooth, a function": lambda p: GradNormSmooth([p], hessian=hessian),
    "GradNormSmooth, zero": lambda p: GradNormSmooth([p], hessian="zero", max_trials=30),
    "BOREP": borep,
    "mirror, convex": lambda p: OptimisticMirrorDescent([p], **ABOUT),
    "mirror, greatest": lambda p: OptimisticMirrorDescent([p], domain=Ball(2.0), grad_bound="max"),
    "mirror, strongly convex": lambda p: OptimisticMirrorDescent(
        [p], rule="strongly_convex", strong_convexity=2.0
    ),
    "mirror, exp-concave": lambda p: OptimisticMirrorDescent(
        [p], rule="exp_concave", geometry="quadratic", exp_concavity=0.1, **ABOUT
    ),
    "mirror, constant": lambda p: OptimisticMirrorDescent([p], rule="constant", lr=0.1),
    "mirror, entropy": lambda p: OptimisticMirrorDescent(
        [p], geometry="entropy", domain=Simplex(), grad_bound=10.0
    ),
}


def start() -> nn.Parameter:
    return nn.Parameter(f([0.2, 0.3, 0.5]))


def run(optimizer: Any, steps: int, others: tuple[Tensor, ...] = ()) -> None:
    """Steps on |p - 1|^2 of all parameters."""

    def loss() -> Tensor:
        every = [p for group in optimizer.param_groups for p in group["params"]]
        squares = [(p - 1).square().sum() for p in (*every, *others)]
        return torch.stack(squares).sum()

    for _ in range(steps):
        if isinstance(optimizer, BOREP):
            optimizer.step()
        elif isinstance(optimizer, GradNormSmooth):
            optimizer.step(loss)
        elif isinstance(optimizer, NormalizedLogisticGD):
            optimizer.step(lambda: -loss()[None])
        else:
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()


def ends(optimizer: Any) -> list[Tensor]:
    return [p.detach().clone() for group in optimizer.param_groups for p in group["params"]]


def pickled(optimizer: Any) -> Any:
    return pickle.loads(pickle.dumps(optimizer))


# --- copies ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("copied", [copy.deepcopy, pickled])
@pytest.mark.parametrize("name", MAKERS)
def test_a_copy_goes_on_as_the_original_does(name: str, copied: Callable[[Any], Any]) -> None:
    """And leaves the original alone."""
    optimizer = MAKERS[name](start())
    run(optimizer, 3)
    before, twin = ends(optimizer), copied(optimizer)
    run(twin, 4)
    assert all(map(torch.equal, ends(optimizer), before))
    assert not all(map(torch.equal, ends(twin), before))
    run(optimizer, 4)
    assert all(map(torch.equal, ends(optimizer), ends(twin)))


def test_a_copy_keeps_its_settings_and_a_scheduler_does_not_bind_it() -> None:
    optimizer = GradNormSmooth([start()], factor=3.0, max_trials=7, hessian="zero")
    lr_scheduler.StepLR(optimizer, 1)
    twin = copy.deepcopy(optimizer)
    found = (twin.factor, twin.max_trials, twin.hessian, twin.dense_up_to, twin.converged)
    assert found == (3.0, 7, "zero", 2000, False)
    before = ends(optimizer)
    run(twin, 1)
    assert all(map(torch.equal, ends(optimizer), before))


# --- groups ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in MAKERS if "entropy" not in name])
def test_a_group_that_is_added_moves(name: str) -> None:
    optimizer, added = MAKERS[name](start()), nn.Parameter(f([0.5, 0.1]))
    run(optimizer, 2)
    params = [("more", added)] if isinstance(optimizer, BOREP) else [added]
    optimizer.add_param_group({"params": params})
    before = added.detach().clone()
    run(optimizer, 3)
    assert bool((added != before).all())


def test_both_groups_reach_the_minimum() -> None:
    """|x - 1|^2 + |z - 1|^2 is quadratic: Newton's steps end at one."""
    x, z = nn.Parameter(f([3.0])), nn.Parameter(f([2.0]))
    optimizer = GradNormSmooth([x])
    optimizer.add_param_group({"params": [z]})
    run(optimizer, 30)
    torch.testing.assert_close(torch.cat([x, z]).detach(), f([1.0, 1.0]))
    fisher = GradNormSmooth([nn.Parameter(f([3.0]))], hessian="fisher")
    (first,) = fisher.param_groups[0]["params"]
    unused = nn.Parameter(f([2.0]))
    fisher.add_param_group({"params": [unused]})

    class Closure:
        def per_example_losses(self) -> Tensor:
            return (first - f([1.0, 1.0])).square()

        def __call__(self) -> Tensor:
            return self.per_example_losses().mean()

    for _ in range(200):
        fisher.step(Closure())
    assert float(first.detach()) == pytest.approx(1, abs=1e-3) and float(unused.detach()) == 2


def test_a_problem_in_two_groups_is_the_problem_in_one() -> None:
    """With one rate for both; another rate changes the steps of its group alone, in its share."""
    names = ("a", "b")
    whole = {name: nn.Parameter(f([0.1 + i])) for i, name in enumerate(names)}
    parts = {name: nn.Parameter(p.detach().clone()) for name, p in whole.items()}
    about: dict[str, Any] = {"lower_lr": 0.2, "z_lr": 0.2}
    one = BOREP(BilevelProblem(upper, lower, whole, {"y": f([0.0])}), 0.1, **about)
    first = BilevelProblem(upper, lower, {"a": parts["a"]}, {"y": f([0.0])})
    two = BOREP(first, 0.1, **about)
    two.add_param_group({"params": [("b", parts["b"])]})
    for _ in range(5):
        one.step()
        two.step()
    for name in names:
        assert torch.equal(whole[name], parts[name])
    before = {name: p.detach().clone() for name, p in whole.items()}
    two.param_groups[1]["lr"] = 0.01
    one.step()
    two.step()
    assert torch.equal(whole["a"], parts["a"])
    torch.testing.assert_close(
        (parts["b"] - before["b"]).detach(), (whole["b"] - before["b"]).detach() / 10
    )


@pytest.mark.parametrize("params", [[nn.Parameter(f([1.0]))], [("x", nn.Parameter(f([1.0])))]])
def test_a_group_that_the_losses_cannot_find_is_refused(params: Any) -> None:
    optimizer = BOREP(two_levels(), lower_lr=0.1, z_lr=0.1)
    with pytest.raises(ValueError, match="names"):
        optimizer.add_param_group({"params": params})
    assert len(optimizer.param_groups) == 1
    optimizer.step()


# --- frozen parameters ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in MAKERS if "entropy" not in name])
def test_a_frozen_parameter_stays_and_the_others_move_as_without_it(name: str) -> None:
    frozen, moving = nn.Parameter(f([0.7]), requires_grad=False), start()
    optimizer, alone = MAKERS[name](moving), MAKERS[name](start())
    params = [("more", frozen)] if isinstance(optimizer, BOREP) else [frozen]
    optimizer.add_param_group({"params": params})
    run(optimizer, 3)
    assert torch.equal(frozen, f([0.7]))
    if isinstance(optimizer, BOREP):
        # y follows the sum of all x: the frozen one is a constant of the problem
        twin = start()
        problem = BilevelProblem(
            lambda x, y, b: upper({**x, "more": f([0.7])}, y, b),
            lambda x, y, b: lower({**x, "more": f([0.7])}, y, b),
            {"x": twin},
            {"y": f([0.0])},
        )
        alone = BOREP(problem, 0.1, lower_lr=0.2, z_lr=0.2)
    run(alone, 3)
    torch.testing.assert_close(ends(optimizer)[0], ends(alone)[0], rtol=1e-6, atol=1e-9)


def test_the_first_may_be_frozen_and_thawed() -> None:
    first, second = nn.Parameter(f([3.0]), requires_grad=False), nn.Parameter(f([2.0]))
    optimizer = GradNormSmooth([first, second])
    run(optimizer, 20)
    torch.testing.assert_close(second.detach(), f([1.0]))
    assert float(first) == 3
    first.requires_grad_(True)
    run(optimizer, 20)
    torch.testing.assert_close(first.detach(), f([1.0]))


def test_all_frozen_is_an_error() -> None:
    p = nn.Parameter(f([1.0]), requires_grad=False)
    with pytest.raises(ValueError, match="asks for a gradient"):
        GradNormSmooth([p]).step(lambda: p.sum())
    with pytest.raises(ValueError, match="frozen"):
        borep(p).step()


# --- schedulers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MAKERS)
def test_a_scheduler_of_rate_one_changes_nothing_and_another_does(name: str) -> None:
    results = []
    for gamma in (None, 1.0, 0.5):
        optimizer = MAKERS[name](start())
        schedule = None if gamma is None else lr_scheduler.StepLR(optimizer, 1, gamma)
        for _ in range(5):
            run(optimizer, 1)
            if schedule is not None:
                schedule.step()
        results.append(ends(optimizer)[0])
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


@pytest.mark.parametrize(
    "settings",
    [
        {"rule": "strongly_convex", "strong_convexity": 2.0, "hint": "zero"},
        {"rule": "constant", "lr": 0.5, "hint": "zero"},
    ],
)
def test_a_scheduled_factor_by_hand(settings: dict[str, Any]) -> None:
    """Gradient descent with eta_t = 2 / (2 t), or 1/2, times the factor of the round."""
    p = nn.Parameter(f([3.0]))
    optimizer = OptimisticMirrorDescent([p], **settings)
    schedule = lr_scheduler.LambdaLR(optimizer, lambda t: 1 / (1 + t))
    x, factors = 3.0, [1.0]
    for t in range(1, 6):
        rate = factors[t - 1] * (0.5 if settings["rule"] == "constant" else 1 / t)
        factors.append(1 / t)  # set at the end of the round before
        x -= rate * 0.3 * x
        optimizer.zero_grad()
        (0.15 * p.square()).sum().backward()
        optimizer.step()
        schedule.step()
        assert float(p.detach()) == pytest.approx(x, rel=1e-12)


def test_a_factor_that_vanishes_stops_the_weights_of_experts() -> None:
    """They stay where they are, and do not return to where they began."""
    w = nn.Parameter(torch.full((3,), 1 / 3, dtype=torch.float64))
    optimizer = OptimisticMirrorDescent(
        [w], geometry="entropy", domain=Simplex(), rule="constant", lr=1.0, hint="zero"
    )
    losses, expected = f([0.0, 1.0, 2.0]), torch.full((3,), 1 / 3, dtype=torch.float64)
    for rate in (1.0, 0.5, 0.0, 0.0):
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        (w @ losses).backward()
        optimizer.step()
    expected = (-(1.0 + 1.0 + 0.5) * losses).softmax(0)
    torch.testing.assert_close(w.detach(), expected)


def test_a_share_of_the_newton_step() -> None:
    """Half of the step ends half way."""
    whole, half = nn.Parameter(f([3.0, -1.0])), nn.Parameter(f([3.0, -1.0]))
    run(GradNormSmooth([whole]), 1)
    run(GradNormSmooth([half], lr=0.5), 1)
    torch.testing.assert_close(half.detach(), (f([3.0, -1.0]) + whole.detach()) / 2)
    with pytest.raises(ValueError, match="lr"):
        GradNormSmooth([half], lr=-1.0)


# --- states ---------------------------------------------------------------------------------------


def descended(w: Tensor, optimizer: Any, steps: int) -> None:
    x = torch.linspace(-1, 2, 48).reshape(6, 8)
    for _ in range(steps):
        optimizer.zero_grad()
        ((x.to(w.dtype) @ w) - 1).float().square().mean().backward()
        optimizer.step()


NARROW: dict[str, Callable[[list[Tensor]], Any]] = {
    "AdamW": lambda p: torch.optim.AdamW(p, 1e-2),
    "AdamP": lambda p: AdamP(p, 1e-2),
    "AdamP, one by one": lambda p: AdamP(p, 1e-2, foreach=False, nesterov=True),
    "SGDP": lambda p: SGDP(p, 1e-2, momentum=0.9),
    "ExponentiatedSGD": lambda p: ExponentiatedSGD(p, 1e-2, momentum=0.9, clip_exponent=1e-3),
    "mirror": lambda p: OptimisticMirrorDescent(p, domain=Ball(9.0), grad_bound="max"),
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("name", NARROW)
def test_a_run_resumes_bit_by_bit(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    w = nn.Parameter(torch.randn(8, 8).to(dtype))
    optimizer = NARROW[name]([w])
    descended(w, optimizer, 5)
    stored = io.BytesIO()
    torch.save(optimizer.state_dict(), stored)
    stored.seek(0)
    v = nn.Parameter(w.detach().clone())
    again = NARROW[name]([v])
    with torch.no_grad():
        v.copy_(w)
    again.load_state_dict(torch.load(stored))
    descended(w, optimizer, 10)
    descended(v, again, 10)
    assert torch.equal(w, v)
    for key, one in optimizer.state[w].items():
        other = again.state[v][key]
        same = torch.equal(one, other) if isinstance(one, Tensor) else one == other
        assert same and getattr(one, "dtype", None) == getattr(other, "dtype", None), key


def test_a_loaded_state_is_no_view_of_the_saved_one() -> None:
    w, v = nn.Parameter(torch.ones(8, 8)), nn.Parameter(torch.ones(8, 8))
    first, second = AdamP([w]), AdamP([v])
    descended(w, first, 2)
    saved = first.state_dict()
    second.load_state_dict(saved)
    before = saved["state"][0]["exp_avg"].clone()
    descended(v, second, 2)
    assert torch.equal(saved["state"][0]["exp_avg"], before)


def test_levels_of_two_precisions() -> None:
    """y is kept in float64 under an x in float32."""
    x, v = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    made = [
        BOREP(BilevelProblem(upper, lower, {"x": p}, {"y": f([0.1])}), 0.1, lower_lr=0.2, z_lr=0.2)
        for p in (x, v)
    ]
    run(made[0], 5)
    with torch.no_grad():
        v.copy_(x)
    made[1].load_state_dict(made[0].state_dict())
    for one in made:
        run(one, 5)
    assert torch.equal(made[0].y["y"], made[1].y["y"]) and torch.equal(x, v)


@pytest.mark.parametrize("rule", ["constant", "convex"])
def test_states_whose_gradients_were_not_scaled_yet(rule: str) -> None:
    """They held the plain sum of gradients, and of the constant rule the step as it was given."""

    def begun() -> tuple[Tensor, OptimisticMirrorDescent]:
        w = nn.Parameter(torch.full((3,), 1 / 3, dtype=torch.float64))
        about: dict[str, Any] = {"lr": 0.25} if rule == "constant" else {"grad_bound": 10.0}
        settings = {"geometry": "entropy", "domain": Simplex(), "rule": rule, **about}
        return w, OptimisticMirrorDescent([w], **settings)

    w, optimizer = begun()
    run(optimizer, 4)
    saved = copy.deepcopy(optimizer.state_dict())
    (state,) = saved["state"].values()
    factor = state.pop("factor")
    if rule == "constant":
        state["total"], state["eta"] = state["total"] / factor, factor
    else:
        saved["param_groups"][0]["lr"] = None
    v, again = begun()
    with torch.no_grad():
        v.copy_(w)
    again.load_state_dict(saved)
    run(optimizer, 4)
    run(again, 4)
    torch.testing.assert_close(v, w, rtol=1e-12, atol=0)


OTHER: dict[str, Any] = {
    "weight_decay": 0, "nesterov": False, "delta": 0.1, "wd_ratio": 0.1, "eps": 1e-8,
    "params": [0],
}  # fmt: skip
ADAM = {**OTHER, "lr": 1e-3, "betas": (0.9, 0.999)}
SGD = {**OTHER, "lr": 0.1, "momentum": 0.9, "dampening": 0}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_states_of_the_adamp_package(dtype: torch.dtype) -> None:
    """By its formulas; gradients along the weight are not projected.  It keeps the moments of
    parameters in bfloat16 in bfloat16."""
    w = nn.Parameter(torch.full((2, 3), 100.0))
    adam = AdamP([w])
    moments = {"exp_avg": torch.zeros(2, 3, dtype=dtype), "exp_avg_sq": torch.ones(2, 3).to(dtype)}
    adam.load_state_dict({"state": {0: {"step": 7, **moments}}, "param_groups": [ADAM]})
    w.grad = torch.ones(2, 3)
    adam.step()
    moved = 1e-3 / (1 - 0.9**8) * 0.1 / (1 / (1 - 0.999**8) ** 0.5 + 1e-8)
    torch.testing.assert_close(w.detach(), torch.full((2, 3), 100 - moved), rtol=1e-7, atol=0)
    v = nn.Parameter(torch.ones(2, 3))
    sgd = SGDP([v], 7.0)
    momentum = torch.full((2, 3), 0.5).to(dtype)
    sgd.load_state_dict({"state": {0: {"momentum": momentum}}, "param_groups": [SGD]})
    v.grad = torch.ones(2, 3)
    sgd.step()
    torch.testing.assert_close(v.detach(), torch.full((2, 3), 1 - 0.1 * (0.9 * 0.5 + 1)))
    assert sgd.param_groups[0]["projection"] == "auto"


def test_moments_of_the_package_for_narrow_parameters() -> None:
    w = nn.Parameter(torch.ones(2, 3).bfloat16())
    optimizer = AdamP([w])
    moments = {name: torch.ones(2, 3).bfloat16() for name in ("exp_avg", "exp_avg_sq")}
    optimizer.load_state_dict({"state": {0: {"step": 7, **moments}}, "param_groups": [ADAM]})
    w.grad = torch.ones(2, 3).bfloat16()
    optimizer.step()
    assert optimizer.state[w]["exp_avg"].dtype == torch.float32
