"""Sensitivity by powers: against a conjugate model in closed form, sums by hand, and ArviZ."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from pyro.poutine import scale
from scipy.stats import norm
from torch import Tensor

from pushforward import condition, dist, factor, observe, plate, program, sample
from pushforward.inference import Fit, log_likelihood, sensitivity
from pushforward.inference.results.arviz import generation, import_arviz
from pushforward.inference.results.sensitivity import CONFLICT, NEITHER, STRONG, distance
from pushforward.ppl.errors import DataError

DRAWS = 4000
DOUBLING = math.log2(1.01)


@program
def normal(y: Tensor, sd: float = 1.0) -> None:
    theta = sample("theta", dist.Normal(0.0, 1.0))
    with plate("row", len(y)):
        observe("y", dist.Normal(theta, sd), y)


def at_quantiles(mean: float, sd: float) -> Fit:
    """A fit whose draws are the middle quantiles of a normal law, in some order."""
    x = norm.ppf((np.arange(DRAWS) + 0.5) / DRAWS, mean, sd)
    drawn = torch.from_numpy(np.random.default_rng(0).permutation(x)).reshape(4, -1)
    return Fit("by hand", {"theta": drawn}, latents=("theta",))


def conjugate(y: Tensor, sd: float, prior: float = 1.0, likelihood: float = 1.0) -> Any:
    """The posterior under powers of its parts."""
    precision = prior + likelihood * len(y) / sd**2
    return norm(likelihood * float(y.sum()) / sd**2 / precision, precision**-0.5)


def by_quadrature(one: Any, two: Any, ends: tuple[float, float]) -> float:
    """The distance of two laws between two ends, by the trapezium rule."""
    grid = np.linspace(*ends, 200_001)

    def apart(p: Any, q: Any) -> float:
        m = (p + q) / 2
        jensen = np.trapezoid(p * np.log2(p / m) + q * np.log2(q / m), grid)
        return math.sqrt(jensen / np.trapezoid(p + q, grid))

    return max(apart(one.cdf(grid), two.cdf(grid)), apart(one.sf(grid), two.sf(grid)))


def ends_of(law: Any) -> tuple[float, float]:
    """The least and greatest of the middle quantiles."""
    return law.ppf(0.5 / DRAWS), law.ppf(1 - 0.5 / DRAWS)


def moved(y: Tensor, sd: float, part: str, drawn: Any = None) -> float:
    """What a row holds, in closed form, where the draws are of this law."""
    usual = conjugate(y, sd)
    ends = ends_of(drawn or usual)
    both = [by_quadrature(usual, conjugate(y, sd, **{part: a}), ends) for a in (1 / 1.01, 1.01)]
    return sum(both) / (2 * DOUBLING)


CASES = {
    "far data": (torch.full((5,), 3.0), 1.0, CONFLICT),
    "much data": (torch.linspace(-1.0, 1.2, 60), 1.0, NEITHER),
    "weak data": (torch.tensor([0.4]), 6.0, STRONG),
}


@pytest.mark.parametrize("case", CASES)
def test_a_conjugate_model_in_closed_form(case: str) -> None:
    y, sd, diagnosis = CASES[case]
    usual = conjugate(y, sd)
    table = sensitivity(at_quantiles(usual.mean(), usual.std()), normal, y, sd)
    row = table.loc["theta"]
    assert row["prior"] == pytest.approx(moved(y, sd, "prior"), rel=0.02)
    assert row["likelihood"] == pytest.approx(moved(y, sd, "likelihood"), rel=0.02)
    assert row["diagnosis"] == diagnosis
    assert row["prior"] != pytest.approx(moved(y, sd, "likelihood"), rel=0.05)  # parts exchanged


def test_the_threshold_is_a_shift_of_a_quarter() -> None:
    shifted = by_quadrature(norm(), norm(0.25 * DOUBLING), ends_of(norm())) / DOUBLING
    assert shifted == pytest.approx(0.05, rel=0.1)


def test_a_distance_by_hand() -> None:
    """Of 0 and 1, weighted 3 to 1 and 1 to 1: on the one interval P = 3/4 and Q = 1/2."""

    def apart(p: float, q: float) -> float:
        m = (p + q) / 2
        return math.sqrt((p * math.log2(p / m) + q * math.log2(q / m)) / (p + q))

    x, one, two = np.array([1.0, 0.0]), torch.tensor([0.25, 0.75]), torch.tensor([0.5, 0.5])
    assert distance(x, one, two) == pytest.approx(apart(0.25, 0.5))  # of the negatives
    assert distance(x, one, two) == pytest.approx(distance(-7.0 * x + 2.0, one, two))
    assert distance(x, one, one) == 0.0 and distance(np.ones(2), one, two) == 0.0
    assert distance(x, torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0])) == pytest.approx(1.0)


def test_the_table_is_that_of_arviz() -> None:
    if generation() > 0:
        pytest.skip("ArviZ 1 has it elsewhere, in other arguments")
    y = CASES["far data"][0]
    usual = conjugate(y, 1.0)
    fit = at_quantiles(usual.mean(), usual.std())
    fit.log_likelihood = log_likelihood(fit, normal, y)
    data = fit.to_arviz()
    data.add_groups({"log_prior": {"theta": norm.logpdf(fit["theta"].numpy())}})
    row = sensitivity(fit, normal, y).loc["theta"]
    for part in ("prior", "likelihood"):
        theirs = float(import_arviz().psens(data, component=part)["theta"])
        assert row[part] == pytest.approx(theirs, rel=1e-5)


@program
def two(y: Tensor) -> None:
    with scale(scale=3.0):
        sample("a", dist.Normal(0.0, 1.0))
    sample("b", dist.Normal(1.0, 1.0))
    with plate("row", len(y)):
        observe("y", dist.Normal(0.0, 1.0), y)


def test_each_part_is_that_of_its_sites() -> None:
    """a and b are independent: a power of one law moves that one alone; a scale counts."""
    draws = torch.from_numpy(np.random.default_rng(1).normal(size=(2, 2000, 2)))
    fit = Fit("by hand", {"a": draws[..., 0], "b": draws[..., 1]}, latents=("a", "b"))
    y = torch.zeros(2)
    of_a, of_b = (sensitivity(fit, two, y, prior=[name])["prior"] for name in "ab")
    assert of_a["a"] > 5 * of_a["b"] and of_b["b"] > 5 * of_b["a"]
    assert (sensitivity(fit, two, y)["likelihood"] < 1e-6).all()  # it says nothing of them
    logs = {"a": 3 * norm.logpdf(draws[..., 0].numpy())}
    weights = np.exp(0.01 * logs["a"].ravel())
    weights = torch.from_numpy(weights / weights.sum())
    even = torch.full((4000,), 1 / 4000)
    by_hand = distance(draws[..., 0].numpy().ravel(), even, weights) / DOUBLING
    assert of_a["a"] == pytest.approx(by_hand, rel=0.05)
    assert list(sensitivity(fit, two, y, sites=["b"]).index) == ["b"]


def test_draws_of_another_law_count_by_their_weights() -> None:
    """Draws of a wider law with their weights move as those of the posterior do."""
    y, sd, _ = CASES["far data"]
    usual = conjugate(y, sd)
    wide = norm(usual.mean(), 1.3 * usual.std())
    fit = at_quantiles(wide.mean(), wide.std())
    plain = sensitivity(fit, normal, y, sd).loc["theta", "prior"]
    x = fit["theta"].numpy()
    fit.stats["log_weight"] = torch.from_numpy(usual.logpdf(x) - wide.logpdf(x))
    weighted = sensitivity(fit, normal, y, sd).loc["theta", "prior"]
    expected = moved(y, sd, "prior", wide)
    assert weighted == pytest.approx(expected, rel=0.02)
    assert plain != pytest.approx(expected, rel=0.05)


def test_a_heavy_tail_is_not_believed() -> None:
    fit = at_quantiles(0.0, 1.0)
    x = fit["theta"]
    fit.stats["log_weight"] = 0.8 * x**2
    found = sensitivity(fit, normal, torch.zeros(3)).loc["theta", "diagnosis"]
    assert found.startswith("not to be believed")


@program
def penalised(y: Tensor) -> None:
    theta = sample("theta", dist.Normal(0.0, 1.0))
    factor("penalty", -(theta**2))
    with plate("row", len(y)):
        sample("y", dist.Normal(theta, 1.0))


def test_what_has_no_such_part_is_refused() -> None:
    fit, y = at_quantiles(0.0, 1.0), torch.zeros(3)
    with pytest.raises(DataError, match="'penalty' may be of the prior or of the data"):
        sensitivity(fit, condition(penalised, {"y": y}), y)
    named = sensitivity(fit, condition(penalised, {"y": y}), y, prior=["theta", "penalty"])
    assert named.loc["theta", "prior"] > 0
    with pytest.raises(DataError, match=r"scores no \['tau'\].*it scores \['theta', 'y'\]"):
        sensitivity(fit, normal, y, prior=["tau"])
    with pytest.raises(DataError, match=r"no draws of \['theta'\]"):
        sensitivity(Fit("", {"other": fit["theta"]}, latents=("other",)), normal, y)
    with pytest.raises(DataError, match=r"no draws of \['y'\]"):
        sensitivity(fit, penalised, y)
