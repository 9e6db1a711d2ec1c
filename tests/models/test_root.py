"""Bridges from low to high values: acceptance checks of arXiv 2509.16300."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from support.sizes import quick
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from pushforward import assess, program, simulate
from pushforward.models import root
from pushforward.models.root import ROOT
from pushforward.models.root.aims import AIMS
from pushforward.models.root.bridge import variance
from pushforward.ppl.errors import NumericalError
from pushforward.semantics import check

pytestmark = pytest.mark.usefixtures("double")


def f(x: Any) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


def close(found: Any, wanted: Any, within: float) -> None:
    torch.testing.assert_close(found, f(wanted), rtol=0, atol=within)


def test_1_schedule() -> None:
    m, delta = of = root.schedule()
    close(m[[0, 499]], [0.001, 0.4995005005], 1e-10)
    close(delta[[0, 499, 998]], [0.001998, 0.4999995010, 0.0039900060], 1e-10)
    close(variance(of, 499, 498), 0.0019940020, 1e-10)
    bent = root.schedule(kind="power").m
    close(bent[[0, -1]], [0.001, 0.999], 1e-12)
    assert float(bent[499]) < 0.1


def test_2_levels() -> None:
    found = root.levels(1000, 200)
    assert len(found) == 200
    assert found[:4] == [999, 993, 988, 983]
    assert found[-4:] == [10, 5, 1, 0]


def test_3_step() -> None:
    """It is the law of x_n given x_t by conditioning of their joint normal law."""
    of = root.schedule(10)
    mean, s2 = root.p_step(of, f(0.2), f(1.0), f(-1.0), 6, 3)
    close(mean, 0.5993996998, 1e-10)
    close(s2, 0.3331659163, 1e-10)
    shared = of.delta[3] * (1 - of.m[6]) / (1 - of.m[3])
    centres = 1 - 2 * of.m  # x0 = 1, x_low = -1
    close(mean, float(centres[3] + shared / of.delta[6] * (0.2 - centres[6])), 1e-12)
    close(s2, float(of.delta[3] - shared**2 / of.delta[6]), 1e-12)


def moments(of: root.Schedule, steps: list[int], fault: float = 1.0) -> list[tuple[Tensor, Tensor]]:
    """Means and variances of the reverse sampler along steps, for x0 = 1 and x_low = -1.

    Each step is linear in x_t with normal noise: its slope and offset are read off at 0 and 1.
    """
    t, x0, x_low = steps[0], f(1.0), f(-1.0)
    mean, spread = root.q_sample(of, x0, x_low, t, f(0.0)), of.delta[t]
    found = []
    for n in steps[1:]:
        offset, s2 = root.p_step(of, f(0.0), x0, x_low, t, n)
        slope = root.p_step(of, f(1.0), x0, x_low, t, n)[0] - offset
        mean, spread, t = slope * mean + offset, slope**2 * spread + fault * s2, n
        found.append((mean, spread))
    return found


@pytest.mark.parametrize("kind", ["linear", "power"])
def test_reverse_sampler_has_the_marginals(kind: Any) -> None:
    of = root.schedule(kind=kind)
    steps = root.levels(1000, 200)
    for n, (mean, spread) in zip(steps[1:], moments(of, steps), strict=True):
        close(mean, float(1 - 2 * of.m[n]), 1e-12)
        close(spread, float(of.delta[n]), 1e-12)
    wrong = moments(of, steps, fault=1.01)  # noise of a hundredth more variance
    assert float((wrong[100][1] / of.delta[steps[101]] - 1).abs()) > 1e-4


@pytest.mark.parametrize("T", [2, 5, 12])
def test_programs_forward_and_backward_are_one_law(T: int) -> None:
    """Densities of whole paths agree, where each x_t has the bridge's marginal law."""
    of = root.schedule(T, max_var=0.7)
    x0, x_low = f([1.0, 0.3]), f([-1.0, 2.0])
    ahead, back = root.forward(of), root.backward(of)
    assert str(ahead.type(x0, x_low)) == f"{{x: Real[2]^{T}}} -> P Real[{T}, 2]"
    rng = torch.Generator().manual_seed(T)
    for _ in range(3):
        path = torch.randn(T, 2, generator=rng)
        there, _ = assess(ahead, sites(path), x0, x_low)
        again, _ = assess(back, sites(path.flip(0)), x0, x_low)
        close(again, float(there), 1e-8 * abs(float(there)))
        close(there, density(of, path, x0, x_low), 1e-8 * abs(float(there)))
    faulty = root.Schedule(of.m, of.delta * torch.linspace(1, 1.01, T))
    other, _ = assess(root.backward(faulty), sites(path.flip(0)), x0, x_low)
    assert abs(float(other - there)) > 1e-4 * abs(float(there))


