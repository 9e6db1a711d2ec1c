"""Filters by quasi-random points have the model's measure, exactly, and smaller errors."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import scipy.stats
import torch
from support.faults import Fault, planted
from support.filters import f, kalman
from support.filters import linear as linear_model
from torch import Tensor

from pushforward import cond, dist, draw, observe, program, sample, scan
from pushforward.errors import BudgetError, GuideError
from pushforward.inference import SMC, particle_filter, sqmc
from pushforward.inference.smc import curves
from pushforward.inference.smc.quantiles import by_quantile, numbers_of
from pushforward.ppl.distributions import nets
from pushforward.ppl.distributions.nets import MOST, ScrambledNet
from pushforward.semantics import check

pytestmark = pytest.mark.usefixtures("double")
YS = torch.tensor([1.0, 0.0, 1.0]).double()


# ------------------------------------------------------------------------------------------- points


@pytest.mark.parametrize(
    ("n", "d", "digits"),
    [(1, 2, 2), (2, 2, 2), (3, 2, 2), (4, 2, 2), (2, 3, 2), (2, 2, 3), (5, 2, 2), (9, 1, 2)],
)
def test_each_point_is_uniform(n: int, d: int, digits: int) -> None:
    """By all scrambles: in each cell of the grid lie as many points in expectation."""
    law = ScrambledNet(n, d, digits)
    points = law.enumerate_support()
    chances = law.log_prob(points).exp()
    assert float(chances.sum()) == pytest.approx(1.0, abs=1e-12)
    expected = torch.zeros((2**digits,) * d)
    for each, chance in zip(points, chances, strict=True):
        for cell in (each * 2**digits).long().tolist():
            expected[tuple(cell)] += chance
    torch.testing.assert_close(expected, torch.full_like(expected, n / 2 ** (digits * d)))


@pytest.mark.parametrize("m", [3, 6])
def test_points_are_a_net(m: int) -> None:
    """One of 2^m points in each elementary interval of the first two coordinates: (0, m, 2)."""
    points = ScrambledNet(2**m, 5).sample((3,))
    assert (points[:, 1:, 0] >= points[:, :-1, 0]).all()
    for each in points:
        for k in range(m + 1):
            cells = (each[:, :2] * torch.tensor([2.0**k, 2.0 ** (m - k)])).floor()
            assert len(cells.unique(dim=0)) == 2**m
        for j in range(5):
            assert len((each[:, j] * 2**m).floor().unique()) == 2**m


def test_many_digits_are_not_enumerated() -> None:
    with pytest.raises(BudgetError, match="use fewer digits"):
        ScrambledNet(8, 2).enumerate_support()


# ---------------------------------------------------------------------------------------- quantiles

LAWS: dict[str, tuple[Any, Any]] = {
    "normal": (lambda t: dist.Normal(t(0.5), t(2.0)), scipy.stats.norm(0.5, 2.0)),
    "uniform": (lambda t: dist.Uniform(t(-1.0), t(3.0)), scipy.stats.uniform(-1.0, 4.0)),
    "exponential": (lambda t: dist.Exponential(t(2.0)), scipy.stats.expon(0.0, 0.5)),
    "laplace": (lambda t: dist.Laplace(t(0.5), t(2.0)), scipy.stats.laplace(0.5, 2.0)),
    "cauchy": (lambda t: dist.Cauchy(t(0.5), t(2.0)), scipy.stats.cauchy(0.5, 2.0)),
    "half-normal": (lambda t: dist.HalfNormal(t(2.0)), scipy.stats.halfnorm(0.0, 2.0)),
    "half-Cauchy": (lambda t: dist.HalfCauchy(t(2.0)), scipy.stats.halfcauchy(0.0, 2.0)),
    "lognormal": (lambda t: dist.LogNormal(t(0.0), t(0.5)), scipy.stats.lognorm(0.5)),
    "Gumbel": (lambda t: dist.Gumbel(t(0.0), t(1.0)), scipy.stats.gumbel_r()),
    "Weibull": (lambda t: dist.Weibull(t(1.0), t(1.0)), scipy.stats.weibull_min(1.0)),
    "masked": (lambda t: dist.Normal(t(0.5), t(2.0)).mask(False), scipy.stats.norm(0.5, 2.0)),
}  # fmt: skip
MIDDLES = torch.tensor([1e-9, 0.01, 0.3, 0.5, 0.77, 0.999], dtype=torch.float64)
ENDS = torch.tensor([0.5 / 2**MOST, 1 - 0.5 / 2**MOST], dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", LAWS)
def test_quantiles(name: str, dtype: torch.dtype) -> None:
    """Those of scipy; and at the first and last points that there are, finite in any precision."""
    make, known = LAWS[name]
    law = make(lambda x: torch.tensor(x, dtype=dtype))
    assert numbers_of(law) == 1
    found = torch.stack([by_quantile(law, u[None]).squeeze() for u in MIDDLES])
    slack = {"rtol": 1e-8, "atol": 1e-8} if dtype == torch.float64 else {"rtol": 2e-4, "atol": 1e-5}
    expected = torch.as_tensor(known.ppf(MIDDLES.numpy()))
    torch.testing.assert_close(found.double(), expected, **slack)
    assert all(by_quantile(law, u[None]).isfinite() for u in ENDS)


def test_quantiles_of_other_laws() -> None:
    u = torch.tensor([0.1, 0.4, 0.6, 0.95]).double()
    assert by_quantile(dist.Bernoulli(f(0.5, 0.7, 0.3, 0.1)), u).tolist() == [0.0, 1.0, 0.0, 1.0]
    places = dist.Categorical(f(0.5, 0.0, 0.5, 0.0).expand(4, 4))
    assert by_quantile(places, u).tolist() == [0, 0, 2, 2]
    assert by_quantile(dist.Bernoulli(f(0.0, 1.0)), ENDS.flip(0)).tolist() == [0.0, 1.0]
    cholesky = f(1.0, 0.0, 0.5, 2.0).reshape(2, 2)
    law = dist.MultivariateNormal(f(1.0, -1.0), scale_tril=cholesky)
    z = torch.as_tensor(scipy.stats.norm.ppf(u[:2].numpy()))
    torch.testing.assert_close(by_quantile(law, u[:2]), f(1.0, -1.0) + cholesky @ z)
    assert numbers_of(dist.Normal(f(0.0), 1.0).expand([3, 2]).to_event(1)) == 6
    wide = by_quantile(dist.Normal(f(0.0), 1.0).expand([2, 2]).to_event(1), u)
    torch.testing.assert_close(wide, torch.special.ndtri(u).reshape(2, 2))
    assert numbers_of(dist.Delta(f(1.0))) == 0
    for law in (
        dist.Gamma(f(2.0), f(1.0)),
        dist.Poisson(f(2.0)),
        dist.InverseGamma(f(2.0), f(1.0)),
    ):
        assert numbers_of(law) is None


def test_a_law_of_ones_own_has_no_quantile_here() -> None:
    class Shifted(dist.Normal):  # type: ignore[misc]
        def sample(self, *shape: Any) -> Tensor:
            return 1.0 + super().sample(*shape)

    assert numbers_of(Shifted(f(0.0), f(1.0))) is None


# ------------------------------------------------------------------------------------------- orders


@pytest.mark.parametrize(("s", "digits"), [(2, 1), (2, 4), (3, 3), (4, 2), (5, 1)])
def test_a_hilbert_curve_visits_all_and_steps_to_neighbours(
    s: int, digits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curves, "digits_of", lambda s: digits)
    cells = torch.tensor(list(itertools.product(range(2**digits), repeat=s)))
    place = curves.hilbert(cells)
    assert sorted(place.tolist()) == list(range(len(cells)))
    assert cells[place.argsort()].diff(dim=0).abs().sum(1).tolist() == [1] * (len(cells) - 1)


def test_numbers_stand_by_size() -> None:
    x = torch.randn(50, generator=torch.Generator().manual_seed(1))
    assert torch.equal(curves.along_curve(x[:, None]), x.argsort())
    assert curves.along_curve(torch.zeros(4, 0)).tolist() == [0, 1, 2, 3]
    assert len(curves.along_curve(torch.full((5, 2), math.nan)).unique()) == 5


# -------------------------------------------------------------------------------------------- valid


def stays(x: Tensor) -> Tensor:
    return 0.25 + 0.5 * x


@program
def chain(ys: Tensor) -> Tensor:
    """A hidden Markov model with two states; weights of two particles are multiples of 1/4."""

    def step(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        x = sample("x", dist.Bernoulli(stays(x)))
        observe("y", dist.Bernoulli(0.25 + 0.5 * x), y)
        return x, x

    return scan(step)(f(0.0), ys)[1]


@program
def started(ys: Tensor) -> tuple[Tensor, Tensor]:
    """A choice before the scan, and one after it."""
    start = sample("start", dist.Categorical(f(0.5, 0.25, 0.25)))

    def step(x: Tensor, y: Tensor) -> tuple[Tensor, None]:
        x = sample("x", dist.Bernoulli(stays(x)))
        observe("y", dist.Bernoulli(0.25 + 0.5 * x), y)
        return x, None

    last = scan(step)((start > 0).double(), ys)[0]
    return start, sample("after", dist.Bernoulli(0.1 + 0.5 * last))


@program
def plane(ys: Tensor) -> Any:
    """Two states at a time, which stand along a Hilbert curve."""

    def step(carry: Any, y: Tensor) -> Any:
        a = sample("a", dist.Bernoulli(stays(carry[0])))
        b = sample("b", dist.Bernoulli(0.25 + 0.5 * carry[1] * a))
        observe("y", dist.Bernoulli(0.25 + 0.5 * a * b), y)
        return (a, b), None

    return scan(step)((f(0.0), f(1.0)), ys)[0]


@program
def partly(ys: Tensor) -> Tensor:
    """A law without a quantile, and a branch that draws."""

    def step(x: Tensor, y: Tensor) -> tuple[Tensor, None]:
        k = sample("k", dist.Binomial(2, 0.25 + 0.2 * x))
        x = cond(k > 0, lambda x: draw(dist.Bernoulli(stays(x))), lambda x: x)(x)
        observe("y", dist.Bernoulli(0.25 + 0.5 * x), y)
        return x, None

    return scan(step)(f(1.0), ys)[0]


@pytest.mark.parametrize(
    ("model", "n", "steps"),
    [
        (chain, 1, 2),
        (chain, 2, 3),
        (started, 2, 2),
        (partly, 2, 2),
        pytest.param(plane, 2, 2, marks=pytest.mark.slow),
    ],
)
def test_the_measure_by_all_scrambles(model: Any, n: int, steps: int) -> None:
    check.valid(sqmc(model, n, digits=2), model, YS[:steps]).require()


def odd(x: Tensor, y: Tensor, ys: Tensor) -> None:
    sample("x", dist.Bernoulli(0.25 + 0.5 * y))


def test_points_make_what_a_proposal_draws() -> None:
    """One step, so that no weights are resampled that are no multiples of 1/4."""
    check.valid(sqmc(chain, 2, odd, digits=2), chain, YS[:1]).require()


MOVED = "inference.smc.by_nets:ByNets.moved"
FAULTS = [
    Fault("ancestors by place", MOVED, "return order[torch.", "return order.sort().values[torch."),
    Fault("weights in another order", MOVED, "log_weights.double()[order]", "log_weights.double()"),
    Fault("points move what they chose", MOVED, "points[:, 1:]", "points[:, :1]"),
    Fault(
        "the points are no law",
        "ppl.distributions.nets:ScrambledNet._points",
        "points = shift[..., None, :]",
        "points = 0 * shift[..., None, :]",
    ),
    Fault(
        "quantiles of other numbers",
        "inference.smc.quantiles:by_quantile",
        "u.reshape(law.batch_shape)",
        "u.reshape(law.batch_shape) ** 2",
    ),
]  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_fault_is_rejected(fault: Fault) -> None:
    nets._enumerated.cache_clear()
    try:
        with planted(fault):
            assert check.valid(sqmc(chain, 2, digits=2), chain, YS).verdict == "fail"
    finally:
        nets._enumerated.cache_clear()


# --------------------------------------------------------------------------------------- as it runs


def spread(algorithm: Any, runs: int, exact: float, *args: Any) -> tuple[float, float]:
    """Of log evidences: mean error, and the root of the mean squared one."""
    with torch.no_grad():
        found = torch.stack([algorithm(*args).log_evidence() for _ in range(runs)]) - exact
    return float(found.mean()), float(found.square().mean().sqrt())


def test_errors_fall_faster_on_a_line() -> None:
    """Level 1e-6: 16 runs each; independent particles have 13 to 30 times the errors at 512.

    From 32 to 512 particles theirs fall by four, the square root of 16, those here by more than
    eight: the ratio of two mean squares of 16 normal numbers is beyond 9 once in 10^5 times.
    """
    model, phi = program(linear_model), f(0.9)
    ys = torch.sin(torch.arange(10).double() * 1.3)
    exact = kalman(ys, 0.9)
    torch.manual_seed(1)
    few = spread(sqmc(model, 32), 16, exact, ys, phi)[1]
    many = spread(sqmc(model, 512), 16, exact, ys, phi)[1]
    independent = spread(particle_filter(model, 512), 16, exact, ys, phi)[1]
    assert many < few / 8
    assert many < independent / 5


def turning(ys: Tensor) -> Tensor:
    """A state that turns in the plane, of which one coordinate is seen."""
    turn = 0.9 * f(0.8, 0.6, -0.6, 0.8).reshape(2, 2)

    def step(x: Tensor, y: Tensor) -> tuple[Tensor, None]:
        x = sample("x", dist.Normal(turn @ x, 1.0).to_event(1))
        observe("y", dist.Normal(x[0], 0.5), y)
        return x, None

    return scan(step)(torch.zeros(2), ys)[0]


def kalman_of_turning(ys: Tensor) -> float:
    turn = 0.9 * f(0.8, 0.6, -0.6, 0.8).reshape(2, 2)
    mean, covariance, total = torch.zeros(2), torch.zeros(2, 2), 0.0
    for y in ys:
        mean, covariance = turn @ mean, turn @ covariance @ turn.T + torch.eye(2)
        s = covariance[0, 0] + 0.25
        total -= 0.5 * float(math.log(2 * math.pi * s) + (y - mean[0]) ** 2 / s)
        gain = covariance[:, 0] / s
        mean, covariance = mean + gain * (y - mean[0]), covariance - torch.outer(gain, gain) * s
    return total


def test_errors_are_smaller_in_the_plane() -> None:
    """Level 1e-6: 16 runs each, of which the mean squares differ by more than 9."""
    ys = torch.sin(torch.arange(8).double() * 1.3)
    exact = kalman_of_turning(ys)
    torch.manual_seed(1)
    bias, ours = spread(sqmc(turning, 512), 16, exact, ys)
    _, independent = spread(particle_filter(turning, 512), 16, exact, ys)
    assert ours < independent / 3
    assert abs(bias) < 0.05


def test_points_in_no_order_are_no_better() -> None:
    """The negative control: particles that stand as they come."""
    model, phi, ys = program(linear_model), f(0.9), torch.sin(torch.arange(10).double() * 1.3)
    exact = kalman(ys, 0.9)
    torch.manual_seed(1)
    fault = Fault("as they come", "inference.smc.curves:along_curve", "if s == 0", "if s >= 0")
    with planted(fault):
        worse = spread(sqmc(model, 512), 16, exact, ys, phi)[1]
    assert worse > 3 * spread(sqmc(model, 512), 16, exact, ys, phi)[1]


def test_single_precision_is_finite() -> None:
    """Level 1e-6: the evidence, fifty times the error of such a filter."""

    def model(ys: Tensor) -> Tensor:
        def step(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            x = sample("x", dist.Normal(0.9 * x, torch.tensor(1.0, dtype=torch.float32)))
            observe("y", dist.Normal(x, torch.tensor(0.5, dtype=torch.float32)), y)
            return x, x

        start = sample("x0", dist.Normal(torch.zeros((), dtype=torch.float32), 1.0))
        return scan(step)(start, ys)[1]

    ys = torch.tensor([0.5, -1.0, 0.3], dtype=torch.float32)
    with torch.no_grad():
        found = sqmc(model, 1024)(ys)
    assert found.values.dtype == torch.float32
    assert abs(float(found.log_evidence()) - kalman(ys, 0.9)) < 0.05


def test_a_driver_runs_it() -> None:
    fit = SMC(64, 2, sqmc, compiled=False, progress=False).run(chain, YS, seed=1)
    assert fit["x"].shape == (2, 64, 3)


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one particle"):
        sqmc(chain, 0)
    with pytest.raises(ValueError, match="1 to 52 digits"):
        sqmc(chain, 2, digits=53)

    def wrong(x: Tensor, y: Tensor, ys: Tensor) -> None:
        sample("z", dist.Bernoulli(0.5))

    with pytest.raises(GuideError, match="'z'"):
        sqmc(chain, 2, wrong)(YS)
