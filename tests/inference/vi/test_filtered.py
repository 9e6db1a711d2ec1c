"""Particle filters whose particles are lanes: the law of one by one, the derivatives of all orders.

Expected values come from a sum over all states and ancestors that is written out here.
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.variational import (
    BACK_ENDS,
    FLIP,
    SEEN,
    Y,
    captured,
    chain_of_flips,
    close,
    f,
    moments,
    replayed,
    slopes,
    value_of,
)
from torch import Tensor

from pushforward import dist, factor, observe, plate, sample
from pushforward.errors import ObjectiveError
from pushforward.inference.vi import (
    Captured,
    MovingAverage,
    enum,
    filtered,
    fivo,
    log_density,
    mvd,
    objective,
    reinforce,
    reparam,
    sample_trace,
)
from pushforward.inference.vi.filtered import Step
from pushforward.inference.vi.gradients.replay import Score
from pushforward.semantics import check, denote

AT = f([0.4, -0.3])
module = importlib.import_module("pushforward.inference.vi.filtered")


@pytest.fixture(autouse=True)
def _double(double: None) -> None:
    """All of this is in float64."""


@pytest.fixture(params=BACK_ENDS.values(), ids=BACK_ENDS)
def back_end(request: pytest.FixtureRequest) -> Any:
    return request.param


def exact(n: int) -> Callable[[Tensor], Tensor]:
    """E[log of the estimate] of n particles of the chain of flips in two steps."""

    def bound(theta: Tensor) -> Tensor:
        q = theta.sigmoid()
        own = lambda t, i: q[t] if i else 1 - q[t]  # noqa: E731
        total = torch.zeros(())
        for x, a, z in itertools.product(
            itertools.product((0, 1), repeat=n),
            itertools.product(range(n), repeat=n),
            itertools.product((0, 1), repeat=n),
        ):
            first = torch.stack([SEEN[i, Y[0]] * 0.5 / own(0, i) for i in x])
            chance = torch.stack([own(0, i) for i in x] + [own(1, i) for i in z]).prod()
            chance = chance * (first / first.sum())[list(a)].prod()
            moved = [FLIP[x[j]] if i else 1 - FLIP[x[j]] for i, j in zip(z, a, strict=True)]
            second = torch.stack(
                [SEEN[i, Y[1]] * p / own(1, i) for i, p in zip(z, moved, strict=True)]
            )
            total = total + chance * (first.mean().log() + second.mean().log())
        return total

    return bound


def built(n: int, strategy: Any = reinforce, ancestors: Any = reinforce) -> Any:
    return lambda theta: fivo(*chain_of_flips(theta, strategy), n, Y, ancestors=ancestors)


# ------------------------------------------------------------------------------------------ lanes


def calls(strategy: Any, n: int = 5) -> int:
    """How often the proposal is called in one gradient of two steps."""
    theta, count = AT.clone().requires_grad_(), 0
    step, propose = chain_of_flips(theta, strategy)

    def counted(*args: Any) -> Any:
        nonlocal count
        count += 1
        return propose(*args)

    fivo(step, counted, n, Y).surrogate().backward()
    return count


def test_all_particles_of_a_step_are_one_call() -> None:
    assert calls(reinforce) == 2


def test_a_baseline_is_run_particle_by_particle() -> None:
    """The control: after one try in lanes."""
    assert calls(lambda law: reinforce(law, baseline=MovingAverage())) == 1 + 2 * 5


def test_lanes_have_the_derivative_of_all_states_and_ancestors(back_end: Any) -> None:
    check.unbiased(back_end(built(2), AT), exact(2), AT, tolerance=1e-10).require()


@pytest.mark.slow
def test_three_particles() -> None:
    check.unbiased(replayed(built(3), AT), exact(3), AT, tolerance=1e-10).require()


def test_second_derivatives() -> None:
    law = denote(replayed(built(2), AT, order=2), AT)
    hessian = torch.func.hessian(exact(2))(AT)
    close(law.expect(lambda e: e[2]), hessian, 1e-9)


def test_without_the_scores_of_lanes_it_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    """A seeded fault: what the particles choose is not weighed."""
    before = Score.__init__

    def lost(
        self: Score, site: str, value: Tensor, elements: Tensor, *rest: Any, **more: Any
    ) -> None:
        held = elements.detach() if site.startswith("x[") else elements
        before(self, site, value, held, *rest, **more)

    monkeypatch.setattr(Score, "__init__", lost)
    report = check.unbiased(replayed(built(2), AT), exact(2), AT)
    assert report.verdict == "fail" and "gradient" in report.counterexample


@pytest.mark.slow
@pytest.mark.parametrize("ancestors", [enum, mvd])
def test_strategies_of_ancestors(ancestors: Any) -> None:
    made = replayed(built(2, ancestors=ancestors), AT)
    check.unbiased(made, exact(2), AT, tolerance=1e-10).require()


@pytest.mark.parametrize("strategy", [enum, mvd])
def test_choices_that_fork_are_run_particle_by_particle(strategy: Any) -> None:
    """One step of two particles; the sum over their states."""

    def bound(theta: Tensor) -> Tensor:
        q = torch.stack([1 - theta[0].sigmoid(), theta[0].sigmoid()])
        weights = SEEN[:, Y[0]] * 0.5 / q
        return (q[:, None] * q * ((weights[:, None] + weights) / 2).log()).sum()

    def build(theta: Tensor) -> Any:
        return fivo(*chain_of_flips(theta, strategy), 2, Y[:1])

    check.unbiased(replayed(build, AT), bound, AT, tolerance=1e-10).require()


def controlled(theta: Tensor, wrong: float = 0.0) -> Any:
    """Scores about 3 x, whose mean is known: lanes have a control of their own each."""
    step, _ = chain_of_flips(theta)

    def propose(t: int, state: Any, y: int) -> Tensor:
        p = theta[t].sigmoid()
        law = dist.Bernoulli(p)
        return sample("x", reinforce(law, control=(lambda x: 3.0 * x, (3.0 + wrong) * p)))

    return fivo(step, propose, 2, Y)


def test_controls_of_lanes(back_end: Any) -> None:
    check.unbiased(back_end(controlled, AT), exact(2), AT, tolerance=1e-10).require()


def test_a_control_with_another_mean_is_rejected() -> None:
    report = check.unbiased(replayed(lambda t: controlled(t, 0.1), AT), exact(2), AT)
    assert report.verdict == "fail"


def test_python_may_look_at_a_state() -> None:
    """Then there are no lanes; the law is the same."""

    def build(theta: Tensor) -> Any:
        step, _ = chain_of_flips(theta)

        def propose(t: int, state: Any, y: int) -> Tensor:
            shift = 0.0 if state is None or state > 0.5 else 0.0 * theta[1]
            return sample("x", reinforce(dist.Bernoulli((theta[t] + shift).sigmoid())))

        return fivo(step, propose, 2, Y)

    check.unbiased(replayed(build, AT), exact(2), AT, tolerance=1e-10).require()


# --------------------------------------------------------------------- what is before a choice


def test_scores_do_not_weigh_what_was_before_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same mean, and less variance, as the graph has it."""
    mean, variance = moments(built(2), AT.tolist())
    _, by_graph = moments(built(2), AT.tolist(), None, captured)
    monkeypatch.setattr(module, "_excuse", lambda *_: None)
    same, more = moments(built(2), AT.tolist())
    close(mean, same, 1e-10)
    assert bool((variance[1:] < 0.9 * more[1:]).any())
    close(variance, by_graph, 1e-9)