def sites(path: Tensor) -> dict[str, Tensor]:
    return {f"x[{i}]": x for i, x in enumerate(path)}


def density(of: root.Schedule, path: Tensor, x0: Tensor, x_low: Tensor) -> float:
    """That of the joint normal law, whose covariances are delta_n (1 - m_t) / (1 - m_n), n < t."""
    n = torch.arange(len(of.m))
    first, last = torch.minimum(n[:, None], n), torch.maximum(n[:, None], n)
    covariance = of.delta[first] * (1 - of.m[last]) / (1 - of.m[first])
    mean = (1 - of.m)[:, None] * x0 + of.m[:, None] * x_low
    law = torch.distributions.MultivariateNormal(mean.mT, covariance)
    return float(law.log_prob(path.mT).sum())


def test_4_mean_of_a_process() -> None:
    X, y = f([[0.0], [1.0], [2.5]]), f([0.0, 1.0, -0.5])
    mean = root.mean_function(X, y)
    close(mean.coefficients, [-1.1884216100, 2.0590302800, -1.1052016400], 1e-7)
    close(mean(f([[0.8]])), [0.8947405911], 1e-9)
    close(mean.slope(f([[0.8]])), [[0.6510989]], 1e-7)
    other = root.mean_function(X, y, 1.25, 0.75)
    close(other(f([[0.8]])), [0.8767931312], 1e-9)
    close(other.slope(f([[0.8]])), [[0.5792130]], 1e-7)


def test_5_pairs() -> None:
    X = torch.rand(30, 2, generator=torch.Generator().manual_seed(0))
    mean = root.mean_function(X, torch.sin(5 * X).sum(1), 0.5)
    found = root.pairs(mean, X, rate=0.005, threshold=0.05)
    assert 0 < len(found.low) <= 30
    assert bool((found.y_high - found.y_low > 0.05).all())
    torch.testing.assert_close(mean(found.low), found.y_low)
    torch.testing.assert_close(mean(found.high), found.y_high)
    one, step = X[:1], 0.005 * mean.slope(X[:1])
    once = root.pairs(mean, one, steps=1, rate=0.005, threshold=1e-9)
    torch.testing.assert_close(once.low, one - step)
    torch.testing.assert_close(once.high, one + step)
    again = root.pairs(mean, X, rate=0.005, threshold=0.05)
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))


SMALL: dict[str, Any] = {
    "n_functions": 2,
    "n_points": 40,
    "grad_steps": 20,
    "grad_lr": 0.05,
    "T": 50,
    "steps": 10,
    "hidden": 16,
    "epochs": 2,
}


def data(n: int = 60, seed: int = 0) -> tuple[Tensor, Tensor]:
    X = torch.rand(n, 2, generator=torch.Generator().manual_seed(seed))
    return X, -(X - 0.5).square().sum(1)


def test_5_pairs_of_fixed_functions_are_deterministic() -> None:
    """Without randomness of the functions those of the last epoch do not depend on the seed."""
    X, y = data()
    fixed = {**SMALL, "n_functions": 1, "delta": (0.0, 0.0)}
    one, other = (ROOT(**fixed, random_state=seed).fit(X, y).pairs_ for seed in (0, 1))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    drawn = ROOT(**{**fixed, "delta": (0.25, 0.25)}, random_state=1).fit(X, y).pairs_
    assert not torch.equal(one.high, drawn.high)
    assert bool((one.y_high - one.y_low > 0.001 * y.std(correction=0)).all())
    shift, scale = X.mean(0), X.std(0, correction=0)
    low, high = y.mean(), y.std(correction=0)
    mean = root.mean_function((X - shift) / scale, (y - low) / high)
    torch.testing.assert_close(one.y_low, mean((one.low - shift) / scale) * high + low)


