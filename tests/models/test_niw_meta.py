"""The hierarchical few-shot learner: acceptance checks of arXiv 2306.09702, and its exact bound."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from scipy.integrate import quad
from scipy.special import roots_hermitenorm
from scipy.stats import gamma
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.overrides import TorchFunctionMode

from pushforward import dist
from pushforward.inference.vi import objective
from pushforward.inference.vi.objective import estimator
from pushforward.models.niw_meta import (
    Categories,
    Gaussian,
    NIWMeta,
    Quadratic,
    curvature,
    episode_bound,
    episodes,
    guide,
    local_posterior,
    niw,
    quadratic,
)
from pushforward.models.niw_meta import estimator as estimators
from pushforward.models.niw_meta.local import Global, merged
from pushforward.ppl.distributions.inverse_wishart import NormalInverseWishart
from pushforward.semantics import check

pytestmark = pytest.mark.usefixtures("double")


def f(x: Any) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


M0, V0, N0 = f([0.5, -1.0]), f([[2.0, 0.3], [0.3, 1.0]]), 5.0
ABAR, MBAR = f([[3.0, 0.5], [0.5, 2.0]]), f([1.0, 0.0])


def test_1_the_local_posterior() -> None:
    m, v = local_posterior(M0, V0, N0, MBAR, ABAR)
    torch.testing.assert_close(m, f([0.8725518666, -0.67434582]), rtol=0, atol=1e-9)
    exact = f([[0.1783628561, 0.0070338464], [0.0070338464, 0.1384828832]])
    torch.testing.assert_close(v, exact, rtol=0, atol=1e-10)


def test_2_the_expected_divergence() -> None:
    law = NormalInverseWishart(M0, V0, N0, 10.0)
    assert float(law.covariance.mean_log_det) == pytest.approx(-1.8651320948, abs=1e-10)
    found = law.expected_kl(*local_posterior(M0, V0, N0, MBAR, ABAR))
    assert float(found) == pytest.approx(0.9733725911, abs=1e-10)


def test_2_and_by_draws() -> None:
    law = NormalInverseWishart(M0, V0, N0, 10.0)
    own = dist.MultivariateNormal(*local_posterior(M0, V0, N0, MBAR, ABAR))
    torch.manual_seed(0)
    each = torch.distributions.kl_divergence(own, dist.MultivariateNormal(*law.rsample((40_000,))))
    error = 5 * float(each.std()) / 200  # level 1e-6
    assert abs(float(each.mean()) - 0.9733725911) < error


def test_3_the_predictive_law_and_the_mode() -> None:
    law = NormalInverseWishart(M0, V0, N0, 10.0)
    student = law.predictive()
    assert float(student.df) == 4.0
    scale = student.scale_tril @ student.scale_tril.mT
    torch.testing.assert_close(scale, f([[0.55, 0.0825], [0.0825, 0.275]]))
    mean, covariance = law.mode()
    torch.testing.assert_close(covariance, V0 / 9)
    assert mean is M0


def test_4_diagonals() -> None:
    loss = Quadratic(f([3.0, 7.0]), f([2.0, 0.0]))
    m, v = merged(loss, M0, 2.0 * f([4.0, 0.5]), full=False)
    torch.testing.assert_close(m, f([1.0, -1.0]))
    torch.testing.assert_close(1 / v, f([10.0, 1.0]))
    nothing, _ = merged(Quadratic(MBAR, 0 * ABAR), M0, N0 * V0.inverse(), full=True)
    torch.testing.assert_close(nothing, M0)


def test_5_no_other_normal_is_better() -> None:
    def value(m: Tensor, v: Tensor) -> float:
        data = (ABAR @ v).trace() + (m - MBAR) @ ABAR @ (m - MBAR)
        prior = N0 * (V0.inverse() @ v).trace() + N0 * (m - M0) @ V0.inverse() @ (m - M0)
        return float(data + prior - v.logdet()) / 2

    m, v = local_posterior(M0, V0, N0, MBAR, ABAR)
    least = value(m, v)
    assert least == pytest.approx(3.7375616122, abs=1e-10)
    torch.manual_seed(0)
    for _ in range(100):
        way, turn = 0.05 * torch.randn(2), 0.05 * torch.randn(2, 2)
        factor = torch.linalg.cholesky(v) @ (torch.eye(2) + turn.tril())
        assert value(m + way, factor @ factor.mT) > least


def features(x: Tensor) -> Tensor:
    return torch.stack([torch.ones_like(x), x, torch.sin(3 * x)], -1)


def sine_line(theta: Tensor, x: Tensor) -> Tensor:
    return (features(x) @ theta)[..., None]


MU, SPREAD = f([1.0, -2.0, 0.5]), f([0.1, 1.0, 0.3])


def sine_lines(n: int) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    while True:
        x = 4 * torch.rand(n) - 2
        y = sine_line(MU + SPREAD * torch.randn(3), x)[:, 0] + 0.5 * torch.randn(n)
        yield x[: n // 2], y[: n // 2], x[n // 2 :], y[n // 2 :]


def learner(**settings: Any) -> NIWMeta:
    settings = {"cov": "full", "curvature": "exact", "lr": 0.02, "spread": 1.0} | settings
    return NIWMeta(sine_line, Gaussian(0.25), start=torch.zeros(3), **settings)


def errors(mean: Tensor, weight: Tensor) -> tuple[float, float]:
    """Squared error and -log density of 2000 tasks, 5 data for support and 20 as queries."""
    torch.manual_seed(7)
    theta = MU + SPREAD * torch.randn(2000, 3)
    x = 4 * torch.rand(2000, 25) - 2
    y = (features(x) @ theta[..., None])[..., 0] + 0.5 * torch.randn(2000, 25)
    phi, query = features(x[:, :5]), features(x[:, 5:])
    precision = phi.mT @ phi / 0.25 + weight
    pull = phi.mT @ y[:, :5, None] / 0.25 + (weight @ mean)[:, None]
    m = torch.linalg.solve(precision, pull)
    predicted = (query @ m)[..., 0]
    variance = 0.25 + torch.einsum("eqi,eij,eqj->eq", query, precision.inverse(), query)
    error = (predicted - y[:, 5:]).square().mean()
    scores = dist.Normal(predicted, variance.sqrt()).log_prob(y[:, 5:])
    return float(error), -float(scores.mean())


def test_6_a_short_run_comes_near() -> None:
    torch.manual_seed(0)
    model = learner(lr=0.05).fit(sine_lines(10), 120)
    with torch.no_grad():
        found = errors(model.shared_.m0, model.shared_.weight("mode"))
    oracle = errors(MU, SPREAD.pow(-2).diag())
    unit = errors(torch.zeros(3), torch.eye(3))
    assert found[0] < 1.1 * oracle[0] and found[1] < oracle[1] + 0.05
    assert unit[0] > 1.5 * oracle[0]


@pytest.mark.slow
def test_6_sine_lines() -> None:
    torch.manual_seed(0)
    model = learner().fit(sine_lines(10), 1500)
    with torch.no_grad():
        m0 = model.shared_.m0
        found = errors(m0, model.shared_.weight("mode"))
    oracle = errors(MU, SPREAD.pow(-2).diag())
    assert bool(((m0 - MU).abs() < 0.1).all())
    assert found[0] <= 1.02 * oracle[0] and found[1] <= oracle[1] + 0.01


class Created(TorchFunctionMode):
    """Keeps what torch's functions give, but for what one call of a transform wraps."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        inside = isinstance(result, Tensor) and is_functorch_wrapped_tensor(result)
        if isinstance(result, Tensor) and not inside and not isinstance(result, nn.Parameter):
            self.found.append(result)
        return result


