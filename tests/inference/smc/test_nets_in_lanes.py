"""Filters by quasi-random points in lane code make the populations of the program, by its own."""

from __future__ import annotations

import ctypes
import math
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from support.filters import MODELS, YS, f, kalman
from torch import Tensor

from pushforward.errors import GuideError
from pushforward.inference import sqmc
from pushforward.inference.smc.by_nets import ByNets
from pushforward.inference.smc.curves import along_curve
from pushforward.inference.smc.lanes import engine
from pushforward.inference.smc.lanes.nets import NetParticle, Nets, digits_of, quick_nets
from pushforward.inference.smc.lanes.quick import population
from pushforward.inference.smc.population import Population
from pushforward.ppl import Program, compiled, observe, program, sample, scan
from pushforward.ppl.distributions.nets import MOST, ScrambledNet


def of_engine() -> Any:
    return engine._built(engine.source(), torch.float64)


# -------------------------------------------------------------------------------- points and orders


def points_of_engine(law: ScrambledNet, shift: Tensor, coins: Tensor) -> Tensor:
    found = torch.empty(law.d, law.n, dtype=torch.float64)
    directions = law.directions()
    both = torch.cat([shift[:, None], coins], 1).contiguous()
    about = digits_of(law, directions)
    sizes = ctypes.c_long(law.n), ctypes.c_long(law.d)
    places = ctypes.c_void_p(both.data_ptr()), ctypes.c_void_p(found.data_ptr())
    of_engine().points(*sizes, ctypes.byref(about), *places)
    return found.T


@pytest.mark.parametrize("digits", [2, 23, MOST])
@pytest.mark.parametrize(("n", "d"), [(1, 1), (2, 3), (7, 2), (8, 5), (64, 4), (100, 2), (1000, 3)])
def test_the_same_points_by_the_same_coins(n: int, d: int, digits: int) -> None:
    law = ScrambledNet(n, d, digits)
    generator = torch.Generator().manual_seed(n)
    shift = torch.randint(1 << digits, (d,), generator=generator)
    coins = torch.randint(1 << digits, (d, law.columns), generator=generator)
    assert torch.equal(points_of_engine(law, shift, coins), law._points(shift, coins))


@pytest.mark.parametrize("s", [0, 1, 2, 3, 5, 40])
def test_the_same_order(s: int) -> None:
    x = torch.randn(200, s, generator=torch.Generator().manual_seed(s), dtype=torch.float64)
    if s:
        x[3] = x[7]
        x[:, 0] = x[:, 0].round(decimals=1)
        x[0, 0] = math.nan if s == 1 else 0.0
    found, columns = torch.empty(200, dtype=torch.int32), x.T.contiguous()
    place, to = (ctypes.c_void_p(y.data_ptr()) for y in (columns, found))
    of_engine().order_of(place, ctypes.c_long(s), ctypes.c_long(200), to)
    assert found.tolist() == along_curve(x).tolist()


# --------------------------------------------------------------------------------- same populations


@program
def correlated(ys: Tensor) -> Any:
    """A start that is chosen, a state in the plane, a place, and laws of several kinds."""
    start = sample("start", dist.Laplace(f(0.0), f(1.0)))
    factor = f(1.0, 0.0, 0.5, 0.8).reshape(2, 2)
    rows = torch.softmax(torch.arange(9, dtype=torch.float64).reshape(3, 3).sin(), -1)

    def step(carry: Any, y: Tensor) -> Any:
        x, z = carry
        z = sample("z", dist.Categorical(rows[z]))
        x = sample("x", dist.MultivariateNormal(0.8 * x.flip(0), scale_tril=factor))
        w = sample("w", dist.LogNormal(0.1 * x[0], f(0.3))) + sample("v", dist.HalfNormal(f(1.0)))
        observe("y", dist.Normal(x[1] + z, w), y)
        return (x, z), x

    place = torch.tensor(0)
    return start, scan(step)((torch.stack([start, -start]), place), ys)


NETS: dict[str, tuple[Program, Any]] = {
    **{name: MODELS[name] for name in ("linear", "volatility", "hidden Markov", "vector")},
    "correlated": (correlated, (YS,)),
    "dying": MODELS["dying"],
}


def replayed(name: str, n: int, monkeypatch: pytest.MonkeyPatch) -> list[Population]:
    """A population of the program, and that of lane code by the same points."""
    (model, args), seen = NETS[name], list[Tensor]()
    drawn = ScrambledNet.sample
    filtering = ByNets(model, n)
    with torch.no_grad(), monkeypatch.context() as patched:
        made = NetParticle(filtering, args)
        patched.setattr(
            ScrambledNet, "sample", lambda law, *a: (seen.append(drawn(law, *a)), seen[-1])[1]
        )
        torch.manual_seed(n)
        expected = sqmc(model, n)(*args)
    given = torch.cat([x.T.reshape(-1) for x in seen])
    with torch.no_grad():
        return [expected, population(Nets(made), torch.zeros(2).long(), *args, given=given)]


