"""Gaussian Markov laws beside dense normal laws, by a loop and by a scan, as laws and programs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import mpmath
import pytest
import torch
from torch import Tensor

from pushforward import dist, factor, observe, program, sample, vmap
from pushforward.errors import DataError, NumericalError, ProgramError
from pushforward.inference import Exact
from pushforward.ppl import assess, compiled
from pushforward.ppl.interpretations.log_density import LogDensity
from pushforward.ppl.markov import (
    KERNELS,
    GaussianMarkov,
    Matern,
    Sites,
    conditioning,
    gaussian_path,
    joined,
    law,
    observed,
    seen,
    smoothed,
    with_unseen,
)

pytestmark = pytest.mark.usefixtures("double")

NAMES = list(KERNELS)
# What is in the books: functions of r = distance / lengthscale.
BOOKS: dict[str, Callable[[Tensor], Tensor]] = {
    "matern12": lambda r: (-r).exp(),
    "matern32": lambda r: (1 + 3**0.5 * r) * (-(3**0.5) * r).exp(),
    "matern52": lambda r: (1 + 5**0.5 * r + 5 * r**2 / 3) * (-(5**0.5) * r).exp(),
}
TIMES = torch.tensor([0, 0.1, 0.35, 0.6, 1], dtype=torch.float64)
YS = torch.tensor([0.5, -0.2, 0.3, 1.1, -0.4], dtype=torch.float64)


def f(x: Any) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


def close(found: Tensor, wanted: Tensor, within: float) -> None:
    torch.testing.assert_close(found, wanted, rtol=0, atol=within)


def dense(
    name: str, times: Tensor, y: Tensor, noise: Tensor, at: Tensor, length: float, variance: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and covariance of a Gaussian process at some times, and the log marginal likelihood."""
    here = ~y.isnan()
    times, y, noise = times[here], y[here], noise.expand(y.shape)[here]

    def kernel(s: Tensor, t: Tensor) -> Tensor:
        return variance * BOOKS[name]((s[:, None] - t[None]).abs() / length)

    K, across = kernel(times, times) + noise.diag(), kernel(at, times)
    mean = across @ torch.linalg.solve(K, y)
    covariance = kernel(at, at) - across @ torch.linalg.solve(K, across.mT)
    return mean, covariance, dist.MultivariateNormal(torch.zeros_like(y), K).log_prob(y)


