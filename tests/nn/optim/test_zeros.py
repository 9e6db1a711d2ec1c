"""The nearest zero of a partition function, by the argument principle; classes without mass."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pushforward.nn.optim import SoftmaxRadiusController, partition_radius, softmax_radius


def f(x: Any) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


def zeros_within(z: Tensor, a: Tensor, radius: float) -> int:
    """In the upper half of a circle, by the change of the argument along it, in numpy."""
    weights, rates = z.numpy(), a.numpy() - a.numpy().mean()
    number = 4000 + int(200 * radius * np.ptp(rates))
    t = radius * np.exp(1j * np.pi * np.arange(number + 1) / number)
    exponents = weights[:, None] + rates[:, None] * t
    value = np.exp(exponents - exponents.real.max(0)).sum(0)
    return round(float(np.angle(value[1:] / value[:-1]).sum() / (2 * np.pi)))


def members(classes: int, scale: float, number: int) -> list[tuple[Tensor, Tensor]]:
    """Logits of a scale with rates that are generic, tied, or of very different sizes."""
    draw = np.random.default_rng(classes)
    found = []
    for i in range(number):
        z, a = scale * draw.standard_normal(classes), draw.standard_normal(classes)
        a = (a, np.arange(1, classes + 1) // 2 * a[0], a**5)[i % 3]
        found.append((f(z.tolist()), f(a.tolist())))
    return found


@pytest.mark.parametrize("scale", [0.0, 1.0, 6.0, 10.0, 30.0, 300.0])
@pytest.mark.parametrize("classes", [2, 3, 4, 7, 20])
def test_no_zero_is_nearer_and_one_is_there(classes: int, scale: float) -> None:
    for z, a in members(classes, scale, 6):
        radius = float(partition_radius(z, a, exact=True))
        assert radius >= float(partition_radius(z, a)) * (1 - 1e-12)
        assert zeros_within(z, a, radius * (1 - 1e-4)) == 0
        assert zeros_within(z, a, radius * (1 + 1e-4)) > 0


def test_a_zero_beyond_a_short_strip() -> None:
    """Two rates for three classes: sqrt(m^2 + pi^2) over their difference, with m = 40 + log 2."""
    z, a = f([40.0, 0.0, 0.0]), f([1.0, 0.0, 0.0])
    expected = math.hypot(40 - math.log(2), math.pi)
    assert float(partition_radius(z, a, exact=True)) == pytest.approx(expected, rel=1e-12)
    short = zeros_within(z, a, 36.0)
    assert short == 0 and zeros_within(z, a, 1.001 * expected) > 0


@pytest.mark.parametrize("margin", [1e4, 1e6])
def test_great_margins(margin: float) -> None:
    """The far class of the three has no part in the nearest zero."""
    z, a = f([margin, 0.0, -9 * margin]), f([1.0, 0.0, -1.0])
    expected = math.hypot(margin, math.pi)
    assert float(partition_radius(z, a, exact=True)) == pytest.approx(expected, rel=1e-12)


def test_the_radius_has_derivatives() -> None:
    z, a = f([2.0, 0.0, -1.0]).requires_grad_(), f([1.0, 0.0, -1.0]).requires_grad_()
    torch.autograd.gradcheck(lambda *x: partition_radius(*x, exact=True), (z, a))


# --- classes without mass -------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.0, 10.0, -50.0, math.inf, math.nan])
@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("classes", [2, 4])
def test_a_class_without_mass_does_not_count(rate: float, exact: bool, classes: int) -> None:
    z, a = f([1.0, 0, 0, -2])[:classes], f([0.5, -1, 2, 0])[:classes]
    without = partition_radius(z, a, exact)
    masked = (torch.cat([z, f([-math.inf])]), torch.cat([a, f([rate])]))
    torch.testing.assert_close(partition_radius(*masked, exact), without)
    both = [torch.stack([x, x.flip(0)]) for x in masked]
    torch.testing.assert_close(partition_radius(*both, exact), torch.stack([without, without]))
    heavy = (torch.cat([z, f([0.0])]), torch.cat([a, f([7.0])]))
    assert float(partition_radius(*heavy, exact)) < float(without)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("z", [[1.0, -math.inf], [-math.inf, 1.0, -math.inf], [-math.inf] * 3])
def test_one_class_has_no_zeros(z: list[float], exact: bool) -> None:
    assert float(partition_radius(f(z), f([2.0, -1.0, 5.0][: len(z)]), exact)) == math.inf


@pytest.mark.parametrize("method", ["jvp", "fd"])
def test_logits_that_are_masked(method: Any) -> None:
    torch.manual_seed(0)
    x, w = torch.randn(6, 3, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    d = torch.randn(3, 4, dtype=torch.float64)
    d[:, 3] *= 100
    mask = f([0, 0, 0, -math.inf])

    def logits(p: dict[str, Tensor]) -> Tensor:
        return x @ p["w"] + mask

    def kept(p: dict[str, Tensor]) -> Tensor:
        return x @ p["w"][:, :3]

    def every(p: dict[str, Tensor]) -> Tensor:
        return x @ p["w"]

    found, expected, other = (
        softmax_radius(each, {"w": w}, {"w": d}, method=method) for each in (logits, kept, every)
    )
    # the lengths of the steps of finite differences are those of all weights
    assert float(found.ratio) == pytest.approx(float(expected.ratio), rel=1e-8)
    assert float(other.ratio) > 5 * float(found.ratio)
    certain = softmax_radius(
        lambda p: (x @ p["w"])[:, :1] + math.inf, {"w": w}, {"w": d}, method="jvp"
    )
    assert float(certain.ratio) == 0


class Masked(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).masked_fill(torch.tensor([False, True, False]), -math.inf)


def test_the_controller_measures_in_float32_under_autocast() -> None:
    torch.manual_seed(0)
    x, results = torch.randn(32, 64), []
    for cast in (False, True):
        torch.manual_seed(1)
        model = Masked(64, 3)
        controller = SoftmaxRadiusController(torch.optim.SGD(model.parameters(), lr=100.0), model)
        nn.functional.cross_entropy(model(x), torch.zeros(32, dtype=torch.long)).backward()
        with torch.autocast("cpu", torch.bfloat16, enabled=cast):
            controller.step(x)
        results.append(controller.ratio)
    assert results[0] == results[1] > 1 and math.isfinite(results[0])
