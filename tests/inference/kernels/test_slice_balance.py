"""Detailed balance of the slice samplers, point by point, and of eight wrong ones.

A step is a function of its uniforms.  For a step from x to x' the uniforms of the way back are
known in closed form: the same level, the same interval, the same rejected points, and x in place
of x'.  If the step from x' with these returns to x, and the densities of both ways at the shared
level, interval and points are equal, the step is reversible (Neal 2003, section 4.3; Murray, Adams
and MacKay, arXiv 1001.0175, section 2.3).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pyro.poutine.messenger import Messenger
from support.faulty import faulty
from support.sizes import quick
from torch import Tensor

from pushforward import dist, factor, observe, sample
from pushforward.inference.kernels import TraceKernel, slices
from pushforward.inference.kernels.traces import Point, at, traced
from pushforward.ppl import seeded
from pushforward.ppl.language.effects import is_draw

pytestmark = pytest.mark.usefixtures("double")
POINTS, STEPS, WIDTH = 150, 4, 0.9


class Giving(Messenger):  # type: ignore[misc]
    """Gives anonymous draws in order, then lets them be drawn; ``met`` are all of them."""

    def __init__(self, values: list[Tensor]) -> None:
        super().__init__()
        self.values, self.met = list(values), list[Tensor]()

    def _process_message(self, msg: Any) -> None:
        if msg["type"] == "sample" and is_draw(msg) and len(self.met) < len(self.values):
            msg["value"], msg["done"] = self.values[len(self.met)], True

    def _postprocess_message(self, msg: Any) -> None:
        if msg["type"] == "sample" and is_draw(msg):
            self.met.append(msg["value"])


def bimodal() -> None:
    x = sample("x", dist.Normal(0.0, 2.0))
    factor("f", torch.log(0.05 + torch.exp(-4 * (x - 1.0) ** 2) + torch.exp(-2 * (x + 1.5) ** 2)))


def regression() -> None:
    x = sample("x", dist.Normal(torch.tensor([0.5, -1.0]), torch.tensor([1.0, 2.0])).to_event(1))
    observe("y", dist.StudentT(2.0, x.sum() * x[0], 0.3), torch.tensor(0.7))


def stepped(kernel: TraceKernel, p: Any, x: Tensor, u: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Where a step with these uniforms leads, and all the draws that it took."""
    giving = Giving(u)
    run = at(p, Point({"x": x}, None))
    with giving:
        after = kernel.step(run._replace(draws=None), p)
    return after.run.choices["x"], giving.met


def log_density(p: Any, x: Tensor) -> float:
    run = traced(p, {"x": x}, {})
    assert run is not None
    return float(run.log_density)


def slice_back(p: Any, x: Tensor, after: Tensor, u: list[Tensor]) -> tuple[list[Tensor], float]:
    """The uniforms of the way back, and by how much the two ways fall short of one level."""
    level = log_density(p, x) + float(u[0].log())
    back = math.exp(level - log_density(p, after))
    low = float(x) - WIDTH * float(u[1])
    cells = math.floor((float(after) - low) / WIDTH)  # of the lattice of steps, from x to x'
    left = int(STEPS * float(u[2])) + cells
    offset = (float(after) - low) / WIDTH - cells
    points, (a, b) = shrunk(p, x, u, low, level)
    assert a <= min(float(x), float(after)) and max(float(x), float(after)) <= b
    last = (float(x) - a) / (b - a)
    fraction = STEPS * float(u[2]) % 1.0
    numbers = [back, offset, (left + fraction) / STEPS, *points, last]
    balance = math.log(back) + log_density(p, after) - float(u[0].log()) - log_density(p, x)
    return [torch.tensor(number) for number in numbers], balance


def shrunk(
    p: Any, x: Tensor, u: list[Tensor], low: float, level: float
) -> tuple[list[float], tuple[float, float]]:
    """The uniforms of the rejected points, and the interval that the last point was drawn from."""
    left = int(STEPS * float(u[2]))
    right, high = STEPS - 1 - left, low + WIDTH
    while left > 0 and log_density(p, torch.tensor(low)) > level:
        low, left = low - WIDTH, left - 1
    while right > 0 and log_density(p, torch.tensor(high)) > level:
        high, right = high + WIDTH, right - 1
    rejected = [float(each) for each in u[3:-1]]
    for each in rejected:
        point = low + (high - low) * each
        low, high = (point, high) if point < float(x) else (low, point)
    return rejected, (low, high)