@pytest.mark.parametrize("how", ["swag", "ggn", "exact", "a graph"])
def test_7_the_inner_loop_leaves_no_graph(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """``a graph`` is the seeded fault: steps from m0 itself."""
    created = Created()
    inner = curvature.quadratic

    def watched(*args: Any, **settings: Any) -> Quadratic:
        with created:
            found = inner(*args, **settings)
            return Quadratic(found.centre + 0 * args[2], found[1]) if how == "a graph" else found

    monkeypatch.setattr(estimators, "quadratic", watched)
    learner(curvature="swag" if how == "a graph" else how).fit(sine_lines(10), 1)
    assert created.found
    assert any(x.requires_grad for x in created.found) == (how == "a graph")


# An episode of one parameter, where all is exact


X, Y, NOISE = f([[0.4, -1.1]]), f([[0.9, -0.3]]), 0.5


def line(theta: Tensor, x: Tensor) -> Tensor:
    return (x * theta[0])[:, None]


def shared_by(at: Tensor) -> Any:
    """The shared law of one parameter, by (m0, log n0 above 2, log deviation)."""
    shared = Global(f([0.0]), 1.0, 5.0, full=True)
    parts = {"m0": at[:1], "log_df": at[1], "log_diagonal": at[2:]}
    return shared, parts


def quadratic_of(x: Tensor = X, y: Tensor = Y) -> Quadratic:
    return quadratic(line, Gaussian(NOISE), f([0.2]), x, y, "exact")


AT = f([0.3, 1.1, 0.4])


class Bound(nn.Module):
    def __init__(self, shared: Global, fault: float = 0.0) -> None:
        super().__init__()
        self.shared, self.fault = shared, fault

    def forward(self) -> Tensor:
        """The bound of one episode; a fault adds a multiple of n0 to the divergence."""
        value = episode_bound(self.shared, line, Gaussian(NOISE), quadratic_of(), X, Y)
        return value - self.fault * self.shared.df  # type: ignore[no-any-return]


def bound_at(at: Tensor, fault: float = 0.0) -> Tensor:
    shared, parts = shared_by(at)
    module = Bound(shared, fault)
    named = {f"shared.{name}": part for name, part in parts.items()}
    named["shared.below"] = torch.zeros(1, 1)

    @objective
    def value() -> Tensor:
        return torch.func.functional_call(module, named, ())  # type: ignore[no-any-return]

    return value().surrogate()  # type: ignore[no-any-return]


def exact_bound(at: Tensor) -> Tensor:
    """By hand, with what is differentiated written out: digamma, logarithms and squares."""
    m0, n0, v0 = at[0], 2 + at[1].exp(), (2 * at[2]).exp()
    precision, pull = (X**2).sum() / NOISE, (X * Y).sum() / NOISE
    v = 1 / (precision + n0 / v0)
    m = v * (pull + n0 / v0 * m0)
    fit = -((Y - m * X) ** 2 + v * X**2).sum() / (2 * NOISE)
    fit = fit - Y.numel() / 2 * math.log(2 * math.pi * NOISE)
    kl = n0 / v0 * (v + (m - m0) ** 2) - 1 - v.log() + v0.log() - math.log(2)
    return fit - (kl - torch.digamma(n0 / 2)) / 2  # type: ignore[no-any-return]


def test_the_computed_bound_is_exact_for_a_conjugate_episode() -> None:
    report = check.unbiased(estimator(bound_at), exact_bound, AT, quadrature=16)
    report.require()


def test_a_fault_of_a_thousandth_in_the_divergence_is_found() -> None:
    wrong = estimator(lambda at: bound_at(at, fault=1e-3))
    report = check.unbiased(wrong, exact_bound, AT, quadrature=16)
    assert report.verdict == "fail" and math.isfinite(report.deviation)


def test_the_bound_is_the_expected_log_ratio_of_the_program_and_its_guide() -> None:
    """E log p(theta, y | mu, Sigma) - log q(theta), theta by Hermite, 1 / Sigma by quadrature."""
    n0, v0 = 2 + math.exp(1.1), math.exp(0.8)
    m, v = (float(x) for x in local_posterior(AT[:1], f([[v0]]), n0, *_first(quadratic_of())))
    nodes, weights = roots_hermitenorm(20)
    weights = weights / weights.sum()

    def inside(w: float) -> float:
        """With precision w, by the program itself."""
        total = 0.0
        for z, weight in zip(nodes, weights, strict=True):
            theta = m + math.sqrt(v) * z
            p = dist.Normal(AT[0], w**-0.5).log_prob(f(theta))
            p = p + dist.Normal(X * theta, NOISE**0.5).log_prob(Y).sum()
            total += weight * float(p - dist.Normal(m, v**0.5).log_prob(f(theta)))
        return total * float(gamma.pdf(w, n0 / 2, scale=2 / v0))

    found, _ = quad(inside, 0, 40, epsabs=1e-6, limit=60)
    assert found == pytest.approx(float(exact_bound(AT)), abs=1e-5)


def _first(loss: Quadratic) -> tuple[Tensor, Tensor]:
    return loss.centre[0], loss.precision[0]


def test_the_exact_quadratic_is_the_loss_even_where_data_say_nothing() -> None:
    phi = features(f([0.3, 0.3, 0.3]))  # of rank one
    y = f([1.0, 0.4, 0.2])
    loss = quadratic(sine_line, Gaussian(0.25), MU, f([[0.3] * 3]), y[None], "exact")
    torch.testing.assert_close(loss.precision[0], phi.mT @ phi / 0.25)
    pull = loss.precision[0] @ loss.centre[0]
    torch.testing.assert_close(pull, phi.mT @ y / 0.25)


def test_swag_is_mean_and_inverse_variance_of_the_iterates() -> None:
    """Steps of descent on a line with normal noise, by hand."""
    theta, lr, path = 0.2, 0.1, []
    for _ in range(4):
        slope = float((X * (X * theta - Y)).sum()) / NOISE / 2  # of the mean of two data
        theta -= lr * slope
        path.append(theta)
    loss = quadratic(line, Gaussian(NOISE), f([0.2]), X, Y, "swag", steps=4, lr=lr, most=1e9)
    assert float(loss.centre) == pytest.approx(sum(path) / 4, rel=1e-12)
    spread = sum((x - sum(path) / 4) ** 2 for x in path) / 4
    assert float(loss.precision) == pytest.approx(1 / spread, rel=1e-9)
    clipped = quadratic(line, Gaussian(NOISE), f([0.2]), X, Y, "swag", steps=4, lr=lr, most=3.0)
    assert float(clipped.precision) == 3.0


@pytest.mark.parametrize("likelihood", [Gaussian(0.3), Categories(3)], ids=["normal", "classes"])
def test_gauss_newton_is_the_mean_hessian_of_the_likelihood(likelihood: Any) -> None:
    """For outputs that are linear it is the Hessian, whatever the targets."""
    x, k = torch.randn(4, 2), 1 if isinstance(likelihood, Gaussian) else 3
    y = f([0.0, 1.0, 2.0, 1.0])

    def net(theta: Tensor, x: Tensor) -> Tensor:
        return x @ theta.reshape(2, k)

    theta = torch.randn(2 * k)
    hessian = torch.func.hessian(lambda t: likelihood.loss(net(t, x), y))(theta)
    jacobian = torch.func.jacrev(net)(theta, x)
    found = likelihood.gauss_newton(net(theta, x), jacobian)
    torch.testing.assert_close(found, hessian.diagonal())


def test_the_student_rule_is_the_best_product_of_normal_and_gamma() -> None:
    """Its mean is a fixed point: the slope of E loss + E -log p at the fitted scale is zero."""
    shared = Global(M0, 1.0, 6.0, full=True)
    with torch.no_grad():
        loss = Quadratic(MBAR[None], ABAR[None])
        m, v = shared.posterior(loss, "student")
        weight, d, df = shared.weight("student"), 2, shared.df - 1
        form = (weight @ (v[0] + torch.outer(m[0] - M0, m[0] - M0))).trace()
        w = (df + d) / (df + form)
        slope = ABAR @ (m[0] - MBAR) + w * weight @ (m[0] - M0)
        torch.testing.assert_close(slope, torch.zeros(2), rtol=0, atol=1e-9)
        torch.testing.assert_close(v[0].inverse(), ABAR + w * weight)
        diagonal = Global(M0, 1.0, 6.0, full=False)
        m, v = diagonal.posterior(Quadratic(MBAR[None], f([[3.0, 2.0]])), "student")
        weight = diagonal.weight("student")
        w = (diagonal.df + 1) / (diagonal.df + weight * (v + (m - M0) ** 2))
        torch.testing.assert_close(1 / v, f([[3.0, 2.0]]) + w * weight)


def test_a_diagonal_law_is_a_batch_of_laws_of_one_number() -> None:
    shared = Global(M0, 0.7, 5.0, full=False)
    m, v = f([[0.2, 0.1], [1.0, -1.0]]), f([[0.5, 0.3], [0.1, 0.2]])
    rows = shared.law.expected_kl(m[..., None], v[..., None, None])
    torch.testing.assert_close(shared.expected_kl(m, v), rows.sum(-1))


def test_types() -> None:
    law = NormalInverseWishart(M0, V0, N0, 10.0)
    space = "PositiveDefinite(2)"
    assert (
        str(niw.type(law)) == f"{{covariance: {space}, mean: Real[2]}} -> P (Real[2], Real[2, 2])"
    )

    def net(theta: Tensor, x: Tensor) -> Tensor:
        return (theta[0] + theta[1] * x)[:, None]

    x = torch.zeros(4, 3)
    found = str(episodes.type(law, net, Gaussian(0.25), x, x))
    names = f"{{covariance: {space}, mean: Real[2], theta: Real[4, 2], y: Real[4, 3] observed}}"
    assert found == f"{names} -> M Real[4, 2]"
    assert (
        str(guide.type(torch.zeros(4, 2), torch.ones(4, 2)))
        == "{theta: Real[4, 2]} -> P Real[4, 2]"
    )


# Digits


def digits(classes: list[int], shots: int, queries: int) -> Iterator[Any]:
    """Episodes of three of the classes, in any order."""
    x, label = (torch.as_tensor(part) for part in load_digits(return_X_y=True))
    groups = {c: x[label == c].double() / 16 for c in classes}
    names = torch.arange(3)
    while True:
        chosen = torch.randperm(len(classes))[:3]
        parts = [groups[classes[int(i)]] for i in chosen]
        rows = [part[torch.randperm(len(part))[: shots + queries]] for part in parts]
        support = torch.cat([row[:shots] for row in rows])
        query = torch.cat([row[shots:] for row in rows])
        yield support, names.repeat_interleave(shots), query, names.repeat_interleave(queries)


class Digits(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, 32), nn.Tanh())
        self.head = nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))  # type: ignore[no-any-return]


