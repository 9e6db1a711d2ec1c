"""The moments of gradients: those of the window, by hand; norms whose squares overflow."""

from __future__ import annotations

import math

import pytest
import torch

from pushforward.inference.vi.noise import Moments, norms


def by_hand(rows: list[list[float]], window: int) -> tuple[float, float]:
    """Norms of standard deviation and mean, each entry apart, weights as the window says."""
    weights = [0.0] * len(rows)
    for t in range(len(rows)):
        new = 1 / min(t + 1, window)
        weights = [w * (1 - new) for w in weights]
        weights[t] = new
    columns = list(zip(*rows, strict=True))
    means = [math.fsum(w * x for w, x in zip(weights, c, strict=True)) for c in columns]
    spread = [
        math.fsum(w * (x - m) ** 2 for w, x in zip(weights, c, strict=True))
        for c, m in zip(columns, means, strict=True)
    ]
    return math.sqrt(math.fsum(spread)), math.sqrt(math.fsum(m**2 for m in means))


@pytest.mark.parametrize("window", [1, 3, 100])
@pytest.mark.parametrize("count", [1, 2, 9])
def test_moments_are_those_of_the_window(count: int, window: int, double: None) -> None:
    generator = torch.Generator().manual_seed(count)
    rows = torch.randn(count, 4, generator=generator) + 1.0
    moments = Moments(window)
    for row in rows:
        parts = [row[:3].reshape(3, 1), row[3]]
        moments.add(parts, norms(parts))
    found = moments.noise(["x", "x"])["x"]
    assert found == pytest.approx(by_hand(rows.tolist(), window), rel=1e-12, abs=1e-12)
    assert moments.noise(["a", "b"])["b"] == pytest.approx(
        by_hand(rows[:, 3:].tolist(), window), rel=1e-12, abs=1e-9
    )
    if count > 2 and window > 1:  # a seeded fault: all steps weigh the same
        wrong = by_hand(rows.tolist(), count if window < count else 2)
        assert found != pytest.approx(wrong, rel=1e-3)


def test_moments_go_on_from_their_state() -> None:
    rows = [torch.tensor([float(k), -1.0]) for k in range(6)]
    whole, part, rest = Moments(4), Moments(4), Moments(4)
    for row in rows:
        whole.add([row], norms([row]))
    for row in rows[:3]:
        part.add([row], norms([row]))
    rest.state = part.state
    for row in rows[3:]:
        rest.add([row], norms([row]))
    assert rest.noise(["x"]) == whole.noise(["x"])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_norms_that_overflow_are_finite(dtype: torch.dtype) -> None:
    large = torch.finfo(dtype).max / 4
    (found,) = norms([torch.tensor([3 * large / 4, large], dtype=dtype)])
    assert found == pytest.approx(1.25 * large, rel=1e-2)
    assert norms([torch.zeros(3, dtype=dtype)]) == [0.0]
    assert norms([]) == []


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_norms_of_what_is_not_finite_are_not(bad: float) -> None:
    found = norms([torch.ones(2), torch.tensor([1.0, bad]), torch.ones(2, dtype=torch.float64)])
    assert [math.isfinite(x) for x in found] == [True, False, True]
