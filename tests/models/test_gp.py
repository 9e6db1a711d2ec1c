"""Processes: scikit-learn, dense formulas, chain rules, limits; laws, programs and predictions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from scipy.interpolate import BSpline
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process import kernels as theirs
from torch import Tensor

from pushforward import assess, deterministic, dist, observe, predict, program, sample, vmap
from pushforward.errors import DataError, NumericalError, ProgramError
from pushforward.inference import ADVI, MCMC, Laplace, nuts
from pushforward.models import gp
from pushforward.ppl.interpretations.log_density import LogDensity
from pushforward.ppl.tensors.decompositions import IN_LANES
from pushforward.semantics import check

pytestmark = pytest.mark.usefixtures("double")
RNG = np.random.default_rng(1)
X, NEW = (torch.tensor(RNG.uniform(-1.5, 1.5, (n, 2))) for n in (7, 4))
Y, MORE = (torch.tensor(RNG.normal(size=n)) for n in (7, 4))
LINE = torch.linspace(-1.0, 1.0, 9, dtype=torch.float64)[:, None]
ALONG = torch.tensor(RNG.normal(size=9))
NOISE = 0.3


def f(x: Any) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


def close(a: Any, b: Any, atol: float = 1e-9) -> bool:
    return bool(np.allclose(np.asarray(a), np.asarray(b), rtol=1e-9, atol=atol))


ROUGH = gp.Process(1.5 * gp.Matern32(0.9), gp.LinearMean(f([0.4, -0.2]), 0.1))
MEANS = f([[0.4, -0.2]])


# Exact


@pytest.mark.parametrize("noise", [0.3, f([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])])
def test_evidence_and_predictions_are_those_of_scikit_learn(noise: Any) -> None:
    kernel = 1.5 * gp.SquaredExponential(f([0.7, 1.3])) + gp.WhiteNoise(0.2)
    other = 1.5 * theirs.RBF([0.7, 1.3]) + theirs.WhiteKernel(0.2)
    alpha = np.square(np.broadcast_to(np.asarray(noise), 7))
    fitted = GaussianProcessRegressor(other, alpha=alpha, optimizer=None).fit(X.numpy(), Y.numpy())
    ours = gp.Process(kernel)
    given = ours.given(X, Y, noise)
    mean, covariance = fitted.predict(NEW.numpy(), return_cov=True)
    assert close(ours.law(X, noise).log_prob(Y), fitted.log_marginal_likelihood_value_)
    assert close(given.mean(NEW), mean) and close(given.covariance(NEW), covariance)
    assert close(given.variance(NEW), covariance.diagonal())
    assert close(given.law(NEW, 0.5).covariance_matrix, covariance + 0.25 * np.eye(4))
    assert not close(ours.law(X, 0.31).log_prob(Y), fitted.log_marginal_likelihood_value_)


LAWS: dict[str, Callable[[], gp.Process]] = {
    "normal": lambda: ROUGH,
    "student": lambda: gp.StudentProcess(ROUGH.kernel, ROUGH.mean, 3.5),
}


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("noise", [NOISE, None])
def test_what_is_given_and_what_comes_are_the_law_of_both(name: str, noise: Any) -> None:
    """log p(y) + log p(more | y) = log p(y, more), with noise and without (and no jitter)."""
    process, jitter = LAWS[name](), 0.0
    both = process.law(torch.cat([X, NEW]), noise, jitter).log_prob(torch.cat([Y, MORE]))
    first = process.law(X, noise, jitter).log_prob(Y)
    then = process.given(X, Y, noise, jitter).law(NEW, noise, jitter).log_prob(MORE)
    assert close(first + then, both)
    without_mean = gp.Process(process.kernel).given(X, Y, noise, jitter)
    assert not close(first + without_mean.law(NEW, noise, jitter).log_prob(MORE), both)


def test_student_processes_are_student_laws_and_normal_in_the_limit() -> None:
    process = gp.StudentProcess(gp.Matern32(), df=4.0)
    scale = gp.Matern32()(X) + NOISE**2 * torch.eye(7)
    wanted = stats.multivariate_t(np.zeros(7), scale.numpy(), df=4.0).logpdf(Y.numpy())
    assert close(process.law(X, NOISE).log_prob(Y), wanted)
    given = process.given(X, Y, NOISE)
    inverse = torch.linalg.inv(scale)
    across = gp.Matern32()(NEW, X)
    spread = (4 + Y @ inverse @ Y) / (4 + 7 - 2)  # of which (df + n) / (df + n - 2) is the law's
    left = gp.Matern32()(NEW) - across @ inverse @ across.T
    assert close(given.covariance(NEW), spread * left)
    assert close(given.variance(NEW), spread * left.diagonal())
    assert close(given.law(NEW, NOISE).mean, across @ inverse @ Y)
    nearly = gp.StudentProcess(gp.Matern32(), df=1e7)
    exact = gp.Process(gp.Matern32()).law(X, NOISE).log_prob(Y)
    assert float(nearly.law(X, NOISE).log_prob(Y)) == pytest.approx(float(exact), abs=1e-4)


def test_single_precision_stays_single_and_is_near() -> None:
    every: list[Callable[[], Any]] = [
        lambda: gp.Process(gp.Matern52(0.8), gp.LinearMean(0.3)),
        lambda: gp.StudentProcess(gp.Matern32(0.9)),
        lambda: gp.FITC(gp.Process(gp.Matern32(0.9)), X[:3].to(torch.get_default_dtype())),
        lambda: gp.Hilbert.around(
            gp.Process(gp.Matern32(0.9)), torch.cat([X, NEW]).to(torch.get_default_dtype()), 4
        ),
    ]
    for make in every:
        found = []
        for dtype in (torch.float64, torch.float32):
            torch.set_default_dtype(dtype)
            x, new, y = X.to(dtype), NEW.to(dtype), Y.to(dtype)
            p = make()
            given = p.given(x, y, NOISE)
            found.append([p.law(x, NOISE).log_prob(y), given.mean(new), given.variance(new)])
            found[-1].append(given.law(new, NOISE).log_prob(new[:, 0]))
        for double, single in zip(*found, strict=True):
            assert single.dtype == torch.float32
            torch.testing.assert_close(single.double(), double, rtol=1e-3, atol=1e-3)


def test_latent_values_have_the_covariance_that_is_told() -> None:
    """Values are linear in what is sampled: K with the jitter that was said, and no other."""

    @program
    def latent(jitter: Any) -> Tensor:
        return ROUGH.values("f", X, jitter)

    assert str(latent.type(None)) == "{f/white: Real[7]} -> P Real[7]"
    for jitter, added in ((None, 1e-6), (0.0, 0.0), (0.1, 0.1)):
        mean = assess(latent, {"f/white": torch.zeros(7)}, jitter)[1]
        columns = [assess(latent, {"f/white": e}, jitter)[1] - mean for e in torch.eye(7)]
        root = torch.stack(columns, 1)
        assert close(mean, X @ MEANS[0] + 0.1)
        wanted = ROUGH.kernel(X) + 1.5 * added * torch.eye(7)
        assert close(root @ root.T, wanted, 1e-12)
        assert not close(root @ root.T, wanted + 1.5e-7 * torch.eye(7), 1e-12)


def test_values_of_a_student_process_are_its_law() -> None:
    """One value at one point: the precision is integrated out by quadrature."""
    process = gp.StudentProcess(gp.Constant(1.7), df=3.0)
    model = program(lambda: process.values("f", f([[0.0]]), 0.0))

    def joint(precision: float) -> float:
        at = 0.8 / math.sqrt(1.7) * math.sqrt(precision)  # the white value that gives f = 0.8
        choices = {"f/white": f([at]), "f/precision": f(precision)}
        log_density, value = assess(model, choices)
        assert float(value) == pytest.approx(0.8)
        return math.exp(float(log_density)) * math.sqrt(precision / 1.7)

    found, _ = integrate.quad(joint, 0, math.inf)
    assert found == pytest.approx(stats.t(3.0, scale=math.sqrt(1.7)).pdf(0.8), rel=1e-7)


# Sparse


def dense(z: Tensor) -> tuple[Any, Any]:
    """Q between all points, and K, of X and NEW together."""
    every = torch.cat([X, NEW])
    K, across = ROUGH.kernel(every).numpy(), ROUGH.kernel(every, z).numpy()
    return across @ np.linalg.solve(ROUGH.kernel(z).numpy(), across.T), K


@pytest.mark.parametrize("form", [gp.FITC, gp.VFE])
def test_sparse_processes_are_their_dense_formulas(form: type[gp.Inducing]) -> None:
    z = torch.tensor(RNG.uniform(-1.5, 1.5, (3, 2)))
    Q, K = dense(z)
    Q_, K_ = Q[:7, :7], K[:7, :7]
    seen = Q_ + 0.09 * np.eye(7) + (np.diag(np.diag(K_ - Q_)) if form is gp.FITC else 0.0)
    mean, more = (np.asarray(ROUGH.mean(x)) for x in (X, NEW))
    sparse = form(ROUGH, z, 0.0)
    assert close(sparse.law(X, NOISE).log_prob(Y), stats.multivariate_normal(mean, seen).logpdf(Y))
    given, weights = sparse.given(X, Y, NOISE), Q[7:, :7] @ np.linalg.inv(seen)
    assert close(given.mean(NEW), more + weights @ (Y.numpy() - mean))
    covariance = K[7:, 7:] - weights @ Q[:7, 7:]
    assert close(given.covariance(NEW), covariance)
    assert close(given.variance(NEW), covariance.diagonal())
    assert not close(given.covariance(NEW), Q[7:, 7:] - weights @ Q[:7, 7:])
    if isinstance(sparse, gp.VFE):
        assert close(sparse.slack(X, NOISE), -np.trace(K_ - Q_) / (2 * 0.09))


@pytest.mark.parametrize("form", [gp.FITC, gp.VFE])
def test_with_all_points_inducing_they_are_exact(form: type[gp.Inducing]) -> None:
    sparse, exact = form(ROUGH, X, 0.0), ROUGH.given(X, Y, NOISE)
    given = sparse.given(X, Y, NOISE)
    assert close(sparse.law(X, NOISE).log_prob(Y), ROUGH.law(X, NOISE).log_prob(Y))
    assert close(given.mean(NEW), exact.mean(NEW))
    assert close(given.covariance(NEW), exact.covariance(NEW))
    fewer = form(ROUGH, X[:4], 0.0)  # FITC is exact with all points but one, too
    assert not close(fewer.law(X, NOISE).log_prob(Y), ROUGH.law(X, NOISE).log_prob(Y))


def test_the_bound_is_below_the_evidence_and_rises_with_inducing_points() -> None:
    """Without the trace term it is no bound."""
    without = []
    for seed in range(20):
        torch.manual_seed(seed)
        z, y = 3 * torch.rand(6, 2) - 1.5, torch.randn(7)
        exact = float(ROUGH.law(X, 1.0).log_prob(y))
        before = -math.inf
        for m in (1, 2, 4, 6):
            sparse = gp.VFE(ROUGH, z[:m])
            bound = sparse.law(X, 1.0).log_prob(y) + sparse.slack(X, 1.0)
            assert before < float(bound) + 1e-9 <= exact + 2e-9
            before = float(bound)
            without.append(float(sparse.law(X, 1.0).log_prob(y)) - exact)
    assert max(without) > 0


# Waves


def test_waves_come_to_the_process_as_there_are_more() -> None:
    process = gp.Process(1.5 * gp.Matern52(0.5))
    exact, given = process.law(LINE, NOISE).log_prob(ALONG), process.given(LINE, ALONG, NOISE)
    new, errors = f([[-0.9], [0.33]]), []
    for count in (20, 60, 180):
        waves = gp.Hilbert.around(process, LINE, count, 5.0)
        after = waves.given(LINE, ALONG, NOISE)
        parts = (
            waves.law(LINE, NOISE).log_prob(ALONG) - exact,
            after.mean(new) - given.mean(new),
            after.covariance(new) - given.covariance(new),
            after.variance(new) - given.variance(new),
        )
        errors.append([float(x.abs().max()) for x in parts])
    assert all(b < a / 10 for a, b in zip(errors[0], errors[1], strict=True))
    assert all(b < a / 3 and b < 1e-3 for a, b in zip(errors[1], errors[2], strict=True))


def test_waves_in_the_plane_are_products_and_a_narrow_box_is_wrong() -> None:
    process = gp.Process(gp.SquaredExponential(f([0.8, 1.2])))
    K = process.kernel(X)
    waves = gp.Hilbert.around(process, X, (24, 20), 4.0)
    W = waves.features(X)
    assert waves.rates.shape == (480, 2) and W.shape == (7, 480)
    assert float((W @ W.T - K).abs().max()) < 1e-6
    narrow = gp.Hilbert.around(process, X, (24, 20), 1.05).features(X)
    assert float((narrow @ narrow.T - K).abs().max()) > 0.1


@pytest.mark.parametrize("length", [0.2, 0.5, 1.0])
@pytest.mark.parametrize(
    ("name", "kernel"),
    [("squared", gp.SquaredExponential), ("matern32", gp.Matern32), ("matern52", gp.Matern52)],
)
def test_the_advice_is_that_of_the_paper_and_holds(name: str, kernel: Any, length: float) -> None:
    """Correlations with the middle within 0.012, and with half of the functions not."""
    factors, counts = {"squared": 3.2, "matern32": 4.5, "matern52": 4.1}, {"squared": 1.75}
    counts |= {"matern32": 3.42, "matern52": 2.65}
    advice = gp.advised(name, length, 1.0)
    assert advice.factor == pytest.approx(max(1.2, factors[name] * length))
    assert advice.functions == math.ceil(counts[name] * advice.factor / length)
    x, middle = torch.linspace(-1, 1, 21)[:, None], torch.zeros(1, 1)
    process = gp.Process(kernel(length))

    def error(count: int) -> float:
        waves = gp.Hilbert.around(process, x, count, advice.factor)
        found = waves.features(middle) @ waves.features(x).mT
        return float((found - process.kernel(middle, x)).abs().max())

    assert error(advice.functions) < 0.012 < 0.04 < error(advice.functions // 2)


def test_derivatives_stay_finite_where_a_spectrum_underflows() -> None:
    """exp(-(l w)^2 / 2) is zero for the faster waves, and the root of zero has no derivative."""
    length = f(30.0).requires_grad_()
    waves = gp.Hilbert.around(gp.Process(gp.SquaredExponential(length)), LINE, 25)
    assert float(gp.SquaredExponential(30.0).spectral_density(waves.rates)[-1]) == 0
    (slope,) = torch.autograd.grad(waves.law(LINE, NOISE).log_prob(ALONG), length)
    assert bool(slope.isfinite())


# Grids


KERNELS = [1.5 * gp.SquaredExponential(0.6), gp.Matern32(0.5), gp.Constant(0.7)]
AXES = [torch.linspace(0, 1, 4, dtype=torch.float64)[:, None], f([[0.1], [0.5], [0.2]]), LINE[:2]]
DENSE = gp.Process(
    KERNELS[0].on(0) * KERNELS[1].on(1) * KERNELS[2].on(2), gp.LinearMean(f([1.0, 2.0, 3.0]))
)
TABLE = torch.tensor(RNG.normal(size=24))


def test_a_grid_is_the_dense_process() -> None:
    grid = gp.Kronecker(KERNELS, DENSE.mean)
    x, new = grid.grid(AXES), torch.tensor(RNG.uniform(size=(5, 3)))
    assert x[1].tolist() == [0.0, 0.1, float(LINE[1])]  # the last axis is the fastest
    ours, theirs_ = grid.law(AXES, NOISE), DENSE.law(x, NOISE)
    assert close(ours.log_prob(TABLE), theirs_.log_prob(TABLE))
    assert close(ours.covariance_matrix, theirs_.covariance_matrix)
    assert close(ours.variance, theirs_.variance) and close(ours.mean, theirs_.mean)
    a, b = grid.given(AXES, TABLE, NOISE), DENSE.given(x, TABLE, NOISE)
    assert close(a.mean(new), b.mean(new)) and close(a.covariance(new), b.covariance(new))
    assert close(a.variance(new), b.variance(new))
    assert close(a.law(new, NOISE).log_prob(f([0.1] * 5)), b.law(new, NOISE).log_prob(f([0.1] * 5)))
    turned = TABLE.reshape(4, 3, 2).transpose(0, 1).flatten()
    assert not close(ours.log_prob(turned), theirs_.log_prob(TABLE))


def test_latent_values_on_a_grid_have_the_covariance_of_the_product() -> None:
    grid = gp.Kronecker(KERNELS)
    latent = program(lambda: grid.values("f", AXES, 0.0))
    columns = [assess(latent, {"f/white": e})[1] for e in torch.eye(24)]
    root = torch.stack(columns, 1)
    assert close(root @ root.T, DENSE.kernel(grid.grid(AXES)))


def circle(p: Tensor, law: str) -> Tensor:
    """Points around a circle: all eigenvalues but the ends come in pairs."""
    length, noise, size, shift = p
    axes = [torch.arange(6.0)[:, None] / 6, torch.arange(4.0)[:, None] / 4]
    kernels = [size * gp.Periodic(length), gp.Periodic(0.8) + gp.Constant(0.3)]
    y = torch.linspace(-1, 2, 24) ** 2 + shift
    if law == "grid":
        return gp.Kronecker(kernels).law(axes, noise).log_prob(y)  # type: ignore[no-any-return]
    kernel = kernels[0].on(0) * kernels[1].on(1)
    K = kernel(torch.cartesian_prod(*(a[:, 0] for a in axes)))
    if law == "dense":
        covariance = K + noise**2 * torch.eye(24)
        return dist.MultivariateNormal(torch.zeros(24), covariance).log_prob(y)  # type: ignore[no-any-return]
    values, vectors = torch.linalg.eigh(K)
    mu = values + noise**2
    z = vectors.T @ y
    score: Tensor = -(z.square() / mu + mu.log()).sum() / 2
    return score


def test_first_and_second_derivatives_are_right_where_eigenvalues_meet() -> None:
    """Those through eigenvectors are not: they divide by the distance of eigenvalues."""
    p = f([0.9, 0.4, 1.3, 0.2])
    for derivative in (torch.func.grad, torch.func.hessian):
        ours, wanted = (derivative(lambda q, of=of: circle(q, of))(p) for of in ("grid", "dense"))
        torch.testing.assert_close(ours, wanted, rtol=1e-8, atol=1e-8)
        naive = derivative(lambda q: circle(q, "eigenvectors"))(p)
        assert not torch.allclose(naive, wanted, rtol=1e-3)


# Splines


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_splines_are_those_of_scipy(degree: int) -> None:
    splines, x = gp.Splines(-1.0, 2.0, 8, degree), torch.linspace(-1, 2, 25)
    wanted = BSpline.design_matrix(x.numpy(), splines.knots.numpy(), degree).toarray()
    assert close(splines.basis(x), wanted) and close(splines.basis(x).sum(-1), np.ones(25))
    assert not close(gp.Splines(-1.0, 2.0, 9, degree).basis(x)[:, :8], wanted)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_coefficients_have_the_penalty_as_their_density(order: int) -> None:
    """-|D b|^2 / (2 scale^2), D the differences; the curve is B b; without steps a polynomial."""
    splines, x = gp.Splines(0.0, 1.0, 9), torch.linspace(0, 1, 11)
    curve = program(lambda: splines.curve("f", x, 0.4, order, spread=2.0))
    assert (
        str(curve.type()) == f"{{f/start: Real[{order}], f/white: Real[{9 - order}]}} -> P Real[11]"
    )
    white, start = torch.tensor(RNG.normal(size=9 - order)), torch.tensor(RNG.normal(size=order))
    log_density, values = assess(curve, {"f/white": white, "f/start": start})
    b = np.linalg.lstsq(splines.basis(x).numpy(), values.numpy(), rcond=None)[0]
    differences = np.diff(b, order)
    assert close(differences, 0.4 * white, 1e-8)
    first = [np.diff(b, k)[0] for k in range(order)]
    wanted = stats.norm(0, 2.0).logpdf(first).sum() + stats.norm(0, 0.4).logpdf(differences).sum()
    assert float(log_density) + (9 - order) * -math.log(0.4) == pytest.approx(wanted, rel=1e-8)
    _, straight = assess(curve, {"f/white": torch.zeros(9 - order), "f/start": start})
    assert close(np.diff(straight.numpy(), order), np.zeros(11 - order))
    assert not close(np.diff(values.numpy(), order), np.zeros(11 - order))


# Laws


TWO = [LINE[:1], LINE[:2]]
TINY: dict[str, Callable[[], Any]] = {
    "exact": lambda: gp.Process(gp.Matern32(), gp.ConstantMean(0.5)).law(LINE[:2], 0.5),
    "grid": lambda: gp.Kronecker([gp.Constant(1.3), gp.Matern32()]).law(TWO, 0.5),
    "student": lambda: gp.StudentProcess(gp.Matern32(), df=5.0).law(LINE[:1], 0.5),
    "sparse": lambda: gp.FITC(gp.Process(gp.Matern32()), LINE[4:5]).law(LINE[:2], 0.5),
    "given": lambda: gp.Process(gp.Matern32()).given(LINE[:2], ALONG[:2], 0.1).law(LINE[4:6]),
}


@pytest.mark.parametrize("name", TINY)
def test_densities_have_mass_one_and_draws_their_law(name: str) -> None:
    check.density(TINY[name](), draws=10_000, quadrature=24).require()


def test_the_noise_in_place_of_its_square_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    law, log_prob = TINY["grid"](), gp.KroneckerNormal.log_prob

    def faulty(self: Any, value: Tensor) -> Tensor:
        return log_prob(gp.KroneckerNormal(self.loc, self.factors, self.noise.sqrt()), value)

    monkeypatch.setattr(gp.KroneckerNormal, "log_prob", faulty)
    assert check.density(law, draws=10_000, quadrature=24).verdict == "fail"


# Programs


def process() -> gp.Process:
    size, length = (sample(name, dist.LogNormal(0.0, 0.5)) for name in ("size", "length"))
    return gp.Process(size**2 * gp.SquaredExponential(length), gp.ConstantMean(size))


def box() -> gp.Hilbert:
    return gp.Hilbert.around(process(), 1.5 * LINE, 8)


def grid() -> gp.Kronecker:
    return gp.Kronecker([process().kernel, gp.Matern32()])


def normal(values: Tensor, y: Tensor) -> None:
    observe("y", dist.Normal(values, NOISE).to_event(1), y)


PROGRAMS: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "exact": (lambda y: process().observed("y", LINE, y, NOISE), "y: Real[9] observed"),
    "fitc": (
        lambda y: gp.FITC(process(), LINE[::3]).observed("y", LINE, y, NOISE),
        "y: Real[9] observed",
    ),
    "vfe": (
        lambda y: gp.VFE(process(), LINE[::3]).observed("y", LINE, y, NOISE),
        "y: Real[9] observed",
    ),
    "waves": (lambda y: box().observed("y", LINE, y, NOISE), "y: Real[9] observed"),
    "grid": (
        lambda y: grid().observed("y", [LINE[:3], LINE[3:6]], y, NOISE),
        "y: Real[9] observed",
    ),
    "student": (
        lambda y: gp.StudentProcess(process().kernel).observed("y", LINE, y, NOISE),
        "y: Real[9] observed",
    ),
    "latent": (
        lambda y: normal(process().values("f", LINE), y),
        "f/white: Real[9], y: Real[9] observed",
    ),
    "latent waves": (
        lambda y: normal(box().values("f", LINE), y),
        "f/white: Real[8], y: Real[9] observed",
    ),
    "latent grid": (
        lambda y: normal(grid().values("f", [LINE[:3], LINE[3:6]]), y),
        "f/white: Real[9], y: Real[9] observed",
    ),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_have_types_and_lanes_are_a_loop(name: str) -> None:
    p, sites = PROGRAMS[name]
    model = program(p)
    assert str(model.type(ALONG)) == f"{{size: Positive, length: Positive, {sites}}} -> M Unit"
    lanes = torch.tensor(RNG.normal(size=(3, 9)))
    choices = {"size": f([0.5, 1.0, 2.0]), "length": f([0.3, 1.0, 3.0])}
    if "white" in sites:
        choices["f/white"] = torch.tensor(RNG.normal(size=(3, 8 if "waves" in name else 9)))
    together, _ = assess(vmap(model), choices, lanes)
    each = [assess(model, {k: v[i] for k, v in choices.items()}, lanes[i])[0] for i in range(3)]
    torch.testing.assert_close(together, torch.stack(each).sum())
    assert together != assess(vmap(model), choices, lanes.flip(0))[0]


def test_the_observed_bound_is_the_law_and_its_trace() -> None:
    sparse = gp.VFE(gp.Process(gp.Matern32(0.3)), LINE[::3])
    found, _ = assess(program(lambda: sparse.observed("y", LINE, ALONG, NOISE)), {})
    assert close(found, sparse.law(LINE, NOISE).log_prob(ALONG) + sparse.slack(LINE, NOISE))
    assert not close(found, sparse.law(LINE, NOISE).log_prob(ALONG))


@program
def noisy(x: Tensor, y: Tensor, new: Tensor | None = None) -> None:
    at, noise = process(), sample("noise", dist.LogNormal(-1.0, 0.5))
    at.observed("y", x, y, noise)
    if new is not None:
        after = at.given(x, y, noise)
        deterministic("mean", after.mean(new))
        sample("f", after.law(new))


def test_predictions_of_a_fit_and_those_of_all_draws_at_once_are_the_same() -> None:
    fit = Laplace(starts=1, draws=200).run(noisy, LINE, ALONG)
    new = f([[-0.5], [0.1]])
    found = predict(fit, noisy, LINE, ALONG, new)
    size, length, noise = (fit[name][..., None] for name in ("size", "length", "noise"))
    kernel = size[..., 0] ** 2 * gp.SquaredExponential(length)
    after = gp.Process(kernel, gp.ConstantMean(size[..., 0])).given(LINE, ALONG, noise)
    torch.testing.assert_close(found["mean"], after.mean(new))
    assert after.law(new).sample().shape == found["f"].shape == (1, 200, 2)
    z = (found["f"] - after.mean(new)) / after.variance(new).sqrt()
    assert stats.kstest(z[..., 0].flatten(), "norm").pvalue > 1e-6
    assert stats.kstest(2 * z[..., 0].flatten(), "norm").pvalue < 1e-6


def test_a_covariance_without_factor_is_told_and_in_lanes_alone() -> None:
    smooth = gp.Process(gp.SquaredExponential(30.0))
    with pytest.raises(NumericalError, match="take more jitter"):
        smooth.law(LINE, jitter=0.0)

    @program
    def density(length: Tensor) -> Tensor:
        law = gp.Process(gp.SquaredExponential(length)).law(LINE, jitter=0.0)
        return law.log_prob(ALONG)  # type: ignore[no-any-return]

    found = vmap(density)(f([0.1, 30.0]))
    assert close(found[0], density(f(0.1))) and bool(found[1].isnan())
    assert bool(smooth.law(LINE).log_prob(ALONG).isfinite())

    @program
    def model(y: Tensor) -> None:
        length = sample("length", dist.LogNormal(0.0, 1.0))
        observe("y", gp.Process(gp.SquaredExponential(length)).law(LINE, jitter=0.0), y)

    with IN_LANES.collected() as told:
        lanes = torch.func.vmap(LogDensity(model, ALONG))(f([[0.1], [30.0]]).log())
        assert bool(lanes[0].isfinite()) and float(lanes[1]) == -math.inf
    assert len(told) == 1  # so that a fit says at how many points


def test_a_density_is_asked_for_at_any_parameters_and_is_zero_at_the_wrong_ones() -> None:
    """A period below zero is an error where a program runs, and no posterior mass in a fit."""

    @program
    def wave(y: Tensor) -> None:
        period = sample("period", dist.Normal(0.5, 1.0))
        gp.Process(gp.Periodic(1.0, period)).observed("y", LINE, y, NOISE)

    fit = Laplace(starts=2, draws=50).run(wave, ALONG)
    assert bool(fit["period"].isfinite().all())
    with pytest.raises(ProgramError, match="period of Periodic is positive"):
        assess(wave, {"period": f(-0.5)}, ALONG)


@pytest.mark.slow
def test_nuts_finds_the_posterior_of_quadrature() -> None:
    """Over lengthscale and size, on a grid of 60 by 60; the level of z is 1e-4."""

    @program
    def model(x: Tensor, y: Tensor) -> None:
        process().observed("y", x, y, NOISE)

    log_lengths, log_sizes = (torch.linspace(-2.5, 2.5, 60) for _ in range(2))
    score = torch.stack(
        [
            torch.stack([assess(model, {"length": a, "size": b}, LINE, ALONG)[0] + (a * b).log()
                         for b in log_sizes.exp()])
            for a in log_lengths.exp()
        ]
    )  # fmt: skip
    weight = score.flatten().softmax(0).reshape(60, 60)
    wanted = {
        "length": weight.sum(1) @ log_lengths,
        "size": weight.sum(0) @ log_sizes,
    }
    torch.manual_seed(0)
    fit = MCMC(nuts(), draws=1000, progress=False).run(model, LINE, ALONG)
    rows = fit.summary()
    for name, mean in wanted.items():
        draws = fit[name].log()
        error = float(draws.std()) / math.sqrt(float(rows.loc[name, "ess_bulk"]))
        assert abs(float(draws.mean() - mean)) < 3.9 * error + 1e-3
        assert abs(float(draws.mean() - mean - 0.5)) > 3.9 * error


@pytest.mark.slow
@pytest.mark.parametrize(("name", "summed"), [("vfe", "vfe"), ("latent waves", "waves")])
def test_variational_bounds_climb_towards_the_evidence(name: str, summed: str) -> None:
    """Which Laplace's law has by importance, of two latents, the values integrated out."""
    fit = ADVI(steps=600, progress=False).run(program(PROGRAMS[name][0]), ALONG)
    evidence = float(Laplace(draws=4000).run(program(PROGRAMS[summed][0]), ALONG).log_evidence)
    bound = fit.history["elbo"]
    assert float(bound[-50:].mean()) > float(bound[:50].mean()) + 1
    assert float(bound[-50:].mean()) < evidence + 0.2
    assert name != summed or abs(float(fit.log_evidence) - evidence) < 0.1