def test_digits_get_probabilities_and_only_chosen_parameters_move() -> None:
    """Of what the steps of this size are good for, nothing is claimed: see the page."""
    torch.manual_seed(0)
    model = NIWMeta(
        Digits(), Categories(3), params=lambda name: name.startswith("head"), curvature="ggn",
        batch=4,
    )  # fmt: skip
    before = model.shared_.m0.detach().clone()
    model.fit(digits([0, 1, 2, 3], 3, 3), 2)
    assert len(before) == 32 * 3 + 3 and not bool((model.shared_.m0 == before).all())
    support, names, query, _ = next(digits([7, 8, 9], 5, 4))
    found = model.predict(support, names, query, n_samples=4)
    assert found.shape == (12, 3)
    torch.testing.assert_close(found.sum(-1), torch.ones(12))


# Bad inputs


Task = tuple[Tensor, Tensor, Tensor, Tensor]


def task(n: int = 4) -> Task:
    return next(sine_lines(n))


BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "few degrees of freedom": (lambda: local_posterior(M0, V0, 1.0, MBAR, ABAR), "GreaterThan"),
    "n0 at its least": (lambda: learner(df=4.0), "n0 is above 4"),
    "V0 not positive": (lambda: local_posterior(M0, -V0, 5.0, MBAR, ABAR), "PositiveDefinite"),
    "no parameter": (
        lambda: NIWMeta(Digits(), Categories(3), params=lambda name: "tail" in name),
        "no parameter of Digits is chosen",
    ),
    "too many": (
        lambda: NIWMeta(nn.Linear(100, 50), Categories(50), cov="full"),
        '5050 parameters are too many.*cov="diag"',
    ),
    "no start": (lambda: NIWMeta(sine_line, Gaussian(1.0)), "give start="),
    "exact diagonal": (lambda: learner(cov="diag"), "is a matrix"),
    "unknown curvature": (lambda: learner(curvature="fisher"), "curvature: swag"),
    "unknown rule": (lambda: learner().adapt(*task()[:2], rule="best"), "no rule 'best'"),  # type: ignore[arg-type]
    "one iterate": (lambda: learner(curvature="swag", inner_steps=1), "inner_steps >= 2"),
    "no rate": (lambda: learner(inner_lr=0.0), "settings are positive"),
    "no noise": (lambda: Gaussian(0.0), "variance of noise"),
    "one draw": (lambda: learner().predict(*task()[:3], n_samples=1), "two draws"),
    "sizes": (lambda: learner().fit([task(4), task(6)], 1), "sizes \\[4, 6\\]"),
    "NaN": (lambda: learner().adapt(f([1.0]), f([math.nan])), "finite numbers"),
    "one class": (lambda: Categories(3).check(f([1, 1])), "all data of an episode are of class 1"),
    "classes": (lambda: Categories(3).check(f([1, 3])), "classes of an episode are 0 .. 2"),
}


