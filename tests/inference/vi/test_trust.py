"""k-hat of guides whose weights have a tail that is known, no tail, or no meaning.

A guide Exponential(b) for a target Exponential(a), a < b, has weights with P(w > t) proportional to
t^(-b / (b - a)): an exact Pareto law of shape 1 - a / b.  The best mean-field normal law for two
normals of correlation r has precision 1 / (1 - r^2) in each coordinate, and along the diagonal
log w = r z^2 / 2 with z standard normal: a shape of r.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pushforward import dist, factor, observe, plate, sample
from pushforward.inference import ADVI, Pathfinder
from pushforward.inference.results.pareto import FEW, smoothed
from pushforward.inference.vi import FullRank, MeanField, enum, posterior
from pushforward.inference.vi.trust import judged

QUIET: dict[str, Any] = {"progress": False, "compiled": False}


def f(x: Any) -> Tensor:
    return torch.as_tensor(x, dtype=torch.float64)


def k_hat_of(fit: Any) -> float:
    assert len({repr(x) for x in fit.stats["k_hat"].flatten().tolist()}) == 1
    return float(fit.stats["k_hat"][0, 0])


# ---------------------------------------------------------------------------- a tail that is known


@pytest.mark.parametrize("shape", [0.1, 0.3, 0.5, 0.8, 0.95])
def test_the_tail_of_an_exponential_under_a_lighter_one(shape: float) -> None:
    """At the quantiles of the guide, so that nothing is random; the fit adds 1 / 50 at most."""
    a, b, n = 1.0 - shape, 1.0, 40_000
    x = -torch.log1p(-(torch.arange(n, dtype=torch.float64) + 0.5) / n) / b
    target, guide = (dist.Exponential(f(rate)) for rate in (a, b))
    found = judged(target.log_prob(x), guide.log_prob(x), proposed="the guide", epsilon=1e-16)
    assert found.k_hat == pytest.approx(shape, abs=0.02)
    assert bool(found.notes) == (shape > 0.7)


@pytest.mark.parametrize("shape", [0.3, 0.9])
def test_a_guide_with_a_known_tail(shape: float) -> None:
    """Of 20 000 draws the tail is 424, and k-hat has a standard error of (1 + k) / sqrt(424)."""
    wide = lambda: sample("x", dist.Exponential(f(1.0 - shape)))  # noqa: E731
    narrow = lambda: sample("x", dist.Exponential(f(1.0)))  # noqa: E731
    fit = posterior(wide, narrow, draws=20_000, seed=1)
    assert abs(k_hat_of(fit) - shape) < 4.5 * (1 + shape) / 424**0.5
    assert any("k-hat" in note and "the guide misses" in note for note in fit.warnings()) == (
        shape > 0.7
    )
    assert "k-hat: " in repr(fit)


def test_a_heavier_guide_is_trusted() -> None:
    """The control: the two laws exchanged, the weights are bounded."""
    fit = posterior(
        lambda: sample("x", dist.Exponential(f(1.0))),
        lambda: sample("x", dist.Exponential(f(0.1))),
        draws=4000,
    )
    assert k_hat_of(fit) < 0.2 and not fit.warnings()


def correlated(r: float) -> Any:
    def model() -> None:
        x = sample("x", dist.Normal(f(0.0), 1.0))
        sample("y", dist.Normal(r * x, math.sqrt(1 - r**2)))

    return model


@pytest.mark.parametrize("r", [0.0, 0.3, 0.95])
def test_advi_says_how_good_its_normal_law_is(r: float) -> None:
    fit = ADVI(steps=600, draws=20_000, **QUIET).run(correlated(r))
    assert any("k-hat" in note for note in fit.warnings()) == (r > 0.7)
    if r:
        assert abs(k_hat_of(fit) - r) < 4.5 * (1 + r) / 424**0.5
    evidence, error = fit.log_evidence, fit.log_evidence_error
    assert evidence is not None and error is not None
    if r < 0.7:
        assert abs(evidence) < 4.5 * error + 1e-3  # the model is normalised


# --------------------------------------------------------------------------------------- no tail


def mean_of(y: Tensor) -> None:
    m = sample("m", dist.Normal(torch.zeros((), dtype=y.dtype), 1.0))
    with plate("n", len(y)):
        observe("y", dist.Normal(m, 1.0), y)


def exactly(y: Tensor) -> None:
    precision = 1.0 + len(y)
    sample("m", dist.Normal(y.sum() / precision, precision**-0.5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rows", [3, 3000])
@pytest.mark.parametrize("draws", [1, 2, 20, 100, 1000])
def test_an_exact_guide_has_no_tail(dtype: torch.dtype, rows: int, draws: int) -> None:
    """Its weights differ by rounding, which in single precision is far from nothing."""
    y = torch.linspace(-1.0, 4.0, rows, dtype=dtype)
    fit = posterior(mean_of, exactly, y, draws=draws)
    assert k_hat_of(fit) == 0.0 and not fit.warnings()


def test_rounding_hides_no_tail() -> None:
    """The control: a guide that is too narrow for the same data, in single precision."""
    y = torch.linspace(-1.0, 4.0, 3000)

    def narrow(y: Tensor) -> None:
        precision = 1.0 + len(y)
        sample("m", dist.Normal(y.sum() / precision, 0.3 * precision**-0.5))

    assert any("above 0.7" in note for note in posterior(mean_of, narrow, y).warnings())


def test_few_draws_say_that_they_are_few() -> None:
    narrow = lambda: sample("x", dist.Normal(f(0.0), 0.05))  # noqa: E731
    wide = lambda: sample("x", dist.Normal(f(0.0), 1.0))  # noqa: E731
    for draws, said in ((FEW, "are too few for a k-hat"), (FEW + 980, "misses parts")):
        (note,) = posterior(wide, narrow, draws=draws).warnings()
        assert said in note
    assert math.isinf(smoothed(0.1 * torch.arange(FEW).double().sin()).k_hat)
    assert math.isfinite(smoothed(0.1 * torch.arange(FEW + 1).double().sin()).k_hat)


def test_a_guide_far_away_is_told() -> None:
    far = lambda: sample("x", dist.Normal(f(-60.0), 1.0))  # noqa: E731
    here = lambda: sample("x", dist.Normal(f(0.0), 0.01))  # noqa: E731
    (note,) = posterior(here, far, draws=1000).warnings()
    assert "hardly a draw of the guide carries weight" in note


def test_densities_that_are_nan_are_told() -> None:
    def model() -> None:
        x = sample("x", dist.Normal(f(0.0), 1.0))
        factor("nan", torch.where(x > 2.0, math.nan, 0.0))

    fit = posterior(model, lambda: sample("x", dist.Normal(f(0.0), 1.0)), draws=1000)
    assert any("draws the log density was NaN" in note for note in fit.warnings())
    assert fit.log_evidence is not None and -0.1 < fit.log_evidence < 0.0  # P(x < 2) = 0.977


# ------------------------------------------------------------------------------------ no density


def with_count() -> None:
    k = sample("k", dist.Bernoulli(f(0.4)))
    sample("x", dist.Normal(k, 1.0))


def test_a_guide_of_points_has_no_k_hat() -> None:
    """A point for a real latent has no density; one for a finite latent has."""

    def point() -> None:
        sample("k", dist.Bernoulli(f(0.5)))
        sample("x", dist.Delta(f(0.3)))

    fit = posterior(with_count, point, draws=200)
    assert math.isnan(k_hat_of(fit)) and fit.log_evidence is None
    (note,) = fit.warnings()
    assert "the guide has no density: it proposes one point for 'x'" in note

    def sure() -> None:
        k = sample("k", enum(dist.Bernoulli(f(1.0))))
        sample("x", dist.Normal(k, 1.0))

    fit = posterior(with_count, sure, draws=200)
    assert k_hat_of(fit) == 0.0 and fit.log_evidence == pytest.approx(math.log(0.4))


@pytest.mark.parametrize("kind", [MeanField, FullRank])
def test_guides_made_of_noise_have_a_density(kind: Any) -> None:
    made = kind(correlated(0.2))
    fit = posterior(correlated(0.2), made, draws=200)
    assert math.isfinite(k_hat_of(fit)) and fit.log_evidence is not None


def test_pathfinder_in_single_precision_has_no_tail_where_it_is_exact() -> None:
    y = torch.linspace(-1.0, 4.0, 3000)
    fit = Pathfinder(paths=1, draws=500, **QUIET).run(mean_of, y)
    assert k_hat_of(fit) == 0.0 and not fit.warnings()
