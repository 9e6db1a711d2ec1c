"""The front door: each kind of thing, right ones and wrong ones, and what is written of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from support.executors import InTurn
from support.sizes import quick
from torch import Tensor
from torch.distributions import transforms

from pushforward import draw, observe, program, sample
from pushforward.errors import ProgramError
from pushforward.inference import MCMC, Fit, importance, smc
from pushforward.inference.kernels import cycle, gibbs, single_site
from pushforward.semantics import CheckFailed, Report, check
from pushforward.validation import Validation, as_html, as_json, as_junit, laws, validate

pytestmark = pytest.mark.usefixtures("double")


def of(thing: Any, against: Any = None, **settings: Any) -> Validation:
    return validate(thing, against, progress=False, **settings)


# ---------------------------------------------------------------------------------- distributions

LAWS: list[Callable[[], Any]] = [
    lambda: dist.Normal(0.3, 2.0),
    lambda: dist.Poisson(3.0),
    lambda: dist.Categorical(torch.tensor([0.2, 0.8])),
    lambda: dist.Normal(torch.zeros(3), 1.0),
    lambda: dist.Beta(2.0, 0.5),
    lambda: dist.Gamma(2.0, 3.0),
    lambda: dist.Cauchy(0.0, 1.0),
    lambda: dist.Weibull(1.0, 2.0),
    lambda: dist.Dirichlet(torch.tensor([1.0, 2.0, 3.0])),
]


@pytest.mark.parametrize("law", quick(4, LAWS))
def test_right_laws_pass(law: Any) -> None:
    assert of(law()).verdict == "pass"


class Wrong(dist.Normal):
    """A normal law with one mistake."""

    def __init__(self, mistake: str) -> None:
        super().__init__(torch.tensor(0.3), 2.0)
        self.mistake = mistake

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        loc = self.loc + (self.mistake == "expand")
        return dist.Normal(loc, self.scale).expand(batch_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        if self.mistake == "shape":
            value = value.sum(-1) if value.ndim else value
        if self.mistake == "derivative":
            value = value.detach()
        if self.mistake == "no derivative":  # 0 times infinity
            value = value + 0.0 * torch.zeros_like(value).mul(value - value).sqrt()
        found: Tensor = super().log_prob(value) - 0.1 * (self.mistake == "mass")
        return found

    def sample(self, sample_shape: Any = ()) -> Tensor:
        draws: Tensor = super().sample(sample_shape)
        return draws * (1.1 if self.mistake == "draws" else 1.0)

    def icdf(self, value: Tensor) -> Tensor:
        found: Tensor = super().icdf(value)
        return found * (1.01 if self.mistake == "icdf" else 1.0)

    def cdf(self, value: Tensor) -> Tensor:
        if self.mistake == "cdf":
            return 0.5 * (1 + torch.erf((value - self.loc) / self.scale))  # sqrt(2) is missing
        found: Tensor = super().cdf(value)
        return found

    @property
    def variance(self) -> Tensor:
        return self.scale if self.mistake == "variance" else self.scale**2

    def entropy(self) -> Tensor:
        found: Tensor = super().entropy()
        return found - float(self.mistake == "entropy")


MISTAKES: dict[str, Callable[[Any], Report | None]] = {
    "expand": laws.shapes,
    "shape": laws.shapes,
    "derivative": laws.derivative,
    "no derivative": laws.derivative,
    "mass": check.density,
    "draws": check.density,
    "icdf": laws.quantiles,
    "cdf": laws.quantiles,
    "variance": laws.moments,
    "entropy": laws.moments,
}


def test_without_a_mistake_it_passes() -> None:
    assert of(Wrong("none")).verdict == "pass"


@pytest.mark.parametrize(("mistake", "layer"), MISTAKES.items())
def test_a_mistake_of_a_law_is_found(mistake: str, layer: Any) -> None:
    report = layer(Wrong(mistake))
    assert report is not None and report.verdict == "fail"


def test_the_layer_that_fails_is_named() -> None:
    found = of(Wrong("variance"))
    assert [n for n, report in found.reports.items() if report.verdict == "fail"] == ["moments"]


# ------------------------------------------------------------------------------------- bijections

MAPS = [
    transforms.ExpTransform(),
    transforms.AffineTransform(1.0, -2.0),
    transforms.TanhTransform(),
    transforms.StickBreakingTransform(),
    transforms.CorrCholeskyTransform(),
    transforms.SoftmaxTransform(),
    transforms.AbsTransform(),
]


@pytest.mark.parametrize("t", MAPS, ids=lambda t: type(t).__name__)
def test_right_maps_pass(t: Any) -> None:
    assert of(t).verdict == "pass"


class WrongMap(transforms.Transform):
    """exp with one mistake."""

    domain, codomain = dist.constraints.real, dist.constraints.positive
    bijective, sign = True, 1

    def __init__(self, mistake: str) -> None:
        super().__init__()
        self.mistake = mistake
        if mistake == "codomain":
            self.codomain = dist.constraints.greater_than(1.0)

    def _call(self, x: Tensor) -> Tensor:
        return x.exp()

    def _inverse(self, y: Tensor) -> Tensor:
        return y.log10() if self.mistake == "inverse" else y.log()

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return -x if self.mistake == "volume" else x


class Detached(WrongMap):
    """exp, which hides from autograd: right all the same."""

    def _call(self, x: Tensor) -> Tensor:
        return x.detach().exp()


@pytest.mark.parametrize(
    ("mistake", "layer"),
    [("inverse", "there and back"), ("codomain", "image"), ("volume", "volume")],
)
def test_a_mistake_of_a_map_is_found(mistake: str, layer: str) -> None:
    found = of(WrongMap(mistake))
    assert [n for n, report in found.reports.items() if report.verdict == "fail"] == [layer]
    assert of(WrongMap("none")).verdict == "pass"
    assert of(Detached("none")).verdict == "pass"
    assert of(Detached("volume")).reports["volume"].verdict == "fail"


# ---------------------------------------------------------------------------- programs and guides


@program
def coins() -> Tensor:
    x = sample("x", dist.Bernoulli(0.3))
    y = sample("y", dist.Bernoulli(0.2 + 0.5 * x))
    observe("z", dist.Bernoulli(0.1 + 0.4 * x + 0.4 * y), torch.tensor(1.0))
    return x + 2 * y


@program
def line(y: Tensor) -> None:
    a = sample("a", dist.Normal(0.0, 1.0))
    s = sample("s", dist.LogNormal(0.0, 1.0))
    observe("y", dist.Normal(a, s).expand([2]).to_event(1), y)


def test_right_programs_pass() -> None:
    assert of(coins).verdict == "pass"
    found = of(line, args=(torch.tensor([0.3, -0.2]),))
    assert found.verdict == "pass" and "compiled" in found.reports


@program
def impure() -> None:
    sample("x", dist.Normal(np.random.rand(), 1.0))


@program
def cut() -> None:
    x = sample("x", dist.Normal(0.0, 1.0))
    sample("y", dist.Normal(x.detach(), 1.0))


def test_wrong_programs_fail() -> None:
    assert of(impure).reports["the same again"].verdict == "fail"
    assert of(cut).reports["derivative of the density"].verdict == "fail"


def guide_of(*names: str, law: Any = None) -> Callable[[], None]:
    @program
    def guide() -> None:
        for name in names:
            sample(name, law or dist.Bernoulli(0.5))

    return guide


def test_guides() -> None:
    assert of(guide_of("x", "y"), coins).verdict == "pass"
    assert of(guide_of("x"), coins).reports["names and supports"].verdict == "fail"
    assert of(guide_of("x", "w"), coins).verdict == "fail"
    normal = guide_of("x", "y", law=dist.Normal(0.0, 1.0))
    assert of(normal, coins).reports["names and supports"].verdict == "fail"
    never = guide_of("x", "y", law=dist.Bernoulli(1.0))
    assert of(never, coins).reports["weights"].verdict == "fail"


def test_a_guide_of_reals() -> None:
    @program
    def model() -> None:
        a = sample("a", dist.Normal(0.0, 1.0))
        observe("y", dist.Normal(a, 1.0), torch.tensor(0.5))

    @program
    def guide() -> None:
        sample("a", dist.Normal(0.2, 1.5))

    assert of(guide, model).verdict == "pass"


# ------------------------------------------------------------------------------------- algorithms


def test_kernels() -> None:
    assert of(cycle(gibbs("x"), gibbs("y")), coins).verdict == "pass"
    assert of(single_site(lambda log_ratio: torch.ones_like(log_ratio)), coins).verdict == "fail"
    half = of(gibbs("x"), coins)
    assert half.reports["invariant"].verdict == "pass"
    assert half.reports["ergodic"].verdict == "fail"


@program
def three() -> Tensor:
    return sample("x", dist.Categorical(torch.tensor([0.2, 0.3, 0.5])))


def hop(x: Tensor) -> Tensor:
    """A step to the next of three, accepted by Metropolis; back is as likely."""
    masses = torch.tensor([0.2, 0.3, 0.5])
    there = (x + 1 + draw(dist.Bernoulli(0.5)).long()) % 3
    accepted = draw(dist.Bernoulli((masses[there] / masses[x]).clamp(max=1.0)))
    return there if accepted else x


def always(x: Tensor) -> Tensor:
    return (x + 1 + draw(dist.Bernoulli(0.5)).long()) % 3


def test_functions_from_state_to_state() -> None:
    assert of(hop, three).verdict == "pass"
    assert of(always, three).reports["invariant"].verdict == "fail"


def normal() -> Tensor:
    return sample("x", dist.Normal(0.0, 1.0))


def slice_step(x: Tensor, slip: float = 0.0) -> Tensor:
    """Neal's slice sampler, whose loops have no known length: too many paths to evaluate."""
    unit = dist.Uniform(torch.tensor(0.0), torch.tensor(1.0))
    height = -(1 + slip) * x**2 / 2 + draw(unit).log()
    left = x - draw(unit)
    right = left + 1
    while -(left**2) / 2 > height:
        left = left - 1
    while -(right**2) / 2 > height:
        right = right + 1
    while True:
        y = left + draw(unit) * (right - left)
        if -(y**2) / 2 >= height:
            return y
        left, right = (y, right) if y < x else (left, y)