def test_inducing_points_are_optimised_by_the_bound() -> None:
    z = LINE[:3].clone().requires_grad_()
    optimizer, bounds = torch.optim.Adam([z], 0.1), []
    for _ in range(30):
        sparse = gp.VFE(gp.Process(gp.Matern32()), z)
        bound = sparse.law(LINE, NOISE).log_prob(ALONG) + sparse.slack(LINE, NOISE)
        optimizer.zero_grad()
        (-bound).backward()
        optimizer.step()
        bounds.append(float(bound.detach()))
    exact = float(gp.Process(gp.Matern32()).law(LINE, NOISE).log_prob(ALONG))
    assert bounds[0] + 1 < bounds[-1] < exact


# Bad inputs


OF_LINE = gp.Process(gp.Matern32())
BOX = gp.Hilbert.around(OF_LINE, LINE, 5)
BAD: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "noise": (lambda: OF_LINE.law(LINE, -0.1), ProgramError, "None is no noise"),
    "zero noise": (lambda: OF_LINE.law(LINE, 0.0), ProgramError, "positive and finite"),
    "noises": (lambda: OF_LINE.law(LINE, torch.ones(4)), DataError, "not for 9 points"),
    "jitter": (lambda: OF_LINE.law(LINE, 0.1, -1.0), ProgramError, "jitter is not negative"),
    "points": (
        lambda: OF_LINE.law(LINE[:, 0], 0.1),
        DataError,
        r"points are real numbers \[n, D\]",
    ),
    "values": (lambda: OF_LINE.given(LINE, ALONG[:4], 0.1), DataError, r"are \[\.\.\., 9\]"),
    "NaN": (lambda: OF_LINE.given(LINE, ALONG * math.nan, 0.1), DataError, "leave those points"),
    "new": (lambda: OF_LINE.given(LINE, ALONG, 0.1).mean(LINE[:, 0]), DataError, "points are"),
    "slopes": (lambda: gp.LinearMean(torch.ones(3))(LINE), DataError, "slopes are"),
    "df": (lambda: gp.StudentProcess(gp.Matern32(), df=-1.0), ProgramError, "df of Student"),
    "smooth": (
        lambda: gp.Process(gp.SquaredExponential(30.0)).law(LINE, jitter=0.0),
        NumericalError,
        "smallest eigenvalue",
    ),
    "inducing": (lambda: gp.FITC(OF_LINE, LINE[:, 0]), DataError, "points are"),
    "same inducing": (
        lambda: gp.VFE(OF_LINE, LINE[[0, 0]], 0.0).law(LINE, 0.1),
        NumericalError,
        "take more jitter",
    ),
    "outside": (lambda: BOX.features(2 * LINE), DataError, "outside the box"),
    "box of others": (lambda: BOX.features(X), DataError, "no points of 2"),
    "factor": (lambda: gp.Hilbert.around(OF_LINE, LINE, 5, 0.9), ProgramError, "above 1"),
    "one place": (lambda: gp.Hilbert.around(OF_LINE, LINE[:1], 5), ProgramError, "differ in each"),
    "count": (lambda: gp.Hilbert.around(OF_LINE, LINE, 0), ProgramError, "counts are positive"),
    "counts": (lambda: gp.Hilbert.around(OF_LINE, LINE, (3, 3)), ProgramError, "one for each"),
    "spectrum": (
        lambda: gp.Hilbert.around(gp.Process(gp.Periodic()), LINE, 5).features(LINE),
        ProgramError,
        "no spectral density of Periodic",
    ),
    "advice": (lambda: gp.advised("matern12", 1.0, 1.0), ProgramError, "kernels are squared"),
    "no axes": (lambda: gp.Kronecker([]), ProgramError, "a kernel for each axis"),
    "axes": (lambda: gp.Kronecker(KERNELS).law(AXES[:2], 0.1), DataError, "2 axes are not for 3"),
    "an axis": (lambda: gp.Kronecker([gp.Matern32()]).grid([X]), DataError, "an axis is"),
    "table": (
        lambda: gp.Kronecker(KERNELS).given(AXES, TABLE.reshape(4, 6), 0.1),
        DataError,
        "values at 24 points",
    ),
    "ends": (lambda: gp.Splines(1.0, 1.0), ProgramError, "low < high"),
    "functions": (lambda: gp.Splines(0.0, 1.0, 3, 3), ProgramError, "count > degree"),
    "beyond": (lambda: gp.Splines(0.0, 1.0).basis(f([1.1])), DataError, "ends around all"),
    "order": (
        lambda: gp.Splines(0.0, 1.0).curve("f", f([0.5]), 1.0, 20),
        ProgramError,
        "a walk of order 20",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_inputs_are_told(name: str) -> None:
    run, kind, says = BAD[name]
    with pytest.raises(kind, match=says):
        run()
