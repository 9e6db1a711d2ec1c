"""What would bias an objective in silence is refused, or made right: each with a sibling.

Random numbers that the effects do not see before a choice that forks; anonymous draws there;
proposals that do not reach all values; path values that are detached; guides under a scale.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pytest
import torch
from support.variational import close, f
from torch import Tensor

from pushforward import dist, draw, observe, plate, program, sample
from pushforward.errors import GuideError, ObjectiveError, SmoothnessError, StrategyError
from pushforward.inference.vi import (
    Amortised,
    Captured,
    FullRank,
    MeanField,
    Structured,
    elbo,
    enum,
    importance,
    iwelbo,
    leave_one_out,
    mvd,
    objective,
    over,
    reinforce,
    renyi,
    reparam,
    sample_trace,
)
from pushforward.inference.vi.gradients import replay
from pushforward.semantics import denote

FORKS: dict[str, Callable[[Any], Any]] = {
    "enum": enum,
    "mvd": mvd,
    "leave one out": lambda d: leave_one_out(d, 2),
    "importance": lambda d: importance(d, dist.Bernoulli(torch.tensor(0.5))),
}


@pytest.fixture(autouse=True)
def _double(double: None) -> None:
    """All of this is in float64."""


def flipped(strategy: Callable[[Any], Any], a: Tensor, noise: Callable[[], Tensor]) -> Any:
    """k ~ Bernoulli(sigmoid(a h)), of cost k h, h from {0, 2}: E = sigmoid(2 a)."""

    def guide() -> Tensor:
        h = noise()
        return sample("k", strategy(dist.Bernoulli(logits=a * h))) * h

    return objective(lambda: sample_trace(guide).value)()


OUTSIDE: dict[str, Callable[[], Tensor]] = {
    "dropout": lambda: torch.nn.functional.dropout(torch.ones(1), 0.5)[0],
    "torch.rand": lambda: 2 * (torch.rand(()) > 0.5).double(),
}


@pytest.mark.parametrize("noise", OUTSIDE)
@pytest.mark.parametrize("strategy", FORKS)
def test_unseen_noise_before_a_fork_is_refused(strategy: str, noise: str) -> None:
    a = torch.nn.Parameter(f(1.0))
    built = flipped(FORKS[strategy], a, OUTSIDE[noise])
    with pytest.raises(ObjectiveError, match=r"drawn outside the effects.*'k'"):
        built.surrogate()
    with pytest.raises(ObjectiveError, match="drawn outside the effects"):
        Captured(built, [a], 1, compiled=False)


def test_unseen_noise_is_no_matter_without_a_fork() -> None:
    """One run, whose noise is integrated with the rest."""
    a = torch.nn.Parameter(f(1.0))
    built = flipped(reinforce, a, OUTSIDE["dropout"])
    torch.manual_seed(0)
    values = torch.stack([built.surrogate().detach() for _ in range(2000)])
    assert abs(float(values.mean()) - 0.8808) < 4.5 * 1.0 / 2000**0.5  # level 1e-5, sd below 1


def test_what_is_drawn_by_the_effects_is_replayed() -> None:
    a = torch.nn.Parameter(f(1.0))
    at = f(1.0)
    for strategy in (*FORKS.values(), reinforce):
        built = flipped(strategy, a, lambda: 2 * draw(dist.Bernoulli(f(0.5))))

        def estimate(_: Tensor, built: Any = built) -> Tensor:
            surrogate = built.surrogate()
            (slope,) = torch.autograd.grad(surrogate, a, allow_unused=True)
            slope = torch.zeros(()) if slope is None else slope
            return torch.stack([surrogate.detach(), slope])

        s = (2 * at).sigmoid()
        exact = torch.stack([s, 2 * s * (1 - s)])
        close(denote(program(estimate), at).expect(lambda v: v), exact)


def test_noise_that_is_made_anew_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: draws that no run takes for its choices."""
    monkeypatch.setattr(replay, "is_draw", lambda msg: False)
    a = torch.nn.Parameter(f(1.0))

    def cost() -> Tensor:
        h = 2 * draw(dist.Bernoulli(f(0.5)))
        return sample_trace(lambda: sample("k", enum(dist.Bernoulli(logits=a * h)))).value * h

    with pytest.raises(ObjectiveError, match="outside the effects"):
        objective(cost)().surrogate()


@pytest.mark.parametrize(
    ("law", "proposal", "fits"),
    [
        (dist.Normal(0.3, 1.0), dist.Uniform(0.0, 1.0), False),
        (dist.Normal(0.3, 1.0), dist.HalfNormal(1.0), False),
        (dist.Poisson(torch.tensor(1.5)), dist.Bernoulli(0.5), False),
        (dist.Gamma(2.0, 1.0), dist.Normal(0.0, 2.0), True),
        (dist.Bernoulli(0.5), dist.Categorical(torch.ones(2)), True),
    ],
)
def test_a_proposal_reaches_all_values(law: Any, proposal: Any, fits: bool) -> None:
    built = objective(lambda: sample_trace(lambda: sample("x", importance(law, proposal))).value)()
    if fits:
        built.check()
        built.surrogate()
        return
    for act in (built.check, built.surrogate):
        with pytest.raises(StrategyError, match=r"does not reach all of its values.*site 'x'"):
            act()