@pytest.mark.slow
@pytest.mark.parametrize(("slip", "verdict"), [(0.0, "pass"), (1.0, "fail")])
def test_kernels_with_too_many_paths_are_followed_by_draws(slip: float, verdict: str) -> None:
    found = of(lambda x: slice_step(x, slip), normal)
    assert found.reports["invariant"].verdict == verdict
    assert "steps at level" in found.reports["invariant"].source


def test_weighted_algorithms() -> None:
    assert of(smc(coins, 2), coins).verdict == "pass"
    assert of(importance(coins, 1), coins).kind == "an algorithm"

    def forgetful() -> tuple[Tensor, Tensor]:
        x = draw(dist.Bernoulli(0.5))
        return x, dist.Bernoulli(0.3).log_prob(x)

    assert of(forgetful, lambda: sample("x", dist.Bernoulli(0.3))).verdict == "fail"


def test_estimators() -> None:
    """d/dm E (m + e)^2 = 2 m."""

    def by_paths(theta: Tensor) -> Tensor:
        return 2 * (theta + draw(dist.Normal(torch.zeros(1), 1.0)))

    def without_a_factor(theta: Tensor) -> Tensor:
        return theta + draw(dist.Normal(torch.zeros(1), 1.0))

    def objective(theta: Tensor) -> Tensor:
        return (theta**2).sum() + 1.0

    at = torch.tensor([0.7])
    assert of(by_paths, objective, at=at).verdict == "pass"
    assert of(without_a_factor, objective, at=at).verdict == "fail"


