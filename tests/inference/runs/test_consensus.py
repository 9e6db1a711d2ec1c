"""Posteriors of parts of the data, combined: exact for normal ones, and biased as is known else.

The drivers here give draws whose means and covariances are exact, without chance: columns of an
orthogonal matrix, of which those of different parts have no covariance either.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy import special
from support.executors import InTurn
from support.normals import numbers
from torch import Tensor

from pushforward import dist, observe, plate, program, sample
from pushforward.errors import DataError, ProgramError, SmoothnessError
from pushforward.inference import ADVI, MCMC, Consensus, Fit, nuts
from pushforward.inference.drivers.consensus import VECTOR, combined, part_of
from pushforward.ppl.interpretations.log_density import LogDensity


@pytest.fixture(autouse=True)
def _double(double: None) -> None:
    """All of this is in float64."""


def without_chance(shards: int, d: int, n: int = 400) -> list[Tensor]:
    """Draws [1, n, d] of each part: mean 0, covariance 1, and no covariance with other parts."""
    square = torch.cat([torch.ones(n, 1), numbers(5, n * shards * d).reshape(n, shards * d)], 1)
    columns = torch.linalg.qr(square)[0][:, 1:] * (n - 1) ** 0.5
    return [x[None] for x in columns.split(d, 1)]


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    flat = x.flatten(0, 1)
    return flat.mean(0), torch.cov(flat.T).reshape(flat.shape[1], -1)


# ----------------------------------------------------------------------------------------- products


@pytest.mark.parametrize("shards", [1, 2, 5])
@pytest.mark.parametrize("d", [1, 3])
def test_averages_of_normal_laws_are_their_product(shards: int, d: int) -> None:
    """Mean and covariance of the product of N(m_s, C_s), by its precision."""
    roots = [numbers(s, d * d).reshape(d, d).tril() + 2 * torch.eye(d) for s in range(shards)]
    means = [3.0 * numbers(90 + s, d) for s in range(shards)]
    laws = zip(without_chance(shards, d), means, roots, strict=True)
    found, skewness = combined([m + z @ root.T for z, m, root in laws], "average")
    precisions = [torch.linalg.inv(root @ root.T) for root in roots]
    covariance = torch.linalg.inv(sum(precisions, torch.zeros(d, d)))
    pulls = [p @ m for p, m in zip(precisions, means, strict=True)]
    mean, spread = moments(found)
    torch.testing.assert_close(mean, covariance @ sum(pulls, torch.zeros(d)), rtol=0, atol=1e-9)
    torch.testing.assert_close(spread, covariance, rtol=0, atol=1e-9)
    assert skewness < 0.5


def test_draws_of_the_product_of_normal_laws() -> None:
    """4.5 standard errors of 20 000 draws."""
    torch.manual_seed(0)
    roots = torch.tensor([[[1.0, 0.0], [0.5, 0.4]], [[0.3, 0.0], [-0.4, 2.0]]])
    parts = [z @ root.T for z, root in zip(without_chance(2, 2, 20_000), roots, strict=True)]
    found, _ = combined(parts, "normal")
    covariance = torch.linalg.inv(torch.linalg.inv(roots @ roots.mT).sum(0))
    white = found[0] @ torch.linalg.inv(torch.linalg.cholesky(covariance)).T
    mean, spread = moments(white[None])
    assert float(mean.abs().max()) < 4.5 / 20_000**0.5
    assert float((spread - torch.eye(2)).abs().max()) < 4.5 * (2 / 20_000) ** 0.5


def test_a_plain_mean_is_no_product() -> None:
    """The control: parts weighted alike."""
    first, second = without_chance(2, 1)
    parts = [first, 5.0 * second + 6.0]
    right, _ = combined(parts, "average")
    assert float(moments(right)[0]) == pytest.approx(6.0 / 26.0)
    assert float(moments((parts[0] + parts[1]) / 2)[0]) == pytest.approx(3.0)


# ---------------------------------------------------------------------------------------- the parts


@program
def mixed(y: Tensor) -> None:
    """Latents on the line, the half line and the simplex: their Jacobians count once, too."""
    mean = sample("mean", dist.Normal(0.0, 2.0))
    scale = sample("scale", dist.HalfNormal(3.0))
    w = sample("w", dist.Dirichlet(torch.tensor([1.0, 2.0, 3.0])))
    with plate("rows", len(y)):
        observe("y", dist.Normal(mean * w[0], scale), y)


@pytest.mark.parametrize("shards", [1, 3])
def test_the_densities_of_parts_multiply_to_that_of_the_whole(shards: int) -> None:
    y = numbers(2, 30)
    whole = LogDensity(mixed, y)
    parts = [LogDensity(part_of(mixed, shards, y[s::shards])) for s in range(shards)]
    for k in range(5):
        u = numbers(30 + k, 4)
        assert float(sum(part(u) for part in parts)) == pytest.approx(float(whole(u)), abs=1e-10)


def test_whole_priors_would_count_too_often() -> None:
    """The control: parts that each have all of the prior."""
    y = numbers(2, 30)
    whole = LogDensity(mixed, y)
    parts = [LogDensity(mixed, y[s::3]) for s in range(3)]
    gaps = [
        float(sum(part(u) for part in parts) - whole(u)) for u in (numbers(1, 4), numbers(2, 4))
    ]
    assert abs(gaps[0] - gaps[1]) > 0.1


# ----------------------------------------------------------------------------------------- the bias


@dataclass(frozen=True)
class Moments:
    """A driver that knows what its program is of, and draws from that by quantiles, in turn."""

    kind: str

    def run(self, p: Any, *args: Any, seed: int = 0) -> Fit:
        """The one coordinate of a normal or log-gamma law that the density of the part has."""
        density = LogDensity(p)
        at = torch.linspace(-12.0, 12.0, 40_001)[:, None]
        logs = torch.func.vmap(density)(at)
        weights = logs.softmax(0)
        n = 20_000
        levels = (torch.arange(n) + 0.5) / n
        sums = weights.cumsum(0)
        u = at[torch.searchsorted(sums, levels).clamp(max=len(at) - 1)]
        order = torch.argsort(((torch.arange(n) + 1) * (0.754877666 + 0.1 * seed % 1)) % 1.0)
        return Fit(self.kind, {VECTOR: u[order][None]}, latents=(VECTOR,))


@program
def waiting(t: Tensor) -> None:
    rate = sample("rate", dist.Gamma(2.0, 1.0))
    with plate("rows", len(t)):
        observe("t", dist.Exponential(rate), t)


def test_parts_that_are_skew_are_combined_with_the_bias_that_is_known() -> None:
    """Log rates of parts are log-gamma: the average has the mean of their means by their variances,
    which is not that of the whole; it is off by half a standard deviation."""
    shards, t = 8, torch.linspace(0.2, 3.0, 16)
    fit = Consensus(Moments("quantiles"), shards, progress=False).run(waiting, t)
    shape = 2.0 / shards + 2
    rates = [1.0 / shards + float(t[s::shards].sum()) for s in range(shards)]
    means = [float(special.digamma(shape)) - math.log(rate) for rate in rates]
    biased = sum(means) / shards  # all have the variance trigamma(shape)
    right = float(special.digamma(18.0)) - math.log(1.0 + float(t.sum()))
    sd = math.sqrt(float(special.polygamma(1, 18.0)))
    found = float(fit["rate"].log().mean())
    assert found == pytest.approx(biased, abs=2e-3)
    assert abs(found - right) / sd == pytest.approx(abs(biased - right) / sd, abs=0.02)
    assert abs(biased - right) > 0.4 * sd
    wanted = abs(float(special.polygamma(2, shape))) / float(special.polygamma(1, shape)) ** 1.5
    (note,) = fit.warnings()
    assert "exact only if the posterior of each is normal" in note
    assert float(note.rsplit(" ", 1)[1]) == pytest.approx(wanted, abs=0.05)


def test_larger_parts_are_less_biased() -> None:
    """The control, of the bias: 2 000 rows in 8 parts."""
    t = torch.linspace(0.2, 3.0, 2_000)
    fit = Consensus(Moments("quantiles"), 8, progress=False).run(waiting, t)
    right = float(special.digamma(2_002.0)) - math.log(1.0 + float(t.sum()))
    sd = math.sqrt(float(special.polygamma(1, 2_002.0)))
    assert abs(float(fit["rate"].log().mean()) - right) < 0.1 * sd


# ------------------------------------------------------------------------------------------ drivers


@program
def normal_mean(y: Tensor) -> None:
    mean = sample("mean", dist.Normal(0.0, 2.0))
    with plate("rows", len(y)):
        observe("y", dist.Normal(mean, 1.5), y)


@pytest.mark.parametrize("combine", ["average", "normal"])
def test_a_conjugate_posterior_by_nuts(combine: Any) -> None:
    """All parts are normal: mean and sd to 4.5 standard errors of the draws' effective number."""
    y = 1.0 + 1.5 * numbers(7, 60)
    driver = MCMC(nuts(), chains=4, draws=1000, warmup=200, progress=False)
    fit = Consensus(driver, 3, combine, progress=False).run(normal_mean, y, seed=2)
    precision = 1 / 4 + 60 / 2.25
    mean, sd = float(y.sum()) / 2.25 / precision, precision**-0.5
    draws = fit["mean"].flatten()
    assert fit["mean"].shape == (4, 1000)
    assert abs(float(draws.mean()) - mean) < 4.5 * sd / 500**0.5
    assert abs(float(draws.std()) / sd - 1.0) < 4.5 / (2 * 500) ** 0.5


