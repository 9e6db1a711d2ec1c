"""SGHMC: its steps by hand, its bias by Lyapunov's equation and by the checks, its batches."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.linalg import solve_discrete_lyapunov
from support.sizes import quick
from torch import Tensor

from pushforward import dist, observe, plate, program, sample
from pushforward.inference import MCMC, SGMCMC, Conditional, sghmc
from pushforward.inference.drivers.sgmcmc import LogDensity
from pushforward.inference.mcmc import Parameters
from pushforward.inference.mcmc.sghmc import Moving, step
from pushforward.semantics import check

pytestmark = pytest.mark.usefixtures("double")


def quadratic(precision: float) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    return lambda x: (-precision * x.square().sum(-1) / 2, -precision * x)


# The size of the bias, exactly: on a normal law with precision k a transition is linear


RATE, FRICTION, PRECISION, INVERSE_MASS = 0.4, 0.3, 1.5, 0.8


def stationary(rate: float, friction: float, k: float = PRECISION) -> Any:
    """The covariance of position and momentum, by Lyapunov's equation."""
    pull = rate**2 * INVERSE_MASS
    noise = 2 * friction * pull - rate**4
    kick = np.array([[1 - pull * k, 1 - friction], [-pull * k, 1 - friction]])
    return solve_discrete_lyapunov(kick, noise * np.ones((2, 2)))


def law(covariance: Any) -> Any:
    """Position and momentum with a joint normal law."""
    (xx, xr), (_, rr) = covariance

    @program
    def states() -> Tensor:
        x = sample("x", dist.Normal(torch.tensor(0.0), torch.tensor(math.sqrt(xx))))
        left = torch.tensor(math.sqrt(rr - xr**2 / xx))
        return torch.stack([x, sample("r", dist.Normal(x * (xr / xx), left))])

    return states


def kernel(rate: float = RATE, fault: str = "") -> Callable[[Tensor], Tensor]:
    """A transition of one chain at (x, r); a fault is one of the terms left out or turned round."""
    potential = quadratic(-PRECISION if fault == "slope" else PRECISION)
    friction = FRICTION * (1 + 1e-3) if fault == "friction" else FRICTION

    def transition(state: Tensor) -> Tensor:
        x, r = state[:1, None], state[1:, None]
        at = Moving(x, *potential(x), r)
        parameters = Parameters(torch.tensor(rate), torch.full((1, 1), INVERSE_MASS))
        if fault == "noise":  # of the momentum before the step, not of the rate squared
            parameters = parameters._replace(step_size=torch.tensor(rate * (1 + 1e-3)))
        found, _ = step(at, potential, parameters, friction=friction)
        return torch.cat([found.position[0], found.momentum[0]])

    return transition


def test_the_kernel_keeps_the_law_that_lyapunov_gives() -> None:
    exact = law(stationary(RATE, FRICTION))
    check.invariant(kernel(), exact, quadrature=32).require()


@pytest.mark.parametrize("fault", quick(1, ["friction", "slope", "noise"]))
def test_a_kernel_with_a_fault_does_not(fault: str) -> None:
    exact = law(stationary(RATE, FRICTION))
    assert check.invariant(kernel(fault=fault), exact, quadrature=32).verdict == "fail"


def test_the_checks_flag_its_bias_with_its_size() -> None:
    """The posterior, with the momenta of continuous time, is not kept: 0.816 becomes 0.741."""
    pull = RATE**2 * INVERSE_MASS
    report = check.invariant(kernel(), law(np.diag([1 / PRECISION, pull])), quadrature=32)
    assert report.verdict == "fail"
    kick = np.array([[1 - pull * PRECISION, 1 - FRICTION], [-pull * PRECISION, 1 - FRICTION]])
    noise = 2 * FRICTION * pull - RATE**4
    after = kick @ np.diag([1 / PRECISION, pull]) @ kick.T + noise
    said = f"deviation {PRECISION**-0.5:.6g} before the step"
    assert said in str(report.counterexample)
    assert f"{math.sqrt(after[0, 0]):.6g} after it" in str(report.counterexample)


def test_its_bias_is_of_the_order_of_the_rate_squared() -> None:
    """Of the exact law: the variance of x is 1 / k up to rate^2, and so says Stein's identity."""
    off = [PRECISION * stationary(rate, FRICTION)[0, 0] - 1 for rate in (0.2, 0.1, 0.05)]
    assert off[0] / off[1] == pytest.approx(4, rel=0.1)
    assert off[1] / off[2] == pytest.approx(4, rel=0.05)


