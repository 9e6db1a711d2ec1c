"""CRReLU and the entropy of activations: acceptance checks of arXiv 2405.12954, in float64."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from support.digits import accuracy
from torch import Tensor, nn

from pushforward import dist
from pushforward.nn.activations import (
    WAFBC,
    Corrected,
    CRReLU,
    EntropyTunedActivation,
    correction,
    crrelu,
    entropy,
)


def f(x: Any) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


X = f([-3.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 3.0])
SMALL = [-0.0003332699, -0.0027067057, -0.0060653066, -0.0044124845, 0.0]
SMALL += [0.5044124845, 1.0060653066, 2.0027067057, 3.0003332699]
NEGATIVE = [0.0016663495, 0.0135335283, 0.0303265330, 0.0220624226, 0.0]
NEGATIVE += [0.4779375774, 0.9696734670, 1.9864664717, 2.9983336505]
SLOPE = [-0.0008887197, -0.0040600585, 0.0, 0.0066187268, 0.01]
SLOPE += [1.0066187268, 1.0, 0.9959399415, 0.9991112803]
BY_EPS = [-0.0333269896, -0.2706705665, -0.6065306597, -0.4412484513, 0.0]
BY_EPS += [0.4412484513, 0.6065306597, 0.2706705665, 0.0333269896]


@pytest.mark.parametrize(("eps", "expected"), [(0.01, SMALL), (-0.05, NEGATIVE)])
def test_values(eps: float, expected: list[float]) -> None:
    torch.testing.assert_close(crrelu(X, eps), f(expected), rtol=0, atol=1e-9)


def test_derivatives() -> None:
    x, eps = X.clone().requires_grad_(), f(0.01).requires_grad_()
    (slope,) = torch.autograd.grad(crrelu(x, eps).sum(), x)
    torch.testing.assert_close(slope, f(SLOPE), rtol=0, atol=1e-9)
    for i, expected in enumerate(BY_EPS):
        (found,) = torch.autograd.grad(crrelu(x[i], eps), eps)
        assert float(found) == pytest.approx(expected, abs=1e-9)
    away = X[X != 0].clone().requires_grad_()
    torch.autograd.gradcheck(crrelu, (away, eps))
    rows = torch.randn(4, 3, 2, dtype=torch.float64).requires_grad_()
    torch.autograd.gradcheck(crrelu, (rows, f([0.1, -0.2, 0.3]).requires_grad_()))


def test_without_a_correction_it_is_relu() -> None:
    x = torch.randn(1000)
    assert torch.equal(crrelu(x, 0.0), torch.relu(x))


def test_moments_under_a_normal_law() -> None:
    x = torch.randn(1_000_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = crrelu(x, 0.1)
    assert float(y.mean()) == pytest.approx(1 / math.sqrt(2 * math.pi), abs=0.003)
    exact = 0.5 + 0.1 / (2 * math.sqrt(2)) + 0.01 / (3 * math.sqrt(3))
    assert exact == pytest.approx(0.5372798400, abs=1e-10)
    assert float((y**2).mean()) == pytest.approx(exact, abs=0.005)


def test_where_it_increases() -> None:
    x = torch.linspace(1e-3, 6, 4001, dtype=torch.float64)
    assert bool((crrelu(x, 2.24).diff() > 0).all())
    assert not bool((crrelu(x, 2.27).diff() > 0).all())
    assert bool((crrelu(x, -0.99).diff() > 0).all())
    assert not bool((crrelu(x, -1.05).diff() > 0).all())


def log_normal_density(x: Tensor) -> Tensor:
    found: Tensor = dist.Normal(f(0.0), f(1.0)).log_prob(x)
    return found


def test_the_correction_of_the_identity() -> None:
    x = torch.linspace(0.0, 5.0, 50, dtype=torch.float64)
    found = correction(lambda y: 1.0 * y, log_normal_density, x)
    exact = x * torch.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-10)


GRID = torch.linspace(0.0, 8.0, 400_001, dtype=torch.float64)


def moved(h: float) -> Any:
    """The identity, moved by h along the correction."""
    return lambda y: y + h * y * torch.exp(-(y**2) / 2) / math.sqrt(2 * math.pi)


@pytest.mark.parametrize(
    ("h", "expected"), [(0.0, 0.7094692666), (0.5, 0.6707683846), (1.0, 0.6266148998)]
)
def test_entropies(h: float, expected: float) -> None:
    found = entropy(moved(h), log_normal_density, GRID)
    assert float(found) == pytest.approx(expected, abs=1e-6)


def test_the_entropy_falls_as_the_theory_says() -> None:
    h = 1e-3
    high, low = (float(entropy(moved(x), log_normal_density, GRID)) for x in (h, -h))
    eta = correction(lambda y: 1.0 * y, log_normal_density, GRID)
    assert (high - low) / (2 * h) == pytest.approx(-1 / (8 * math.sqrt(math.pi)), abs=1e-6)
    assert float(-torch.trapezoid(eta**2, GRID)) == pytest.approx(-0.0705236979, abs=1e-6)


def histogram_entropy(y: Tensor) -> float:
    counts, edges = np.histogram(y.numpy(), bins=200, range=(-1, 1))
    p = counts / counts.sum()
    width = edges[1] - edges[0]
    return float(-(p[p > 0] * np.log(p[p > 0] / width)).sum())


def test_the_worst_activation_has_the_most_entropy() -> None:
    x = torch.randn(2_000_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    worst = histogram_entropy(WAFBC(dist.Normal(f(0.0), f(1.0)))(x))
    assert worst == pytest.approx(math.log(2), abs=0.001)
    for c, expected in ((0.5, 0.4999), (0.8, 0.6784), (1.0, 0.6708), (2.0, 0.0472)):
        found = histogram_entropy(torch.tanh(c * x))
        assert found == pytest.approx(expected, abs=0.005)
        assert found < worst


def test_a_corrected_activation() -> None:
    x = X.clone().requires_grad_()
    layer = Corrected(torch.relu, dist.Normal(f(0.0), f(1.0)), eps=0.02 * math.sqrt(2 * math.pi))
    torch.testing.assert_close(layer(x), crrelu(x, 0.02), rtol=0, atol=1e-8)
    layer(x).sum().backward()
    assert layer.eps.grad is not None


def test_layers() -> None:
    layer = CRReLU(num_parameters=3)
    assert repr(layer) == "CRReLU(num_parameters=3)"
    assert layer.no_weight_decay() == ["eps"]
    x = torch.randn(2, 3, 4)
    torch.testing.assert_close(layer(x), crrelu(x, 0.01))
    fixed = CRReLU(trainable=False)
    assert not list(fixed.parameters())
    assert "eps" in fixed.state_dict()
    wide = torch.tensor([300.0, -300.0, 1.0], dtype=torch.float16)
    assert bool(torch.isfinite(crrelu(wide, 0.5)).all())
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), layer(x))


def test_a_tuned_activation_follows_its_inputs() -> None:
    torch.manual_seed(0)
    x = torch.randn(200, dtype=torch.float64)
    tuned = EntropyTunedActivation(init=0.1, refresh=3, dtype=torch.float64)
    torch.testing.assert_close(tuned.eval()(x), crrelu(x, 0.1))
    tuned.train()
    for step in range(3):
        assert float(tuned.deviation) == 1 and float(tuned.mean) == 0, step
        out = tuned(2 * x + 5)
    rate = 1 - 0.9**3
    mean = 2 * x.mean() + 5
    torch.testing.assert_close(tuned.mean, rate * mean)
    variance = 4 * x.var(correction=0)
    torch.testing.assert_close(tuned.deviation, (1 - rate + rate * variance).sqrt())
    z = (2 * x + 5 - tuned.mean) / tuned.deviation
    torch.testing.assert_close(out, torch.relu(2 * x + 5) + 0.1 * z * torch.exp(-(z**2) / 2))
    before = tuned.running_var.clone()
    tuned(x * math.inf)
    assert torch.equal(tuned.running_var, before)
    y = (x[:20] + 5).requires_grad_()
    assert torch.autograd.gradcheck(tuned.eval(), (y,))
    compiled = torch.compile(tuned.train(), fullgraph=True, backend="aot_eager")
    assert compiled(x).shape == x.shape


def test_tuned_activations_lower_the_entropy_of_their_output() -> None:
    """By the first-order theory, for eps of the sign that the paper's criterion asks for."""
    grid = torch.linspace(-8, 8, 20001, dtype=torch.float64)
    log_p = torch.distributions.Normal(torch.tensor(0.0).double(), 1.0).log_prob

    def output_entropy(eps: float) -> float:
        """Of y = x + eps z exp(-z^2 / 2): that of x, plus the mean log slope."""
        slope = 1 + eps * (1 - grid**2) * torch.exp(-(grid**2) / 2)
        return float(torch.trapezoid(log_p(grid).exp() * (slope.log() - log_p(grid)), grid))

    assert output_entropy(-0.1) < output_entropy(0.0) < output_entropy(0.1)


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="finite"):
        CRReLU(init=math.inf)
    with pytest.raises(ValueError, match="at least one parameter"):
        CRReLU(num_parameters=0)
    with pytest.raises(ValueError, match="3 strengths do not fit the 4 channels"):
        CRReLU(num_parameters=3)(torch.randn(2, 4))
    with pytest.raises(ValueError, match="need channels"):
        CRReLU(num_parameters=3)(torch.randn(3))
    with pytest.raises(TypeError, match="floating point"):
        CRReLU()(torch.arange(3))
    with pytest.raises(ValueError, match="strictly increasing"):
        correction(lambda y: y * torch.sigmoid(y), log_normal_density, f([-5.0, 0.0, 1.0]))
    with pytest.raises(ValueError, match="refresh >= 1"):
        EntropyTunedActivation(refresh=0)
    with pytest.raises(TypeError, match="floating point"):
        EntropyTunedActivation()(torch.arange(3))
    with pytest.raises(ValueError, match="low < high"):
        WAFBC(dist.Normal(0.0, 1.0), 1.0, 1.0)


def trained(activation: Any, seed: int) -> tuple[float, list[float]]:
    """The accuracy of a network 64-32-32-32-32-10 on digits, and its strengths."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = [nn.Flatten()]
    for a, b in itertools.pairwise([64, 32, 32, 32, 32]):
        layers += [nn.Linear(a, b), activation()]
    net = nn.Sequential(*layers, nn.Linear(32, 10))
    right = accuracy(net, batch=64, rate=0.05, steps=600)
    return right, [float(m.eps.detach()) for m in net if isinstance(m, CRReLU)]


@pytest.mark.slow
def test_training() -> None:
    corrected = [trained(CRReLU, seed) for seed in range(5)]
    plain = [trained(nn.ReLU, seed)[0] for seed in range(5)]
    mean = sum(right for right, _ in corrected) / 5
    assert mean >= 0.94
    assert mean >= sum(plain) / 5 + 0.05
    assert all(abs(eps - 0.01) > 0.2 for _, strengths in corrected for eps in strengths)