def test_an_executor_gives_the_same() -> None:
    y = numbers(7, 40)
    driver = Consensus(ADVI(steps=50, draws=200, compiled=False), 4, progress=False)
    here, there = driver.run(mixed, y, seed=3), InTurn()
    other = driver.run(mixed, y, seed=3, executor=there)
    assert there.done == 4
    assert all(torch.equal(here[name], other[name]) for name in ("mean", "scale", "w"))
    assert not torch.equal(here["mean"], driver.run(mixed, y, seed=4)["mean"])
    torch.testing.assert_close(here["w"].sum(-1), torch.ones(1, 200))
    assert any(note.startswith("part ") for note in here.warnings()) or len(here.warnings()) == 1


@pytest.mark.parametrize("lost", [0, 2])
def test_a_broken_run_goes_on(tmp_path: Path, lost: int) -> None:
    """Part ``lost`` of four, and those after it, are not done; then they are, and no others."""
    y, file = numbers(7, 40), tmp_path / "run"
    driver = Consensus(ADVI(steps=20, draws=200, compiled=False), 4, progress=False)
    whole = driver.run(mixed, y, seed=3)
    breaking, rest = InTurn(lost=frozenset(range(lost, 4))), InTurn()
    with pytest.raises(ProgramError, match="gave up a task"):
        driver.run(mixed, y, seed=3, checkpoint=file, executor=breaking)
    again = driver.run(mixed, y, seed=3, checkpoint=file, executor=rest)
    assert (breaking.done, rest.done) == (lost, 4 - lost)
    assert all(torch.equal(whole[name], again[name]) for name in ("mean", "scale", "w"))
    assert whole.warnings() == again.warnings()
    with pytest.raises(DataError, match="of another run: seed 3 is now 4"):
        driver.run(mixed, y, seed=4, checkpoint=file)


