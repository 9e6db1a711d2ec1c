"""Masked NaN count for nothing, in every density and gradient, for every law.

The class: data that hold NaN where a mask drops them.  Members are laws, with parameters that move
their support; sites that are single, in plates, events, in lanes and in loops; masks by a handler
and by the law; data that Python sees, and data that come as inputs of a graph.  What is expected is
the density, and its derivative, of the entries that are there.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pyro
import pytest
import torch
from torch import Tensor
from torch.distributions import transforms as T

from pushforward import (
    assess,
    condition,
    dist,
    observe,
    plate,
    sample,
    scan,
    vmap,
    weighted,
)
from pushforward.errors import DataError
from pushforward.inference import Exact
from pushforward.inference.vi import SVI, elbo, objective, over, reparam
from pushforward.ppl.distributions.validate import no_validation
from pushforward.ppl.tensors.capture import capture
from pushforward.semantics import denote

pytestmark = pytest.mark.usefixtures("double")
NAN = math.nan


def shifted(base: Any, loc: Any) -> Any:
    return dist.TransformedDistribution(base, [T.AffineTransform(loc, 1.0)])


def vector(*xs: float) -> Tensor:
    return torch.tensor(xs)


EYE = torch.eye(2, dtype=torch.float64)
# Laws with a parameter a > 0, and an event in their support whatever a is.
LAWS: dict[str, tuple[Callable[[Tensor], Any], Tensor]] = {
    "normal": (lambda a: dist.Normal(a, 1.0 + a), torch.tensor(0.3)),
    "log normal": (lambda a: dist.LogNormal(a, torch.tensor(1.0)), torch.tensor(1.7)),
    "shifted log normal": (
        lambda a: shifted(dist.LogNormal(a, torch.tensor(1.0)), 10.0),
        torch.tensor(11.5),
    ),
    "moved log normal": (
        lambda a: shifted(dist.LogNormal(0.0 * a, 1.0 + 0.0 * a), 10.0 + a),
        torch.tensor(14.5),
    ),
    "moved uniform": (lambda a: dist.Uniform(3.0 + a, 9.0 + a), torch.tensor(6.0)),
    "gamma": (lambda a: dist.Gamma(a, 1.0 + a), torch.tensor(0.6)),
    "beta": (lambda a: dist.Beta(a, 2.0 * a), torch.tensor(0.6)),
    "Pareto": (lambda a: dist.Pareto(1.0 + a, a), torch.tensor(7.0)),
    "Student": (lambda a: dist.StudentT(2.0 + a, a, 1.0 + a), torch.tensor(0.6)),
    "half Cauchy": (lambda a: dist.HalfCauchy(a), torch.tensor(0.6)),
    "Weibull": (lambda a: dist.Weibull(a, 1.0 + a), torch.tensor(0.6)),
    "von Mises": (lambda a: dist.VonMises(a, a), torch.tensor(0.6)),
    "Poisson": (lambda a: dist.Poisson(a), torch.tensor(3.0)),
    "Bernoulli": (lambda a: dist.Bernoulli(logits=a), torch.tensor(1.0)),
    "categorical": (
        lambda a: dist.Categorical(torch.stack([a, 1.0 + a, 2.0 * a], -1)),
        torch.tensor(2.0),
    ),
    "binomial": (lambda a: dist.Binomial(5, logits=a), torch.tensor(3.0)),
    "geometric": (lambda a: dist.Geometric(logits=a), torch.tensor(3.0)),
    "mixture": (
        lambda a: dist.MixtureSameFamily(
            dist.Categorical(torch.ones(2)), dist.Normal(torch.stack([a, 2.0 * a], -1), 1.0)
        ),
        torch.tensor(0.3),
    ),
    "vector": (
        lambda a: dist.Normal(torch.stack([a, 1.0 + a], -1), 1.0).to_event(1),
        vector(0.1, 0.7),
    ),
    "Dirichlet": (
        lambda a: dist.Dirichlet(torch.stack([a, 1.0 + a, 2.0 * a], -1)),
        vector(0.2, 0.3, 0.5),
    ),
    "multivariate": (
        lambda a: dist.MultivariateNormal(
            torch.stack([a, 2.0 * a], -1), (1.0 + a)[..., None, None] * EYE
        ),
        vector(0.2, -0.3),
    ),
    "correlations": (
        lambda a: dist.LKJCholesky(2, 1.0 + a),
        torch.tensor([[1.0, 0.0], [0.6, 0.8]]),
    ),
    "one hot": (
        lambda a: dist.OneHotCategorical(torch.stack([a, 1.0 + a, 2.0 * a], -1)),
        vector(0.0, 0.0, 1.0),
    ),
    "multinomial": (
        lambda a: dist.Multinomial(4, torch.stack([a, 1.0 + a, 2.0 * a], -1)),
        vector(1.0, 0.0, 3.0),
    ),
}
A = torch.tensor([0.7, 1.3], dtype=torch.float64)  # the parameters of two entries


def missing(event: Tensor, which: str) -> Tensor:
    """Two events, of which the second is there in part, or not at all, or neither is."""
    y = torch.stack([event, event]).double()
    if which == "part" and event.ndim:
        y[1].view(-1)[0] = NAN
    elif which == "none":
        y[:] = NAN
    else:
        y[1] = NAN
    return y


def there(y: Tensor) -> Tensor:
    return ~y.reshape(len(y), -1).isnan().any(1)


def plated(law: Any, a: Tensor, y: Tensor, seen: Tensor) -> Tensor:
    def p() -> None:
        with plate("n", 2), pyro.poutine.mask(mask=seen):
            observe("y", law(a), y)

    return assess(p, {})[0]


def by_law(law: Any, a: Tensor, y: Tensor, seen: Tensor) -> Tensor:
    def p() -> None:
        with plate("n", 2):
            observe("y", law(a).mask(seen), y)

    return assess(p, {})[0]


def in_lanes(law: Any, a: Tensor, y: Tensor, seen: Tensor) -> Tensor:
    def lane(a: Tensor, y: Tensor, seen: Tensor) -> None:
        with pyro.poutine.mask(mask=seen):
            observe("y", law(a), y)

    return assess(vmap(lane), {}, a, y, seen)[0]


def as_values(law: Any, a: Tensor, y: Tensor, seen: Tensor) -> Tensor:
    def lane(a: Tensor, y: Tensor, seen: Tensor) -> Tensor:
        with pyro.poutine.mask(mask=seen):
            return weighted(lambda: observe("y", law(a), y))()[1]

    return assess(lambda: vmap(lane)(a, y, seen).sum(), {})[1]


def one_by_one(law: Any, a: Tensor, y: Tensor, seen: Tensor) -> Tensor:
    def p() -> None:
        for i in range(2):
            with pyro.poutine.mask(mask=seen[i]):
                observe(f"y{i}", law(a[i]), y[i])

    return assess(p, {})[0]


def in_a_loop(law: Any, a: Tensor, y: Tensor, seen: Tensor) -> Tensor:
    def step(c: Tensor, x: Any) -> Any:
        with pyro.poutine.mask(mask=x[2]):
            observe("y", law(x[0]), x[1])
        return c, None

    return assess(lambda: scan(step)(torch.zeros(()), (a, y, seen)), {})[0]


WAYS = {f.__name__: f for f in (plated, by_law, in_lanes, as_values, one_by_one, in_a_loop)}


@pytest.mark.parametrize("name", LAWS)
def test_density_and_derivative_are_those_of_what_is_there(name: str) -> None:
    law, event = LAWS[name]
    for which, (way, score) in itertools.product(("whole", "part", "none"), WAYS.items()):
        y = missing(event, which)
        seen = there(y)
        by_hand_at, at = A.clone().requires_grad_(), A.clone().requires_grad_()
        by_hand = 0.0 * by_hand_at.sum()
        for i in range(2):
            by_hand = by_hand + (law(by_hand_at[i]).log_prob(y[i]) if seen[i] else 0.0)
        (slope,) = torch.autograd.grad(by_hand, by_hand_at)
        found = score(law, at, y, seen) + 0.0 * at.sum()
        (derivative,) = torch.autograd.grad(found, at)
        traced = lambda a, y, seen, s=score: s(law, a, y, seen) + 0.0 * a.sum()  # noqa: E731
        with no_validation():
            total, gradient = capture(traced, A[None], y, seen)(A[None], y, seen)
        for value, by in ((found, derivative), (total[0], gradient[0])):
            assert float(value.detach()) == pytest.approx(float(by_hand.detach()), rel=1e-10)
            torch.testing.assert_close(by, slope, rtol=1e-9, atol=1e-12, msg=f"{which} {way}")


def series(y: Tensor) -> None:
    def step(x: Tensor, y: Tensor) -> tuple[Tensor, None]:
        x = sample("x", dist.Normal(x, 1.0))
        with pyro.poutine.mask(mask=~y.isnan()):
            observe("y", dist.Normal(x, 1.0), y)
        return x, None

    scan(step)(torch.tensor(0.0), y)


def test_a_series_with_missing_days_has_the_evidence_of_the_others() -> None:
    """y_1 = x_1 + e is N(0, 2), y_3 = x_1 + u + v + e is N(0, 4), of covariance 1."""
    y = torch.tensor([1.0, NAN, 2.0])
    there = dist.MultivariateNormal(torch.zeros(2), torch.tensor([[2.0, 1.0], [1.0, 4.0]]))
    by_hand = float(there.log_prob(torch.tensor([1.0, 2.0])))
    assert Exact(draws=1).run(series, y).log_evidence == pytest.approx(by_hand)


def in_a_plate(mu: Tensor, y: Tensor) -> None:
    with plate("n", len(y)), pyro.poutine.mask(mask=~y.isnan()):
        observe("y", dist.Normal(mu, 1.0), y)


def as_events(mu: Tensor, y: Tensor) -> None:
    with plate("n", len(y)), pyro.poutine.mask(mask=~y.isnan()):
        law = dist.Normal(mu, 1.0).expand([len(y), 1]).to_event(1)
        pyro.sample("y", law, obs=y[:, None])


def ascended(law: Any, y: Tensor, compiled: bool) -> float:
    """Where the mean of a guide is after some steps from one seed."""
    theta = torch.tensor(0.0, requires_grad=True)

    def model(y: Tensor) -> None:
        law(sample("mu", dist.Normal(0.0, 1.0)), y)

    bound = elbo(model, lambda y: sample("mu", reparam(dist.Normal(theta, 0.5))))
    optimizer = torch.optim.Adam([theta], lr=0.05)
    torch.manual_seed(0)
    settings = {"samples": 8, "compiled": compiled, "replayed": 0, "progress": False}
    SVI(bound, optimizer, **settings).run(y, steps=40)
    return float(theta.detach())


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("law", [in_a_plate, as_events])
def test_objectives_are_those_of_what_is_there_also_in_graphs(law: Any, compiled: bool) -> None:
    found = ascended(law, torch.tensor([1.0, NAN, 2.0]), compiled)
    assert found == pytest.approx(ascended(law, torch.tensor([1.0, 2.0]), compiled), rel=1e-9)
    assert found != pytest.approx(ascended(law, torch.tensor([1.0, 0.0, 2.0]), compiled), rel=1e-3)


def test_objectives_over_rows_leave_them_out() -> None:
    seen = torch.tensor([True, False, True])

    def ends(y: Tensor) -> float:
        theta = torch.tensor(0.0, requires_grad=True)

        def row(y: Tensor, seen: Tensor) -> Any:
            def model(y: Tensor) -> None:
                u = sample("u", dist.Normal(0.0, 1.0))
                with pyro.poutine.mask(mask=seen):
                    observe("y", dist.Normal(u, 1.0), y)

            return elbo(model, lambda y: sample("u", reparam(dist.Normal(theta, 1.0))), y)

        @objective
        def rows(y: Tensor) -> Tensor:
            return over(row, y, seen, size=3)

        torch.manual_seed(0)
        optimizer = torch.optim.Adam([theta], lr=0.05)
        SVI(rows(), optimizer, compiled=False, progress=False).run(y, steps=40)
        return float(theta.detach())

    masked = ends(torch.tensor([1.0, 7.0, 2.0]))
    assert ends(torch.tensor([1.0, NAN, 2.0])) == pytest.approx(masked, rel=1e-9)


def test_conditioned_lanes_leave_them_out() -> None:
    y, ps = torch.tensor([1.0, NAN, 0.0]), torch.tensor([0.3, 0.5, 0.2])

    def p() -> Tensor:
        with pyro.poutine.mask(mask=~y.isnan()):
            return vmap(lambda q: sample("y", dist.Bernoulli(q)))(ps)

    seen = condition(p, {"y": y})
    assert float(assess(seen, {})[0].exp()) == pytest.approx(0.3 * 0.8)
    assert denote(lambda: seen().nansum()).mass() == pytest.approx(0.3 * 0.8)


def test_nan_that_count_and_masks_that_are_too_wide_are_still_refused() -> None:
    y = torch.tensor([1.0, NAN])

    def counted() -> None:
        with plate("n", 2), pyro.poutine.mask(mask=torch.tensor([False, True])):
            observe("y", dist.Normal(0.0, 1.0), y)

    with pytest.raises(DataError, match="hold 1 NaN"):
        assess(counted, {})

    def wide(mask: Tensor) -> None:
        with pyro.poutine.mask(mask=mask):
            observe("y", dist.Normal(0.0, 1.0), y[1])

    for meaning in (
        lambda: assess(wide, {}, torch.zeros(3, dtype=torch.bool)),
        lambda: assess(vmap(wide), {}, torch.zeros((2, 3), dtype=torch.bool)),
    ):
        with pytest.raises(DataError, match=r"hold [12] NaN"):
            meaning()