# --- what is predicted ----------------------------------------------------------------------------


@pytest.mark.parametrize("aim", AIMS)
def test_the_high_end_is_that_of_the_target(aim: Any) -> None:
    of = root.schedule(9)
    x0, x_low, noise = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0, 3, 5, 8])[:, None]
    x_t = root.q_sample(of, x0, x_low, t, noise)
    one = torch.stack([root.q_sample(of, x0[i], x_low[i], int(t[i]), noise[i]) for i in range(4)])
    torch.testing.assert_close(x_t, one)
    o = root.target(aim, x_t, x0, x_low, noise)
    torch.testing.assert_close(root.high_end(aim, o, of, x_t, x_low, t), x0)
    assert not torch.allclose(root.high_end(aim, o, of, x_t, x_low + 1, t), x0) or aim in (
        "grad",
        "elbo",
    )
    if aim == "grad":  # as the source writes it
        again = of.m[t] * (x_low - x0) + of.delta[t].sqrt() * noise
        torch.testing.assert_close(o, again)


def test_weights_of_the_bound_are_divergences_of_steps() -> None:
    of, x0, hat, x_low, x_t = root.schedule(7), f(0.4), f(-0.3), f(1.2), f(0.8)
    found = root.bound_weights(of) * (x0 - hat) ** 2
    for t in range(1, 7):
        laws = [
            Normal(a, s2.sqrt())
            for a, s2 in (root.p_step(of, x_t, e, x_low, t, t - 1) for e in (x0, hat))
        ]
        close(found[t], float(kl_divergence(*laws)), 1e-10)
    last = Normal(hat, of.delta[0].sqrt() / (1 - of.m[0]))
    close(found[0], float(Normal(x0, last.scale).log_prob(x0) - last.log_prob(x0)), 1e-10)
    ratio = (1 - of.m) ** 2 / of.delta
    close(found.sum(), float((ratio[0] - ratio[-1] / 2) * (x0 - hat) ** 2), 1e-10)


class Linear(nn.Module):
    """o = a x + b t + c known y_high + e, with parameters theta [4]: a network of one number."""

    def __init__(self, theta: Tensor) -> None:
        super().__init__()
        self.theta = theta

    def forward(self, x: Tensor, time: Tensor, y: Tensor, known: Tensor) -> Tensor:
        a, b, c, e = self.theta
        return a * x + b * time + c * known * y[:, :1] + e


def exact_bound(theta: Tensor, of: root.Schedule, pair: root.Pairs, cfg_prob: float) -> Tensor:
    """Minus the ELBO of the chain with the bridge as its guide, by densities of whole paths.

    It is quadratic in the path, which Gauss's rule with three nodes for each number integrates.
    """
    points, masses = np.polynomial.hermite_e.hermegauss(3)
    masses, T = masses / masses.sum(), len(of.m)
    n = torch.arange(T)
    first, last = torch.minimum(n[:, None], n), torch.maximum(n[:, None], n)
    factor = torch.linalg.cholesky(of.delta[first] * (1 - of.m[last]) / (1 - of.m[first]))
    centre = (1 - of.m) * pair.high[0, 0] + of.m * pair.low[0, 0]
    y, total = torch.stack([pair.y_high, pair.y_low], 1), torch.zeros(())
    for told, chance in ((0.0, 1 - cfg_prob), (-1.0, cfg_prob)):  # guidance: all, and nothing
        predict = root.guided(Linear(theta), of, pair.low, y, "elbo", told)
        model = root.chain(of, predict, pair.high)
        for row in itertools.product(range(3), repeat=T):
            path = centre + factor @ f([points[i] for i in row])
            choices = {f"x[{i}]": x.reshape(1, 1) for i, x in enumerate(path.flip(0))}
            log_p, _ = assess(model, choices, pair.low)
            log_q, _ = assess(root.backward(of), choices, pair.high, pair.low)
            weight = math.prod(masses[i] for i in row)
            total = total - chance * weight * (log_p - log_q)
    return total