# As a kernel of the driver MCMC


@program
def line() -> None:
    sample("x", dist.Normal(torch.tensor(1.0), torch.tensor(0.5)))


def small(**about: Any) -> Any:
    settings = {"chains": 16, "draws": 60, "warmup": 60, "thin": 2} | about
    return MCMC(sghmc(0.2, 0.2), progress=False, compiled=False, **settings)


def test_the_driver_runs_it_and_says_how_far_off_it_is() -> None:
    fit = small().run(line, seed=1)
    assert fit["x"].shape == (16, 60)
    assert float(fit["x"].mean()) == pytest.approx(1.0, abs=0.15)
    (said,) = fit.report
    assert said.startswith("SGHMC has a bias") and said in fit.warnings()
    again = small().run(line, seed=1)
    assert torch.equal(fit["x"], again["x"])


def test_stein_s_identity_gives_the_bias_of_a_run() -> None:
    """With M^-1 learnt as 2 (for slopes of deviation 2): the exact figure, to within 5 errors."""
    fit = MCMC(
        sghmc(0.3, 0.3), chains=64, draws=400, warmup=150, progress=False, compiled=False
    ).run(line, seed=0)
    inverse_mass = fit.state["inverse_mass"]
    exact = np.mean([_variance(0.3, 0.3, 4.0, float(m)) * 4.0 for m in inverse_mass[:, 0]])
    said = float(fit.report[0].split("posterior, is ")[1].split()[0])
    assert said == pytest.approx(exact, abs=0.05)
    assert exact < 0.9


def _variance(rate: float, friction: float, k: float, inverse_mass: float) -> float:
    pull = rate**2 * inverse_mass
    noise = max(2 * friction * pull - rate**4, 1e-16)
    kick = np.array([[1 - pull * k, 1 - friction], [-pull * k, 1 - friction]])
    return float(solve_discrete_lyapunov(kick, noise * np.ones((2, 2)))[0, 0])


class Kept:
    """A store that holds what a run was at each transition."""

    def __init__(self, content: Any = None) -> None:
        self.content, self.seen = content, list[Any]()

    def offer(self, content: Callable[[], Any]) -> None:
        self.seen.append(copy.deepcopy(content()))

    write = staticmethod(lambda content: None)


@pytest.mark.parametrize("at", [7, 25])
def test_a_run_goes_on_from_what_was_kept_as_if_it_had_not_stopped(at: int) -> None:
    """In burn-in, and among draws."""
    whole, start, kept = sghmc(0.2, 0.2), torch.tensor([[0.5], [-1.0]]), Kept()
    run: Any = whole.sample
    torch.manual_seed(0)
    first = run(whole, quadratic(2.0), start, 20, 10, thin=2, store=kept)
    again = run(whole, quadratic(2.0), start, 20, 10, thin=2, store=Kept(kept.seen[at]))
    assert first.draws.shape == (2, 10, 1)
    assert torch.equal(first.draws, again.draws) and first.report == again.report


def test_a_resumed_run_has_no_burn_in() -> None:
    first = small().run(line, seed=3)
    more = small().run(line, seed=4, resume=first)
    assert more["x"].shape == (16, 120)
    torch.testing.assert_close(more.state["inverse_mass"], first.state["inverse_mass"])


