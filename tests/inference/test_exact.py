"""Exact inference as a method: elimination, linear-Gaussian algebra, and latents summed out.

Expected values: the exact evaluator, closed forms, the forward algorithm and the Kalman filter.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import scipy.stats
import torch
from support.equations import run_on
from support.sizes import quick
from support.terms import terms
from torch import Tensor

from pushforward import (
    condition,
    deterministic,
    dist,
    draw,
    factor,
    observe,
    plate,
    program,
    sample,
    scan,
)
from pushforward.errors import (
    BudgetError,
    NoDensityError,
    ProgramError,
    PushforwardError,
    ZeroMassError,
)
from pushforward.inference import MCMC, Exact, Fit, nuts
from pushforward.ppl import assess, cond, marginal
from pushforward.ppl.calculus import syntax as s
from pushforward.ppl.calculus.elaborate import elaborate
from pushforward.ppl.errors import InfiniteMassError
from pushforward.ppl.interpretations.factors import FiniteLatents
from pushforward.ppl.interpretations.log_density import LogDensity
from pushforward.semantics import denote

pytestmark = pytest.mark.usefixtures("double")


# ----------------------------------------------------------------------------------- finite latents


def alarm() -> Tensor:
    burglary = sample("burglary", dist.Bernoulli(0.001))
    earthquake = sample("earthquake", dist.Bernoulli(0.002))
    table = torch.tensor([[0.001, 0.29], [0.94, 0.95]])
    alarm = sample("alarm", dist.Bernoulli(table[burglary.long(), earthquake.long()]))
    observe("john", dist.Bernoulli(torch.tensor([0.05, 0.9])[alarm.long()]), torch.tensor(1.0))
    observe("mary", dist.Bernoulli(torch.tensor([0.01, 0.7])[alarm.long()]), torch.tensor(1.0))
    return burglary


def loops() -> Tensor:
    """A cycle of four, whose table needs three variables at once; and one that nothing looks at."""
    xs = [sample(f"x{i}", dist.Categorical(torch.tensor([0.2, 0.3, 0.5]))) for i in range(4)]
    for i in range(4):
        factor(f"f{i}", torch.tensor([[0.0, 1.0, -1.0]] * 3)[xs[i], xs[(i + 1) % 4]])
    sample("idle", dist.Bernoulli(0.25))
    factor("constant", torch.tensor(0.5))
    return xs[0]


def shared() -> Tensor:
    """A latent outside a plate, and latents within and in a plate inside it."""
    g = sample("g", dist.Bernoulli(0.3))
    with plate("rows", 2, dim=-2):
        r = sample("r", dist.Bernoulli(0.2 + 0.5 * g).expand([2, 1]))
        with plate("columns", 3, dim=-1):
            z = sample("z", dist.Bernoulli(0.1 + 0.6 * r))
            observe("y", dist.Normal(z + g, 1.0), torch.linspace(-1, 2, 6).reshape(2, 3))
    return g


def clusters() -> None:
    with plate("points", 5):
        z = sample("z", dist.Categorical(torch.tensor([0.5, 0.2, 0.3])))
        hot = sample("hot", dist.OneHotCategorical(torch.tensor([0.4, 0.6])))
        centre = torch.tensor([-1.0, 0.0, 2.0])[z] + hot[..., 0]
        observe("y", dist.Normal(centre, 0.5), torch.linspace(-2, 2, 5))


def branching() -> Tensor:
    x = sample("x", dist.Bernoulli(0.4))
    y = sample("y", dist.Bernoulli(0.3 + 0.2 * x))
    cond(x > 0, lambda: factor("f", 1.0 * y), lambda: factor("g", -2.0 * y))()
    return y


NETWORKS = [alarm, loops, shared, clusters, branching]


def alternatives() -> Tensor:
    """Latents of which each run makes one only."""
    k = sample("k", dist.Bernoulli(0.4))
    c = cond(
        k > 0, lambda: sample("u", dist.Bernoulli(0.2)), lambda: sample("v", dist.Bernoulli(0.7))
    )()
    observe("y", dist.Bernoulli(0.2 + 0.5 * c), torch.tensor(1.0))
    return c


def test_latents_of_branches() -> None:
    fit = Exact(1).run(alternatives)
    assert fit.log_evidence == pytest.approx(math.log(denote(alternatives).mass()), abs=1e-12)


def brute_force(p: Callable[[], Any]) -> tuple[float, dict[str, Tensor]]:
    """The evidence and the posterior probabilities, by the density at all joint values."""
    model = FiniteLatents(p, ())
    elements = [(n, e) for n, shape in model.shapes.items() for e in _elements(shape)]
    axes = [range(len(model.values[name])) for name, _ in elements]
    probs = {n: torch.zeros(*shape, len(model.values[n])) for n, shape in model.shapes.items()}
    total = 0.0
    for joint in itertools.product(*axes):
        index = {n: torch.zeros(shape, dtype=torch.long) for n, shape in model.shapes.items()}
        for (name, element), i in zip(elements, joint, strict=True):
            index[name][element] = i
        weight = float(assess(p, model.choices_at(index))[0].exp())
        total += weight
        for (name, element), i in zip(elements, joint, strict=True):
            probs[name][(*element, i)] += weight
    return total, {name: table / total for name, table in probs.items()}


def _elements(shape: Any) -> list[tuple[int, ...]]:
    return list(itertools.product(*map(range, shape)))


@pytest.mark.parametrize("p", [alarm, loops, shared, branching], ids=lambda p: p.__name__)
def test_elimination_is_the_sum_over_all_joint_values(p: Callable[[], Any]) -> None:
    fit = Exact(10).run(p)
    mass, probs = brute_force(p)
    assert fit.log_evidence == pytest.approx(math.log(mass), abs=1e-10)
    assert fit.log_evidence_error == 0.0
    for name, expected in probs.items():
        torch.testing.assert_close(fit.marginals[name], expected, atol=1e-10, rtol=1e-10)


def test_copies_in_a_plate_are_independent_problems() -> None:
    fit = Exact(10).run(clusters)
    ys = torch.linspace(-2, 2, 5)
    table = torch.zeros(5, 3, 2)
    for i, (z, h) in itertools.product(range(5), itertools.product(range(3), range(2))):
        centre = [-1.0, 0.0, 2.0][z] + [1.0, 0.0][h]
        table[i, z, h] = [0.5, 0.2, 0.3][z] * [0.4, 0.6][h]
        table[i, z, h] *= float(dist.Normal(centre, 0.5).log_prob(ys[i]).exp())
    masses = table.sum((1, 2))
    assert fit.log_evidence == pytest.approx(float(masses.log().sum()), abs=1e-10)
    torch.testing.assert_close(fit.marginals["z"], table.sum(2) / masses[:, None])


def test_the_alarm_by_hand() -> None:
    """Russell and Norvig: P(burglary | john, mary) = 0.284."""
    assert float(Exact(1).run(alarm).marginals["burglary"][1]) == pytest.approx(0.284, abs=5e-4)


@pytest.mark.parametrize(("count", "least"), quick(1, [(40, 20), (130, 80)]))
def test_random_terms(count: int, least: int) -> None:
    compared = 0

    def test(term: s.Term) -> None:
        nonlocal compared
        p = elaborate(term)
        try:
            found = float(FiniteLatents(p, ()).solved({}).log_mass.exp())
        except PushforwardError:
            return  # no finite latent, or no type
        compared += 1
        assert found == pytest.approx(denote(p).mass(), rel=1e-10, abs=1e-12)

    run_on(terms(static=True), test, count)
    assert compared >= least


ROWS = [[0.8, 0.15, 0.05], [0.1, 0.7, 0.2], [0.25, 0.25, 0.5]]
TRANSITION = torch.tensor(ROWS, dtype=torch.float64)
EMISSION = torch.tensor([0.1, 0.45, 0.9], dtype=torch.float64)


@program
def hmm(ys: Tensor) -> Tensor:
    def step(z: Tensor, y: Tensor) -> tuple[Tensor, None]:
        z = sample("z", dist.Categorical(TRANSITION[z]))
        observe("y", dist.Bernoulli(EMISSION[z]), y)
        return z, None

    return deterministic("last", scan(step)(torch.tensor(0), ys)[0])


def test_a_long_chain_by_the_forward_algorithm() -> None:
    """Level 1e-6: frequencies of 4 000 draws within five standard errors."""
    ys = torch.tensor([float(t % 3 == 0) for t in range(200)])
    log_alpha = TRANSITION[0].log() + dist.Bernoulli(EMISSION).log_prob(ys[0])
    for y in ys[1:]:
        forward = torch.logsumexp(log_alpha[:, None] + TRANSITION.log(), 0)
        log_alpha = forward + dist.Bernoulli(EMISSION).log_prob(y)
    fit = Exact(4000).run(hmm, ys)
    assert fit.log_evidence == pytest.approx(float(torch.logsumexp(log_alpha, 0)), abs=1e-10)
    torch.testing.assert_close(fit.marginals["z[199]"], torch.softmax(log_alpha, 0))
    for name in ("z[0]", "z[100]", "z[199]"):
        for k in range(3):
            p = float(fit.marginals[name][k])
            share = float((fit[name] == k).double().mean())
            assert abs(share - p) < 5 * math.sqrt(p * (1 - p) / 4000)
    assert torch.equal(fit["last"], fit["z[199]"])
    assert fit.latents[0] == "z[0]" and "z[0] ... z[199]" in repr(fit) and "(exact)" in repr(fit)


def test_draws_are_joint() -> None:
    """Level 1e-6: a chi-squared test of the joint values of the alarm network."""
    fit = Exact(20_000).run(alarm)
    codes = (fit["burglary"] * 4 + fit["earthquake"] * 2 + fit["alarm"])[0].long()
    expected = torch.zeros(8)
    for b, e, a in itertools.product(range(2), repeat=3):
        at = {"burglary": b, "earthquake": e, "alarm": a}
        choices = {name: torch.tensor(float(x)) for name, x in at.items()}
        expected[4 * b + 2 * e + a] = float(assess(alarm, choices)[0].exp())
    expected = 20_000 * expected / expected.sum()
    often = expected > 5
    counts = torch.bincount(codes, minlength=8).double()
    statistic = float(((counts - expected)[often] ** 2 / expected[often]).sum())
    assert statistic < scipy.stats.chi2.isf(1e-6, int(often.sum()) - 1) + 1
    independent = (fit["burglary"].mean() * fit["alarm"].mean()) * 20_000
    assert abs(float(counts[[5, 7]].sum() - independent)) > 500, "a product law would differ"


# ----------------------------------------------------------------------------------- real latents


def walk(ys: Tensor) -> None:
    def step(x: Tensor, y: Tensor) -> tuple[Tensor, None]:
        x = sample("x", dist.Normal(0.9 * x, 1.0))
        observe("y", dist.Normal(x, 0.5), y)
        return x, None

    scan(step)(sample("x0", dist.Normal(0.0, 1.0)), ys)


def test_a_state_space_model_by_the_kalman_filter() -> None:
    ys = torch.sin(torch.arange(40.0))
    mean, variance, total = 0.0, 1.0, 0.0
    for y in ys.tolist():
        mean, variance = 0.9 * mean, 0.81 * variance + 1.0
        spread = variance + 0.25
        total -= 0.5 * (math.log(2 * math.pi * spread) + (y - mean) ** 2 / spread)
        mean, variance = mean + variance / spread * (y - mean), variance * 0.25 / spread
    fit = Exact(2000).run(walk, ys)
    assert fit.log_evidence == pytest.approx(total, abs=1e-9)
    torch.testing.assert_close(fit.moments["x[39]"], torch.tensor([mean, math.sqrt(variance)]))
    assert abs(float(fit["x[39]"].mean()) - mean) < 5 * math.sqrt(variance / 2000)
    lag = torch.corrcoef(torch.stack([fit["x[38]"][0], fit["x[39]"][0]]))[0, 1]
    assert 0.05 < float(lag) < 0.5, "draws are joint"


def test_a_regression_in_closed_form() -> None:
    x = torch.tensor([[1.0, 0.5], [1.0, -1.0], [1.0, 2.0]])
    y = torch.tensor([0.3, -0.2, 1.9])

    @program
    def regression(x: Tensor) -> None:
        b = sample("b", dist.MultivariateNormal(torch.zeros(2), 4 * torch.eye(2)))
        with plate("points", 3):
            sample("y", dist.Normal(x @ b, 0.5))

    fit = Exact(500).run(condition(regression, {"y": y}), x)
    covariance = 4 * x @ x.mT + 0.25 * torch.eye(3)
    evidence = dist.MultivariateNormal(torch.zeros(3), covariance).log_prob(y)
    assert fit.log_evidence == pytest.approx(float(evidence), abs=1e-10)
    precision = x.mT @ x / 0.25 + torch.eye(2) / 4
    torch.testing.assert_close(fit.moments["b"][0], torch.linalg.solve(precision, x.mT @ y / 0.25))
    torch.testing.assert_close(fit.moments["b"][1], precision.inverse().diagonal().sqrt())
    assert fit.log_likelihood["y"].shape == (1, 500, 3)
    assert fit.to_arviz().posterior["b"].shape == (1, 500, 2)


def switching(y: Tensor) -> Tensor:
    k = sample("k", dist.Bernoulli(0.3))
    with plate("two", 2):
        x = sample("x", dist.Normal(k * 2.0, 1.0 + k))
        observe("y", dist.Normal(x, 0.5), y)
    return k


def test_finite_and_real_latents_by_quadrature() -> None:
    y = torch.tensor([1.0, 0.2])
    fit = Exact(4000).run(switching, y)
    marginal_of = {
        k: math.prod(
            float(dist.Normal(2.0 * k, math.sqrt((1 + k) ** 2 + 0.25)).log_prob(each).exp())
            for each in y
        )
        for k in (0, 1)
    }
    mass = 0.7 * marginal_of[0] + 0.3 * marginal_of[1]
    assert fit.log_evidence == pytest.approx(math.log(mass), abs=1e-10)
    share = 0.3 * marginal_of[1] / mass
    assert abs(float(fit["k"].mean()) - share) < 5 * math.sqrt(share * (1 - share) / 4000)
    given = {k: (2.0 * k * 0.25 + y * (1 + k) ** 2) / ((1 + k) ** 2 + 0.25) for k in (0, 1)}
    expected = (1 - share) * given[0] + share * given[1]
    torch.testing.assert_close(fit.moments["x"][0], expected)
    apart = fit["x"][fit["k"] == 1].mean(0) - given[1]
    assert float(apart.abs().max()) < 5 * 0.5 / math.sqrt(4000 * share)


def test_single_precision() -> None:
    torch.set_default_dtype(torch.float32)
    fit = Exact(10, torch.float32).run(walk, torch.sin(torch.arange(5.0)))
    assert fit["x[4]"].dtype == torch.float32
    found = Exact(10, torch.float32).run(alarm).log_evidence
    assert found == pytest.approx(math.log(0.00208410), abs=1e-4)


# -------------------------------------------------------------------------------------- summed out


@program
def mixture(ys: Tensor) -> None:
    w = sample("w", dist.Beta(2.0, 2.0))
    mu = sample("mu", dist.Normal(torch.tensor([-1.0, 1.0]), 1.0).to_event(1))
    with plate("points", len(ys)):
        z = sample("z", dist.Bernoulli(w))
        sample("y", dist.Normal(mu[z.long()], 0.5))


DATA = torch.tensor([-1.2, 0.9, 1.1, -0.4, 1.4], dtype=torch.float64)


def by_hand(w: Tensor, mu: Tensor) -> Tensor:
    parts = [p.log() + dist.Normal(m, 0.5).log_prob(DATA) for p, m in ((1 - w, mu[0]), (w, mu[1]))]
    prior = dist.Beta(2.0, 2.0).log_prob(w)
    prior = prior + dist.Normal(torch.tensor([-1.0, 1.0]), 1.0).log_prob(mu).sum()
    return prior + torch.logsumexp(torch.stack(parts), 0).sum()


def test_the_density_and_gradient_of_what_is_kept() -> None:
    p = marginal(condition(mixture, {"y": DATA}), exact=True)
    w, mu = torch.tensor(0.3), torch.tensor([-0.7, 1.3])
    found, _ = assess(p, {"w": w, "mu": mu}, DATA)
    torch.testing.assert_close(found, by_hand(w, mu))
    density = LogDensity(p, DATA)
    u = torch.tensor([0.2, -0.7, 1.3])

    def transformed(u: Tensor) -> Tensor:
        w = torch.sigmoid(u[0])
        return by_hand(w, u[1:]) + torch.log(w * (1 - w))

    torch.testing.assert_close(density(u), transformed(u))
    torch.testing.assert_close(torch.func.grad(density)(u), torch.func.grad(transformed)(u))
    assert str(p.type(DATA)).startswith("{w: UnitInterval, mu: Real[2]} -> M")


def test_an_improper_prior_is_kept() -> None:
    def model() -> None:
        m = sample("m", dist.ImproperUniform(dist.constraints.real, (), ()))
        z = sample("z", dist.Bernoulli(0.25))
        observe("y", dist.Normal(m + z, 1.0), torch.tensor(0.3))

    density = LogDensity(marginal(model, exact=True))
    by_value = [0.75, 0.25] * dist.Normal(torch.tensor([0.5, 1.5]), 1.0).log_prob(
        torch.tensor(0.3)
    ).exp().numpy()
    assert float(density(torch.tensor([0.5]))) == pytest.approx(math.log(by_value.sum()))


@pytest.mark.parametrize("compiled", quick(1, [True, False]))
def test_nuts_on_a_mixture(compiled: bool) -> None:
    """Level 1e-5: a mean within 4.5 standard errors of that on a grid."""
    p = marginal(condition(mixture, {"y": DATA}), exact=True)
    options: dict[str, Any] = {"compiled": compiled, "progress": False}
    fit = MCMC(nuts(), chains=4, draws=250, warmup=250, **options).run(p, DATA, seed=1)
    grid = torch.linspace(0.005, 0.995, 67)
    axis = torch.linspace(-4.0, 4.0, 81)
    joint = torch.cartesian_prod(grid, axis, axis)
    weights = torch.softmax(torch.func.vmap(lambda v: by_hand(v[0], v[1:]))(joint), 0)
    for found, column in ((fit["w"], 0), (fit["mu"][..., 1], 2)):
        mean = float(weights @ joint[:, column])
        sd = float((weights @ (joint[:, column] - mean) ** 2).sqrt())
        assert abs(float(found.mean()) - mean) < 4.5 * sd / math.sqrt(200)


def test_the_measure_is_kept() -> None:
    """What is kept may be finite too."""

    def model() -> tuple[Tensor, ...]:
        a = sample("a", dist.Bernoulli(0.3))
        b = sample("b", dist.Bernoulli(0.2 + 0.5 * a))
        observe("y", dist.Bernoulli(0.1 + 0.6 * b), torch.tensor(1.0))
        return (a,)

    kept = denote(marginal(model, "a", exact=True)).map(lambda values: float(values["a"]))
    assert dict(kept.items()) == pytest.approx(
        dict(denote(model).map(lambda v: float(v[0])).items()), abs=1e-12
    )


# ---------------------------------------------------------------------------------------- refusals


def neighbours() -> None:
    with plate("points", 3):
        z = sample("z", dist.Bernoulli(0.5))
        observe("y", dist.Normal(z + z.flip(-1), 1.0), torch.zeros(3))


def whole() -> None:
    with plate("points", 3):
        z = sample("z", dist.Bernoulli(0.5))
    observe("y", dist.Normal(z.sum(), 1.0), torch.tensor(1.0))


def crowded() -> None:
    xs = [sample(f"x{i}", dist.Bernoulli(0.5)) for i in range(24)]
    factor("f", torch.stack(xs).sum())


def counting() -> None:
    sample("n", dist.Poisson(2.0))


def positive() -> None:
    sample("x", dist.Gamma(2.0, 1.0))


def curved() -> None:
    x = sample("x", dist.Normal(0.0, 1.0))
    observe("y", dist.Normal(x**2, 1.0), torch.tensor(0.3))


def flat() -> None:
    x = sample("x", dist.Normal(0.0, 1.0))
    factor("f", 0.5 * x**2)


def scaled() -> None:
    with plate("points", 6, subsample=torch.arange(3)):
        sample("z", dist.Bernoulli(0.5))


def impossible() -> None:
    x = sample("x", dist.Bernoulli(0.5))
    factor("f", torch.where(x < 2, -math.inf, 0.0))


def drawing() -> None:
    u = draw(dist.Bernoulli(0.5))
    z = sample("z", dist.Bernoulli(0.2 + 0.5 * u))
    observe("y", dist.Normal(z + u, 1.0), torch.tensor(1.0))


def many_switches() -> None:
    for i in range(9):
        sample(f"k{i}", dist.Bernoulli(0.5))
    sample("x", dist.Normal(0.0, 1.0))


REFUSED: list[tuple[Callable[[], None], type[Exception], str]] = [
    (neighbours, ProgramError, "looks at several elements"),
    (whole, ProgramError, "looks at several elements of the finite latent 'z'"),
    (crowded, BudgetError, "lanes"),
    (counting, ProgramError, "neither finite nor real"),
    (positive, ProgramError, "neither finite nor real"),
    (curved, ProgramError, "not quadratic"),
    (flat, InfiniteMassError, "no finite mass"),
    (scaled, ProgramError, "subsampled or scaled plate"),
    (impossible, ZeroMassError, "impossible"),
    (drawing, NoDensityError, "draws anonymously"),
    (many_switches, BudgetError, "512 joint values"),
]


@pytest.mark.parametrize(("p", "error", "said"), REFUSED, ids=lambda x: getattr(x, "__name__", ""))
def test_what_is_not_exact_is_refused(p: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        Exact(10).run(p)


def test_what_cannot_be_summed_out_is_refused() -> None:
    def across() -> None:
        scale = sample("scale", dist.Gamma(2.0, 1.0))
        with plate("points", 3):
            z = sample("z", dist.Bernoulli(0.5))
            observe("y", dist.Normal(z + z.flip(-1), scale), torch.zeros(3))

    with pytest.raises(ProgramError, match="looks at several elements"):
        marginal(across, exact=True)()
    with pytest.raises(ProgramError, match="names of the latents"):
        marginal(mixture)
    with pytest.raises(ProgramError, match=r"the latent is not finite \(UnitInterval\)"):
        marginal(mixture, "mu", exact=True)(DATA)
    with pytest.raises(ProgramError, match=r"keeps \['nothing'\]"):
        marginal(mixture, ["w", "mu", "nothing"], exact=True)(DATA)
    with pytest.raises(ProgramError, match="no finite latent"):
        marginal(walk, exact=True)(DATA)
    with pytest.raises(ProgramError, match=r"depends on \['k'\], which are to be eliminated"):
        marginal(switching, exact=True)(DATA[:2])
    with pytest.raises(ValueError, match="at least one draw"):
        Exact(0)
    assert isinstance(Exact(1).run(alarm), Fit)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("loc", "sd", "noise"), [(2020.0, 1.0, 0.1), (1e6, 1.0, 1e-4)])
def test_values_far_from_zero_keep_their_digits(
    dtype: torch.dtype, loc: float, sd: float, noise: float
) -> None:
    """Squares of what is far away cancel: -8200 was told for -0.92."""
    centre = torch.tensor(loc, dtype=dtype)
    y = centre + 0.125

    @program
    def model() -> None:
        a = sample("a", dist.Normal(centre, sd))
        observe("y", dist.Normal(a, noise), y)

    whole = dist.Normal(loc, (sd**2 + noise**2) ** 0.5)
    found = Exact(1).run(model).log_evidence
    assert found == pytest.approx(float(whole.log_prob(y.double())), abs=1e-5)