@pytest.mark.parametrize("T", quick(1, [2, 3]))
def test_the_loss_is_the_bound_of_the_chain(T: int) -> None:
    """Its gradient is unbiased for that of minus the ELBO: exactly, by enumeration of times and of
    what is hidden, and quadrature of noises. Weights and noises of another schedule, and values
    that are hidden less often, are rejected."""
    of, at = root.schedule(T, max_var=0.6), f([0.3, -0.2, 0.4, 0.1])
    pair = root.Pairs(f([[-0.7]]), f([[0.9]]), f([-0.4]), f([0.8]))

    def estimator(by: root.Schedule, cfg_prob: float) -> Callable[[Tensor], Tensor]:
        @program
        def gradient(theta: Tensor) -> Tensor:
            theta = theta.detach().requires_grad_()
            value = root.loss(Linear(theta), by, pair, "elbo", cfg_prob)
            return torch.autograd.grad(value, theta)[0]

        return gradient

    def objective(theta: Tensor) -> Tensor:
        return exact_bound(theta, of, pair, 0.25)

    check.unbiased(estimator(of, 0.25), objective, at, quadrature=4).require()
    wrong = root.Schedule(of.m, of.delta * torch.linspace(1, 1.05, T))
    for faulty in (estimator(wrong, 0.25), estimator(of, 0.05)):
        report = check.unbiased(faulty, objective, at, quadrature=4)
        assert report.verdict == "fail"
        assert report.deviation > 1e-6


# --- sampling -------------------------------------------------------------------------------------


def test_guidance() -> None:
    """Values count fully at 0, not at all at -1, in proportion elsewhere; a bit tells that."""
    of, x_low, x = root.schedule(10), f([[0.2], [0.5]]), f([[0.1], [-0.4]])
    y = f([[1.0, 0.3], [2.0, -0.5]])
    theta = f([0.0, 0.5, 2.0, 0.1])
    found = {
        w: x - root.guided(Linear(theta), of, x_low, y, "grad", w)(x, 4)
        for w in (-1.5, -1, -0.5, 0)
    }
    for w, o in found.items():
        torch.testing.assert_close(o, 0.2 + 0.1 + (1 + w) * 2 * y[:, :1])
    told = root.Denoiser(1, 8)
    torch.manual_seed(0)
    for p in told.parameters():
        nn.init.normal_(p)
    time, zero, one = torch.full((2, 1), 0.4), torch.zeros(2, 1), torch.ones(2, 1)
    assert not torch.allclose(told(x, time, 0 * y, zero), told(x, time, 0 * y, one))
    torch.testing.assert_close(told(x, time, y, zero), told(x, time, 0 * y, zero))
    blind = root.Denoiser(1, 8, bit=False)
    torch.testing.assert_close(blind(x, time, 0 * y, zero), blind(x, time, 0 * y, one))


def sampled(of: root.Schedule, times: list[int], eta: float) -> Any:
    """The sampler with what it predicts: the high end 1, and a tenth of x_t."""
    return root.sampler(of, lambda x_t, t: 1 + 0.1 * x_t, times, eta)


def test_sampler_by_hand() -> None:
    of, x_low, times = root.schedule(20), f([[-1.0], [0.4]]), [19, 11, 4, 1, 0]
    algorithm = sampled(of, times, 0.7)
    assert str(algorithm.type(x_low)) == "{e: Real[2, 1]^4} -> P Real[2, 1]"
    trace = simulate(algorithm, x_low, seed=3)
    x = x_low
    for i, (t, n) in enumerate(itertools.pairwise(times)):
        mean, s2 = root.p_step(of, x, 1 + 0.1 * x, x_low, t, n)
        x = mean + 0.7 * s2.sqrt() * trace.choices[f"e[{i}]"]
    torch.testing.assert_close(trace.value, 1 + 0.1 * x)