@program
def normal_mean() -> None:
    mean = sample("mean", dist.Normal(0.0, 1.0))
    sample("y", dist.Normal(mean, 1.0))


class Conjugate:
    """The posterior N(y / 2, 1 / 2) of the mean, drawn directly; ``wide`` spoils it."""

    def __init__(self, wide: float = 1.0) -> None:
        self.wide = wide

    def run(self, p: Any, seed: int) -> dict[str, Tensor]:
        torch.manual_seed(seed)
        centre = p.data["y"] / 2
        return {"mean": centre + self.wide * 0.5**0.5 * torch.randn(50)}


def test_methods() -> None:
    right, wrong = (
        of(Conjugate(wide), normal_mean, observed=["y"], budget=3.0) for wide in (1.0, 1.8)
    )
    assert right.verdict == "pass" and wrong.verdict == "fail"
    assert "ranks of mean" in as_html(right)


def test_methods_at_workers() -> None:
    """The same simulations, as tasks: those of the first stage, for which there is time."""
    executor = InTurn()
    about: dict[str, Any] = {"observed": ["y"], "budget": 1e-3}
    here, there = (of(Conjugate(), normal_mean, executor=e, **about) for e in (None, executor))
    ranks = [found.reports["calibrated"].ranks for found in (here, there)]  # type: ignore[attr-defined]
    assert executor.done == 25 and ranks[0].keys() == ranks[1].keys()
    assert all(torch.equal(ranks[0][name], ranks[1][name]) for name in ranks[0])


