"""Stein variational gradient descent: its direction by autograd, and posteriors that are known."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pushforward import dist, observe, plate, sample
from pushforward.errors import ObjectiveError, ProgramError
from pushforward.inference import SVGD
from pushforward.inference.vi import stein
from pushforward.inference.vi.stein import Direction, direction

Y = torch.tensor([1.2, 0.4, 2.1, 1.7, 0.9, 1.4])
VARIANCE = 1 / (1 / 4 + 6)
MEAN = VARIANCE * float(Y.sum())


def normal_mean(y: Tensor) -> None:
    mu = sample("mu", dist.Normal(0.0, 2.0))
    with plate("n", len(y)):
        observe("y", dist.Normal(mu, 1.0), y)


def by_autograd(x: Tensor, slopes: Tensor, h: float) -> tuple[Tensor, float]:
    """The definitions, one pair at a time; derivatives of the kernel by autograd."""
    n, d = x.shape
    move, total = torch.zeros_like(x), 0.0
    for i in range(n):
        for j in range(n):
            a, b = x[j].clone().requires_grad_(), x[i].clone().requires_grad_()
            k = torch.exp(-((a - b) ** 2).sum() / h)
            ka, kb = torch.autograd.grad(k, [a, b], create_graph=True)
            move[i] += (k * slopes[j] + ka).detach() / n
            trace = sum(
                float(torch.autograd.grad(ka[c], b, retain_graph=True)[0][c]) for c in range(d)
            )
            pair = slopes[j] @ slopes[i] * k + slopes[j] @ kb + slopes[i] @ ka
            total += float(pair.detach()) + trace
    return move, math.sqrt(total) / n


@pytest.mark.parametrize("width", [0.3, 2.0, None])
@pytest.mark.parametrize(("n", "d"), [(1, 1), (2, 1), (5, 3)])
def test_the_direction_is_that_of_the_definition(
    n: int, d: int, width: float | None, double: None
) -> None:
    generator = torch.Generator().manual_seed(n + d)
    x, slopes = (torch.randn(n, d, generator=generator) for _ in range(2))
    h = width
    if h is None:
        pairs = [float(((x[i] - x[j]) ** 2).sum()) for i in range(n) for j in range(i)]
        h = sorted(pairs)[(len(pairs) - 1) // 2] / math.log(n + 1) if pairs else 1.0
    found = direction(x, slopes, width)
    move, discrepancy = by_autograd(x, slopes, h)
    torch.testing.assert_close(found.move, move)
    assert float(found.discrepancy) == pytest.approx(discrepancy, rel=1e-9)
    if n > 1:  # a seeded fault: the push has the other sign
        wrong = 2 * torch.softmax(torch.zeros(n, n), 1) @ slopes - found.move
        assert not torch.allclose(wrong, move)


def test_where_the_origin_is_does_not_matter() -> None:
    """In single precision, a million spreads away."""
    generator = torch.Generator().manual_seed(0)
    x, slopes = (torch.randn(6, 2, generator=generator) for _ in range(2))
    x = (8 * x).round() / 8  # which stay exact when they are moved
    near, far = direction(x, slopes), direction(x + 2.0**20, slopes)
    torch.testing.assert_close(far.move, near.move, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(far.discrepancy, near.discrepancy, rtol=1e-3, atol=1e-3)


def test_one_particle_finds_the_mode() -> None:
    fit = SVGD(particles=1, steps=400, compiled=False, progress=False).run(normal_mean, Y)
    assert float(fit["mu"]) == pytest.approx(MEAN, abs=1e-3)


def collapsing(x: Tensor, slopes: Tensor, width: Any = None) -> Direction:
    """A seeded fault: nothing pushes the particles apart."""
    return Direction(slopes, torch.zeros(()))


@pytest.mark.parametrize("fault", [False, True])
def test_a_posterior_that_is_known(fault: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its mean, spread and quantiles, to a few hundredths of the spread."""
    if fault:
        monkeypatch.setattr("pushforward.inference.vi.svgd.direction", collapsing)
    fit = SVGD(particles=60, steps=500, compiled=False, progress=False).run(normal_mean, Y)
    mu, spread = fit["mu"][0].double(), math.sqrt(VARIANCE)
    assert float(mu.mean()) == pytest.approx(MEAN, abs=0.03 * spread)
    levels = torch.tensor([0.1, 0.25, 0.75, 0.9], dtype=torch.float64)
    exact = MEAN + spread * torch.special.ndtri(levels)
    right = float((mu.quantile(levels) - exact).abs().max()) < 0.12 * spread
    assert right is not fault
    if not fault:
        history = fit.history["discrepancy"]
        assert len(history) == 500
        assert float(history[-1]) < 0.05 * float(history[0])


def test_latents_move_in_their_supports() -> None:
    """Exponential waiting times, a Gamma(4, 3.5) posterior: coordinates are logarithms."""

    def rate() -> None:
        r = sample("r", dist.Gamma(2.0, 1.0))
        observe("t", dist.Exponential(r).expand([2]).to_event(1), torch.tensor([1.0, 1.5]))

    fit = SVGD(particles=60, steps=600, progress=False).run(rate)
    r = fit["r"]
    assert bool((r > 0).all())
    assert float(r.mean()) == pytest.approx(4 / 3.5, rel=0.03)
    assert float(r.log().mean()) == pytest.approx(
        float(torch.special.digamma(torch.tensor(4.0))) - math.log(3.5), abs=0.03
    )


def test_seeds_and_interruptions(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = SVGD(particles=5, steps=20, compiled=False, progress=False)
    fits = [settings.run(normal_mean, Y, seed=s) for s in (1, 1, 2)]
    assert torch.equal(fits[0]["mu"], fits[1]["mu"])
    assert not torch.equal(fits[0]["mu"], fits[2]["mu"])
    calls = iter(range(100))

    def interrupted(*args: Any) -> Direction:
        if next(calls) == 7:
            raise KeyboardInterrupt
        return stein.direction(*args)

    monkeypatch.setattr("pushforward.inference.vi.svgd.direction", interrupted)
    fit = settings.run(normal_mean, Y)
    assert fit.interrupted
    assert len(fit.history["discrepancy"]) == 7


def test_what_is_wrong_is_told() -> None:
    with pytest.raises(ObjectiveError, match="particles and steps"):
        SVGD(particles=0).run(normal_mean, Y)
    with pytest.raises(ObjectiveError, match="width of a kernel"):
        SVGD(width=0.0).run(normal_mean, Y)
    far = SVGD(
        particles=3,
        steps=50,
        compiled=False,
        progress=False,
        optimizer=lambda x: torch.optim.SGD(x, lr=1e30),
    )
    with pytest.raises(ProgramError, match="not finite at a particle in step"):
        far.run(normal_mean, Y)
