"""The log likelihood counts all data: factors of censored data too, and chains on traces."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from torch import Tensor

from pushforward import cond, dist, draw, factor, observe, plate, program, sample, scan, vmap
from pushforward.errors import DataError
from pushforward.inference import ADVI, MCMC, SMC, Fit, log_likelihood, nuts
from pushforward.inference.kernels import single_site

pytestmark = pytest.mark.usefixtures("double")
QUIET: dict[str, Any] = {"compiled": False, "progress": False}
TIMES = [0.3, 0.8, 1.0, 1.0, 0.5]
SEEN = [True, True, False, False, True]  # the others lived longer than 1


def rate() -> Tensor:
    found: Tensor = sample("rate", dist.Gamma(2.0, 2.0))
    return found


def by_masks() -> None:
    """Exponential times, of which some are only known to be longer."""
    r, times, seen = rate(), torch.tensor(TIMES), torch.tensor(SEEN)
    with plate("unit", 5):
        with pyro.poutine.mask(mask=seen):
            observe("time", dist.Exponential(r), times)
        with pyro.poutine.mask(mask=~seen):
            factor("censored", -r * times)


def by_two_plates() -> None:
    r, times, seen = rate(), torch.tensor(TIMES), torch.tensor(SEEN)
    with plate("died", 3):
        observe("time", dist.Exponential(r), times[seen])
    with plate("left", 2):
        factor("censored", -r * times[~seen])


def by_one_factor() -> None:
    r, times, seen = rate(), torch.tensor(TIMES), torch.tensor(SEEN)
    with plate("unit", 5):
        factor("time", seen * r.log() - r * times)


def by_lanes() -> None:
    r, seen = rate(), torch.tensor(SEEN).double()

    def unit(time: Tensor, died: Tensor) -> None:
        factor("time", died * r.log() - r * time)

    vmap(unit)(torch.tensor(TIMES), seen)


def by_steps() -> None:
    r = rate()

    def unit(carry: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        factor("time", x[1] * r.log() - r * x[0])
        return carry, carry

    scan(unit)(torch.zeros(()), torch.tensor([TIMES, [float(s) for s in SEEN]]).T)


def by_rows() -> None:
    """A factor with entries in no plate."""
    r = rate()
    factor("time", torch.tensor(SEEN) * r.log() - r * torch.tensor(TIMES))


WAYS = [by_masks, by_two_plates, by_one_factor, by_lanes, by_steps, by_rows]
METHODS: dict[str, Callable[[], Any]] = {
    "NUTS": lambda: MCMC(nuts(2), 2, 20, 10, **QUIET),
    "single sites": lambda: MCMC(single_site(), 2, 20, 10, progress=False),
    "ADVI": lambda: ADVI(steps=5, draws=20, **QUIET),
    "tempering": lambda: SMC(particles=20, islands=2, stages=2, moves=1, **QUIET),
}


def totals(fit: Fit) -> Tensor:
    """The log likelihood of all data at each draw."""
    return sum(
        (x.flatten(2).sum(2) if x.ndim > 2 else x for x in fit.log_likelihood.values()),
        torch.zeros(()),
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_all_data_are_counted_however_the_model_scores_them(
    way: Callable[[], None], method: str
) -> None:
    """By hand: the sum over units of log r where one died, less r t."""
    fit = METHODS[method]().run(program(way))
    expected = 3 * fit["rate"].log() - fit["rate"] * sum(TIMES)
    torch.testing.assert_close(totals(fit), expected)
    again = log_likelihood(fit, way)
    assert again.keys() == fit.log_likelihood.keys()
    for name, x in again.items():
        torch.testing.assert_close(x, fit.log_likelihood[name])
    assert fit.factors == () and not any("not counted" in line for line in fit.loo().warnings())


def test_a_part_of_the_data_is_not_all_of_them() -> None:
    fit = METHODS["NUTS"]().run(program(by_masks))
    expected = 3 * fit["rate"].log() - fit["rate"] * sum(TIMES)
    del fit.log_likelihood["censored"]
    assert not bool(torch.isclose(totals(fit), expected).any())


def test_entries_of_factors_have_the_labels_of_their_plates() -> None:
    labels = list("abcde")
    for method in ("NUTS", "single sites"):
        data = METHODS[method]().run(program(by_masks)).to_arviz(coords={"unit": labels})
        for name in ("time", "censored"):
            assert data.log_likelihood[name].dims == ("chain", "draw", "unit")
            assert data.log_likelihood[name]["unit"].values.tolist() == labels
        assert np.array_equal(data.observed_data["time"].values, TIMES)


@pytest.mark.parametrize("method", METHODS)
def test_a_factor_that_is_of_no_entry_is_told_of(method: str) -> None:
    """It may be a prior, or data as a whole."""

    @program
    def model() -> None:
        r = rate()
        factor("prior", -r)
        with plate("unit", 5):
            observe("time", dist.Exponential(r), torch.tensor(TIMES))

    fit = METHODS[method]().run(model)
    assert fit.factors == ("prior",) and list(fit.log_likelihood) == ["time"]
    assert "the factor 'prior' is not counted" in fit.loo().warnings()[0]
    assert "'prior'" in repr(fit.loo())
    assert fit.loo(["time"]).warnings() == fit.loo().warnings()[1:]
    with pytest.raises(DataError, match=r"no log likelihood of \['prior'\].*\['time'\]"):
        fit.loo(["prior"])


def test_chains_on_traces_leave_one_out_as_nuts_does() -> None:
    """A normal mean with known noise: left out, y is normal given the other three."""
    y = torch.tensor([-1.0, 0.2, 0.9, 1.4])

    @program
    def model() -> None:
        m = sample("m", dist.Normal(0.0, 2.0))
        with plate("i", 4):
            observe("y", dist.Normal(m, 1.0), y)

    fit = MCMC(single_site(), 4, 1000, 100, progress=False).run(model, seed=0)
    for i in range(4):
        rest = torch.cat([y[:i], y[i + 1 :]])
        variance = 1 / (3 + 0.25)
        left = dist.Normal(variance * rest.sum(), math.sqrt(1 + variance)).log_prob(y[i])
        assert float(fit.loo().pointwise["y"][i]) == pytest.approx(float(left), abs=0.06)


def test_programs_whose_runs_differ_keep_what_all_runs_observe() -> None:
    @program
    def model() -> None:
        a = sample("a", dist.Bernoulli(0.5))
        m = sample("m", dist.Normal(0.0, 1.0)) if a == 1 else torch.zeros(())
        if a == 1:
            observe("x", dist.Normal(m, 1.0), torch.tensor(0.5))
        observe("y", dist.Normal(m + draw(dist.Normal(0.0, 0.1)), 1.0), torch.tensor(0.5))

    fit = MCMC(single_site(), 2, 60, 10, progress=False).run(model, seed=0)
    assert list(fit.log_likelihood) == ["y"] and fit.log_likelihood["y"].shape == (2, 60)
    assert any("not every run has x: their scores are left out" in note for note in fit.notes)


def test_what_only_some_draws_observe_is_left_out_and_told_of() -> None:
    @program
    def model() -> None:
        a = sample("a", dist.Bernoulli(0.5))
        observe("x", dist.Normal(a, 1.0), torch.tensor(0.5))
        cond(a == 1, lambda: factor("y", torch.zeros(3)), lambda: factor("z", torch.zeros(2)))()

    fit = MCMC(single_site(), 2, 60, 10, progress=False).run(model, seed=0)
    assert list(fit.log_likelihood) == ["x"]
    assert any("not every run has" in note and "y" in note for note in fit.notes)


def test_lanes_that_are_refused_are_scored_one_by_one() -> None:
    @program
    def model() -> None:
        a = sample("a", dist.Bernoulli(0.5))
        observe("y", dist.Normal(1.0 if a == 1 else -1.0, 1.0), torch.tensor(0.5))

    fit = MCMC(single_site(), 2, 30, 10, progress=False).run(model, seed=0)
    torch.testing.assert_close(log_likelihood(fit, model)["y"], fit.log_likelihood["y"])
    expected = dist.Normal(2 * fit["a"] - 1, 1.0).log_prob(torch.tensor(0.5))
    torch.testing.assert_close(fit.log_likelihood["y"], expected)


def test_a_kept_chain_goes_on_with_what_it_scored(tmp_path: Any) -> None:
    whole = METHODS["single sites"]().run(program(by_masks), checkpoint=tmp_path / "a.run")
    again = METHODS["single sites"]().run(program(by_masks), checkpoint=tmp_path / "a.run")
    assert torch.equal(totals(whole), totals(again))