@pytest.mark.parametrize("name", BAD)
def test_8_bad_inputs(name: str) -> None:
    run, says = BAD[name]
    with pytest.raises(ValueError, match=says):
        run()


def test_8_no_data_is_the_prior_with_a_warning() -> None:
    model = learner()
    with pytest.warns(UserWarning, match="keeps the prior"):
        m, v = model.adapt(f([]), f([]))
    torch.testing.assert_close(m, model.shared_.m0.detach())
    torch.testing.assert_close(v, model.shared_.weight("mode").detach().inverse())


def test_8_a_curvature_that_is_negative_or_no_number() -> None:
    class Odd(Gaussian):
        def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
            return -outputs.square().sum()

        def gauss_newton(self, outputs: Tensor, jacobian: Tensor) -> Tensor:
            return -jacobian.square().sum((0, 1))

    x, y, _, _ = task()
    for how in ("exact", "ggn"):
        with pytest.warns(UserWarning, match="negative curvature"):
            loss = quadratic(sine_line, Odd(1.0), MU, x[None], y[None], how)  # type: ignore[arg-type]
        assert float(loss.precision.min()) >= -1e-12
    with pytest.raises(FloatingPointError, match="smaller inner_lr"):
        quadratic(sine_line, Gaussian(1.0), MU, x[None], y[None], "ggn", steps=400, lr=1e9)
