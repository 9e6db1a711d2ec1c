"""The objectives of the library, against their formulas summed over all outcomes."""

from __future__ import annotations

import gc
import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.variational import (
    BACK_ENDS,
    FLIP,
    JOINT,
    LOGITS,
    SEEN,
    STRATEGIES,
    Y,
    chain_of_flips,
    close,
    f,
    guided,
    moments,
    replayed,
    slopes,
    three,
    value_of,
)
from torch import Tensor

from pushforward import cond, dist, factor, observe, plate, sample
from pushforward.inference.vi import (
    annealed,
    cubo,
    elbo,
    enum,
    f_divergence,
    filtered,
    fivo,
    forward_kl,
    log_density,
    mvd,
    normalize,
    objective,
    over,
    reinforce,
    renyi,
    reparam,
    reweighted_wake_sleep,
    sample_trace,
    sleep_phi,
    summed_elbo,
    symmetric_kl,
    wake_theta,
)
from pushforward.inference.vi.captured import Captured, Replayed
from pushforward.inference.vi.summed import KNOWN
from pushforward.semantics import check, denote

AT = f(LOGITS)
POSTERIOR = JOINT / JOINT.sum()


@pytest.fixture(autouse=True)
def _double(double: None) -> None:
    """All of this is in float64."""


@pytest.fixture(params=BACK_ENDS.values(), ids=BACK_ENDS)
def back_end(request: pytest.FixtureRequest) -> Any:
    return request.param


def pairs(n: int) -> Tensor:
    """All values of n choices of three."""
    return torch.cartesian_prod(*[torch.arange(3)] * n).reshape(-1, n)


def log_w(logits: Tensor) -> Tensor:
    return JOINT.log() - logits.log_softmax(0)


def exact_renyi(alpha: float) -> Callable[[Tensor], Tensor]:
    def bound(logits: Tensor) -> Tensor:
        index, q = pairs(2), logits.softmax(0)
        terms = (1 - alpha) * log_w(logits)[index]
        return (q[index].prod(1) * (terms.logsumexp(1) - math.log(2))).sum() / (1 - alpha)

    return bound


def exact_elbo(logits: Tensor) -> Tensor:
    return (logits.softmax(0) * log_w(logits)).sum()


def resampled(n: int, proposal: Tensor) -> Tensor:
    """The law [3] of one of n proposals, chosen by weight."""
    index = pairs(n)
    weights = (JOINT / proposal)[index]
    chosen = proposal[index].prod(1, keepdim=True) * weights / weights.sum(1, keepdim=True)
    return torch.stack([(chosen * (index == z)).sum() for z in range(3)])


PROPOSAL = f([0.2, 0.5, 0.3])


def proposal() -> None:
    sample("z", dist.Categorical(PROPOSAL))


CASES: dict[str, tuple[Callable[[Any], Any], Callable[[Tensor], Tensor]]] = {
    "renyi 0.5": (lambda q: renyi(three, q, 0.5, 2), exact_renyi(0.5)),
    "renyi 0": (lambda q: renyi(three, q, 0.0, 2), exact_renyi(0.0)),
    "renyi 1": (lambda q: renyi(three, q, 1.0, 2), exact_elbo),
    "cubo": (
        lambda q: cubo(three, q, 2.0, -0.9),
        lambda t: -(t.softmax(0) * ((log_w(t) + 0.9) * 2).exp()).sum(),
    ),
    "forward KL": (
        lambda q: forward_kl(three, q, proposal, 2),
        lambda t: (resampled(2, PROPOSAL) * -log_w(t)).sum(),
    ),
    "symmetric KL": (
        lambda q: symmetric_kl(three, q, proposal, 2),
        lambda t: exact_elbo(t) + (resampled(2, PROPOSAL) * -log_w(t)).sum(),
    ),
    "chi squared": (
        lambda q: f_divergence(three, q, lambda log_t: (log_t.exp() - 1) ** 2),
        lambda t: -(t.softmax(0) * (log_w(t).exp() - 1) ** 2).sum(),
    ),
    "total variation": (
        lambda q: f_divergence(three, q, lambda log_t: (log_t.exp() - 1).abs() / 2),
        lambda t: -(t.softmax(0) - JOINT).abs().sum() / 2,
    ),
}


