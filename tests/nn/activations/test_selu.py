"""Self-normalising layers: acceptance checks of arXiv 1706.02515, computed in float64."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from support.digits import accuracy
from torch import Tensor, nn

from pushforward.nn.activations import (
    SELU,
    SNN,
    AlphaDropout,
    FeatureAlphaDropout,
    alpha_dropout,
    check_self_normalizing,
    lecun_normal_,
    lecun_uniform_,
    moment_map,
    selu,
    selu_parameters,
)
from pushforward.nn.activations.moments import ALPHA, SCALE
from pushforward.nn.activations.selu import dropout_map


def f(x: Any) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


X = f([-3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0])


def test_constants_and_values() -> None:
    assert abs(ALPHA - 1.6732632423543772) < 1e-15
    assert abs(SCALE - 1.0507009873554805) < 1e-15
    expected = [-1.6705687288, -1.1113307378, -0.6917581878, 0.0, 0.5253504937]
    expected += [1.0507009874, 2.1014019747]
    torch.testing.assert_close(selu(X), f(expected), rtol=0, atol=1e-10)
    torch.testing.assert_close(SELU()(X), nn.SELU()(X))
    torch.testing.assert_close(selu(X), nn.SELU()(X))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((0.0, 1.0, 0.0, 1.0), (0.0, 1.0)),
        ((0.0, 1.5, 0.0, 1.0), (0.0449834377, 1.3715310036)),
        ((0.1, 1.5, 0.1, 1.1), (0.0677251017, 1.4815749583)),
        ((0.0, 4.0, 0.0, 1.0), (0.2548284430, 2.9411019265)),
        ((0.5, 2.0, 0.05, 1.0), (0.1121973112, 1.7281844257)),
    ],
)
def test_moment_map(given: Any, expected: Any) -> None:
    found = torch.stack(moment_map(*given))
    torch.testing.assert_close(found, f(expected), rtol=0, atol=1e-9)


def test_moment_map_by_quadrature() -> None:
    """The closed form against sums over the nodes of a normal law."""
    z, w = np.polynomial.hermite_e.hermegauss(180)
    for mean, var, omega, tau in itertools.product((-0.4, 0.3), (0.5, 2.0), (-0.2, 0.9), (0.7,)):
        x = mean * omega + f(z) * (var * tau) ** 0.5
        y, weights = selu(x), f(w / w.sum())
        m = (weights * y).sum()
        v = (weights * y**2).sum() - m**2
        found = moment_map(mean, var, omega, tau)
        torch.testing.assert_close(torch.stack(found), torch.stack([m, v]), rtol=0, atol=3e-3)


def iterated(mean: float, var: float, steps: int) -> Tensor:
    at = f(mean), f(var)
    for _ in range(steps):
        at = moment_map(*at, 0.0, 1.0)
    return torch.stack(at)


@pytest.mark.parametrize(
    ("start", "steps", "expected"),
    [
        ((0.1, 1.5), 5, (0.01449026, 1.12440456)),
        ((0.1, 1.5), 10, (0.00398710, 1.03485511)),
        ((0.1, 1.5), 20, (0.00033541, 1.00295305)),
        ((0.0, 4.0), 20, (0.00111890, 1.00983567)),
    ],
)
def test_moments_converge(start: Any, steps: int, expected: Any) -> None:
    torch.testing.assert_close(iterated(*start, steps), f(expected), rtol=0, atol=1e-8)


def grid(*ranges: tuple[float, float]) -> list[Tensor]:
    axes = [torch.linspace(low, high, 9, dtype=torch.float64) for low, high in ranges]
    return [x.flatten() for x in torch.meshgrid(*axes, indexing="ij")]


def test_theorem_1_the_box_is_mapped_into_itself_and_contracted() -> None:
    mean, omega, var, tau = grid((-0.1, 0.1), (-0.1, 0.1), (0.8, 1.5), (0.95, 1.1))
    new_mean, new_var = moment_map(mean, var, omega, tau)
    assert (new_mean >= -0.1).all() and (new_mean <= 0.1).all()
    assert (new_var >= 0.8).all() and (new_var <= 1.5).all()
    assert float(new_mean.min()) == pytest.approx(-0.03106, abs=1e-4)
    assert float(new_mean.max()) == pytest.approx(0.06773, abs=1e-4)
    assert float(new_var.min()) == pytest.approx(0.80371, abs=1e-4)
    assert float(new_var.max()) == pytest.approx(1.48157, abs=1e-4)

    def both(m: Tensor, v: Tensor, o: Tensor, t: Tensor) -> Tensor:
        return torch.stack(moment_map(m, v, o, t))

    norms = []
    for point in zip(mean[::23], var[::23], omega[::23], tau[::23], strict=True):
        jacobian = torch.autograd.functional.jacobian(both, point)
        norms.append(float(torch.linalg.matrix_norm(torch.stack(jacobian[:2], 1), 2)))
    assert max(norms) < 0.8977


def test_theorems_2_and_3_bound_the_variance() -> None:
    mean, omega, var, tau = grid((-1.0, 1.0), (-0.1, 0.1), (3.0, 16.0), (0.8, 1.25))
    assert float((moment_map(mean, var, omega, tau)[1] - var).max()) < -0.119
    mean, omega, var, tau = grid((-0.1, 0.1), (-0.1, 0.1), (0.02, 0.16), (0.8, 1.25))
    assert float((moment_map(mean, var, omega, tau)[1] - var).min()) > 0.007
    mean, omega, var, tau = grid((-0.1, 0.1), (-0.1, 0.1), (0.02, 0.24), (0.9, 1.25))
    assert float((moment_map(mean, var, omega, tau)[1] - var).min()) > 0.01


def test_the_jacobian_at_the_fixed_point() -> None:
    def both(at: Tensor) -> Tensor:
        return torch.stack(moment_map(at[0], at[1], 0.0, 1.0))

    found = torch.autograd.functional.jacobian(both, f([0.0, 1.0]))
    expected = f([[0.0, 0.08883476], [0.0, 0.78264788]])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("point", "expected"),
    [
        ((0.0, 1.0), (ALPHA, SCALE)),
        ((0.0, 2.0), (1.97125575, 1.06070908)),
        ((-0.1, 2.0), (1.9769022, 1.07385124)),
        ((0.1, 1.0), (1.66507743, 1.03820966)),
    ],
)
def test_other_fixed_points(point: Any, expected: Any) -> None:
    alpha, scale = selu_parameters(*point)
    assert (alpha, scale) == pytest.approx(expected, abs=1e-6)
    found = torch.stack(moment_map(*point, 1.0, 1.0, alpha, scale))
    torch.testing.assert_close(found, f(point), rtol=0, atol=1e-9)


# ---------------------------------------------------------------------------------------- dropout


@pytest.mark.parametrize(
    ("q", "expected"),
    [
        (0.95, (0.9548444760, 0.0839355722)),
        (0.9, (0.9212845161, 0.1619709701)),
        (0.8, (0.8789035834, 0.3090399621)),
        (0.5, (0.8864048947, 0.7791939305)),
    ],
)
def test_the_map_of_alpha_dropout(q: float, expected: Any) -> None:
    assert dropout_map(1 - q)[:2] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("p", [0.05, 0.1, 0.2])
@pytest.mark.parametrize("kind", [AlphaDropout, FeatureAlphaDropout])
def test_alpha_dropout_keeps_mean_and_variance(p: float, kind: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1000, 1000, generator=generator)
    layer = kind(p)
    out = layer(x if kind is AlphaDropout else x[..., None], generator)
    assert abs(float(out.mean())) < 0.005
    assert abs(float(out.var()) - 1) < 0.01
    assert torch.equal(layer.eval()(x), x)


def test_features_are_dropped_together() -> None:
    x = torch.randn(50, 4, 6)
    low = alpha_dropout(torch.full_like(x, 7.0), 0.5, features=True).flatten(2)
    assert torch.equal(low, low[..., :1].expand_as(low))


def test_derivatives() -> None:
    torch.autograd.gradcheck(selu, X[X != 0].clone().requires_grad_())

    def dropped(x: Tensor) -> Tensor:
        return alpha_dropout(x, 0.3, generator=torch.Generator().manual_seed(1))

    torch.autograd.gradcheck(dropped, torch.randn(20, dtype=torch.float64).requires_grad_())
    parameters = [f(0.2), f(1.3), f(0.1), f(0.9)]
    torch.autograd.gradcheck(moment_map, [x.requires_grad_() for x in parameters])


# ------------------------------------------------------------------------------------------- depth


def deep(activation: Any, init: Any, depth: int = 64, width: int = 256) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    x = 0.1 + 1.2 * torch.randn(1024, width, generator=generator)
    for _ in range(depth):
        x = activation(x @ init(torch.empty(width, width), generator=generator).T)
    return x


def test_moments_stay_through_64_layers() -> None:
    out = deep(selu, lecun_normal_)
    assert abs(float(out.mean())) < 0.05
    assert 0.8 < float(out.var()) < 1.25
    assert 0.8 < float(deep(selu, lecun_uniform_).var()) < 1.25
    assert float(deep(torch.relu, lecun_normal_).var()) < 1e-12
    assert float(deep(torch.tanh, lecun_normal_).var()) < 0.02


def test_a_network_says_what_it_does() -> None:
    net = SNN(64, 256, 10, depth=6, generator=torch.Generator().manual_seed(0))
    x = torch.randn(2000, 64, generator=torch.Generator().manual_seed(1))
    found = check_self_normalizing(net, x)
    assert [layer.name for layer in found] == ["0", "2", "4", "6", "8", "10", "12"]
    for layer in found[:-1]:
        assert layer.measured == pytest.approx(layer.predicted, abs=0.15)
    wide = SNN(64, 256, 10, depth=2)
    with torch.no_grad():
        wide[0].weight *= 3
    assert not check_self_normalizing(wide, x)[0].inside


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extreme_inputs(dtype: torch.dtype) -> None:
    x = torch.tensor([-1e4, 0.0, 1e4], dtype=dtype, requires_grad=True)
    out = selu(x)
    out.sum().backward()
    assert float(out[0].detach()) == float(torch.tensor(-SCALE * ALPHA, dtype=dtype))
    assert x.grad is not None
    assert float(x.grad[0]) == 0.0
    assert bool(torch.isfinite(x.grad).all())
    assert all(bool(torch.isfinite(m)) for m in moment_map(0.1, 1e4, 0.1, 1.0))


def test_bad_input() -> None:
    for p in (1.0, -0.1, 2.0):
        with pytest.raises(ValueError, match="probability"):
            AlphaDropout(p)
        with pytest.raises(ValueError, match="probability"):
            alpha_dropout(X, p)
    for point in ((0.0, 0.0), (0.0, -1.0), (float("nan"), 1.0), (0.0, float("inf"))):
        with pytest.raises(ValueError, match="fixed point"):
            SELU(mean=point[0], var=point[1])
    for layer in (SELU(), AlphaDropout(0.1)):
        with pytest.raises(TypeError, match="floating point"):
            layer(torch.arange(3))
    with pytest.raises(RuntimeError, match="leaf"):
        SELU(inplace=True)(torch.randn(3, requires_grad=True))
    with pytest.raises(ValueError, match="not negative"):
        moment_map(0.0, -1.0, 0.0, 1.0)
    with pytest.raises(ValueError, match="outputs and inputs"):
        lecun_normal_(torch.empty(3))
    with pytest.raises(ValueError, match="'in' or 'out'"):
        lecun_normal_(torch.empty(3, 3), fan="both")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least one hidden layer"):
        SNN(2, 2, 2, depth=0)
    certain = torch.stack(moment_map(0.3, 0.0, -2.0, 1.0))
    torch.testing.assert_close(certain, torch.stack([selu(f(-0.6)), f(0.0)]))


def test_state_and_repr() -> None:
    assert repr(SELU()) == "SELU()"
    assert repr(SELU(mean=0.0, var=2.0)) == "SELU(mean=0.0, var=2.0)"
    assert repr(AlphaDropout(0.1)) == "AlphaDropout(p=0.1, mean=0.0, var=1.0)"
    first, second = SNN(3, 4, 2, depth=2), SNN(3, 4, 2, depth=2)
    second.load_state_dict(first.state_dict())
    x = torch.randn(5, 3)
    assert torch.equal(first(x), second(x))


# ---------------------------------------------------------------------------------------- training


def mlp(depth: int, activation: Any, init: Any) -> nn.Module:
    sizes = [64] * (depth + 1)
    layers: list[nn.Module] = [nn.Flatten()]
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Linear(a, b), activation()]
    net = nn.Sequential(*layers, nn.Linear(64, 10))
    for layer in net:
        if isinstance(layer, nn.Linear) and init is not None:
            init(layer.weight)
            nn.init.zeros_(layer.bias)
    return net


@pytest.mark.slow
def test_deep_networks_learn() -> None:
    """Digits, SGD at 0.01, 400 steps of 64: the median of three seeds."""

    def median(depth: int, activation: Any, init: Any) -> float:
        found = []
        for seed in range(3):
            torch.manual_seed(seed)
            net = mlp(depth, activation, init)
            found.append(accuracy(net, batch=64, rate=0.01, steps=400))
        return sorted(found)[1]

    for depth in (8, 16, 32):
        assert median(depth, SELU, lecun_normal_) >= 0.93
    assert median(32, nn.ReLU, nn.init.kaiming_normal_) <= 0.80
    assert median(16, nn.Tanh, None) <= 0.2
