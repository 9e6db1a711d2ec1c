"""An intervention leaves no site behind, and its value is what the rest of the program sees.

Under Pyro 1.9.2's ``poutine.do`` a trace shows, under the name of the site, a fresh draw that
nothing uses, and so does ``Predictive``.
"""

from __future__ import annotations

import pyro
import pytest
import torch

from pushforward import assess, condition, dist, do, program, sample, simulate, vmap
from pushforward.inference import MCMC, importance, nuts, predict
from pushforward.semantics import Measure, check, denote

pytestmark = pytest.mark.usefixtures("double")

FIVE = torch.tensor(5.0)


@program
def chain() -> torch.Tensor:
    a = sample("a", dist.Normal(torch.tensor(0.0), 1.0))
    x = sample("x", dist.Normal(a, 1.0))
    return sample("y", dist.Normal(x, 1e-3))


@program
def coins() -> torch.Tensor:
    x = sample("x", dist.Bernoulli(torch.tensor(0.3)))
    return sample("y", dist.Bernoulli(0.1 + 0.8 * x))


def apart(first: Measure, second: Measure) -> float:
    return first.deviation(second)[0]


def test_no_run_shows_the_site() -> None:
    set_to_five = do(chain, {"x": FIVE})
    trace = simulate(set_to_five, seed=0)
    assert trace.choices.keys() == {"a", "y"} and trace.derived == {}
    assert abs(float(trace.choices["y"]) - 5.0) < 0.01
    a, y = torch.tensor(0.4), torch.tensor(5.001)
    log_density, _ = assess(set_to_five, {"a": a, "y": y})
    exact = dist.Normal(0.0, 1.0).log_prob(a) + dist.Normal(5.0, 1e-3).log_prob(y)
    assert float(log_density) == pytest.approx(float(exact), rel=1e-12)
    lanes = simulate(vmap(lambda v: do(chain, {"x": v})()), torch.tensor([1.0, 2.0]), seed=0)
    assert lanes.value.tolist() == pytest.approx([1.0, 2.0], abs=0.01)
    assert "x" not in lanes.choices


def test_predictions_do_not_either() -> None:
    found = predict(100, do(chain, {"x": FIVE}), seed=0)
    assert found.sites.keys() == {"a", "y"}
    assert float((found["y"] - 5.0).abs().max()) < 0.01


def test_nor_do_posteriors() -> None:
    """What is downstream tells nothing of what is upstream: a keeps its prior, level 1e-6."""
    seen = condition(do(chain, {"x": FIVE}), {"y": torch.tensor(5.0)})
    fit = MCMC(nuts(), chains=4, draws=500, warmup=200, progress=False).run(seen, seed=0)
    assert fit.draws.keys() == {"a"}
    table = fit.summary()
    assert abs(float(table["mean"].iloc[0])) < 5 * float(table["mcse_mean"].iloc[0])


def test_the_measure_is_that_of_the_mutilated_program() -> None:
    def mutilated() -> torch.Tensor:
        return sample("y", dist.Bernoulli(torch.tensor(0.9)))

    set_to_one = do(coins, {"x": torch.tensor(1.0)})
    assert apart(denote(set_to_one, of="trace"), denote(mutilated, of="trace")) < 1e-12
    check.valid(importance(set_to_one, particles=2), mutilated).require()
    wrong = condition(coins, {"x": torch.tensor(1.0)})  # which scores x
    assert apart(denote(wrong), denote(mutilated)) > 0.1


def test_pyros_own_leaves_an_unused_draw() -> None:
    theirs = pyro.poutine.do(coins.fn, data={"x": torch.tensor(1.0)})
    assert len(denote(theirs, of="trace")) == 4
    assert apart(denote(theirs), denote(do(coins, {"x": torch.tensor(1.0)}))) < 1e-12