@pytest.mark.parametrize(
    ("name", "strategy"),
    [
        pytest.param(name, strategy, id=f"{name}, {kind}")
        for name in CASES
        for kind, strategy in STRATEGIES.items()
        if kind == "reinforce" or name != "symmetric KL"  # whose noise would multiply by forks
    ],
)
def test_objectives_and_their_gradients(name: str, strategy: Any, back_end: Any) -> None:
    make, exact = CASES[name]
    build = guided(make, strategy)
    build(AT.clone().requires_grad_()).check()
    check.unbiased(back_end(build, AT), exact, AT, tolerance=1e-10).require()


def test_another_exponent_is_rejected() -> None:
    build = guided(lambda q: renyi(three, q, 0.4, 2), reinforce)
    assert check.unbiased(replayed(build, AT), exact_renyi(0.5), AT).verdict == "fail"


# ----------------------------------------------------------------------------------- wake and sleep


def weighted_model(theta: Tensor) -> Callable[[], None]:
    """A model with a parameter: p(z) = softmax(theta), times fixed likelihoods."""

    def model() -> None:
        z = sample("z", dist.Categorical(logits=theta))
        factor("data", f([0.3, 0.6, 0.2])[z].log())

    return model


def test_wake_theta(back_end: Any) -> None:
    """The gradient of log p(z) at what is chosen by weight, which moves with nothing."""
    start = f([0.3, 0.1, -0.2])
    joint = start.softmax(0) * f([0.3, 0.6, 0.2])
    index = pairs(2)
    weights = (joint / PROPOSAL)[index]
    chosen = PROPOSAL[index].prod(1, keepdim=True) * weights / weights.sum(1, keepdim=True)
    law = torch.stack([(chosen * (index == z)).sum() for z in range(3)])

    def exact(theta: Tensor) -> Tensor:
        return (law * (theta.log_softmax(0) + f([0.3, 0.6, 0.2]).log())).sum()

    build = lambda theta: wake_theta(weighted_model(theta), proposal, 2)  # noqa: E731
    check.unbiased(back_end(build, start), exact, start, tolerance=1e-10).require()


def test_sleep_phi(back_end: Any) -> None:
    """E[log q(z | x)] over a model of z and x."""
    chances = f([0.2, 0.9, 0.5])

    def model() -> None:
        z = sample("z", dist.Categorical(POSTERIOR))
        sample("x", dist.Bernoulli(chances[z]))

    def build(t: Tensor) -> Any:
        def guide(x: Tensor) -> None:
            sample("z", reinforce(dist.Categorical(logits=t.reshape(2, 3)[x.long()])))

        return sleep_phi(model, guide, ("x",))

    def exact(t: Tensor) -> Tensor:
        log_q = t.reshape(2, 3).log_softmax(1)
        return (POSTERIOR * (chances * log_q[1] + (1 - chances) * log_q[0])).sum()

    at = f([0.1, 0.2, 0.3, -0.4, 0.5, 0.0])
    check.unbiased(back_end(build, at), exact, at, tolerance=1e-10).require()


def test_reweighted_wake_sleep(back_end: Any) -> None:
    """The sum of both, by self-normalised weights at parameters that are held."""
    law = resampled(2, AT.softmax(0))

    def exact(t: Tensor) -> Tensor:
        return (law * (JOINT.log() + t.log_softmax(0))).sum()

    build = guided(lambda q: reweighted_wake_sleep(three, q, 2), reinforce)
    check.unbiased(back_end(build, AT), exact, AT, tolerance=1e-10).require()


# --------------------------------------------------------------------------------- particle filters


def filter_of(theta: Tensor, ancestors: Any = reinforce) -> Any:
    return fivo(*chain_of_flips(theta), 2, Y, ancestors=ancestors)


def exact_filter(theta: Tensor) -> Tensor:
    """Over all states, ancestors and states of two particles in two steps."""
    total = torch.zeros((), dtype=torch.float64)
    for x, a, z in itertools.product(*[list(itertools.product((0, 1), repeat=2))] * 3):
        q = [theta[t].sigmoid() for t in range(2)]
        first = torch.stack([SEEN[i, Y[0]] * 0.5 / (q[0] if i else 1 - q[0]) for i in x])
        before = [FLIP[x[j]] if z[k] else 1 - FLIP[x[j]] for k, j in enumerate(a)]
        second = torch.stack(
            [SEEN[i, Y[1]] * p / (q[1] if i else 1 - q[1]) for i, p in zip(z, before, strict=True)]
        )
        chance = torch.stack([q[0] if i else 1 - q[0] for i in x]).prod()
        chance = chance * (first / first.sum())[list(a)].prod()
        chance = chance * torch.stack([q[1] if i else 1 - q[1] for i in z]).prod()
        total = total + chance * (first.mean().log() + second.mean().log())
    return total