def same(expected: Population, found: Population) -> None:
    torch.testing.assert_close(
        found._replace(log_weights=found.log_weights.double()),
        expected._replace(log_weights=expected.log_weights.double()),
        rtol=1e-8,
        atol=1e-8,
    )


@pytest.mark.parametrize("name", NETS)
def test_the_same_populations_by_the_same_points(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in (1, 3, 64, 600):
        same(*replayed(name, n, monkeypatch))


SCATTER = "scatter(1 + run->step.points);"
FAULTS = {
    "ancestors stand as they come": ("chosen[j] = order[i];", "chosen[j] = i;"),
    "weights stand as they come": ("total += ends[order[j]]", "total += ends[j]"),
    "points of another particle": ("- code.points * n + first;", "- code.points * n;"),
    "choosers move too": (SCATTER, f"{SCATTER} std::copy_n(grid.begin(), n, grid.begin() + n);"),
    "points are ancestors in turn": (
        "sums[i] / total < grid[j]",
        "sums[i] / total < (j + 1.0) / n",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_rejected(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, (right, wrong) = engine.source(), FAULTS[fault]
    assert text.count(right) == 1
    monkeypatch.setattr(engine, "source", lambda: text.replace(right, wrong))
    with pytest.raises(AssertionError):
        same(*replayed("linear", 600, monkeypatch))


# -------------------------------------------------------------------------------- as a user runs it


def test_the_evidence_is_unbiased() -> None:
    """Level 1e-6: the mean of 1 000 estimates of four particles, five standard errors."""
    model, (ys, phi) = MODELS["linear"]
    said: list[str] = []
    run = compiled(sqmc(model, 4), notify=said.append)
    torch.manual_seed(7)
    with torch.no_grad():
        found = torch.stack([run(ys, phi).log_evidence() for _ in range(1000)])
    assert not said
    ratio = (found - kalman(ys, float(phi))).exp()
    assert abs(float(ratio.mean()) - 1) < 5 * float(ratio.std()) / math.sqrt(1000)


def test_errors_are_small() -> None:
    """Level 1e-6: as of ``test_quasi_random.py``; independent particles have errors of 0.1 here."""
    model, (ys, phi) = MODELS["linear"]
    run = compiled(sqmc(model, 4096))
    torch.manual_seed(7)
    with torch.no_grad():
        found = torch.stack([run(ys, phi).log_evidence() for _ in range(30)])
    assert float((found - kalman(ys, float(phi))).square().mean().sqrt()) < 0.005


def test_single_precision_is_finite() -> None:
    """A hundred thousand points a step, none of which is one in single precision."""

    @program
    def model(ys: Tensor) -> Tensor:
        def step(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            x = sample("x", dist.Normal(0.9 * x, torch.tensor(1.0)))
            observe("y", dist.Normal(x, torch.tensor(0.5)), y)
            return x, x

        return scan(step)(sample("x0", dist.Normal(torch.zeros(()), 1.0)), ys)[1]

    ys = torch.tensor([0.5, -1.0, 0.3])
    with torch.no_grad():
        code = quick_nets(ByNets(model, 1 << 17), (ys,), None)
        assert code is not None
        found = code(torch.tensor([1, 2]), ys)
    assert found.values.dtype == torch.float32
    assert bool(found.values.isfinite().all())
    assert abs(float(found.log_evidence()) - kalman(ys, 0.9)) < 0.01


def test_what_has_no_quantile_is_left_to_the_program() -> None:
    @program
    def model(ys: Tensor) -> Tensor:
        def step(x: Tensor, y: Tensor) -> tuple[Tensor, None]:
            x = sample("x", dist.Gamma(f(2.0), 1 / (x + 0.1)))
            observe("y", dist.Poisson(x), y)
            return x, None

        return scan(step)(f(1.0), ys)[0]

    said: list[str] = []
    with torch.no_grad():
        assert quick_nets(ByNets(model, 8), (YS.abs().round(),), said.append) is None
    assert any("gamma" in line for line in said)


def test_proposals_are_checked() -> None:
    model, args = MODELS["linear"]

    def narrow(x: Tensor, y: Tensor, *args: Any) -> None:
        sample("x", dist.Uniform(f(0.0), f(1.0)))

    with torch.no_grad(), pytest.raises(GuideError, match="never propose some values"):
        compiled(sqmc(model, 3, narrow))(*args)
