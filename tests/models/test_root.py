"""Bridges from low to high values: acceptance checks of arXiv 2509.16300, 1 to 5."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pushforward import assess
from pushforward.models import root
from pushforward.models.root.bridge import variance

pytestmark = pytest.mark.usefixtures("double")


def f(x: Any) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


def close(found: Any, wanted: Any, within: float) -> None:
    torch.testing.assert_close(found, f(wanted), rtol=0, atol=within)


def test_1_schedule() -> None:
    m, delta = of = root.schedule()
    close(m[[0, 499]], [0.001, 0.4995005005], 1e-10)
    close(delta[[0, 499, 998]], [0.001998, 0.4999995010, 0.0039900060], 1e-10)
    close(variance(of, 499, 498), 0.0019940020, 1e-10)
    bent = root.schedule(kind="power").m
    close(bent[[0, -1]], [0.001, 0.999], 1e-12)
    assert float(bent[499]) < 0.1


def test_2_levels() -> None:
    found = root.levels(1000, 200)
    assert len(found) == 200
    assert found[:4] == [999, 993, 988, 983]
    assert found[-4:] == [10, 5, 1, 0]


def test_3_step() -> None:
    """It is the law of x_n given x_t by conditioning of their joint normal law."""
    of = root.schedule(10)
    mean, s2 = root.p_step(of, f(0.2), f(1.0), f(-1.0), 6, 3)
    close(mean, 0.5993996998, 1e-10)
    close(s2, 0.3331659163, 1e-10)
    shared = of.delta[3] * (1 - of.m[6]) / (1 - of.m[3])
    centres = 1 - 2 * of.m  # x0 = 1, x_low = -1
    close(mean, float(centres[3] + shared / of.delta[6] * (0.2 - centres[6])), 1e-12)
    close(s2, float(of.delta[3] - shared**2 / of.delta[6]), 1e-12)


def moments(of: root.Schedule, steps: list[int], fault: float = 1.0) -> list[tuple[Tensor, Tensor]]:
    """Means and variances of the reverse sampler along steps, for x0 = 1 and x_low = -1.

    Each step is linear in x_t with normal noise: its slope and offset are read off at 0 and 1.
    """
    t, x0, x_low = steps[0], f(1.0), f(-1.0)
    mean, spread = root.q_sample(of, x0, x_low, t, f(0.0)), of.delta[t]
    found = []
    for n in steps[1:]:
        offset, s2 = root.p_step(of, f(0.0), x0, x_low, t, n)
        slope = root.p_step(of, f(1.0), x0, x_low, t, n)[0] - offset
        mean, spread, t = slope * mean + offset, slope**2 * spread + fault * s2, n
        found.append((mean, spread))
    return found


@pytest.mark.parametrize("kind", ["linear", "power"])
def test_reverse_sampler_has_the_marginals(kind: Any) -> None:
    of = root.schedule(kind=kind)
    steps = root.levels(1000, 200)
    for n, (mean, spread) in zip(steps[1:], moments(of, steps), strict=True):
        close(mean, float(1 - 2 * of.m[n]), 1e-12)
        close(spread, float(of.delta[n]), 1e-12)
    wrong = moments(of, steps, fault=1.01)  # noise of a hundredth more variance
    assert float((wrong[100][1] / of.delta[steps[101]] - 1).abs()) > 1e-4


@pytest.mark.parametrize("T", [2, 5, 12])
def test_programs_forward_and_backward_are_one_law(T: int) -> None:
    """Densities of whole paths agree, where each x_t has the bridge's marginal law."""
    of = root.schedule(T, max_var=0.7)
    x0, x_low = f([1.0, 0.3]), f([-1.0, 2.0])
    ahead, back = root.forward(of), root.backward(of)
    assert str(ahead.type(x0, x_low)) == f"{{x: Real[2]^{T}}} -> P Real[{T}, 2]"
    rng = torch.Generator().manual_seed(T)
    for _ in range(3):
        path = torch.randn(T, 2, generator=rng)
        there, _ = assess(ahead, sites(path), x0, x_low)
        again, _ = assess(back, sites(path.flip(0)), x0, x_low)
        close(again, float(there), 1e-8 * abs(float(there)))
        close(there, density(of, path, x0, x_low), 1e-8 * abs(float(there)))
    faulty = root.Schedule(of.m, of.delta * torch.linspace(1, 1.01, T))
    other, _ = assess(root.backward(faulty), sites(path.flip(0)), x0, x_low)
    assert abs(float(other - there)) > 1e-4 * abs(float(there))


def sites(path: Tensor) -> dict[str, Tensor]:
    return {f"x[{i}]": x for i, x in enumerate(path)}


def density(of: root.Schedule, path: Tensor, x0: Tensor, x_low: Tensor) -> float:
    """That of the joint normal law, whose covariances are delta_n (1 - m_t) / (1 - m_n), n < t."""
    n = torch.arange(len(of.m))
    first, last = torch.minimum(n[:, None], n), torch.maximum(n[:, None], n)
    covariance = of.delta[first] * (1 - of.m[last]) / (1 - of.m[first])
    mean = (1 - of.m)[:, None] * x0 + of.m[:, None] * x_low
    law = torch.distributions.MultivariateNormal(mean.mT, covariance)
    return float(law.log_prob(path.mT).sum())


def test_4_mean_of_a_process() -> None:
    X, y = f([[0.0], [1.0], [2.5]]), f([0.0, 1.0, -0.5])
    mean = root.mean_function(X, y)
    close(mean.coefficients, [-1.1884216100, 2.0590302800, -1.1052016400], 1e-7)
    close(mean(f([[0.8]])), [0.8947405911], 1e-9)
    close(mean.slope(f([[0.8]])), [[0.6510989]], 1e-7)
    other = root.mean_function(X, y, 1.25, 0.75)
    close(other(f([[0.8]])), [0.8767931312], 1e-9)
    close(other.slope(f([[0.8]])), [[0.5792130]], 1e-7)


def test_5_pairs() -> None:
    X = torch.rand(30, 2, generator=torch.Generator().manual_seed(0))
    mean = root.mean_function(X, torch.sin(5 * X).sum(1), 0.5)
    low, high = root.pairs(mean, X, rate=0.005, threshold=0.05)
    assert 0 < len(low) <= 30
    assert bool((mean(high) - mean(low) > 0.05).all())
    again = root.pairs(mean, X, rate=0.005, threshold=0.05)
    assert torch.equal(low, again[0])
    assert torch.equal(high, again[1])


def test_bad_inputs() -> None:
    X, y = torch.rand(12, 2), torch.rand(12)
    for bad in ({"T": 1}, {"max_var": 0.0}, {"kind": "cubic"}):
        with pytest.raises(ValueError, match="T is at least 2"):
            root.schedule(**bad)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="steps is 2"):
        root.levels(10, 2)
    with pytest.raises(ValueError, match=r"X is \[N, d\]"):
        root.mean_function(X, y[:5])
    with pytest.raises(ValueError, match="must be finite"):
        root.mean_function(X, y * torch.nan)
    with pytest.raises(ValueError, match="are positive"):
        root.mean_function(X, y, lengthscale=0.0)
    with pytest.raises(RuntimeError, match="take a larger rate"):
        root.pairs(root.mean_function(X, y), X, steps=1, rate=1e-9)