def test_a_particle_filter_with_the_scores_of_its_ancestors(back_end: Any) -> None:
    at = f([0.4, -0.3])
    filter_of(at.clone().requires_grad_()).check()
    check.unbiased(back_end(filter_of, at), exact_filter, at, tolerance=1e-10).require()


def test_without_the_scores_of_the_ancestors_it_is_rejected() -> None:
    def held(theta: Tensor) -> Any:
        return filter_of(theta, lambda law: dist.Categorical(logits=law.logits.detach()))

    at = f([0.4, -0.3])
    report = check.unbiased(replayed(held, at), exact_filter, at)
    assert report.verdict == "fail" and "gradient" in report.counterexample


# ---------------------------------------------------------------------------------------- annealing


def test_branches_of_a_guide(back_end: Any) -> None:
    """In a graph both branches draw, and the one that is not taken scores nothing."""

    def model() -> None:
        b = sample("b", dist.Bernoulli(f(0.4)))
        one = lambda: sample("x", dist.Categorical(f([0.3, 0.7])))  # noqa: E731
        other = lambda: sample("z", dist.Categorical(f([0.5, 0.2, 0.3])))  # noqa: E731
        k = cond(b == 1, one, other)()
        factor("y", f([0.1, -0.4, 0.8])[k])

    def build(strategy: Any) -> Any:
        def make(t: Tensor) -> Any:
            def guide() -> None:
                b = sample("b", strategy(dist.Bernoulli(t[0].sigmoid())))
                one = lambda: sample("x", strategy(dist.Categorical(logits=t[1:3])))  # noqa: E731
                other = lambda: sample("z", strategy(dist.Categorical(logits=t[2:])))  # noqa: E731
                cond(b == 1, one, other)()

            return elbo(model, guide)

        return make

    def exact(t: Tensor) -> Tensor:
        b, x, z = t[0].sigmoid(), t[1:3].softmax(0), t[2:].softmax(0)
        y = f([0.1, -0.4, 0.8])
        one = (x * (f([0.3, 0.7]).log() + y[:2] - x.log())).sum() + math.log(0.4) - b.log()
        none = (z * (f([0.5, 0.2, 0.3]).log() + y - z.log())).sum()
        return b * one + (1 - b) * (none + math.log(0.6) - (1 - b).log())

    at = f([0.3, 0.1, -0.2, 0.5, 0.4])
    for strategy in (reinforce, mvd):
        made = build(strategy)
        made(at.clone().requires_grad_()).check()
        check.unbiased(back_end(made, at), exact, at, tolerance=1e-10).require()


def test_the_path_of_a_filter_has_its_density() -> None:
    """E[density(x)] is the chance of x, for each path x; and E[1 / density] counts the paths."""
    law = filtered(*chain_of_flips(f([0.4, -0.3])), 2, Y)

    @objective
    def chosen(x: tuple[int, int]) -> Tensor:
        at = sample_trace(law).choices
        return torch.where((at["x[0]"] == x[0]) & (at["x[1]"] == x[1]), 1.0, 0.0)

    @objective
    def density(x: tuple[int, int]) -> Tensor:
        return log_density(law, {f"x[{t}]": f(float(v)) for t, v in enumerate(x)}).exp()

    @objective
    def inverse() -> Tensor:
        return (-sample_trace(law).log_density).exp()

    total = 0.0
    for x in itertools.product((0, 1), repeat=2):
        wanted, found = (float(denote(part.value).expect()) for part in (chosen(x), density(x)))
        assert found == pytest.approx(wanted, abs=1e-10)
        total += wanted
    assert total == pytest.approx(1.0, abs=1e-10)
    assert float(denote(inverse().value).expect()) == pytest.approx(4.0, abs=1e-9)


def test_a_filter_as_a_guide(back_end: Any) -> None:
    """The bound of the law of its paths: its gradient is that of its exact value."""

    def model() -> None:
        state = None
        for t, y in enumerate(Y):
            state = sample(
                f"x[{t}]", dist.Bernoulli(f(0.5) if state is None else FLIP[state.long()])
            )
            factor(f"y[{t}]", SEEN[state.long(), y].log())

    def build(theta: Tensor) -> Any:
        return elbo(model, filtered(*chain_of_flips(theta), 2, Y))

    at = f([0.4, -0.3])
    mean, _ = moments(build, at.tolist(), None, back_end)
    close(mean[1:], slopes(value_of(build), at), 1e-9)


