"""Integers of any dtype are the numbers that they stand for, in every density.

The class: data of a dtype whose arithmetic overflows or is not defined, under any law.  Members are
laws, dtypes, and values up to the limits of the dtype; masses are scipy's, and where that loses
digits, those of the same number as a float.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import scipy.stats
import torch
from torch import Tensor

from pushforward import assess, condition, dist, marginal, observe, plate, program, sample, vmap
from pushforward.errors import SupportError
from pushforward.inference import Exact
from pushforward.ppl.distributions.densities import log_density
from pushforward.semantics import denote

pytestmark = pytest.mark.usefixtures("double")

SIGNED = [torch.int8, torch.int16, torch.int32, torch.int64]
UNSIGNED = [torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.bool]
stats = scipy.stats


def top(dtype: torch.dtype) -> int:
    """The largest number of a dtype that a float holds too."""
    return 1 if dtype == torch.bool else min(torch.iinfo(dtype).max, 2**53)


def near_limits(dtype: torch.dtype) -> list[int]:
    """Numbers at both ends of the naturals of a dtype, and where smaller ones would overflow."""
    limit = top(dtype)
    candidates = {0, 1, 2, limit // 2, limit // 2 + 1, limit - 1, limit}
    return sorted(k for k in candidates if 0 <= k <= limit)


def t(x: float) -> Tensor:
    return torch.tensor(float(x), dtype=torch.float64)


# Laws of counts about a size, and their log masses by scipy.
COUNTS: dict[str, tuple[Callable[[float], Any], Callable[[float, float], float]]] = {
    "Poisson": (lambda n: dist.Poisson(t(n + 0.5)), lambda k, n: stats.poisson.logpmf(k, n + 0.5)),
    "geometric": (
        lambda n: dist.Geometric(t(1 / (n + 1.5))),
        lambda k, n: stats.geom.logpmf(k + 1, 1 / (n + 1.5)),
    ),
    "geometric by logits": (
        lambda n: dist.Geometric(logits=t(-math.log(n + 0.5))),
        lambda k, n: stats.geom.logpmf(k + 1, 1 / (n + 1.5)),
    ),
    "binomial": (
        lambda n: dist.Binomial(t(n + 3), t(0.4)),
        lambda k, n: stats.binom.logpmf(k, n + 3, 0.4),
    ),
    "binomial by logits": (
        lambda n: dist.Binomial(t(n + 3), logits=t(math.log(0.4 / 0.6))),
        lambda k, n: stats.binom.logpmf(k, n + 3, 0.4),
    ),
    "negative binomial": (
        lambda n: dist.NegativeBinomial(t(2.5), t(n / (n + 2.5))),
        lambda k, n: stats.nbinom.logpmf(k, 2.5, 2.5 / (n + 2.5)) if n else 0.0,
    ),
    "gamma Poisson": (
        lambda n: dist.GammaPoisson(t(2.0), t(0.5)),
        lambda k, n: stats.nbinom.logpmf(k, 2.0, 0.5 / 1.5),
    ),
    "beta binomial": (
        lambda n: dist.BetaBinomial(t(2.0), t(3.0), t(n + 3)),
        lambda k, n: stats.betabinom.logpmf(k, n + 3, 2.0, 3.0),
    ),
    "zeros and Poisson": (
        lambda n: dist.ZeroInflatedPoisson(t(n + 0.5), gate=t(0.25)),
        lambda k, n: math.log(0.75 * stats.poisson.pmf(k, n + 0.5) + 0.25 * (k == 0)),
    ),
    "mixture": (
        lambda n: dist.MixtureSameFamily(
            dist.Categorical(torch.tensor([0.5, 0.5])), dist.Poisson(torch.tensor([n + 0.5, 1.0]))
        ),
        lambda k, n: math.log(
            0.5 * stats.poisson.pmf(k, n + 0.5) + 0.5 * stats.poisson.pmf(k, 1.0)
        ),
    ),
    "normal": (lambda n: dist.Normal(t(n), t(2.0)), lambda k, n: stats.norm.logpdf(k, n, 2.0)),
    "Student": (
        lambda n: dist.StudentT(t(3.0), t(0.0), t(1.0)),
        lambda k, n: stats.t.logpdf(k, 3.0),
    ),
}


def test_what_overflows_has_another_mass() -> None:
    """The formula in the dtype of the data, which is what is looked for here."""
    y, law = torch.tensor(255, dtype=torch.uint8), dist.Poisson(t(200.0))
    overflown = y * law.rate.log() - law.rate - torch.lgamma((y + 1).double())
    assert float(overflown) == -math.inf
    assert float(log_density(law, y)) == pytest.approx(stats.poisson.logpmf(255, 200.0))


def members() -> Iterator[tuple[str, torch.dtype, int]]:
    for name, dtype in itertools.product(COUNTS, SIGNED + UNSIGNED):
        for value in near_limits(dtype):
            yield name, dtype, value


def of_dtype(values: Any, dtype: torch.dtype) -> Tensor:
    return torch.tensor(values, dtype=torch.int64).to(dtype)


def test_integers_are_numbers_in_every_density() -> None:
    for name, dtype, value in members():
        law, mass = COUNTS[name]
        y, number = of_dtype(value, dtype), torch.tensor(float(value))
        found = float(log_density(law(value), y))
        assert found == float(log_density(law(value), number)), (name, dtype, value)
        by_scipy = mass(value, float(value))
        lost = 1e-15 * (value + 2) * math.log(value + 2)  # of the terms, which nearly cancel
        assert found == pytest.approx(by_scipy, rel=1e-9, abs=1e-12 + 4 * lost), (name, value)


SMALL = [*SIGNED, *UNSIGNED]


@pytest.mark.parametrize("dtype", SMALL, ids=str)
def test_every_meaning_gives_observed_and_conditioned_integers_their_mass(dtype: Any) -> None:
    limit = min(top(dtype), 40_000)
    values = [limit, limit - 1, 0]
    y = of_dtype(values, dtype)
    rate = limit + 0.5
    by_scipy = float(stats.poisson.logpmf(values, rate).sum())

    def seen() -> None:
        with plate("n", 3):
            observe("y", dist.Poisson(t(rate)), y)

    def free() -> None:
        with plate("n", 3):
            sample("y", dist.Poisson(t(rate)))

    def lanes() -> None:
        vmap(lambda k: observe("y", dist.Poisson(t(rate)), k))(y)

    def event() -> None:
        observe("y", dist.Poisson(t(rate)).expand([3]).to_event(1), y)

    masked = dist.Poisson(t(rate)).expand([3]).mask(torch.tensor([True, True, True]))
    for p in (seen, lanes, event, condition(free, {"y": y}), lambda: observe("y", masked, y)):
        assert float(assess(p, {})[0]) == pytest.approx(by_scipy, rel=1e-9)
        assert denote(p).log_mass() == pytest.approx(by_scipy, rel=1e-9)
        assert Exact(draws=1).run(p).log_evidence == pytest.approx(by_scipy, rel=1e-9)
        assert "y: " in str(program(p).type())


@pytest.mark.parametrize("dtype", SMALL, ids=str)
def test_choices_and_vectors_of_integers(dtype: Any) -> None:
    k = min(top(dtype), 299)
    weights = torch.arange(1.0, 301.0)
    categorical = [dist.Categorical(weights), dist.Categorical(logits=weights.log())]
    for law in categorical:
        found = float(assess(lambda law=law: observe("y", law, of_dtype(k, dtype)), {})[0])
        assert found == pytest.approx(math.log((k + 1) / 45150))
    for p in (dist.Bernoulli(t(0.3)), dist.Bernoulli(logits=t(math.log(0.3 / 0.7)))):
        for bit, mass in ((0, 0.7), (1, 0.3)):
            found = float(assess(lambda p=p, b=bit: observe("y", p, of_dtype(b, dtype)), {})[0])
            assert found == pytest.approx(math.log(mass))
    one_hot = of_dtype([0, 1, 0], dtype)
    counts = of_dtype([1, 0, 1] if dtype == torch.bool else [100, 0, 127], dtype)
    n = int(counts.long().sum())
    p, a = torch.tensor([0.2, 0.3, 0.5]), torch.tensor([1.5, 2.0, 3.0])
    vectors = (
        (dist.OneHotCategorical(p), one_hot, math.log(0.3)),
        (dist.OneHotCategorical(logits=p.log()), one_hot, math.log(0.3)),
        (
            dist.Multinomial(n, p),
            counts,
            stats.multinomial.logpmf(counts.long().tolist(), n, [0.2, 0.3, 0.5]),
        ),
        (
            dist.Multinomial(n, logits=p.log()),
            counts,
            stats.multinomial.logpmf(counts.long().tolist(), n, [0.2, 0.3, 0.5]),
        ),
        (
            dist.DirichletMultinomial(a, n),
            counts,
            stats.dirichlet_multinomial.logpmf(counts.long().tolist(), a.tolist(), n),
        ),
    )
    for law, y, by_hand in vectors:
        for p_ in (
            lambda law=law, y=y: observe("y", law, y),
            condition(lambda law=law: sample("y", law), {"y": y}),
        ):
            assert float(assess(p_, {})[0]) == pytest.approx(float(by_hand), rel=1e-9), law
            assert denote(p_).log_mass() == pytest.approx(float(by_hand), rel=1e-9), law


class Table(dist.TorchDistribution):  # type: ignore[misc]
    """A law that a user writes, whose values are places in a table of its own."""

    arg_constraints: dict[str, Any] = {}
    support = dist.constraints.nonnegative_integer

    def __init__(self, logs: Tensor) -> None:
        self.logs = logs
        super().__init__(validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        return self.logs[value]


@pytest.mark.parametrize("dtype", SMALL, ids=str)
def test_indices_of_a_law_that_users_write_stay_whole(dtype: Any) -> None:
    logs = torch.arange(40_001.0)
    y = of_dtype(min(top(dtype), 40_000), dtype)
    assert float(assess(lambda: observe("y", Table(logs), y), {})[0]) == float(y)


def test_totals_that_differ_are_conditioned_alone_and_in_lanes() -> None:
    totals, y = torch.tensor([3.0, 5.0]), torch.tensor([1, 2], dtype=torch.uint8)
    by_scipy = float(stats.binom.logpmf([1, 2], [3, 5], 0.5).sum())

    def together() -> None:
        with plate("n", 2):
            sample("y", dist.Binomial(totals, t(0.5)))

    def apart() -> None:
        def lane(n: Tensor, k: Tensor) -> None:
            condition(lambda: sample("y", dist.Binomial(n, t(0.5))), {"y": k})()

        vmap(lane)(totals, y)

    for p in (condition(together, {"y": y}), apart):
        assert float(assess(p, {})[0]) == pytest.approx(by_scipy)
        assert denote(p).log_mass() == pytest.approx(by_scipy)


def test_integers_are_summed_out_with_what_they_depend_on() -> None:
    y = of_dtype([254, 255], torch.uint8)

    def p() -> None:
        z = sample("z", dist.Bernoulli(0.5))
        with plate("n", 2):
            observe("y", dist.Poisson(200.0 + 50 * z), y)

    by_scipy = math.log(
        sum(0.5 * stats.poisson.pmf([254, 255], rate).prod() for rate in (200.0, 250.0))
    )
    assert float(assess(marginal(p, exact=True), {})[0]) == pytest.approx(by_scipy)
    assert denote(p).log_mass() == pytest.approx(by_scipy)


@pytest.mark.parametrize("dtype", SMALL, ids=str)
def test_integers_outside_the_support_are_still_refused(dtype: Any) -> None:
    wrong = (
        (dist.Categorical(torch.ones(1)), 1),
        (dist.Binomial(torch.tensor(0.0), t(0.5)), 1),
        (dist.OneHotCategorical(torch.ones(2)), [1, 1]),
        *(((dist.Poisson(t(1.0)), -1),) if dtype.is_signed else ()),
    )
    for law, value in wrong:
        y = of_dtype(value, dtype)
        with pytest.raises(SupportError, match="outside the support"):
            program(lambda law=law, y=y: observe("y", law, y)).type()