def slice_gap(kernel: TraceKernel, points: int = POINTS) -> float:
    """How far a step and its way back are from detailed balance, over many random steps."""
    worst = 0.0
    with seeded(1):
        for _ in range(points):
            x = 1.5 * torch.randn(())
            after, u = stepped(kernel, bimodal, x, [])
            back, balance = slice_back(bimodal, x, after, u)
            again, met = stepped(kernel, bimodal, after, back)
            worst = max(worst, abs(float(again - x)), abs(balance), float(len(met) != len(u)))
    return worst


def ellipse_gap(kernel: TraceKernel, points: int = POINTS) -> float:
    """The same for ellipses: x and the other point are turned together, which keeps their law."""
    mean, scale = torch.tensor([0.5, -1.0]), torch.tensor([1.0, 2.0])
    law, worst = dist.Normal(mean, scale).to_event(1), 0.0
    with seeded(2):
        for _ in range(points):
            x = law.sample()
            after, (other, u, start, *rest) = stepped(kernel, regression, x, [])
            angle, low, high = turned(float(start), [float(each) for each in rest])
            turn = torch.tensor(angle)
            opposite = mean + (other - mean) * turn.cos() - (x - mean) * turn.sin()
            torch.testing.assert_close(
                after, mean + (x - mean) * turn.cos() + (other - mean) * turn.sin()
            )
            likelihood = [log_density(regression, z) - law.log_prob(z) for z in (x, after)]
            back = u * (likelihood[0] - likelihood[1]).exp()
            if rest:
                shifted = float(start) - angle / (2 * math.pi)
                numbers = [shifted, *map(float, rest[:-1]), -low / (high - low)]
            else:
                numbers = [1.0 - float(start)]
            given = [opposite, back, *map(torch.tensor, numbers)]
            again, met = stepped(kernel, regression, after, given)
            laws = law.log_prob(x) + law.log_prob(other)
            laws = laws - law.log_prob(after) - law.log_prob(opposite)
            worst = max(worst, float((again - x).abs().max()), abs(float(laws)))
            worst = max(worst, float(len(met) != 3 + len(rest)))
    return worst


def turned(start: float, rest: list[float]) -> tuple[float, float, float]:
    """The accepted angle, and the bracket that it was drawn from."""
    angle = 2 * math.pi * start
    low, high = angle - 2 * math.pi, angle
    before = low, high
    for each in rest:
        low, high = (angle, high) if angle < 0 else (low, angle)
        before = low, high
        angle = low + (high - low) * each
    return angle, *before


@pytest.mark.parametrize("points", quick(1, [POINTS, 500]))
def test_a_slice_is_reversible_at_every_point(points: int) -> None:
    assert slice_gap(slices.slice_site("x", WIDTH, STEPS), points) < 1e-10


@pytest.mark.parametrize("points", quick(1, [POINTS, 500]))
def test_an_elliptical_slice_is_reversible_at_every_point(points: int) -> None:
    assert ellipse_gap(slices.elliptical_slice("x"), points) < 1e-10


SLICE_FAULTS = [
    ("right = steps - 1 - left", "right = steps - 1"),
    ("int(steps * float(_uniform()))", "int(steps * float(_uniform()) / 2)"),
    ("low = x - width * _uniform()", "low = x - 0.5 * width * _uniform()"),
    ("level = run.log_density + _uniform().log()", "level = run.log_density - _uniform()"),
    ("if bool(at < x) else", "if bool(at < (low + high) / 2) else"),
]
ELLIPSE_FAULTS = [
    ("level = run.log_density - run.log_probs[name]", "level = run.log_density"),
    ("low, high = angle - 2 * math.pi, angle", "low, high = -angle, angle"),
    ("(x - law.mean) * angle.cos()", "x * angle.cos()"),
]


@pytest.mark.parametrize(("old", "new"), SLICE_FAULTS)
def test_a_wrong_slice_is_rejected(old: str, new: str) -> None:
    kernel = faulty(slices, old, new).slice_site("x", WIDTH, STEPS)
    assert fails(lambda: slice_gap(kernel))


@pytest.mark.parametrize(("old", "new"), ELLIPSE_FAULTS)
def test_a_wrong_elliptical_slice_is_rejected(old: str, new: str) -> None:
    kernel = faulty(slices, old, new).elliptical_slice("x")
    assert fails(lambda: ellipse_gap(kernel))


def fails(gap: Callable[[], float]) -> bool:
    """Whether a check finds a gap, or that a way back is no way of the sampler."""
    try:
        return gap() > 1e-6
    except (AssertionError, IndexError, ValueError):
        return True