def test_to_excuse_what_a_choice_moves_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    """A seeded fault: the evidence of the choice's own step."""
    monkeypatch.setattr(
        module, "_excuse", lambda scores, _: [setattr(s, "offset", s.value.sum()) for s in scores]
    )
    report = check.unbiased(replayed(built(2), AT), exact(2), AT)
    assert report.verdict == "fail" and "gradient" in report.counterexample


# --------------------------------------------------------------------------------- several choices


@pytest.mark.slow
def test_paths_of_lanes() -> None:
    """Values that follow theta, and ancestors by their scores: at any nodes of the noise, the mean
    of the derivative is the derivative of the mean."""

    def build(theta: Tensor) -> Any:
        def step(t: int, state: Any, y: Tensor) -> None:
            x = sample("x", dist.Normal(f(0.0) if state is None else 0.9 * state, 1.2))
            observe("y", dist.Normal(x, 0.8), y)

        def propose(t: int, state: Any, y: Tensor) -> Tensor:
            at = f(0.0) if state is None else state
            return sample("x", reparam(dist.Normal(at + 0.5 * y, theta[0].exp())))

        return fivo(step, propose, 2, [f(0.5), f(-1.0)])

    at = f([-0.1])
    mean, _ = moments(build, at.tolist(), 2)
    close(mean[1:], slopes(value_of(build, 2), at), 1e-8)