@pytest.mark.parametrize("use", ["law", "score", "value"])
def test_a_detached_path_is_refused(use: str) -> None:
    t = torch.nn.Parameter(f(0.3))

    def cost(cut: bool) -> Tensor:
        x = sample_trace(lambda: sample("x", reparam(dist.Normal(t, 1.0)))).value
        y = x.detach() if cut else x
        if use == "law":
            return sample_trace(lambda: sample("b", enum(dist.Bernoulli(logits=y)))).value
        return y if use == "value" else dist.Normal(0.0, 1.0).log_prob(y)

    objective(lambda: cost(False))().check()
    with pytest.raises(SmoothnessError, match=r"detach at .*does not see that"):
        objective(lambda: cost(True))().check()


@pytest.mark.parametrize("bound", [iwelbo, lambda p, q, n: renyi(p, q, 0.5, n)])
def test_a_mean_of_weights_is_no_jump(bound: Any) -> None:
    """That all particles may be impossible is no cut of the path; a comparison of one's own is."""
    t = torch.nn.Parameter(f(0.3))

    def model(cut: bool) -> None:
        x = sample("x", dist.Normal(f(0.0), 1.0))
        observe("y", dist.Normal(torch.where(x > 0, 1.0, -1.0) if cut else x, 1.0), f(0.5))

    def guide() -> None:
        sample("x", reparam(dist.Normal(t, 1.0)))

    bound(lambda: model(False), guide, 3).check()
    with pytest.raises(SmoothnessError, match="jumps as 'x' moves"):
        bound(lambda: model(True), guide, 3).check()


Y = f([1.0, -2.0, 3.0, 0.5, 0.0, 2.0])


def part(y: Tensor, rows: Tensor) -> None:
    with plate("n", 6, subsample=rows) as r:
        t = sample("t", dist.Normal(0.0, 1.0))
        observe("y", dist.Normal(t, 1.0), y[r])


def scaled(y: Tensor, rows: Tensor) -> None:
    with pyro.poutine.scale(scale=3.0):
        t = sample("t", dist.Normal(0.0, 1.0))
    observe("y", dist.Normal(t, 1.0), y[0])


@pytest.mark.parametrize("kind", [MeanField, FullRank, Structured])
def test_guides_of_scaled_latents_are_refused(kind: Any) -> None:
    with pytest.raises(GuideError, match="use Amortised"):
        kind(part, Y, torch.tensor([0, 2]))
    with pytest.raises(GuideError, match="the latent is scaled"):
        kind(scaled, Y, torch.tensor([0, 2]))


def test_an_amortised_guide_takes_the_rows_that_are_given() -> None:
    """At the exact posterior q(t_i) = N(y_i / 2, 1/2) the bound has no noise: by hand."""

    class Exact(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raw = torch.full_like(x, torch.log(torch.expm1(f(0.5) ** 0.5)).item())
            return torch.cat([x / 2, raw], -1)

    rows = torch.tensor([0, 2])
    pick = lambda y, i: y[i][:, None]  # noqa: E731
    guide = Amortised(part, Y, rows, network=Exact(), plate="n", inputs=pick)
    bound = elbo(part, guide)
    exact = 3 * dist.Normal(0.0, 2.0**0.5).log_prob(Y[rows]).sum()
    for seed in range(3):
        torch.manual_seed(seed)
        close(bound.surrogate(Y, rows).detach(), exact)
    wrong = Amortised(part, Y, rows, network=Exact(), plate="n", inputs=lambda y, i: y[:, None])
    with pytest.raises(GuideError, match="rows of the batch"):
        wrong(Y, rows)


def test_the_rest_of_an_amortised_guide_need_not_return_anything() -> None:
    def model(y: Tensor) -> None:
        mu = sample("mu", dist.Normal(0.0, 5.0))
        with plate("n", 6, subsample_size=2) as i:
            t = sample("theta", dist.Normal(mu, 1.0))
            observe("y", dist.Normal(t, 1.0), y[i])

    class Rest(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.m = torch.nn.Parameter(torch.zeros(()))

        def forward(self, y: Tensor) -> None:
            sample("mu", reparam(dist.Normal(self.m, 1.0)))

    network = torch.nn.Linear(1, 2)
    pick = lambda y: y[:, None]  # noqa: E731
    guide = Amortised(model, Y, network=network, plate="n", inputs=pick, rest=Rest())
    elbo(model, guide).check(Y)
    assert bool(elbo(model, guide).surrogate(Y).isfinite())


def test_no_more_rows_than_there_are() -> None:
    built = objective(lambda: over(lambda y: -(y**2), Y, size=3))()
    with pytest.raises(ObjectiveError, match="6 rows of a data set of 3"):
        built.surrogate()