@pytest.mark.slow
def test_a_driver_of_the_library() -> None:
    driver = MCMC(draws=100, warmup=100, chains=1, progress=False)
    assert isinstance(driver.run(normal_mean), Fit)
    assert of(driver, normal_mean, observed=["y"]).verdict == "pass"


# ------------------------------------------------------------------------- budgets, pages, errors


def test_a_budget_skips_what_is_left() -> None:
    found = of(dist.Normal(0.0, 1.0), budget=0.0)
    assert not found.reports and found.verdict == "unknown"
    assert all("budget" in each.why for each in found.skipped)
    with pytest.raises(CheckFailed, match="UNKNOWN"):
        found.require()


def test_what_is_written() -> None:
    found = of(WrongMap("volume"))
    told = json.loads(as_json(found))
    assert told["verdict"] == "fail"
    assert [x["layer"] for x in told["layers"] if x["verdict"] == "fail"] == ["volume"]
    suite = ElementTree.fromstring(as_junit(found))
    assert (suite.get("failures"), suite.get("errors")) == ("1", "0")
    assert "at -3.1" in (suite.find("*/failure").get("message") or "")  # type: ignore[union-attr]
    page = as_html(found)
    assert page.startswith("<!doctype html>") and "volume: fail" in page
    broken = of(lambda: 1 / 0, coins, args=())
    assert json.loads(as_json(broken))["layers"][0]["deviation"] is None


def test_what_cannot_be_told() -> None:
    with pytest.raises(ProgramError, match="nothing that can be validated"):
        of(3)
    with pytest.raises(ProgramError, match=r"is a kernel.*its target"):
        of(single_site())
    with pytest.raises(ProgramError, match="observed="):
        of(Conjugate(), normal_mean)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pushforward.__main__ import main

    file = tmp_path / "mine.py"
    file.write_text(
        "import torch\nfrom pushforward import dist, observe, program, sample\n"
        "from pushforward.inference.kernels import single_site\n"
        "kernel = single_site()\n"
        "wrong = single_site(lambda log_ratio: torch.ones_like(log_ratio))\n"
        "@program\ndef coin():\n    x = sample('x', dist.Bernoulli(0.3))\n"
        "    observe('y', dist.Bernoulli(0.1 + 0.8 * x), torch.tensor(1.0))\n    return x\n"
    )
    out = [f"--{kind}={tmp_path / kind}" for kind in ("json", "junit", "html")]
    for name, status in (("kernel", 0), ("wrong", 1)):
        with pytest.raises(SystemExit) as ended:
            main(["validate", f"{file}:{name}", "--against", f"{file}:coin", *out])
        assert ended.value.code == status
        assert json.loads((tmp_path / "json").read_text())["verdict"] == (
            "fail" if status else "pass"
        )
    assert "leaves points_of(coin) invariant" in capsys.readouterr().out
