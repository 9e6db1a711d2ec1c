"""Shrinkage priors: known marginal laws, the share that is explained, a posterior by NUTS."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import integrate, special, stats
from torch import Tensor

from pushforward import assess, dist, observe, program, simulate, vmap
from pushforward.errors import ProgramError
from pushforward.inference import MCMC, nuts
from pushforward.models.shrinkage import global_scale, horseshoe, r2d2

pytestmark = pytest.mark.usefixtures("double")
BOUND = math.sqrt(math.log(2 / 1e-6) / (2 * 4000))  # of Dvoretzky, Kiefer and Wolfowitz, 1e-6


def gap(drawn: Tensor, cdf: object) -> float:
    return float(stats.kstest(drawn.numpy(), cdf).statistic)


def marginal(x: float) -> float:
    """P(b <= x), x > 0, of Normal(0, s) with s half-Cauchy: by the density in Carvalho et al."""
    density = lambda b: special.exp1(b * b / 2) * math.exp(b * b / 2) / math.sqrt(2 * math.pi**3)  # noqa: E731
    return 0.5 + float(integrate.quad(density, 0, x, points=[min(x, 0.1)])[0])


def test_a_coefficient_under_a_known_global_scale_has_its_law() -> None:
    run = simulate(program(lambda: vmap(lambda: horseshoe(3), size=4000)()), seed=0)
    local, unit = run.choices["horseshoe/local"], run.choices["horseshoe/unit"]
    overall = run.choices["horseshoe/global"]
    torch.testing.assert_close(run.value, unit * local * overall[:, None])
    drawn = (unit * local)[:, 0]
    for x in (0.05, 0.5, 3.0):
        share = float((drawn <= x).double().mean())
        assert abs(share - marginal(x)) < BOUND
        assert abs(share - stats.cauchy.cdf(x)) > BOUND or x != 0.5  # a fault: a Cauchy law
    assert gap(overall, stats.halfcauchy.cdf) < BOUND


def test_a_slab_bounds_the_largest() -> None:
    """With no other shrinkage a coefficient has the Student law of the slab."""
    wide = program(lambda: vmap(lambda: horseshoe(1, 1e9, slab=2.0, slab_df=4.0), size=4000)())
    drawn = simulate(wide, seed=1).value[:, 0]
    assert gap(drawn, stats.t(4, scale=2.0).cdf) < BOUND
    assert gap(drawn, stats.norm(scale=2.0).cdf) > BOUND / 2


def test_the_share_that_is_explained_is_that_of_its_law() -> None:
    run = simulate(program(lambda: vmap(lambda: r2d2(4, 1.5, 0.3, 5.0), size=4000)()), seed=0)
    share, unit = run.choices["r2d2/share"], run.choices["r2d2/unit"]
    variance = (run.value / unit).square().sum(-1)  # of predictors that are independent
    explained = variance / (variance + 1.5**2)
    assert gap(explained, stats.beta(1.5, 3.5).cdf) < BOUND
    assert gap(explained, stats.beta(3.5, 1.5).cdf) > BOUND
    torch.testing.assert_close(share.sum(-1), torch.ones(4000))


def test_the_global_scale_is_the_formula_and_what_is_out_of_range_is_refused() -> None:
    assert global_scale(5, 105, 400, noise=2.0) == pytest.approx(0.05 * 2 / 20)
    with pytest.raises(ProgramError, match="cannot be relevant"):
        global_scale(5, 5, 100)
    for make in (lambda: horseshoe(0), lambda: r2d2(0, 1.0)):
        with pytest.raises(ProgramError, match="at least one"):
            simulate(program(make))


@program
def regression(x: Tensor, y: Tensor, which: str) -> Tensor:
    if which == "horseshoe":
        b = horseshoe(x.shape[1], global_scale(1, x.shape[1], len(x)), slab=3.0, name="b")
    else:
        b = r2d2(x.shape[1], 1.0, name="b")
    observe("y", dist.Normal(x @ b, 1.0).to_event(1), y)
    return b


@pytest.mark.slow
@pytest.mark.parametrize("which", ["horseshoe", "r2d2"])
def test_nuts_finds_the_one_that_is_large(which: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(60, 8)
    y = 2.0 * x[:, 2] + torch.randn(60)
    run = simulate(regression, x, y, which, seed=0)
    assert bool(assess(regression, run.choices, x, y, which)[0].isfinite())
    torch.manual_seed(0)
    fit = MCMC(nuts(), draws=500, target=0.95, progress=False).run(regression, x, y, which)
    mean = fit["b"].mean((0, 1))
    least = torch.linalg.lstsq(x, y[:, None]).solution[:, 0]
    assert abs(float(mean[2]) - float(least[2])) < 0.4
    others = [i for i in range(8) if i != 2]
    assert float(mean[others].abs().sum()) < float(least[others].abs().sum())


def test_sites_are_named_and_typed() -> None:
    shown = str(program(lambda: horseshoe(2, slab=1.0, name="b")).type())
    sites = "b/global: Positive, b/local: Positive[2], b/unit: Real[2], b/slab: Positive"
    assert shown == f"{{{sites}}} -> P Real[2]"