BAD: dict[str, Any] = {
    "rate": lambda: sghmc(0.0),
    "negative rate": lambda: sghmc(-1.0),
    "NaN": lambda: sghmc(math.nan),
    "friction": lambda: sghmc(0.1, 0.0),
    "much friction": lambda: sghmc(0.1, 1.1),
    "chains": lambda: SGMCMC(chains=0),
    "draws": lambda: SGMCMC(draws=5, discard=5),
    "batch": lambda: SGMCMC(batch=0),
    "no data": lambda: SGMCMC().run(data, *DATA, size=0),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_settings(name: str) -> None:
    with pytest.raises(ValueError, match=r"sghmc: |SGMCMC: "):
        BAD[name]()


def test_a_loss_that_is_no_number_is_told_with_its_transition() -> None:
    def steep() -> None:
        x = sample("x", dist.Normal(torch.tensor(0.0), torch.tensor(1.0)))
        observe("y", dist.Normal(x.exp().exp(), torch.tensor(1e-3)), torch.tensor(0.0))

    with pytest.raises(FloatingPointError, match="not finite after transition"):
        MCMC(sghmc(50.0), draws=50, progress=False, compiled=False).run(steep)


# Batches of data


X = torch.tensor([[0.3], [-1.0], [0.8], [2.0], [0.1]], dtype=torch.float64)
DATA = (X, torch.tensor([0.2, -0.7, 1.1, 1.9, -0.4], dtype=torch.float64))


@program
def data(x: Tensor, y: Tensor, rows: Tensor | None = None) -> None:
    slope = sample("slope", dist.Normal(torch.tensor(0.0), torch.tensor(2.0)))
    at = x if rows is None else x[rows]
    with plate("data", len(y), subsample=rows):
        observe("y", dist.Normal(slope * at[:, 0], 0.5), y if rows is None else y[rows])


def test_gradients_of_batches_are_unbiased() -> None:
    """The mean over all batches of one row is the whole gradient: each is drawn equally often."""
    u = torch.tensor([[0.4], [-1.3]])
    whole = LogDensity(data, *DATA, None)
    exact = torch.stack([torch.func.grad(whole)(each) for each in u])
    rows, found = torch.arange(5), []
    for row in rows:
        one = LogDensity(data, *DATA, row[None])
        found.append(torch.stack([torch.func.grad(one)(each) for each in u]))
    torch.testing.assert_close(torch.stack(found).mean(0), exact)
    driver = SGMCMC(batch=1, progress=False)
    torch.manual_seed(0)
    many = torch.tensor([[0.4]]).expand(4000, 1)
    _, slopes = driver.potential(data, DATA, 5, many)(many)
    each = torch.stack(found)[:, 0].flatten()
    nearest = (slopes - each).abs().min(1)
    assert float(nearest.values.max()) < 1e-9  # each chain has a batch of its own
    counts = nearest.indices.bincount(minlength=5)
    assert bool(((counts - 800).abs() < 5 * math.sqrt(640)).all())  # level 3e-6


def test_all_rows_are_the_whole_gradient() -> None:
    u = torch.tensor([[0.4], [-1.3]])
    whole = LogDensity(data, *DATA, None)
    value, slope = SGMCMC(batch=9).potential(data, DATA, 5, u)(u)
    torch.testing.assert_close(value, torch.stack([whole(each) for each in u]))
    torch.testing.assert_close(slope[0], torch.func.grad(whole)(u[0]))


def test_draws_by_batches_are_about_the_posterior() -> None:
    """A line through the origin, whose posterior is normal; batches of 3 of 5 rows."""
    precision = 1 / 4 + float(X.square().sum()) / 0.25
    mean = float(X[:, 0] @ DATA[1]) / 0.25 / precision
    driver = SGMCMC(
        sghmc(0.05, 0.1), chains=16, draws=60, warmup=150, thin=6, batch=3, progress=False
    )
    fit = driver.run(data, *DATA, size=5, seed=0)
    assert fit["slope"].shape == (16, 50) and fit.log_likelihood["y"].shape == (16, 50, 5)
    assert float(fit["slope"].mean()) == pytest.approx(mean, abs=0.35 * precision**-0.5)
    assert 0.5 < float(fit["slope"].var()) * precision < 2.0


def test_sites_with_a_conditional_are_left_to_it() -> None:
    @program
    def pair(rows: Tensor | None) -> None:
        scale = sample("scale", dist.InverseGamma(torch.tensor(3.0), torch.tensor(2.0)))
        sample("w", dist.Normal(torch.zeros(4), scale.sqrt()).to_event(1))

    given: list[float] = []

    def drawn(values: Any) -> Any:
        given.append(float(values["scale"]))
        return {"scale": torch.tensor(float(len(given) + 1))}

    driver = SGMCMC(
        sghmc(0.05, 0.1), chains=1, draws=6, warmup=0, thin=10, discard=0, every=20,
        gibbs=Conditional(("scale",), drawn), progress=False,
    )  # fmt: skip
    fit = driver.run(pair, size=1, seed=0)
    assert given[1:] == pytest.approx([2.0, 3.0])
    start = given[0]
    assert fit["scale"][0].tolist() == pytest.approx([start, 2.0, 2.0, 3.0, 3.0, 4.0])
    with pytest.raises(ValueError, match="no latents"):
        SGMCMC(gibbs=Conditional(("noise",), drawn), progress=False).run(pair, size=1)