def irregular(n: int, missing: float, seed: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    times = torch.rand(n, generator=g).double().sort().values
    y = torch.sin(9 * times) + 0.3 * torch.randn(n, generator=g).double()
    return times, torch.where(torch.rand(n, generator=g) < missing, math.nan, y)


# --- kernels --------------------------------------------------------------------------------------


def test_steps_by_hand() -> None:
    gap = f(0.3)
    A, Q = Matern.named("matern12", 0.5, 2.0).step(gap)
    close(A, f([[0.5488116361]]), 1e-10)
    close(Q, f([[1.3976115762]]), 1e-10)
    kernel = Matern.named("matern32", 0.5, 2.0)
    A, Q = kernel.step(gap)
    close(A, f([[0.7213304238, 0.1061180326], [-1.2734163917, -0.0138768728]]), 1e-10)
    close(Q, f([[0.6890999551, 1.8724500455], [1.8724500455, 20.7521997642]]), 1e-10)
    _, _, density, P = kernel.state_space()
    close(density, f(332.5537550532), 1e-9)
    close((A @ P)[0, 0], f(1.4426608475), 1e-10)
    kernel = Matern.named("matern52", 0.5, 2.0)
    A, Q = kernel.step(gap)
    _, _, density, P = kernel.state_space()
    close(density, f(19081.1134079982), 1e-9)
    close(Q[0, 0], f(0.2692284466), 1e-10)
    close((A @ P)[0, 0], f(1.5379862185), 1e-10)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_kernels_are_their_equations(order: int) -> None:
    """F P + P F^T + L Qc L^T = 0, A = exp(F d) and Q = P - A P A^T, relative to what is summed."""
    kernel = Matern(order, f([0.3, 1.7]), f([2.0, 0.5]))
    F, L, density, P = kernel.state_space()
    noise = density[:, None, None] * torch.outer(L, L)
    left = F @ P + P @ F.mT + noise
    close(left / noise.amax((1, 2), keepdim=True), torch.zeros_like(left), 1e-13)
    A, Q = kernel.step(f([0.4, 0.1]))
    torch.testing.assert_close(A, torch.linalg.matrix_exp(F * f([0.4, 0.1])[:, None, None]))
    scale = P.diagonal(dim1=1, dim2=2).sqrt()
    scale = scale[:, :, None] * scale[:, None]
    close(Q / scale, (P - A @ P @ A.mT) / scale, 1e-13)


@pytest.mark.parametrize("name", NAMES)
def test_kernels_are_those_of_the_books(name: str) -> None:
    gaps = torch.linspace(-2, 2, 21)
    found = Matern.named(name, 0.7, 1.3).covariance(gaps)
    close(found, 1.3 * BOOKS[name](gaps.abs() / 0.7), 1e-14)


@pytest.mark.parametrize("gap", [1e-7, 1e-3, 0.3])
def test_the_noise_of_a_short_step_has_all_its_digits(gap: float) -> None:
    """Against quadrature in 40 digits; the difference P - A P A^T has none of them left."""
    length, variance = 0.5, 2.0
    kernel = Matern.named("matern52", length, variance)
    A, Q = kernel.step(f(gap))
    mpmath.mp.dps = 40
    a = mpmath.sqrt(5) / length
    density = mpmath.mpf(16) / 3 * a**5 * variance

    def g(s: Any) -> list[Any]:
        return [
            mpmath.exp(-a * s) * p
            for p in (s**2 / 2, s - a * s**2 / 2, 1 - 2 * a * s + a * a * s**2 / 2)
        ]

    for i in range(3):
        for j in range(3):
            exact = density * mpmath.quad(lambda s, i=i, j=j: g(s)[i] * g(s)[j], [0, gap])
            assert float(Q[i, j]) == pytest.approx(float(exact), rel=2e-13)
    P = kernel.state_space()[3]
    difference = (P - A @ P @ A.mT)[0, 0]
    assert gap > 0.1 or abs(float(difference / Q[0, 0]) - 1) > 1e-4


def test_equal_times_are_a_step_of_nothing() -> None:
    for name in NAMES:
        A, Q = Matern.named(name, 0.5, 2.0).step(f(0.0))
        assert torch.equal(A, torch.eye(len(A))) and not bool(Q.any())


# --- posteriors -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["scan", "loop"])
def test_five_points(method: Any) -> None:
    kernel = Matern.named("matern32", 0.3)
    sites = observed(YS, f(0.09), 2)
    found = smoothed(kernel.chain(TIMES), sites, method)
    means = f([0.3289140355, -0.0242186502, 0.3054738438, 0.9725521792, -0.3313284252])
    variances = f([0.0677882728, 0.0631520387, 0.0758089102, 0.0785667577, 0.0817838026])
    close(found.mean[:, 0], means, 1e-10)
    close(found.covariance[:, 0, 0], variances, 1e-10)
    close(found.log_mass, f(-5.4701659184), 1e-10)
    times, wide, places = with_unseen(TIMES, sites, f([-0.2, 1.3, 0.2]))
    found = smoothed(kernel.chain(times), wide, method)
    close(found.mean[places, 0], f([0.4087539118, -0.2512767124, -0.0632052558]), 1e-10)
    close(found.covariance[places, 0, 0], f([0.5632813567, 0.7822572909, 0.1513209086]), 1e-10)
    close(found.log_mass, f(-5.4701659184), 1e-10)
    rough = Matern.named("matern12", 0.3)
    times, wide, places = with_unseen(TIMES, observed(YS, f(0.09), 1), f([0.2]))
    found = smoothed(rough.chain(times), wide, method)
    close(found.log_mass, f(-5.4760346281), 1e-10)
    close(found.mean[places, 0], f([0.0493802612]), 1e-10)


def deviation(name: str, method: Any = "scan", n: int = 60) -> float:
    """From dense regression, with missing values, equal times and noise that differs."""
    times, y = irregular(n, 0.2, 1)
    times[10:13] = times[10]
    noise = 0.05 + 0.3 * times
    kernel = Matern.named(name, 0.3, 1.7)
    found = smoothed(kernel.chain(times), observed(y, noise, kernel.order), method)
    mean, covariance, mass = dense(name, times, y, noise, times, 0.3, 1.7)
    gaps = (
        found.mean[:, 0] - mean,
        found.covariance[:, 0, 0] - covariance.diagonal(),
        found.log_mass - mass,
    )
    return max(float(gap.abs().max()) for gap in gaps)


@pytest.mark.parametrize("method", ["scan", "loop"])
@pytest.mark.parametrize("name", NAMES)
def test_posteriors_are_dense_regression(name: str, method: Any) -> None:
    assert deviation(name, method) < 1e-9


@pytest.mark.parametrize("method", ["scan", "loop"])
@pytest.mark.parametrize("name", NAMES)
def test_precise_values_at_close_times(name: str, method: Any) -> None:
    """Noise of variance 1e-6 and times 1e-6 apart, against 50 digits."""
    mpmath.mp.dps = 50
    times = f([0.0, 0.2, 0.200001, 0.5, 0.5, 0.9])
    y = torch.sin(5 * times) + f([0.0, 1e-3, -1e-3, 0.0, 1e-3, 0.0])
    a = mpmath.sqrt(2 * KERNELS[name] - 1) / mpmath.mpf(0.3)
    books: dict[int, Callable[[Any], Any]] = {
        1: lambda x: 1,
        2: lambda x: 1 + x,
        3: lambda x: 1 + x + x * x / 3,
    }
    exact_times, exact_y = ([mpmath.mpf(x) for x in each.tolist()] for each in (times, y))
    K = mpmath.matrix(6, 6)
    for i, j in itertools.product(range(6), repeat=2):
        x = a * abs(exact_times[i] - exact_times[j])
        K[i, j] = mpmath.exp(-x) * books[KERNELS[name]](x)
    S = K + mpmath.mpf(1e-6) * mpmath.eye(6)
    weights = mpmath.lu_solve(S, mpmath.matrix(exact_y))
    variance = K - K * S**-1 * K
    log_mass = -mpmath.log(mpmath.det(S)) / 2 - 3 * mpmath.log(2 * mpmath.pi)
    log_mass -= (mpmath.matrix(exact_y).T * weights)[0] / 2
    kernel = Matern.named(name, 0.3)
    found = smoothed(kernel.chain(times), observed(y, f(1e-6), kernel.order), method)
    close(found.mean[:, 0], f([float(x) for x in K * weights]), 1e-12)
    variances = f([float(variance[i, i]) for i in range(6)])
    torch.testing.assert_close(found.covariance[:, 0, 0], variances, rtol=1e-9, atol=0)
    close(found.log_mass, f(float(log_mass)), 1e-9)


def test_faults_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scan whose product forgets a term, and a smoother that turns nothing round."""
    product = conditioning._seen_then

    def forgetful(earlier: Any, later: Any) -> Any:
        return product((*earlier[:2], 0.9 * earlier[2], *earlier[3:]), later)

    with monkeypatch.context() as patch:
        patch.setattr(conditioning, "_seen_then", forgetful)
        assert deviation("matern32") > 1e-3
    with monkeypatch.context() as patch:
        patch.setattr(law.GaussianMarkov, "_turned", lambda self, x, axis: x)
        assert deviation("matern32") > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_the_scan_is_the_loop(name: str) -> None:
    """4096 irregular times, a fifth of which saw nothing."""
    times, y = irregular(4096, 0.2, 2)
    kernel = Matern.named(name, 0.2)
    chain, sites = kernel.chain(times), observed(y, f(0.09), kernel.order)
    with torch.no_grad():
        fast, slow = smoothed(chain, sites), smoothed(chain, sites, "loop")
    for one, other in zip(fast[1:], slow[1:], strict=True):
        close(one / other.abs().max(), other / other.abs().max(), 1e-11)


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 6, 7, 8, 9, 17])
def test_a_scan_of_any_length(length: int) -> None:
    times, y = irregular(length, 0.0, 3)
    kernel = Matern.named("matern52", 0.2)
    chain, sites = kernel.chain(times), observed(y, f(0.09), 3)
    for one, other in zip(
        smoothed(chain, sites)[1:], smoothed(chain, sites, "loop")[1:], strict=True
    ):
        close(one, other, 1e-12)


def test_functions_in_a_batch() -> None:
    """Each of three lengthscales by two series of data is what it is by itself."""
    lengths, ys = f([0.1, 0.3, 1.0]), torch.stack([YS, YS.flip(0)])[:, None]
    chain = Matern(2, lengths, f(1.0).expand(3)).chain(TIMES)
    found = smoothed(chain, observed(ys, f(0.09), 2))
    assert found.mean.shape == (2, 3, 5, 2) and found.log_mass.shape == (2, 3)
    for i, y in enumerate((YS, YS.flip(0))):
        for j in range(3):
            one = smoothed(Matern(2, lengths[j], f(1.0)).chain(TIMES), observed(y, f(0.09), 2))
            close(found.mean[i, j], one.mean, 1e-13)
            close(found.log_mass[i, j], one.log_mass, 1e-12)


def two_functions() -> tuple[GaussianMarkov, Sites, Tensor, Tensor]:
    """Functions of two kernels, seen together, and the same densely: Lambda and eta of both."""
    one, other = Matern.named("matern32", 0.3), Matern.named("matern12", 0.8, 0.5)
    chain = joined([one.chain(TIMES), other.chain(TIMES)])
    g = torch.Generator().manual_seed(4)
    half = torch.randn(5, 2, 2, generator=g).double()
    precision, linear = half @ half.mT, torch.randn(5, 2, generator=g).double()
    through = f([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    gaps = TIMES[:, None] - TIMES[None]
    prior = torch.zeros(5, 2, 5, 2)
    prior[:, 0, :, 0] = one.covariance(gaps)
    prior[:, 1, :, 1] = other.covariance(gaps)
    inverse = torch.linalg.inv(prior.reshape(10, 10)) + torch.block_diag(*precision)
    covariance = torch.linalg.inv(inverse)
    return chain, seen(precision, linear, through), covariance @ linear.reshape(10), covariance


def test_functions_that_are_seen_together() -> None:
    chain, sites, mean, covariance = two_functions()
    found = smoothed(chain, sites)
    close(found.mean[:, [0, 2]], mean.reshape(5, 2), 1e-12)
    blocks = torch.stack([covariance[2 * t : 2 * t + 2, 2 * t : 2 * t + 2] for t in range(5)])
    close(found.covariance[:, [0, 2]][:, :, [0, 2]], blocks, 1e-12)


@pytest.mark.parametrize("method", ["scan", "loop"])
def test_gradients(method: Any) -> None:
    def mass(length: Tensor, variance: Tensor, noise: Tensor, gaps: Tensor, y: Tensor) -> Any:
        chain = Matern(3, length, variance).chain(gaps.cumsum(0))
        found = smoothed(chain, observed(y, noise, 3), method)
        return found.log_mass, found.mean[2, 0], found.covariance[2, 0, 0]

    start = f(0.3), f(1.2), f(0.1), f([0.1, 0.1, 0.25, 0.3, 0.4]), YS.clone()
    assert torch.autograd.gradcheck(mass, tuple(x.requires_grad_() for x in start))


# --- laws -----------------------------------------------------------------------------------------


def laws() -> dict[str, tuple[GaussianMarkov, Tensor, Tensor]]:
    """A prior and a posterior of states, with mean [T s] and covariance [T s, T s] by algebra."""
    chain, sites, _, _ = two_functions()
    steps = torch.eye(15)
    for t in range(1, 5):
        steps[3 * t : 3 * t + 3, 3 * t - 3 : 3 * t] = -chain.transition[t]
    inverse = torch.linalg.inv(steps)
    prior = inverse @ torch.block_diag(*chain.covariance) @ inverse.mT
    after = torch.linalg.inv(torch.linalg.inv(prior) + torch.block_diag(*sites.precision))
    mean = after @ sites.linear.flatten()
    return {
        "prior": (chain, torch.zeros(15), prior),
        "posterior": (smoothed(chain, sites).law, mean, after),
    }


@pytest.mark.parametrize("which", ["prior", "posterior"])
def test_densities_and_draws(which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Draws are affine in their noise, so that unit noise tells their law."""
    found, mean, covariance = laws()[which]
    x = torch.sin(torch.arange(60.0)).reshape(4, 5, 3)
    wanted = dist.MultivariateNormal(mean, covariance).log_prob(x.reshape(4, 15))
    torch.testing.assert_close(found.log_prob(x), wanted, rtol=1e-9, atol=1e-9)
    units = torch.cat([torch.zeros(1, 15), torch.eye(15)]).reshape(16, 5, 3)
    monkeypatch.setattr(torch, "randn", lambda *size, **kind: units)
    draws = found.rsample((16,)).reshape(16, 15)
    close(draws[0], mean, 1e-12)
    spread = draws[1:] - draws[0]
    close(spread.mT @ spread, covariance, 1e-12)
    turned = GaussianMarkov(found.transition, found.offset, found.covariance, not found.backward)
    assert float((turned.log_prob(x) - wanted).abs().max()) > 0.1


def test_bayes() -> None:
    """Prior times sites is mass times posterior, at any path."""
    chain, sites, _, _ = two_functions()
    found = smoothed(chain, sites)
    x = torch.cos(torch.arange(15.0)).reshape(5, 3)
    squares = torch.einsum("ti,tij,tj->", x, sites.precision, x)
    joint = chain.log_prob(x) + (sites.linear * x).sum() - squares / 2
    close(joint, found.log_mass + found.law.log_prob(x), 1e-10)


def test_draws_where_times_are_equal() -> None:
    times = f([0.0, 0.5, 0.5, 1.0])
    draws = Matern.named("matern52", 0.4).chain(times).rsample((3,))
    close(draws[:, 1], draws[:, 2], 0.0)
    assert bool(draws.isfinite().all())


def test_a_law_in_lanes_and_in_a_plate() -> None:
    chain = Matern.named("matern32", 0.3).chain(TIMES)

    @program
    def three() -> Any:
        return vmap(lambda scale: scale * sample("x", chain))(f([1.0, 2.0, 3.0]))

    assert str(three.type()) == "{x: Real[3, 5, 2]} -> P Real[3, 5, 2]"
    x = torch.sin(torch.arange(30.0)).reshape(3, 5, 2)
    close(assess(three, {"x": x})[0], chain.log_prob(x).sum(), 1e-12)


# --- programs -------------------------------------------------------------------------------------


def regression(name: str) -> Any:
    kernel = Matern.named(name, 0.3)

    @program
    def model(times: Tensor, y: Tensor) -> Tensor:
        states = gaussian_path(kernel)(times)
        observe("y", dist.Normal(states[:, 0], 0.3).to_event(1), y)
        return states[:, 0]

    return model


@pytest.mark.parametrize("name", NAMES)
def test_the_prior_is_a_program(name: str) -> None:
    """Its type prints, its density is the law's, and exact elimination finds the same posterior."""
    model, kernel = regression(name), Matern.named(name, 0.3)
    p = kernel.order
    states = f"Real[{p}]^5"
    assert str(model.type(TIMES, YS)) == f"{{x: {states}, y: Real[5] observed}} -> M Real[5]"
    chain = kernel.chain(TIMES)
    x = torch.sin(torch.arange(5.0 * p)).reshape(5, p)
    choices = {f"x[{t}]": x[t] for t in range(5)}
    close(assess(gaussian_path(kernel), choices, TIMES)[0], chain.log_prob(x), 1e-9)
    fit = Exact(draws=1).run(model, TIMES, YS)
    found = smoothed(chain, observed(YS, f(0.09), p))
    assert fit.log_evidence == pytest.approx(float(found.log_mass), abs=1e-9)
    mean = torch.stack([fit.moments[f"x[{t}]"][0] for t in range(5)])
    sd = torch.stack([fit.moments[f"x[{t}]"][1] for t in range(5)])
    close(mean, found.mean, 1e-9)
    close(sd, found.covariance.diagonal(dim1=1, dim2=2).sqrt(), 1e-9)


def test_the_kernels_parameters_are_latents() -> None:
    """The mass is a factor of a program, which is captured with its gradient."""

    @program
    def model(times: Tensor, y: Tensor) -> None:
        length = sample("length", dist.LogNormal(0.0, 1.0))
        chain = Matern(2, length, f(1.0)).chain(times)
        factor("y", smoothed(chain, observed(y, f(0.09), 2)).log_mass)

    density = LogDensity(model, TIMES, YS)
    u = f([math.log(0.3)]).requires_grad_()
    value = density(u)
    prior = dist.Normal(0.0, 1.0).log_prob(u.detach()[0])
    close(value.detach(), prior - 5.4701659184, 1e-9)
    (slope,) = torch.autograd.grad(value, u)
    step = 1e-5
    with torch.no_grad():
        ahead, behind = density(u + step), density(u - step)
    close(slope[0], (ahead - behind) / (2 * step), 1e-7)


def test_the_loop_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a loop of the language its steps become one graph, which is run for all of them."""
    from pushforward.ppl.compile import loops

    graphs: list[Any] = []

    def noted(graph: Any, *example: Any, **options: Any) -> Any:
        graphs.append(graph)
        return graph

    monkeypatch.setattr(loops, "compile_graph", noted)
    chain = Matern.named("matern32", 0.3).chain(TIMES)
    sites = observed(YS, f(0.09), 2)
    found = compiled(lambda *known: smoothed(chain, Sites(*known), "loop")[1:])(*sites)
    assert len(graphs) == 2  # forward and backward
    for one, other in zip(found, smoothed(chain, sites)[1:], strict=True):
        close(one, other, 1e-13)


# --- bad input ------------------------------------------------------------------------------------

CHAIN = Matern.named("matern32", 0.3).chain(TIMES)
SEEN = observed(YS, f(0.09), 2)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (
            lambda: Matern.named("rbf", 0.3),
            ProgramError,
            "kernels are matern12, matern32, matern52",
        ),
        (lambda: Matern.named("matern32", -0.3), ProgramError, "lengthscale"),
        (lambda: Matern.named("matern32", 0.3, math.nan), ProgramError, "variance"),
        (lambda: Matern(0, f(0.3), f(1.0)), ProgramError, "at least one state"),
        (lambda: Matern.named("matern32", 0.3).chain(TIMES.flip(0)), DataError, "sort them"),
        (lambda: Matern.named("matern32", 0.3).chain(TIMES / 0), DataError, "finite"),
        (lambda: observed(YS, f(0.0), 2), DataError, "positive"),
        (lambda: observed(YS / 0, f(0.1), 2), DataError, "infinite"),
        (lambda: smoothed(CHAIN, observed(YS[:4], f(0.1), 2)), ProgramError, r"\[4, 2\] do not"),
        (lambda: smoothed(CHAIN, observed(YS, f(0.1), 1)), ProgramError, r"chain of \[5, 2\]"),
        (lambda: joined([CHAIN, smoothed(CHAIN, SEEN).law]), ProgramError, "direction"),
        (
            lambda: GaussianMarkov(CHAIN.transition[:4], CHAIN.offset, CHAIN.covariance),
            ProgramError,
            r"no transition of shape \[4, 2, 2\]",
        ),
        (lambda: smoothed(CHAIN, SEEN, "scna"), ProgramError, "not 'scna'"),  # type: ignore[arg-type]
        (lambda: smoothed(smoothed(CHAIN, SEEN).law, SEEN), ProgramError, "add up the sites"),
        (
            lambda: smoothed(CHAIN, SEEN._replace(precision=-SEEN.precision)),
            NumericalError,
            "time index 0 is not positive definite",
        ),
        (
            lambda: Matern.named("matern32", 0.3).chain(f([0, 1, 1])).log_prob(torch.ones(3, 2)),
            NumericalError,
            "step 2 of a chain has no density",
        ),
    ],
)
def test_bad_input(call: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        call()