def test_sampler_has_the_law_of_the_bridge() -> None:
    """Where the high end is known and eta is 1: x_1 given x_(T-1) = x_low, by conditioning of their
    joint normal law. It is linear in the noises, each of which is put to 0 and 1; with a hundredth
    more noise it has another law."""
    of, x_low, x0 = root.schedule(9), f([[-1.0]]), f([[0.5]])

    def moments_of(eta: float) -> tuple[Tensor, Tensor]:
        def predict(x_t: Tensor, t: Any) -> Tensor:
            return x_t if int(t) == 1 else x0  # what is returned last is x_1 itself

        algorithm = root.sampler(of, predict, [8, 6, 3, 1], eta)
        rows = torch.cat([torch.zeros(1, 3), torch.eye(3)])
        noises = [{f"e[{i}]": e.reshape(1, 1) for i, e in enumerate(row)} for row in rows]
        ends = [assess(algorithm, each, x_low)[1] for each in noises]
        found = torch.cat(ends)[:, 0]
        return found[0], (found[1:] - found[0]).square().sum()

    shared = of.delta[1] * (1 - of.m[8]) / (1 - of.m[1])
    away = x_low - (1 - of.m[8]) * x0 - of.m[8] * x_low
    mean = (1 - of.m[1]) * x0 + of.m[1] * x_low + shared / of.delta[8] * away
    spread = of.delta[1] - shared**2 / of.delta[8]
    found = moments_of(1.0)
    close(found[0], float(mean), 1e-12)
    close(found[1], float(spread), 1e-12)
    assert float(moments_of(1.01)[1] / spread) > 1.01


# --- tasks and the front --------------------------------------------------------------------------


def test_tasks() -> None:
    """Maxima as published, which no uniform point exceeds; the split hides the highest values."""
    close(
        root.tasks.branin.value(f([[math.pi, 2.275], [-math.pi, 12.275]])), [-0.39788736] * 2, 1e-7
    )
    best = f([[0.20169, 0.150011, 0.476874, 0.275332, 0.311652, 0.6573]])
    close(root.tasks.hartmann6.value(best), [3.32236801], 1e-6)
    for task in (root.tasks.branin, root.tasks.hartmann6):
        X, y = task.split(seed=1)
        assert X.shape == (400, len(task.bounds)) and torch.equal(y, task.value(X))
        everything, values = task.split(int(task.seen * 4000), seed=1)
        assert float(y.max()) <= float(values.max()) < task.optimum
        assert bool(((everything >= task.bounds[:, 0]) & (everything <= task.bounds[:, 1])).all())
        share = float((task.value(_uniform(task)) <= values.max()).double().mean())
        assert abs(share - task.seen) < 0.03  # four standard deviations of both shares
    with pytest.raises(ValueError, match="401 of 400"):
        root.tasks.branin.split(401, pool=667)


def _uniform(task: root.tasks.Task) -> Tensor:
    low, high = task.bounds.unbind(1)
    return low + (high - low) * torch.rand(
        10_000, len(low), generator=torch.Generator().manual_seed(5)
    )


def test_6_a_short_run() -> None:
    """On a hill in two numbers, of which the top is not seen, half of the proposals are above all
    that was. A bridge that was learnt the other way round proposes nothing above."""
    X = 2 * torch.rand(300, 2, generator=torch.Generator().manual_seed(0)) - 1
    y = -X.square().sum(1)
    kept = y < -0.3
    X, y = X[kept], y[kept]
    settings = {**SMALL, "n_points": 64, "grad_steps": 40, "hidden": 64, "epochs": 8, "passes": 6}
    model = ROOT(**settings, bounds=[[-1, 1], [-1, 1]], random_state=0).fit(X, y)
    values = -np.square(model.propose(64)).sum(1)
    assert float(np.median(values)) > float(y.max())
    assert model.loss_trace_[-1] < 0.8 * model.loss_trace_[0]
    assert len(model.loss_trace_) == len(model.validation_trace_) == 8
    down = ROOT(**settings, bounds=[[-1, 1], [-1, 1]], random_state=0).fit(X, -y)
    assert float((-np.square(down.propose(64)).sum(1)).max()) < float(y.max())


