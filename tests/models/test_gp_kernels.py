"""Kernels: scikit-learn's and formulas by hand, random compositions, spectra by quadrature."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate, special
from sklearn.gaussian_process import kernels as theirs
from support.sizes import quick
from torch import Tensor

from pushforward import assess, dist, program, sample, vmap
from pushforward.errors import DataError, ProgramError
from pushforward.models import gp
from pushforward.models.functional_priors import GPTarget
from pushforward.ppl.distributions.gaussian_process import rbf
from pushforward.ppl.markov import Matern

pytestmark = pytest.mark.usefixtures("double")
RNG = np.random.default_rng(0)
X, Y = (torch.tensor(RNG.uniform(-1.5, 1.5, (n, 2))) for n in (5, 3))
SCALES = torch.tensor([0.7, 1.3], dtype=torch.float64)


def f(x: Any) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


OURS_AND_THEIRS: dict[str, tuple[gp.Kernel, Any]] = {
    "squared": (gp.SquaredExponential(SCALES), theirs.RBF(SCALES.numpy())),
    "matern12": (gp.Matern12(SCALES), theirs.Matern(SCALES.numpy(), nu=0.5)),
    "matern32": (gp.Matern32(0.8), theirs.Matern(0.8, nu=1.5)),
    "matern52": (gp.Matern52(SCALES), theirs.Matern(SCALES.numpy(), nu=2.5)),
    "rational": (gp.RationalQuadratic(0.8, 0.6), theirs.RationalQuadratic(0.8, 0.6)),
    "linear": (gp.Linear() + 0.3, theirs.DotProduct(math.sqrt(0.3))),
    "polynomial": (
        gp.Polynomial(3, 0.4),
        theirs.Exponentiation(theirs.DotProduct(math.sqrt(0.4)), 3),
    ),
    "white": (gp.WhiteNoise(0.2) + 1.0, theirs.WhiteKernel(0.2) + 1.0),
    "sum": (
        1.7 * gp.SquaredExponential(0.9) + gp.Matern32(0.4),
        1.7 * theirs.RBF(0.9) + theirs.Matern(0.4, nu=1.5),
    ),
    "product": (
        gp.Matern52() * gp.RationalQuadratic(),
        theirs.Matern(1.0, nu=2.5) * theirs.RationalQuadratic(),
    ),
}


@pytest.mark.parametrize("name", OURS_AND_THEIRS)
def test_kernels_are_those_of_scikit_learn(name: str) -> None:
    ours, other = OURS_AND_THEIRS[name]
    x, y = X.numpy(), Y.numpy()
    pairs = [(ours(X), other(x)), (ours(X, Y), other(x, y)), (ours.diagonal(X), other.diag(x))]
    for found, wanted in pairs:
        np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-12, atol=1e-14)
        assert abs(1.001 * found.numpy() - wanted).max() > 1e-8 or not wanted.any()


def periodic(x: Any, y: Any) -> float:
    return math.exp(-2 * sum((math.sin(math.pi * d / 0.7) / 0.9) ** 2 for d in x - y))


def gibbs(x: Any, y: Any) -> float:
    a, b = 0.4 + x[0] ** 2, 0.4 + y[0] ** 2
    return 2 * a * b / (a * a + b * b) * math.exp(-sum((x - y) ** 2) / (a * a + b * b))


def change(x: Any, y: Any) -> float:
    s, t = (1 / (1 + math.exp(-3 * (p[1] - 0.2))) for p in (x, y))
    far = math.exp(-sum((x - y) ** 2) / 2)
    near = math.exp(-math.sqrt(sum((x - y) ** 2)) / 0.5)
    return (1 - s) * far * (1 - t) + s * near * t


BY_HAND: dict[str, tuple[gp.Kernel, Callable[[Any, Any], float]]] = {
    "periodic": (gp.Periodic(0.9, 0.7), periodic),
    "linear": (gp.Linear(0.5), lambda x, y: sum((x - 0.5) * (y - 0.5))),
    "polynomial": (gp.Polynomial(2, 0.3, -1.0), lambda x, y: (sum((x + 1) * (y + 1)) + 0.3) ** 2),
    "gibbs": (gp.Gibbs(lambda x: 0.4 + x[..., 0] ** 2), gibbs),
    "change": (
        gp.ChangePoint(gp.SquaredExponential(), gp.Matern12(0.5), 0.2, 3.0, coordinate=1),
        change,
    ),
    "on": (gp.SquaredExponential(0.6).on(1), lambda x, y: math.exp(-((x - y)[1] ** 2) / 0.72)),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_kernels_by_hand(name: str) -> None:
    kernel, k = BY_HAND[name]
    wanted = [[k(x, y) for y in Y.numpy()] for x in X.numpy()]
    np.testing.assert_allclose(kernel(X, Y).numpy(), wanted, rtol=1e-12)
    np.testing.assert_allclose(kernel.diagonal(X), [k(x, x) for x in X.numpy()], rtol=1e-12)


def test_the_kernels_of_other_rooms_are_the_same() -> None:
    v, length = f([0.5, 2.0]), f([0.3, 1.1])
    ours = v * gp.SquaredExponential(length[:, None])
    torch.testing.assert_close(ours(X, Y), rbf(X, Y, length, v))
    x = X[:, :1]
    for order, kernel in enumerate((gp.Matern12, gp.Matern32, gp.Matern52), 1):
        chain = Matern(order, f(0.6), f(1.0)).covariance(x - x.mT)
        torch.testing.assert_close(kernel(0.6)(x), chain)


def test_a_kernel_is_a_target_of_priors_of_networks() -> None:
    kernel = gp.Matern32(0.6)
    process = GPTarget(kernel, noise=0.0).program
    values = torch.tensor(RNG.normal(size=5))
    found, _ = assess(process, {"f": values[None]}, X)
    torch.testing.assert_close(found, gp.Process(kernel).law(X, jitter=0.0).log_prob(values))


# Compositions

LEAVES: list[Callable[[random.Random], gp.Kernel]] = [
    lambda r: gp.SquaredExponential(r.uniform(0.3, 2)),
    lambda r: gp.Matern12(f([r.uniform(0.3, 2), 1.0])),
    lambda r: gp.Matern32(r.uniform(0.3, 2)).on(1),
    lambda r: gp.Matern52(r.uniform(0.3, 2)).on(1, 0),
    lambda r: gp.RationalQuadratic(r.uniform(0.3, 2), r.uniform(0.3, 2)),
    lambda r: gp.Periodic(r.uniform(0.3, 2), r.uniform(0.3, 2)),
    lambda r: gp.Linear(r.uniform(-1, 1)),
    lambda r: gp.Polynomial(r.randint(1, 3), r.uniform(0.3, 2)),
    lambda r: gp.WhiteNoise(r.uniform(0.3, 2)),
    lambda r: gp.Constant(r.uniform(0.3, 2)),
    lambda r: gp.Gibbs(lambda x: 0.5 + x[..., 0].square()),
]


def composed(r: random.Random, depth: int) -> gp.Kernel:
    if depth == 0 or r.random() < 0.2:
        return r.choice(LEAVES)(r)
    left, right = composed(r, depth - 1), composed(r, depth - 1)
    whole = [
        lambda: left + right,
        lambda: left * right,
        lambda: np.float64(r.uniform(0.2, 3)) * left,
        lambda: f(r.uniform(0.2, 3)) * left + r.uniform(0.2, 3),
        lambda: gp.ChangePoint(left, right, r.uniform(-1, 1), r.uniform(0.5, 4)),
    ]
    return r.choice(whole)()


@pytest.mark.parametrize("seed", quick(40, range(400)))
def test_compositions_are_covariances(seed: int) -> None:
    """Symmetric, without negative eigenvalues, entry by entry the kernel of pairs of points."""
    kernel = composed(random.Random(seed), 3)
    K = kernel(X)
    torch.testing.assert_close(K, K.mT)
    torch.testing.assert_close(K.diagonal(), kernel.diagonal(X))
    assert float(torch.linalg.eigvalsh(K)[0]) > -1e-12 * float(K.trace())
    across = kernel(X, Y)
    assert float(across[2, 1]) == pytest.approx(float(kernel(X[2:3], Y[1:2])), rel=1e-12)
    apart = ~torch.eye(5, dtype=torch.bool)
    torch.testing.assert_close(K[apart], kernel(X, X.clone())[apart])


def with_parameters(p: Tensor) -> gp.Kernel:
    """p [..., 4], with every kind of parameter."""
    a, b, c, d = p.unbind(-1)
    stationary = a * gp.Matern52(torch.stack([b, c], -1)) + gp.RationalQuadratic(b[..., None], d)
    lines = gp.Linear(a) * gp.Periodic(c[..., None], d) + gp.Polynomial(2, b, a) + gp.WhiteNoise(c)
    return gp.ChangePoint(stationary, lines + gp.Constant(d), a, b)


def test_a_batch_of_parameters_is_a_loop_and_lanes() -> None:
    p = torch.tensor(RNG.uniform(0.4, 2.0, (2, 3, 4)))
    kernel = with_parameters(p)
    singles = [[with_parameters(row) for row in rows] for rows in p]
    for of in (lambda k: k(X), lambda k: k(X, Y), lambda k: k.diagonal(X)):
        loop = torch.stack([torch.stack([of(k) for k in row]) for row in singles])
        torch.testing.assert_close(of(kernel), loop)
    lanes = torch.func.vmap(lambda q: with_parameters(q)(X))(p[0])
    torch.testing.assert_close(lanes, kernel(X)[0])


def test_derivatives_are_right_also_where_points_meet() -> None:
    x = torch.cat([X[:2], X[:1]])
    p = torch.tensor(RNG.uniform(0.4, 2.0, 4), requires_grad=True)
    assert torch.autograd.gradcheck(lambda q: with_parameters(q)(x), p)
    for kernel in (gp.Matern12, gp.Matern32, gp.Matern52):
        assert torch.autograd.gradcheck(lambda q, k=kernel: k(q)(x), p[:2])


# Spectra

SPECTRA: dict[str, gp.Kernel] = {
    "squared": 1.3 * gp.SquaredExponential(0.7),
    "matern12": gp.Matern12(0.7),
    "matern32": gp.Matern32(0.7),
    "matern52": gp.Matern52(0.7),
    "sum": 0.4 * gp.Matern52(0.7) + gp.SquaredExponential(1.4),
}


@pytest.mark.parametrize("name", SPECTRA)
def test_a_spectral_density_has_the_kernel_as_its_transform(name: str) -> None:
    """On the line by cosines, and in the plane by Bessel functions."""
    kernel, apart = SPECTRA[name], 0.45
    wanted = float(kernel(f([[0.0]]), f([[apart]])))

    def line(w: float) -> float:
        return float(kernel.spectral_density(f([[w]]))) / math.pi

    found, _ = integrate.quad(line, 0, math.inf, weight="cos", wvar=apart, limlst=200)
    assert found == pytest.approx(wanted, rel=1e-5)
    assert abs(1.02 * found - wanted) > 1e-3

    def plane(w: float) -> float:
        density = float(kernel.spectral_density(f([[0.6 * w, 0.8 * w]])))
        return density * w * float(special.j0(w * apart)) / (2 * math.pi)

    if name != "matern12":  # whose integral converges too slowly
        found, _ = integrate.quad(plane, 0, 400, limit=400)
        assert found == pytest.approx(wanted, rel=1e-3)


def test_a_spectral_density_of_lengths_for_each_coordinate_is_a_change_of_scale() -> None:
    """S(w) of k(x / l) is prod l times S(l w)."""
    w = f([[0.3, 1.1], [2.0, 0.1]])
    for kernel in (gp.SquaredExponential, gp.Matern32):
        found = kernel(SCALES).spectral_density(w)
        wanted = SCALES.prod() * kernel(1.0).spectral_density(w * SCALES)
        torch.testing.assert_close(found, wanted)


# Sampled parameters, and bad inputs


def test_parameters_may_be_sampled() -> None:
    @program
    def variance(x: Tensor) -> Tensor:
        size = sample("size", dist.LogNormal(0.0, 1.0))
        lengths = sample("lengths", dist.LogNormal(torch.zeros(2), 1.0).to_event(1))
        return (size * gp.SquaredExponential(lengths) + gp.Constant(1.0))(x)

    assert str(variance.type(X)) == "{size: Positive, lengths: Positive[2]} -> P Real[5, 5]"
    assert vmap(variance, size=4)(X.expand(4, 5, 2)).shape == (4, 5, 5)


BAD: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "length": (lambda: gp.Matern32(-1.0), ProgramError, "lengthscale of Matern32 is positive"),
    "lengths": (lambda: gp.Matern32(f([1.0, 0.0])), ProgramError, "positive"),
    "NaN": (lambda: gp.SquaredExponential(math.nan), ProgramError, "finite"),
    "variance": (lambda: -2.0 * gp.Matern32(), ProgramError, "variance of Scaled"),
    "period": (lambda: gp.Periodic(1.0, 0.0), ProgramError, "period of Periodic"),
    "mixing": (lambda: gp.RationalQuadratic(1.0, -1.0), ProgramError, "mixing"),
    "degree": (lambda: gp.Polynomial(0), ProgramError, "degree"),
    "no coordinates": (lambda: gp.Matern32().on(), ProgramError, "one coordinate or more"),
    "a coordinate": (lambda: gp.Matern32().on(2)(X), DataError, "points have 2"),
    "one dimension": (lambda: gp.Matern32()(X[:, 0]), DataError, r"write x\[:, None\]"),
    "whole numbers": (lambda: gp.Matern32()(torch.ones(3, 1).long()), DataError, "real"),
    "no tensor": (lambda: gp.Matern32()([[1.0]]), DataError, "points are real numbers"),
    "coordinates": (lambda: gp.Matern32()(X, Y[:, :1]), DataError, "of 2 coordinates and of 1"),
    "relevance": (lambda: gp.Matern32(torch.ones(3))(X), DataError, r"\[\.\.\., None\]"),
    "spectrum": (lambda: gp.Periodic().spectral_density(X), ProgramError, "no spectral density"),
    "gibbs": (lambda: gp.Gibbs(lambda x: x[..., 0])(X), ProgramError, "positive lengths"),
    "gibbs shape": (lambda: gp.Gibbs(lambda x: x[:2, 0])(X), ProgramError, "lengths at 5 points"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_inputs_are_told(name: str) -> None:
    run, kind, says = BAD[name]
    with pytest.raises(kind, match=says):
        run()
