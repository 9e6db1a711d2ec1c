"""Strategies on distributions: what they survive, where they are legal, and what is refused."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.variational import close, f, mean_of, moments, replayed
from torch import Tensor

from pushforward import condition, dist, observe, plate, sample, vmap
from pushforward.inference.vi import (
    SVI,
    elbo,
    enum,
    exp_of,
    expect,
    fivo,
    gumbel_softmax,
    implicit,
    importance,
    iwelbo,
    leave_one_out,
    log_density,
    mvd,
    normalize,
    objective,
    over,
    reinforce,
    rejection,
    reparam,
    sample_trace,
    straight_through,
    strategic,
    wake_phi,
)
from pushforward.ppl.distributions.pytrees import batch, flatten, rebuild
from pushforward.ppl.distributions.strategies import plain, strategy_of
from pushforward.ppl.errors import (
    BudgetError,
    DataError,
    GuideError,
    ObjectiveError,
    ProgramError,
    PushforwardError,
    SmoothnessError,
    StrategyError,
    SupportError,
)
from pushforward.semantics import check, denote

ALL = (reparam, implicit, reinforce, enum, mvd, rejection, straight_through, gumbel_softmax)


@pytest.fixture(autouse=True)
def _double(double: None) -> None:
    """All of this is in float64."""


# ----------------------------------------------------------------------------------------- wrapping


@pytest.mark.parametrize("strategy", ALL)
def test_a_strategy_changes_nothing_about_the_law(strategy: Any) -> None:
    law = dist.Gamma(f([1.0, 2.0]), f(3.0))
    marked = strategy(law)
    x = f([0.4, 0.9])
    assert isinstance(marked, dist.Gamma)
    assert repr(marked) == repr(law)
    torch.testing.assert_close(marked.log_prob(x), law.log_prob(x))
    assert type(plain(marked)) is dist.Gamma
    assert strategy_of(law) is None
    assert strategy_of(marked) == strategy(law).strategy


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.expand([3, 2]),
        lambda d: d.expand_by([3]),
        lambda d: d.to_event(1),
        lambda d: d.mask(torch.tensor(True)),
        lambda d: d.expand([3, 2]).to_event(1).mask(torch.tensor([True, False, True])),
        copy.copy,
        copy.deepcopy,
        lambda d: pickle.loads(pickle.dumps(d)),
        lambda d: rebuild(flatten(d)[1], flatten(d)[0]),
        lambda d: batch(flatten(d)[1], [x.expand(4, 2) for x in flatten(d)[0]], [0, 0], 4),
    ],
)
def test_a_strategy_survives(change: Callable[[Any], Any]) -> None:
    law = dist.Normal(f([0.1, 0.2]), f([1.0, 2.0]))
    changed = change(reinforce(law, baseline=2.0))
    assert strategy_of(changed) == reinforce(law, baseline=2.0).strategy
    inner = plain(changed)
    assert strategy_of(inner) is None
    assert inner.batch_shape == changed.batch_shape


def test_a_choice_has_one_strategy() -> None:
    for wrap in (enum, reparam, reinforce):
        with pytest.raises(StrategyError, match="goes by reinforce is given the strategy"):
            wrap(reinforce(dist.Bernoulli(f(0.3))).expand([2]))
    assert strategy_of(reinforce(dist.Bernoulli(f(0.3)), 0.5)).baseline == 0.5
    with pytest.raises(StrategyError, match="goes on a distribution, not a float"):
        reparam(0.3)


# ----------------------------------------------------------------------------------------- refusals

PARAMETER = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)


def positive() -> None:
    z = sample("z", dist.Gamma(f(1.0), f(1.0)))
    observe("y", dist.Normal(z, 1.0), f(0.3))


def auxiliary(choice: Callable[[], Tensor], use: Callable[[Tensor], Any]) -> Callable[[], None]:
    """A guide with a choice beside z."""

    def guide() -> None:
        loc = use(choice())
        sample("z", reparam(dist.LogNormal(loc, 1.0)))

    return guide


def beside(law: Callable[[Tensor], Any]) -> Callable[[], Tensor]:
    return lambda: sample("u", law(PARAMETER), infer={"is_auxiliary": True})


def normal(strategy: Any) -> Callable[[], Tensor]:
    return beside(lambda t: strategy(dist.Normal(t, 1.0)))


WRONG: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "mismatched support": (
        lambda: sample("z", reparam(dist.Normal(PARAMETER, 1.0))),
        GuideError,
        "proposes Real where the model wants Positive",
    ),
    "mismatched shape": (
        lambda: sample("z", reparam(dist.LogNormal(PARAMETER, 1.0).expand([3]))),
        GuideError,
        r"shape \[3\] where the model wants \[\]",
    ),
    "another name": (
        lambda: sample("zz", reparam(dist.LogNormal(PARAMETER, 1.0))),
        GuideError,
        "'zz', which the model does not sample",
    ),
    "reinforce under a moving support": (
        lambda: sample("z", reinforce(dist.Uniform(0.0, PARAMETER.exp()))),
        StrategyError,
        "support moves.*legal here: reparam",
    ),
    "leave_one_out under a moving support": (
        lambda: sample("z", leave_one_out(dist.Uniform(0.0, PARAMETER.exp()), 2)),
        StrategyError,
        "support moves",
    ),
    "a missing strategy": (
        lambda: sample("z", dist.LogNormal(PARAMETER, 1.0)),
        StrategyError,
        "no strategy.*legal here: reparam, implicit, reinforce, leave_one_out",
    ),
    "enumeration of an infinite support": (
        auxiliary(beside(lambda t: enum(dist.Poisson(t))), lambda u: u),
        StrategyError,
        "Poisson has no finite support to enumerate.*legal here: reinforce",
    ),
    "a path of a discrete law": (
        auxiliary(beside(lambda t: reparam(dist.Bernoulli(t))), lambda u: u),
        StrategyError,
        "no differentiable path.*legal here: reinforce, leave_one_out, enum, mvd",
    ),
    "differences of a law that has none": (
        auxiliary(beside(lambda t: mvd(dist.Geometric(t))), lambda u: u),
        StrategyError,
        "no measure-valued derivative of Geometric",
    ),
    "rejection of a normal": (
        auxiliary(normal(rejection), lambda u: u),
        StrategyError,
        "no rejection sampler of Normal",
    ),
    "a biased strategy": (
        auxiliary(beside(lambda t: straight_through(dist.Bernoulli(t))), lambda u: u),
        StrategyError,
        r"straight_through is biased.*allowing_bias\(\)",
    ),
    "a comparison of a path": (
        auxiliary(normal(reparam), lambda u: torch.where(u > 0, PARAMETER, -PARAMETER)),
        SmoothnessError,
        "jumps as 'u' moves, by gt",
    ),
    "a branch on a path": (
        auxiliary(normal(reparam), lambda u: PARAMETER if u > 0 else -PARAMETER),
        SmoothnessError,
        "Python looks at a value that is followed",
    ),
    "rounding of a path": (
        auxiliary(normal(reparam), lambda u: u.floor()),
        SmoothnessError,
        "jumps as 'u' moves, by floor",
    ),
    "an index by a path": (
        auxiliary(normal(reparam), lambda u: f([1.0, 2.0])[u.long().clamp(0, 1)]),
        SmoothnessError,
        "jumps as 'u' moves",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_guides_are_refused_before_they_run(name: str) -> None:
    guide, error, text = WRONG[name]
    before = torch.get_rng_state()
    for bound in (elbo(positive, guide), iwelbo(positive, guide, 2)):
        with pytest.raises(error, match=f"(?s){text}"):
            bound.check()
    assert torch.equal(torch.get_rng_state(), before)


RIGHT: dict[str, Callable[[], Any]] = {
    "a path": auxiliary(normal(reparam), lambda u: u.abs()),
    "a comparison of a score": auxiliary(
        normal(reinforce), lambda u: torch.where(u > 0, PARAMETER, -PARAMETER)
    ),
    "a rounded difference": auxiliary(normal(mvd), lambda u: u.floor() * PARAMETER),
    "no strategy where no parameter is": auxiliary(
        lambda: sample("u", dist.Normal(0.0, 1.0), infer={"is_auxiliary": True}),
        lambda u: PARAMETER * u,
    ),
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_guides_pass(name: str) -> None:
    elbo(positive, RIGHT[name]).check()
    assert torch.isfinite(elbo(positive, RIGHT[name]).surrogate())


def test_a_branch_on_a_score_runs_by_replay() -> None:
    guide = auxiliary(normal(reinforce), lambda u: PARAMETER if u > 0 else -PARAMETER)
    assert torch.isfinite(elbo(positive, guide).surrogate())
    assert elbo(positive, guide).surrogates(3).values.shape == (3,)


def test_the_type_of_an_objective() -> None:
    right = elbo(positive, RIGHT["a comparison of a score"])
    assert repr(right.type()) == "E Real {u: reinforce, z: reparam}, all derivatives"
    first = elbo(positive, lambda: sample("z", reparam(dist.Gamma(PARAMETER, 1.0))))
    assert repr(first.type()) == "E Real {z: reparam}, derivatives to order 1"
    biased = elbo(positive, WRONG["a biased strategy"][0])
    assert repr(biased.type()) == (
        "E Real {u: straight_through, z: reparam}, derivatives to order 1, biased at u"
    )


def test_proposals_must_cover_what_they_are_weighed_by() -> None:
    def real() -> None:
        sample("z", dist.Normal(f(0.0), 1.0))

    def half() -> None:
        sample("z", dist.HalfNormal(f(1.0)))

    with pytest.raises(GuideError, match="would never propose"):
        wake_phi(real, half, 3).check()
    wake_phi(real, real, 3).check()


def test_bias_is_allowed_where_it_is_asked_for() -> None:
    guide, _, _ = WRONG["a biased strategy"]
    bound = elbo(positive, guide)
    with pytest.raises(StrategyError, match="biased"):
        bound.surrogate()
    bound.allowing_bias().check()
    assert torch.isfinite(bound.allowing_bias().surrogate())


@pytest.mark.parametrize("strategy", [straight_through, gumbel_softmax])
@pytest.mark.parametrize("law", [dist.Bernoulli, dist.OneHotCategorical])
def test_biased_strategies_give_values_of_the_law(strategy: Any, law: Any) -> None:
    probs = f([0.2, 0.5, 0.3]).requires_grad_()
    torch.manual_seed(0)
    for _ in range(20):

        @objective
        def linear() -> Tensor:
            x = sample_trace(lambda: sample("x", strategy(law(probs)))).choices["x"]
            assert bool(((x == 0) | (x == 1)).all())
            return (f([1.0, -2.0, 0.5]) * x).sum()

        (slope,) = torch.autograd.grad(linear().allowing_bias().surrogate(), probs)
        assert float(slope.abs().max()) > 0


def test_straight_through_is_exact_for_linear_costs_and_biased_for_others() -> None:
    def build(cost: Callable[[Tensor], Tensor]) -> Any:
        law = lambda t: straight_through(dist.Bernoulli(t))  # noqa: E731
        made = mean_of(law, cost)
        return replayed(lambda t: made(t).allowing_bias(), f(0.3))

    check.unbiased(build(lambda x: 3 * x), lambda t: 3 * t, f(0.3)).require()
    report = check.unbiased(build(lambda x: (x - 0.4) ** 2), lambda t: 0.16 + 0.2 * t, f(0.3))
    assert report.verdict == "fail"


# ------------------------------------------------------------------------------------------- orders


@pytest.mark.parametrize(
    ("law", "text"),
    [
        (lambda t: reparam(dist.Gamma(t, 1.0)), "reparam of Gamma has derivatives of order 1"),
        (lambda t: implicit(dist.Beta(t, 1.0)), "implicit of Beta has derivatives of order 1"),
        (lambda t: mvd(dist.Poisson(t)), "mvd of Poisson has derivatives of order 1"),
        (lambda t: mvd(dist.Bernoulli(t.expand(2))), "mvd of Bernoulli has derivatives of order 1"),
    ],
)
def test_a_second_derivative_of_a_first_order_strategy_is_refused(law: Any, text: str) -> None:
    bound = mean_of(law, lambda x: x.sum())(PARAMETER)
    assert torch.isfinite(bound.surrogate())
    with pytest.raises(StrategyError, match=text):
        bound.surrogate(order=2)


def test_a_surrogate_of_order_one_is_differentiated_once() -> None:
    bound = mean_of(lambda t: reinforce(dist.Bernoulli(t)), lambda x: x)(PARAMETER)
    with pytest.raises(ObjectiveError, match="order=2"):
        torch.autograd.grad(bound.surrogate(), PARAMETER, create_graph=True)
    (first,) = torch.autograd.grad(bound.surrogate(order=2), PARAMETER, create_graph=True)
    torch.autograd.grad(first, PARAMETER)


# --------------------------------------------------------------------- weights and other strategies


def test_importance_and_rejection_are_unbiased() -> None:
    proposal = dist.Categorical(f([0.2, 0.3, 0.5]))
    cost = f([1.0, -2.0, 4.0])
    build = mean_of(lambda t: importance(dist.Categorical(logits=t), proposal), lambda z: cost[z])
    exact = lambda t: (t.softmax(0) * cost).sum()  # noqa: E731
    check.unbiased(replayed(build, f([0.1, 0.2, 0.3]), 2), exact, f([0.1, 0.2, 0.3])).require()

    square = mean_of(lambda t: rejection(dist.Gamma(t, f(2.0))), lambda x: x**2)
    report = check.unbiased(
        replayed(square, f(2.5)),
        lambda t: t * (t + 1) / 4,
        f(2.5),
        quadrature=80,
        tolerance=1e-5,  # cube roots are no polynomials
    )
    report.require()
    moving = dist.Categorical(logits=PARAMETER.expand(3))
    with pytest.raises(StrategyError, match="proposal of importance depends on a parameter"):
        mean_of(lambda t: importance(dist.Categorical(logits=t.expand(3)), moving), torch.sum)(
            PARAMETER
        ).surrogate()


def test_control_variates() -> None:
    """A control g(b) = 3 b of mean 3 p: unbiased, and without variance for the cost 3 b."""

    def controlled(mean: Callable[[Tensor], Tensor]) -> Any:
        return mean_of(
            lambda t: reinforce(dist.Bernoulli(t), control=(lambda b: 3 * b, mean(t))),
            lambda b: 3 * b + 1,
        )

    report = check.unbiased(
        replayed(controlled(lambda t: 3 * t), f(0.3), 2), lambda t: 3 * t + 1, f(0.3)
    )
    report.require()
    _, spread = moments(controlled(lambda t: 3 * t - 1), 0.3)
    assert float(spread[1]) > 0.1
    wrong = replayed(controlled(lambda t: 2 * t), f(0.3))
    assert check.unbiased(wrong, lambda t: 3 * t + 1, f(0.3)).verdict == "fail"


# -------------------------------------------------------------------------- arithmetic of estimates


def flip(t: Tensor) -> Tensor:
    return sample_trace(lambda: sample("b", reinforce(dist.Bernoulli(t)))).choices["b"]


@pytest.mark.parametrize(
    ("combine", "exact"),
    [
        (lambda a, b: a + b, lambda t: t + (1 + t) ** 2 / 2),
        (lambda a, b: a * b, lambda t: t * (1 + t) ** 2 / 2),
        (lambda a, b: 2.0 * a - b / 4.0 + 1.0, lambda t: 2 * t - (1 + t) ** 2 / 8 + 1),
        (lambda a, b: torch.tensor(3.0) * a - b, lambda t: 3 * t - (1 + t) ** 2 / 2),
        (lambda a, b: 1.0 - a, lambda t: 1 - t),
    ],
)
def test_sums_and_products_of_estimates(combine: Any, exact: Any) -> None:
    def build(t: Tensor) -> Any:
        @objective
        def loss() -> Any:
            return combine(expect(flip, t), expect(lambda: (1 + t) * (flip(t) + 1) / 2))

        return loss()

    check.unbiased(replayed(build, f(0.3), 2), exact, f(0.3), tolerance=1e-12).require()


@pytest.mark.parametrize(
    "use",
    [
        lambda a: a * a,
        lambda a: a.exp(),
        lambda a: torch.exp(a),
        lambda a: torch.log(a),
        lambda a: a**2,
        lambda a: 1.0 / a if False else a / a,
        lambda a: a if a else 0.0,
        lambda a: torch.where(torch.tensor(True), a, 0.0),
        lambda a: torch.logsumexp(a, 0),
    ],
)
def test_other_functions_of_estimates_are_refused(use: Any) -> None:
    @objective
    def loss() -> Any:
        return use(expect(flip, PARAMETER))

    with pytest.raises(ObjectiveError, match="biased"):
        loss().surrogate()


def test_an_unbiased_exponential() -> None:
    """E[exp_of(flip)] = exp(p): by all counts below 11, beyond which lie 1e-11 of the mass."""

    def build(t: Tensor) -> Any:
        return objective(lambda: exp_of(flip, t, rate=0.5))()

    law = denote(replayed(build, f(0.3)), f(0.3), depth=11)
    close(law.expect(torch.stack), [math.exp(0.3)] * 2, 1e-8)


# ------------------------------------------------------------------------------------------- misuse


def over_rows(*rows: Tensor) -> Any:
    """The sum of the first tensor."""
    return objective(lambda: over(lambda row, *_: row, *rows))()


def test_errors_say_what_is_wrong() -> None:
    def other() -> None:
        sample("w", dist.Normal(f(0.0), 1.0))

    observing = condition(positive, {"z": f(0.5)})
    cases: list[tuple[Callable[[], Any], type[PushforwardError], str]] = [
        (lambda: elbo(positive, positive).surrogate(), ObjectiveError, "scores at 'y'"),
        (lambda: elbo(positive, other).surrogate(), DataError, r"no value for \['z'\]"),
        (lambda: elbo(observing, other).surrogate(), DataError, r"no site \['w'\]"),
        (lambda: sample_trace(other), ObjectiveError, "part of objectives"),
        (lambda: log_density(other, {}), ObjectiveError, "part of objectives"),
        (lambda: objective(lambda: f([1.0, 2.0]))().surrogate(), ObjectiveError, "one number"),
        (lambda: elbo(positive, other)(), ObjectiveError, "SVI maximises it"),
        (lambda: normalize(positive, other, 0), ObjectiveError, "at least one particle"),
        (lambda: leave_one_out(dist.Bernoulli(f(0.5)), 1), StrategyError, "two copies"),
        (lambda: iwelbo(positive, other, 0).surrogate(), ObjectiveError, "at least one particle"),
        (
            lambda: fivo(lambda *_: None, lambda *_: None, 0, [1]).surrogate(),
            ObjectiveError,
            "at least one particle",
        ),
        (
            lambda: fivo(lambda *_: None, lambda *_: None, 2, []).surrogate(),
            ObjectiveError,
            "at least one observation",
        ),
        (lambda: over_rows(f([])).surrogate(), ObjectiveError, "over needs rows.* got 0"),
        (lambda: over_rows(f([1.0]), f([1.0, 2.0])).surrogate(), ObjectiveError, "got 1, 2"),
        (
            lambda: SVI(over_rows(f([1.0])), torch.optim.Adam([PARAMETER]), samples=0).run(),
            ObjectiveError,
            "at least one sample",
        ),
        (
            lambda: elbo(positive, lambda: sample("z", dist.Delta(f(-1.0)))).surrogate(),
            SupportError,
            "outside the support",
        ),
    ]
    for case, error, text in cases:
        with pytest.raises(error, match=text):
            case()


def test_too_many_runs_are_refused() -> None:
    def guide() -> None:
        for i in range(12):
            sample(f"b{i}", enum(dist.Bernoulli(PARAMETER)))

    def model() -> None:
        for i in range(12):
            sample(f"b{i}", dist.Bernoulli(f(0.5)))

    with pytest.raises(BudgetError, match=r"more than 1000 runs .*'b0', 'b1'"):
        elbo(model, guide).budget(1000).surrogate()


def test_hidden_state_is_found() -> None:
    names = iter("abcdefgh")

    def guide() -> None:
        sample(next(names), enum(dist.Bernoulli(PARAMETER)))
        sample("z", enum(dist.Bernoulli(PARAMETER)))

    @objective
    def loss() -> Tensor:
        return sample_trace(guide).choices["z"]

    with pytest.raises(ObjectiveError, match="impure"):
        loss().surrogate()


# --------------------------------------------------------------------------- other programs' guides


def test_lanes_of_a_guide_keep_their_strategies() -> None:
    cost = f([1.0, -2.0])

    def build(strategy: Any) -> Any:
        def lane(t: Tensor) -> Tensor:
            return sample("b", strategy(dist.Bernoulli(t)))

        return lambda theta: objective(
            lambda: (cost * sample_trace(vmap(lane), theta).value).sum() ** 2
        )()

    def exact(t: Tensor) -> Tensor:
        both = torch.cartesian_prod(f([0.0, 1.0]), f([0.0, 1.0]))
        return (torch.where(both == 1, t, 1 - t).prod(1) * (both @ cost) ** 2).sum()

    for strategy in (enum, reinforce, mvd):
        at = f([0.3, 0.6])
        check.unbiased(replayed(build(strategy), at), exact, at, tolerance=1e-12).require()


def test_pyro_guides_get_strategies() -> None:
    import pyro
    from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal

    def model() -> None:
        x = sample("x", dist.Gamma(f(2.0), f(2.0)))
        with plate("n", 3):
            z = sample("z", dist.Normal(x, 1.0))
            observe("y", dist.Normal(z, 1.0), f([0.1, 0.2, 0.3]))

    with pyro.get_param_store().scope():
        for kind in (AutoNormal, AutoMultivariateNormal):
            guide = kind(model)
            guide()
            bound = elbo(model, strategic(guide, reparam))
            bound.check()
            slopes = torch.autograd.grad(bound.surrogate(), list(guide.parameters()))
            assert all(torch.isfinite(s).all() for s in slopes)
            with pytest.raises(ProgramError):
                elbo(model, guide).check()