def annealing(theta: Tensor, transform: Callable[[Tensor], Tensor] = lambda x: x) -> Any:
    """One Langevin step from a normal guide of location and scale theta [2]."""

    def model() -> None:
        x = sample("x", dist.Normal(f(0.0), 1.0))
        observe("y", dist.Normal(x, f(0.5)), f(0.8))

    def guide() -> None:
        sample("x", reparam(dist.Normal(theta[0], theta[1])))

    return objective(lambda: transform(annealed(model, guide, (1.0,), 0.05)))()


def test_annealing_has_the_evidence_for_its_mean_weight() -> None:
    at = f([0.5, 0.6])
    evidence = dist.Normal(f(0.0), math.sqrt(1.25)).log_prob(f(0.8)).exp()
    found = value_of(lambda t: annealing(t, torch.exp), 40)(at)
    assert found == pytest.approx(float(evidence), abs=1e-6)
    assert value_of(annealing, 40)(at) < math.log(float(evidence))


@pytest.mark.parametrize("make", ["annealed", "fivo", "wake"])
def test_several_samples_are_lanes(make: str) -> None:
    """What is followed is known behind the walls of lanes too: graph and replay agree."""
    theta = f([0.4, 0.6]).requires_grad_()
    bound = {
        "annealed": lambda: annealing(theta),
        "fivo": lambda: filter_of(theta),
        "wake": lambda: objective(
            lambda: log_density(three, sample_trace(normalize(three, lanes_guide, 2)).choices)
        )(),
    }[make]()

    def lanes_guide() -> None:
        sample("z", reinforce(dist.Categorical(logits=torch.cat([theta, theta[:1]]))))

    graph, replay = Captured(bound, [theta], 3, compiled=False), Replayed(bound, [theta], 3)
    torch.manual_seed(0)
    found = graph()
    torch.manual_seed(0)
    wanted = replay()
    torch.testing.assert_close(found.values, wanted.values)
    assert float(wanted.by[0].abs().max()) > 0


def test_the_gradient_of_annealing() -> None:
    """A quadratic in the noise, so that few nodes are exact."""
    at = f([0.5, 0.6])
    mean, _ = moments(annealing, at.tolist(), 6)
    close(mean[1:], slopes(value_of(annealing, 6), at), 1e-7)


# -------------------------------------------------------------------------------------- elimination


def chain(steps: int, values: int, summed: bool, real: bool = False) -> Any:
    """A hidden Markov model, with a guide whose choices depend on each other in the same way."""
    y = torch.linspace(-1, 1, steps, dtype=torch.float64)
    stay = 0.5 * torch.eye(values, dtype=torch.float64) + 0.5 / values

    def model() -> None:
        shift = sample("shift", dist.Normal(f(0.0), 1.0)) if real else f(0.0)
        z: Any = None
        for t in range(steps):
            z = sample(f"z{t}", dist.Categorical(stay[0] if z is None else stay[z]))
            observe(f"y{t}", dist.Normal(z.to(y.dtype) + shift, 1.0), y[t])

    def build(theta: Tensor) -> Any:
        def guide() -> None:
            shift = sample("shift", reparam(dist.Normal(theta[0], 0.5))) if real else 0.0
            z: Any = None
            for t in range(steps):
                logits = theta[:values] * (t + 1) + shift
                if z is not None:
                    tilt = torch.arange(values, dtype=torch.float64)
                    logits = logits + theta[values : 2 * values][z] * tilt
                z = sample(f"z{t}", enum(dist.Categorical(logits=logits)))

        return (summed_elbo if summed else elbo)(model, guide)

    return build


CHAIN = [0.1, 0.2, -0.3, 0.4, 0.5, -0.2]


@pytest.mark.parametrize("real", [False, True])
def test_elimination_gives_the_enumerated_bound(real: bool, back_end: Any) -> None:
    """With a real choice beside, the two are compared at the nodes of its quadrature."""
    nodes = 5 if real else None
    whole, _ = moments(chain(3, 3, False, real), CHAIN, nodes, replayed)
    mean, _ = moments(chain(3, 3, True, real), CHAIN, nodes, back_end)
    close(mean, whole, 1e-10)


