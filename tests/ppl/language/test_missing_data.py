"""Data with gaps, by ``condition``: entries that were not seen count nothing, and others all.

Members are sites in plates, of counts, with moving supports, of vectors, in loops and in lanes; the
expected density is that of the entries that are there, summed by the laws themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from torch import Tensor

from pushforward import assess, condition, dist, plate, predict, program, sample, scan, vmap
from pushforward.errors import DataError
from pushforward.inference import MCMC, hmc
from pushforward.ppl.interpretations.log_density import LogDensity

pytestmark = pytest.mark.usefixtures("double")
NAN = torch.nan


def prior() -> Tensor:
    return sample("a", dist.Normal(0.0, 1.0))


def in_plate() -> None:
    a = prior()
    with plate("row", 4):
        sample("y", dist.Normal(a, 2.0))


def of_counts() -> None:
    a = prior()
    with plate("row", 4):
        sample("y", dist.Poisson(a.exp() * torch.arange(1.0, 5.0)))


def with_moving_supports() -> None:
    a = prior()
    with plate("row", 4):
        sample("y", dist.Uniform(torch.arange(4.0), 6.0 + a.exp()))


def of_vectors() -> None:
    a = prior()
    with plate("row", 4):
        sample("y", dist.MultivariateNormal(a * torch.ones(2), torch.eye(2) + 0.5))


def in_loop() -> None:
    def step(before: Tensor, t: Tensor) -> tuple[Tensor, None]:
        return sample("y", dist.Normal(a + t, 1.0)), None

    a = prior()
    scan(step)(torch.tensor(0.0), torch.arange(4.0))


def in_lanes() -> None:
    a = prior()
    vmap(lambda t: sample("y", dist.Normal(a * t, 1.0)))(torch.arange(4.0))


def masked() -> None:
    a = prior()
    with plate("row", 4), pyro.poutine.mask(mask=torch.tensor([True, True, False, True])):
        sample("y", dist.Normal(a, 2.0))


ONE = torch.tensor([1.0, NAN, 3.0, NAN], dtype=torch.float64)
TWO = torch.tensor([[1.0, 2.0], [NAN, 1.0], [0.5, -1.0], [NAN, NAN]], dtype=torch.float64)
T4 = torch.arange(4.0, dtype=torch.float64)
MEMBERS: dict[str, tuple[Callable[[], None], Tensor, list[int], Callable[[Tensor], Any]]] = {
    "plate": (in_plate, ONE, [0, 2], lambda a: dist.Normal(a.expand(4), 2.0)),
    "counts": (of_counts, ONE, [0, 2], lambda a: dist.Poisson(a.exp() * (T4 + 1))),
    "supports": (
        with_moving_supports, torch.tensor([1.0, NAN, 3.0, 5.0], dtype=torch.float64), [0, 2, 3],
        lambda a: dist.Uniform(T4, 6.0 + a.exp()),
    ),
    "vectors": (
        of_vectors, TWO, [0, 2],
        lambda a: dist.MultivariateNormal(a * torch.ones(4, 2), torch.eye(2) + 0.5),
    ),
    "loop": (in_loop, ONE, [0, 2], lambda a: dist.Normal(a + T4, 1.0)),
    "lanes": (in_lanes, ONE, [0, 2], lambda a: dist.Normal(a * T4, 1.0)),
    "masked": (masked, ONE, [0], lambda a: dist.Normal(a.expand(4), 2.0)),
}  # fmt: skip


@pytest.mark.parametrize("name", MEMBERS)
def test_density_and_gradient_are_those_of_what_was_seen(name: str) -> None:
    p, data, rows, law = MEMBERS[name]
    gaps = condition(program(p), {"y": data}, missing="ignore")
    for value in (-0.7, 0.4):
        a = torch.tensor(value, requires_grad=True)
        expected = (
            dist.Normal(0.0, 1.0).log_prob(a) + law(a).log_prob(data.nan_to_num(1.0))[rows].sum()
        )
        (slope,) = torch.autograd.grad(expected, a)
        expected = expected.detach()
        assert float(assess(gaps, {"a": a.detach()})[0]) == pytest.approx(
            float(expected), rel=1e-12
        )
        u = torch.tensor([value], requires_grad=True)
        found = LogDensity(gaps)(u)
        assert float(found.detach()) == pytest.approx(float(expected), rel=1e-12)
        assert float(torch.autograd.grad(found, u)[0]) == pytest.approx(float(slope), rel=1e-10)
    seen = data.nan_to_num(1.0)
    whole = condition(program(p), {"y": seen}, missing="ignore")
    assert float(assess(whole, {"a": a.detach()})[0]) != pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("name", [name for name in MEMBERS if name != "masked"])
def test_gaps_are_refused_unless_they_may_be(name: str) -> None:
    p, data, *_ = MEMBERS[name]
    gaps = condition(program(p), {"y": data})
    with pytest.raises(DataError, match="observed data hold"):
        gaps.type()


def test_masked_arrays_and_words() -> None:
    array = np.ma.masked_array([1, 9, 3, 9], [0, 1, 0, 1])
    gaps = [condition(program(in_plate), {"y": y}, missing="ignore") for y in (array, ONE)]
    one, other = (float(assess(p, {"a": torch.tensor(0.3)})[0]) for p in gaps)
    assert one == other
    with pytest.raises(ValueError, match="missing is one of"):
        condition(in_plate, {"y": ONE}, missing="guess")  # type: ignore[arg-type]


def test_runs_keep_what_gaps_are_and_predictions_fill_them() -> None:
    """The posterior of two normal observations; z below 4.5."""
    gaps = condition(program(in_plate), {"y": ONE}, missing="ignore")
    driver = MCMC(
        hmc(3), draws=150, warmup=100, compiled=False, dtype=torch.float64, progress=False
    )
    fit = driver.run(gaps, seed=1)
    variance = 1 / (1 + 2 / 4)
    row = fit.summary().loc["a"]
    mean = variance * (1.0 + 3.0) / 4
    assert abs(float(row["mean"]) - mean) < 4.5 * (variance / float(row["ess_bulk"])) ** 0.5
    assert float(row["sd"]) == pytest.approx(variance**0.5, rel=0.3)
    filled = predict(fit, gaps)["y"]
    assert filled.shape[-1] == 4 and float(filled[..., 1].std()) == pytest.approx(2.16, rel=0.25)
    assert fit.observed["y"].isnan().tolist() == [False, True, False, True]