def test_the_front() -> None:
    X, y = data()
    model = clone(ROOT(**SMALL, bounds=[[0, 1], [0, 1]], eta=0.0, random_state=0)).fit(X, y)
    first = model.propose(70)
    assert first.shape == (70, 2) and first.min() >= 0 and first.max() <= 1
    np.testing.assert_array_equal(first[:10], first[60:])  # the best again, without noise
    np.testing.assert_array_equal(first, clone(model).fit(X, y).propose(70))
    state = torch.get_rng_state()
    assert not np.array_equal(model.set_params(eta=1.0).propose(70)[:10], first[:10])
    assert torch.equal(torch.get_rng_state(), state)
    # another scale of inputs and values changes proposals by that scale, and nothing else
    other = ROOT(**SMALL, eta=0.0, random_state=0, dtype=torch.float64)
    plain = clone(other).fit(X, y).propose(5)
    moved = clone(other).fit(100 * X - 7, 1e-3 * y + 5).propose(5)
    np.testing.assert_allclose(moved, 100 * plain - 7, rtol=1e-6)


@pytest.mark.parametrize("aim", AIMS)
def test_settings_of_the_front(aim: Any) -> None:
    """Wishes count unless guidance is -1; the published order of values and mask are other ones."""
    X, y = data()
    model = ROOT(
        **{**SMALL, "epochs": 1}, objective=aim, guidance=-0.5, mask="zero", random_state=0
    )
    model.fit(X, y)
    low, high = model.propose(4, y_target=0.0), model.propose(4, y_target=1.0)
    assert np.isfinite(low).all() and not np.array_equal(low, high)
    assert not np.array_equal(model.set_params(swap_conditions=True).propose(4, 1.0), high)
    model.set_params(swap_conditions=False, guidance=-1.0)
    np.testing.assert_array_equal(model.propose(4, y_target=0.0), model.propose(4, y_target=1.0))


