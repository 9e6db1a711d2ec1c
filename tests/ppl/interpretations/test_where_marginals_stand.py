"""Exact marginals in scopes, steps, lanes and plates: the same mass as by themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import Tensor

from pushforward import assess, condition, marginal, observe, plate, program, sample, scan, scope
from pushforward.errors import InfiniteMassError, ProgramError
from pushforward.inference import MCMC, Exact
from pushforward.ppl.interpretations import eliminating, quadratic

pytestmark = pytest.mark.usefixtures("double")

Y = torch.tensor([0.4, 2.3, -1.1], dtype=torch.float64)


@program
def real(y: Tensor) -> None:
    t = sample("t", dist.LogNormal(0.0, 1.0))
    with plate("n", len(y)):
        observe("y", dist.Normal(sample("a", dist.Normal(0.0, t)), 1.0), y)


@program
def finite(y: Tensor) -> None:
    t = sample("t", dist.LogNormal(0.0, 1.0))
    with plate("n", len(y)):
        observe("y", dist.Normal(sample("a", dist.Bernoulli(0.3)) * t, 1.0), y)


KINDS = {"real": real, "finite": finite}


def out(kind: str) -> Any:
    return marginal(KINDS[kind], "t", exact=True)


def by_hand(kind: str, t: float, y: Tensor = Y) -> float:
    prior = dist.LogNormal(0.0, 1.0).log_prob(torch.tensor(t))
    if kind == "real":
        seen = dist.Normal(0.0, (1 + t**2) ** 0.5).log_prob(y)
    else:
        both = torch.stack([dist.Normal(a * t, 1.0).log_prob(y) for a in (0.0, 1.0)])
        seen = (both + torch.tensor([0.7, 0.3]).log()[:, None]).logsumexp(0)
    return float(prior + seen.sum())


@pytest.mark.parametrize("kind", KINDS)
def test_alone(kind: str) -> None:
    assert float(assess(out(kind), {"t": 0.7}, Y)[0]) == pytest.approx(
        by_hand(kind, 0.7), abs=1e-10
    )


@pytest.mark.parametrize("kind", KINDS)
def test_in_scopes_and_two_in_one_program(kind: str) -> None:
    q = out(kind)

    @program
    def both() -> None:
        with scope("one"):
            q(Y)
        with scope("other"):
            q(Y[:2])

    found = float(assess(both, {"one/t": 0.7, "other/t": 1.9})[0])
    assert found == pytest.approx(by_hand(kind, 0.7) + by_hand(kind, 1.9, Y[:2]), abs=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_in_the_steps_of_a_loop(kind: str) -> None:
    q = out(kind)

    @program
    def steps() -> Tensor:
        def step(x: Tensor, y: Tensor) -> tuple[Tensor, None]:
            return x + q(y[None])["t"], None

        return scan(step)(torch.tensor(0.0), Y)[0]

    ts = [0.7, 1.9, 0.3]
    found, value = assess(steps, {f"t[{i}]": t for i, t in enumerate(ts)})
    parts = [by_hand(kind, t, y[None]) for t, y in zip(ts, Y, strict=True)]
    assert float(found) == pytest.approx(sum(parts), abs=1e-10)
    assert float(value) == pytest.approx(sum(ts))


@pytest.mark.parametrize("kind", KINDS)
def test_in_lanes_of_data(kind: str) -> None:
    q = out(kind)

    def lane(y: Tensor) -> Tensor:
        return assess(q, {"t": torch.tensor(0.7)}, y)[0]

    rows = torch.stack([Y, Y + 1])
    expected = [by_hand(kind, 0.7, y) for y in rows]
    assert torch.func.vmap(lane)(rows).tolist() == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_a_plate_outside_is_refused(kind: str) -> None:
    q = out(kind)

    @program
    def plated() -> None:
        with plate("p", 2):
            q(Y[:2])

    with pytest.raises(ProgramError, match=r"within the plates \['p'\].*put the plates into"):
        assess(plated, {"t": torch.ones(2)})


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_by_arguments(kind: str) -> None:
    def mass(y: Tensor) -> Tensor:
        return assess(out(kind), {"t": torch.tensor(0.7)}, y)[0]

    slope, h = torch.func.grad(mass)(Y), 1e-6
    for i, unit in enumerate(torch.eye(3)):
        gap = by_hand(kind, 0.7, Y + h * unit) - by_hand(kind, 0.7, Y - h * unit)
        assert float(slope[i]) == pytest.approx(gap / (2 * h), rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_pyro_fits_it(kind: str) -> None:
    pyro.clear_param_store()
    q = out(kind)
    svi = SVI(q, AutoNormal(q), pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
    assert all(torch.isfinite(torch.tensor(svi.step(Y))) for _ in range(3))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_fit_is_gone_on_from(kind: str) -> None:
    driver = MCMC(draws=20, warmup=20, progress=False)
    q = out(kind)
    first = driver.run(q, Y)
    assert driver.run(q, Y, resume=first)["t"].shape == (4, 40)


def test_data_of_a_thousand_batches_are_not_kept() -> None:
    made: list[dict[Any, Any]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(eliminating, "_Found", lambda: made.append({}) or made[-1])
        q = out("real")
        for i in range(eliminating.KEPT + 9):
            assess(q, {"t": 0.7}, Y + i)
    assert len(made[0]) == eliminating.KEPT


def test_finite_latents_may_be_kept() -> None:
    @program
    def model() -> None:
        k = sample("k", dist.Bernoulli(0.3))
        a = sample("a", dist.Normal(k, 1.0))
        observe("y", dist.Normal(a, 1.0), torch.tensor(0.5))

    q = marginal(model, "k", exact=True)
    for k in (0.0, 1.0):
        prior = dist.Bernoulli(0.3).log_prob(torch.tensor(k))
        expected = float(prior + dist.Normal(k, 2**0.5).log_prob(torch.tensor(0.5)))
        assert float(assess(q, {"k": torch.tensor(k)})[0]) == pytest.approx(expected, abs=1e-10)


def test_names_that_are_not_there() -> None:
    with pytest.raises(ProgramError, match=r"keeps .'typo'., which real did not sample"):
        assess(marginal(real, ["t", "typo"], exact=True), {"t": 1.0}, Y)


def test_infinite_integrals() -> None:
    @program
    def flat() -> None:
        t = sample("t", dist.LogNormal(0.0, 1.0))
        a = sample("a", dist.ImproperUniform(dist.constraints.real, (), ()))
        b = sample("b", dist.Normal(a, t))
        observe("y", dist.Normal(b - a, 1.0), torch.tensor(0.5))

    with pytest.raises(InfiniteMassError, match="the integral over a, b is infinite"):
        assess(marginal(flat, "t", exact=True), {"t": 1.0})


# ------------------------------------------------------------------------------ ties that are small


def coupled(rate: float) -> Callable[..., None]:
    """An Ornstein-Uhlenbeck path whose steps tie neighbours by exp(-rate / life)."""

    @program
    def model() -> None:
        life = sample("life", dist.LogNormal(6.2, 1.0))
        keep, x = torch.exp(-rate / life), torch.zeros(())
        for i, y in enumerate([0.5, 0.8, -0.2]):
            x = sample(f"x{i}", dist.Normal(keep * x, 1.0))
            observe(f"y{i}", dist.Normal(x, 0.5), torch.tensor(y))

    return model


@pytest.mark.parametrize("rate", [600.0, 6000.0])
def test_ties_by_factors_that_vanish_elsewhere(rate: float) -> None:
    """exp(-6000 / life) is zero at a life of one, and not at 10 000."""
    p, life = coupled(rate), {"life": torch.tensor(10_000.0)}
    found = float(assess(marginal(p, "life", exact=True), life)[0])
    assert found == pytest.approx(Exact(draws=1).run(condition(p, life)).log_evidence, abs=1e-9)
    assert quadratic.QuadraticLatents(p, (), ["life"]).groups.shape == (1, 3)