def test_long_chains_are_eliminated_in_few_runs() -> None:
    """3^60 traces; the objective is a number of the same size as by a forward recursion."""
    theta = f(CHAIN).requires_grad_()
    bound = chain(60, 3, True)(theta)
    value = bound.surrogate()
    assert bool(torch.isfinite(value))
    q_first = (theta[:3]).softmax(0)
    stay = 0.5 * torch.eye(3) + 0.5 / 3
    y = torch.linspace(-1, 1, 60)
    total, marginal = torch.zeros(()), q_first
    for t in range(60):
        if t == 0:
            logits, before = theta[:3][None], torch.ones(1)
            prior = stay[:1]
        else:
            tilt = torch.arange(3.0)
            logits = theta[:3] * (t + 1) + theta[3:][:, None] * tilt
            before, prior = marginal, stay
        q = logits.softmax(1)
        cost = prior.log() + dist.Normal(torch.arange(3.0), 1.0).log_prob(y[t]) - q.log()
        total = total + (before[:, None] * q * cost).sum()
        marginal = before @ q
    torch.testing.assert_close(value, total)
    (found,) = torch.autograd.grad(value, theta)
    (exact,) = torch.autograd.grad(total, theta)
    torch.testing.assert_close(found, exact)


def test_methods_are_eliminated_too() -> None:
    """What is known of guide and model belongs to their objects, and goes with them."""

    class Pair(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.logit = torch.nn.Parameter(f(0.3))

        def model(self) -> None:
            z = sample("z", dist.Bernoulli(f(0.4)))
            observe("y", dist.Normal(z, 1.0), f(0.8))

        def guide(self) -> None:
            sample("z", enum(dist.Bernoulli(logits=self.logit)))

    before = len(KNOWN)
    pair = Pair()
    bound = summed_elbo(pair.model, pair.guide)
    graph = Captured(bound, [pair.logit], 1, compiled=False)
    torch.testing.assert_close(graph().values[0], elbo(pair.model, pair.guide).surrogate().detach())
    assert len(KNOWN) == before + 1
    del pair, bound, graph
    gc.collect()
    assert len(KNOWN) == before


def test_plates_are_eliminated_lane_by_lane(back_end: Any) -> None:
    """Twelve independent choices in a plate: 2^12 traces."""
    y = torch.linspace(-1, 1, 12, dtype=torch.float64)

    def model() -> None:
        with plate("n", 12):
            z = sample("z", dist.Bernoulli(f(0.3)))
            observe("y", dist.Normal(z, 1.0), y)

    def build(theta: Tensor) -> Any:
        def guide() -> None:
            with plate("n", 12):
                sample("z", enum(dist.Bernoulli((theta[0] + theta[1] * y).sigmoid())))

        return summed_elbo(model, guide)

    def exact(theta: Tensor) -> Tensor:
        q = (theta[0] + theta[1] * y).sigmoid()
        one = math.log(0.3) + dist.Normal(1.0, 1.0).log_prob(y) - q.log()
        none = math.log(0.7) + dist.Normal(0.0, 1.0).log_prob(y) - (1 - q).log()
        return (q * one + (1 - q) * none).sum()

    at = f([0.2, 0.7])
    check.unbiased(back_end(build, at), exact, at, tolerance=1e-10).require()


# ----------------------------------------------------------------------------------- sums over data


@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
def test_sums_over_data(strategy: Any, back_end: Any) -> None:
    """Two rows of ten: the choice of each weighs its own row only."""
    rows = f([0.5, -1.0])

    def build(theta: Tensor) -> Any:
        def one(row: Tensor) -> Tensor:
            def guide() -> None:
                sample("z", strategy(dist.Bernoulli((theta * row).sigmoid())))

            def model() -> None:
                z = sample("z", dist.Bernoulli(f(0.4)))
                observe("y", dist.Normal(z, 1.0), row)

            return elbo(model, guide)

        return objective(lambda: over(one, rows, size=10))()

    def exact(theta: Tensor) -> Tensor:
        q = (theta * rows).sigmoid()
        one = math.log(0.4) + dist.Normal(1.0, 1.0).log_prob(rows) - q.log()
        none = math.log(0.6) + dist.Normal(0.0, 1.0).log_prob(rows) - (1 - q).log()
        return 5 * (q * one + (1 - q) * none).sum()

    check.unbiased(back_end(build, f(0.7)), exact, f(0.7), tolerance=1e-10).require()


def test_an_exact_evaluation_sees_the_noise_of_graphs() -> None:
    """The graph draws what replay draws, one outcome for each."""
    build = guided(lambda q: elbo(three, q), reinforce)
    found = denote(BACK_ENDS["graph"](build, AT), AT)
    assert len(list(found.items())) == 3