def test_late_weights_are_averaged(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the first step on, with a share of 0.5: a mean of what Adam went through."""
    for name, value in (("EMA", 0.5), ("EMA_FROM", 1), ("EMA_EVERY", 1)):
        monkeypatch.setattr(f"pushforward.models.root.training.{name}", value)
    X, y = data(10)
    rows = root.Pairs(X, X + 0.1, y, y + 1)
    net, seen = nn.Linear(2, 2, bias=False), []
    held = Held(net)

    def epochs() -> Any:
        for _ in range(3):
            yield rows, rows.at(slice(0))
            seen.append(net.weight.detach().clone())

    made, trace, others = root.train(held, root.schedule(10), epochs(), lr=0.1)
    a, b, c = seen
    torch.testing.assert_close(made.net.weight.detach(), ((a + b) / 2 + c) / 2)
    assert len(trace) == 3 and others == []


class Held(nn.Module):
    """A map of points alone."""

    def __init__(self, net: nn.Linear) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, time: Tensor, y: Tensor, known: Tensor) -> Tensor:
        found: Tensor = self.net(x)
        return found


# --- the experiment -------------------------------------------------------------------------------

EXPERIMENT: dict[str, Any] = {
    "n_functions": 4,
    "n_points": 128,
    "grad_steps": 60,
    "epochs": 10,
    "passes": 10,
    "hidden": 128,
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "rate", "gate"), [("branin", 0.05, -10.0), ("hartmann6", 0.1, 1.8)]
)
def test_6_and_7_experiment(name: str, rate: float, gate: float) -> None:
    """The best of 128 proposals passes the gate, and half of them are above all data; printed
    beside ascent on the mean of one process (check 7), which is held to nothing."""
    task = getattr(root.tasks, name)
    for seed in (0, 1):
        X, y = task.split(seed=seed)
        model = ROOT(**EXPERIMENT, grad_lr=rate, bounds=task.bounds, random_state=seed).fit(X, y)
        found = task.value(torch.from_numpy(model.propose()))
        shift, scale = X.mean(0), X.std(0, correction=0)
        Z = (X - shift) / scale
        mean = root.mean_function(Z, (y - y.mean()) / y.std(correction=0))
        start = Z[y.argsort(descending=True)[:128]]
        climbed = root.pairs(mean, start, 600, rate).high * scale + shift
        plain = task.value(climbed.clamp(*task.bounds.mT))
        print(
            f"{name} {seed}: offline {y.max():.3f}, proposals {found.max():.3f}, "
            f"half above {found.median():.3f}; plain ascent {plain.max():.3f}, {plain.median():.3f}"
        )
        assert float(found.max()) >= gate
        assert float(found.median()) > float(y.max())


# --- bad inputs -----------------------------------------------------------------------------------


def test_bad_inputs() -> None:
    X, y = torch.rand(12, 2), torch.rand(12)
    for bad in ({"T": 1}, {"max_var": 0.0}, {"kind": "cubic"}):
        with pytest.raises(ValueError, match="T is at least 2"):
            root.schedule(**bad)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="steps is 2"):
        root.levels(10, 2)
    with pytest.raises(ValueError, match=r"X is \[N, d\]"):
        root.mean_function(X, y[:5])
    with pytest.raises(ValueError, match="must be finite"):
        root.mean_function(X, y * torch.nan)
    with pytest.raises(ValueError, match="are positive"):
        root.mean_function(X, y, lengthscale=0.0)
    with pytest.raises(RuntimeError, match="take a larger rate"):
        root.pairs(root.mean_function(X, y), X, steps=1, rate=1e-9)
    many = torch.linspace(0, 1e-6, 50)[:, None]
    root.mean_function(many, many[:, 0], noise=1e-18)  # by 1e-4 more on the diagonal
    with pytest.raises(NumericalError, match="take more noise"):
        root.mean_function(many, many[:, 0], variance=1e16, noise=1e-18)


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"bounds": [[1, 0], [0, 1]]}, "lower bounds are below"),
        ({"bounds": [0, 1]}, r"bounds are \[2, 2\]"),
        ({"T": 1}, "T is at least 2"),
        ({"eta": -0.1}, "eta is not negative"),
        ({"cfg_prob": 1.0}, r"cfg_prob in \[0, 1\)"),
        ({"cfg_prob": -0.1}, r"cfg_prob in \[0, 1\)"),
        ({"lengthscale": 0.25}, "less than lengthscale"),
        ({"noise": math.nan}, "noise is positive"),
        ({"epochs": 0}, "epochs is at least 1"),
        ({"objective": "score"}, "objective is one of"),
    ],
)
def test_bad_settings(settings: dict[str, Any], what: str) -> None:
    X, y = data()
    with pytest.raises(ValueError, match=what):
        ROOT(**{**SMALL, **settings}).fit(X, y)


def test_bad_data() -> None:
    X, y = data()
    for rows, values, what in (
        (X, y[:-1], r"X is \[N, d\]"),
        (
            X.where(X.max() > X, torch.nan),
            y,
            rf"leave out rows \[{int(X.max(1).values.argmax())}\]",
        ),
        (X[:9], y[:9], "at least 10"),
        (X, 0 * y + 3, "are equal"),
    ):
        with pytest.raises(ValueError, match=what):
            ROOT(**SMALL).fit(rows, values)
    with pytest.raises(RuntimeError, match="take a larger rate"):
        ROOT(**{**SMALL, "grad_lr": 1e-12}).fit(X, y)
    with pytest.raises(NotFittedError):
        ROOT().propose()
    model = ROOT(**{**SMALL, "epochs": 1}).fit(X, y)
    with pytest.raises(ValueError, match="n is at least 1"):
        model.propose(0)
    with pytest.raises(FloatingPointError, match="is nan"), np.errstate(all="ignore"):
        root.train(
            Held(nn.Linear(2, 2)), root.schedule(5), [(root.Pairs(X, X * torch.nan, y, y),) * 2]
        )