def test_plates_and_paths_in_lanes() -> None:
    """A step with a plate of finite choices and a real one by its path: one by one has the same
    numbers for the same noise, where there is one particle; and replay and graph agree."""
    theta = f([0.3, -0.2, 0.1]).requires_grad_()

    def step(t: int, state: Any, y: float) -> None:
        with plate("two", 2):
            k = sample("k", dist.Bernoulli(f(0.4)))
        x = sample("x", dist.Normal(k.sum() + (0.0 if state is None else state), 1.0))
        observe("y", dist.Normal(x, 0.5), y)

    def propose(t: int, state: Any, y: float) -> Tensor:
        with plate("two", 2):
            k = sample("k", reinforce(dist.Bernoulli(theta[:2].sigmoid())))
        return sample("x", reparam(dist.Normal(theta[2] + k.sum(), 1.0)))

    bound = fivo(step, propose, 4, [f(0.5), f(1.5), f(-0.2)])
    bound.check()
    graph = Captured(bound, [theta], 2, compiled=False)
    torch.manual_seed(0)
    found = graph()
    torch.manual_seed(0)
    values = bound.surrogates(2).values
    torch.testing.assert_close(found.values, values.detach())
    (wanted,) = torch.autograd.grad(values.mean(), [theta])
    assert float(wanted.abs().max()) > 0 and bool(found.by[0].isfinite().all())


# -------------------------------------------------------------------------------- the law of a path


@pytest.mark.parametrize(
    ("n", "steps"), [(1, 2), (3, 1), pytest.param(3, 2, marks=pytest.mark.slow)]
)
def test_the_path_of_a_filter_has_its_density_in_lanes(n: int, steps: int) -> None:
    """E[density(x)] is the chance of x, for each path x: the others of a kept path are lanes."""
    law = filtered(*chain_of_flips(AT), n, Y[:steps])

    @objective
    def chosen(x: tuple[int, ...]) -> Tensor:
        at = sample_trace(law).choices
        same = torch.stack([at[f"x[{t}]"] == v for t, v in enumerate(x)]).all()
        return torch.where(same, 1.0, 0.0)

    @objective
    def density(x: tuple[int, ...]) -> Tensor:
        return log_density(law, {f"x[{t}]": f(float(v)) for t, v in enumerate(x)}).exp()

    total = 0.0
    for x in itertools.product((0, 1), repeat=steps):
        wanted, found = (float(denote(part.value).expect()) for part in (chosen(x), density(x)))
        assert found == pytest.approx(wanted, abs=1e-10)
        total += wanted
    assert total == pytest.approx(1.0, abs=1e-10)


def test_a_kept_path_that_moves_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    """A seeded fault: the particle that is kept has the choices of a fresh one."""
    monkeypatch.setattr(Step, "kept", lambda at, state, choices: at.moved(state))
    law = filtered(*chain_of_flips(AT), 3, Y[:1])
    total = sum(
        float(
            denote(objective(lambda x=x: log_density(law, {"x[0]": f(x)}).exp())().value).expect()
        )
        for x in (0.0, 1.0)
    )
    assert abs(total - 1.0) > 1e-3


def test_a_filter_says_what_its_state_must_be() -> None:
    def silent(t: int, state: Any, y: int) -> None:
        sample("x", dist.Bernoulli(f(0.5)))

    def step(t: int, state: Any, y: int) -> None:
        factor("y", SEEN[sample("x", dist.Bernoulli(f(0.5))).long(), y].log())

    with pytest.raises(ObjectiveError, match="silent returns no state"):
        fivo(step, silent, 2, Y).value()