# ----------------------------------------------------------------------------------------- refusals


def test_what_cannot_be_combined_is_refused() -> None:
    quick = ADVI(steps=5, draws=3, compiled=False, progress=False)

    @program
    def local(y: Tensor) -> None:
        with plate("rows", len(y)):
            x = sample("x", dist.Normal(0.0, 1.0))
            observe("y", dist.Normal(x, 1.0), y)

    y = numbers(1, 12)
    with pytest.raises(DataError, match=r"latent is \[12\] for all data.*site 'x'"):
        Consensus(quick, 3).run(local, y)
    with pytest.raises(DataError, match="tensors of one length"):
        Consensus(quick, 3).run(local, y, 2.0)
    with pytest.raises(DataError, match="12 rows are too few for 13 parts"):
        Consensus(quick, 13).run(local, y)

    @program
    def jumping(y: Tensor) -> None:
        x = sample("x", dist.Normal(0.0, 1.0))
        with plate("rows", len(y)):
            observe("y", dist.Normal(torch.where(x > 0, 1.0, 0.0), 1.0), y)

    with pytest.raises(SmoothnessError, match="jumps as '_coordinates' moves"):
        Consensus(quick, 3, progress=False).run(jumping, y)
    with pytest.raises(ProgramError, match="3 draws of a part have no covariance of rank 4"):
        Consensus(quick, 3, progress=False).run(mixed, y)
    with pytest.raises(ValueError, match="shards is at least 1"):
        Consensus(quick, 0)
    with pytest.raises(ValueError, match="combine is"):
        Consensus(quick, 2, "median")  # type: ignore[arg-type]
