"""Finite latents that were summed out, after the fact, against enumeration of joint values."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from typing import Any

import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import torch
from scipy.stats import chi2
from support.sizes import quick
from torch import Tensor

from pushforward import condition, deterministic, marginal, observe, plate, program, sample, scan
from pushforward.errors import DataError, ProgramError, ZeroMassError
from pushforward.inference import MCMC, Fit, predict
from pushforward.ppl import assess
from pushforward.ppl.language.program import Callback

pytestmark = pytest.mark.usefixtures("double")

LEVEL = 1e-6  # of each statistical test
DRAWS = 4000


def f(x: Any) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


# ------------------------------------------------------------------------- random small models


class Model:
    """A random program of a latent ``rate``, two parts with finite latents and their data.

    ``whole``: with real latents that depend on finite ones, and that nothing looks at: these do not
    change the law of the others.
    """

    def __init__(self, seed: int) -> None:
        rng = random.Random(seed)
        self.parts = rng.sample(["mixture", "chain", "switch", "pairs"], 2)
        self.mask = torch.tensor([rng.random() < 0.7 for _ in range(3)])
        self.y = f([rng.gauss(0.0, 2.0) for _ in range(3)])
        self.counts = f([float(rng.randrange(5)) for _ in range(3)])
        self.logits = f([rng.gauss(0.0, 1.0) for _ in range(3)])
        self.missing = rng.random() < 0.7
        self.rate = f(rng.uniform(0.2, 0.8))
        self.names: list[str] = []

    def program(self, whole: bool = True) -> Callback:
        def model() -> None:
            rate = sample("rate", dist.Beta(2.0, 2.0))
            for part in self.parts:
                getattr(self, part)(rate, whole and self.missing)

        return model

    def mixture(self, rate: Tensor, missing: bool) -> None:
        with plate("points", 3):
            z = sample("z", dist.Bernoulli(rate))
            with poutine.mask(mask=self.mask):
                observe("y", dist.Normal(2 * z - 1, 1.0), self.y)
            if missing:
                sample("other", dist.Normal(z, 1.0))

    def chain(self, rate: Tensor, missing: bool) -> None:
        def step(s: Tensor, row: tuple[Tensor, Tensor]) -> tuple[Tensor, None]:
            x, seen = row
            stay = torch.stack([rate, 1 - rate])
            s = sample("s", dist.Categorical(torch.where(s == 0, stay, stay.flip(0))))
            with poutine.mask(mask=seen):
                observe("x", dist.Poisson(1 + 2.0 * s), x)
            return s, None

        scan(step)(torch.tensor(0), (self.counts, self.mask))

    def switch(self, rate: Tensor, missing: bool) -> None:
        kind = sample("kind", dist.Categorical(logits=self.logits))
        on = sample("on", dist.Bernoulli(torch.stack([rate, 1 - rate, rate / 2])[kind]))
        observe("w", dist.Normal(kind * (1 - on), 0.7), self.y[0])
        if missing:
            sample("unseen", dist.Normal(kind * 1.0, 1.0))

    def pairs(self, rate: Tensor, missing: bool) -> None:
        which = sample("which", dist.Bernoulli(rate))
        with plate("rows", 2):
            a = sample("a", dist.Bernoulli(0.3 + 0.4 * which))
            b = sample("b", dist.Bernoulli(0.2 + 0.6 * a * rate))
            observe("v", dist.Normal(a - 2 * b + which, 1.0), self.y[:2])

    def finite(self) -> dict[str, tuple[int, tuple[int, ...]]]:
        """Of each finite site: how many values, and its shape."""
        all_parts: dict[str, dict[str, tuple[int, tuple[int, ...]]]] = {
            "mixture": {"z": (2, (3,))},
            "chain": {f"s[{t}]": (2, ()) for t in range(3)},
            "switch": {"kind": (3, ()), "on": (2, ())},
            "pairs": {"which": (2, ()), "a": (2, (2,)), "b": (2, (2,))},
        }
        return {name: x for part in self.parts for name, x in all_parts[part].items()}

    def probabilities(self) -> dict[tuple[int, ...], float]:
        """Of each joint value of the finite sites, flat, given rate and data: by enumeration."""
        finite = self.finite()
        sizes = [k for k, shape in finite.values() for _ in range(torch.Size(shape).numel())]
        joint = list(itertools.product(*map(range, sizes)))
        logs = torch.stack([assess(self.program(False), self.choices(z))[0] for z in joint])
        return dict(zip(joint, torch.softmax(logs, 0).tolist(), strict=True))

    def choices(self, joint: tuple[int, ...]) -> dict[str, Tensor]:
        found, left = {"rate": self.rate}, list(joint)
        for name, (_, shape) in self.finite().items():
            n = torch.Size(shape).numel()
            own, left = left[:n], left[n:]
            categorical = name == "kind" or name.startswith("s[")
            dtype = torch.int64 if categorical else torch.float64
            found[name] = torch.tensor(own, dtype=dtype).reshape(shape)
        return found

    def fit(self, n: int = DRAWS) -> Fit:
        return Fit("by hand", {"rate": self.rate.expand(1, n)}, latents=("rate",))

    def joint(self, found: Any) -> list[tuple[int, ...]]:
        """The joint values that were predicted."""
        columns = [found[name][0].reshape(len(found[name][0]), -1) for name in self.finite()]
        return [tuple(map(int, row)) for row in torch.cat(columns, 1).tolist()]


def p_value(drawn: list[tuple[int, ...]], expected: dict[tuple[int, ...], float]) -> float:
    """Of Pearson's test; values that are expected fewer than ten times are one cell."""
    counts, n = Counter(drawn), len(drawn)
    often = [z for z, p in expected.items() if p * n >= 10]
    cells = [(counts[z], expected[z] * n) for z in often]
    rest = n - sum(c for c, _ in cells), n - sum(e for _, e in cells)
    cells += [rest] if rest[1] > 10 else []
    total = sum((c - e) ** 2 / e for c, e in cells)
    return float(chi2.sf(total, max(len(cells) - 1, 1)))


MODELS = quick(6, range(60))


@pytest.mark.parametrize("seed", MODELS)
def test_draws_have_the_law_that_enumeration_finds(seed: int) -> None:
    model = Model(seed)
    expected = model.probabilities()
    drawn = model.joint(predict(model.fit(), model.program(), seed=seed))
    assert p_value(drawn, expected) > LEVEL
    assert model.joint(predict(model.fit(), model.program(), discrete="sample", seed=seed)) == drawn


@pytest.mark.parametrize("seed", MODELS)
def test_the_most_probable_value_is_that_of_enumeration(seed: int) -> None:
    model = Model(seed)
    expected = model.probabilities()
    (found,) = set(model.joint(predict(model.fit(3), model.program(), discrete="max")))
    assert expected[found] == pytest.approx(max(expected.values()), rel=1e-9)


def test_draws_from_the_prior_law_are_rejected() -> None:
    """The negative control: what predict did before, for models that have data."""
    for seed in (0, 1, 2):
        model = Model(seed)
        drawn = model.joint(predict(model.fit(), model.program(), discrete="prior", seed=seed))
        assert p_value(drawn, model.probabilities()) < 1e-12


def test_the_most_probable_joint_value_is_none_of_the_margins() -> None:
    """P(z) = 0.4 at (0, 0), 0.35 at (1, 0), 0.25 at (1, 1): margins say (1, 0)."""

    def tree() -> None:
        a = sample("a", dist.Bernoulli(0.6))
        sample("b", dist.Bernoulli(torch.where(a == 1, f(0.25 / 0.6), f(0.0))))
        sample("x", dist.Normal(0.0, 1.0))

    fit = Fit("by hand", {"x": torch.zeros(1, 2)}, latents=("x",))
    found = predict(fit, tree, discrete="max")
    assert (found["a"] == 0).all() and (found["b"] == 0).all()


# ------------------------------------------------------------------------------ programs of users


@program
def mixture(y: Tensor) -> None:
    centre = sample("centre", dist.Normal(f([-2.0, 2.0]), 1.0).to_event(1))
    with plate("points", len(y)):
        z = sample("z", dist.Bernoulli(0.5))
        deterministic("own", centre[z.long()])
        observe("y", dist.Normal(centre[z.long()], 1.0), y)


Y = f([-1.6, 2.1, 0.3, -2.3])


def test_allocations_of_a_mixture_that_nuts_fitted() -> None:
    """By hand: P(z = 1) is the logistic of the difference of log densities, at each draw."""
    fit = MCMC(draws=500, warmup=200, progress=False).run(marginal(mixture, exact=True), Y, seed=1)
    found = predict(fit, mixture, Y, seed=2)
    squares = (Y[:, None] - fit["centre"][..., None, :]).square() / 2
    expected = torch.sigmoid(squares[..., 0] - squares[..., 1])
    error = (found["z"] - expected).mean((0, 1))
    sd = (expected * (1 - expected)).sum((0, 1)).sqrt() / (fit.chains * fit.size)
    assert (error.abs() < 5 * sd).all()
    most = predict(fit, mixture, Y, discrete="max")
    assert torch.equal(most["z"], (expected > 0.5).double())
    assert torch.equal(most["own"], fit["centre"].gather(-1, most["z"].long()))


def test_replicated_data_have_the_allocations_of_the_data() -> None:
    """As those of a fit that holds them: the mean of a replicate is that of its component."""
    fit = Fit("by hand", {"centre": f([-9.0, 9.0]).expand(1, 4000, 2)}, latents=("centre",))
    y = f([-9.0, 9.0])
    held = Fit(
        "by hand", {**fit.draws, "z": f([0.0, 1.0]).expand(1, 4000, 2)}, latents=("centre", "z")
    )
    for known in (fit, held):
        assert (predict(known, mixture, y)["y"].mean((0, 1)) - y).abs().max() < 0.1
    anew = predict(fit, mixture, y, discrete="prior")["y"]
    assert anew.mean((0, 1)).abs().max() < 1.0
    again = predict(held, mixture, y, given=["centre"])["y"]  # left out: drawn from its law
    assert again.mean((0, 1)).abs().max() < 1.0


def capture_recapture(seen: Tensor) -> None:
    """Animals [n] of which those never caught may not exist; occasions [n, t]."""
    p = sample("p", dist.Beta(1.0, 1.0))
    with plate("animals", len(seen), dim=-1):
        there = sample("there", dist.Bernoulli(0.5))
        observe("seen", dist.Binomial(3, p * there), seen)


def test_animals_that_were_never_caught() -> None:
    """By hand: 1 - q^3 is lost of the prior odds, q = 1 - p."""
    seen = f([2.0, 1.0, 0.0])
    fit = Fit("by hand", {"p": f(0.3).expand(1, 8000)}, latents=("p",))
    there = predict(fit, capture_recapture, seen, seed=4)["there"].mean((0, 1))
    unseen = 0.7**3 / (1 + 0.7**3)
    assert there[:2].tolist() == [1.0, 1.0]
    assert abs(float(there[2]) - unseen) < 5 * (unseen * (1 - unseen) / 8000) ** 0.5


def test_where_nothing_is_given() -> None:
    """By hand: P(z = 1) = 0.3 * 0.8 / (0.3 * 0.8 + 0.7 * 0.4) = 6 / 13."""

    def coin() -> None:
        z = sample("z", dist.Bernoulli(0.3))
        observe("x", dist.Bernoulli(0.4 + 0.4 * z), f(1.0))

    fit = Fit("by hand", {"z": torch.zeros(1, DRAWS)}, latents=("z",))
    drawn = predict(fit, coin, given=[], discrete="sample")["z"].mean()
    assert abs(float(drawn) - 6 / 13) < 5 * (42 / 169 / DRAWS) ** 0.5
    assert (predict(fit, coin, given=[], discrete="max")["z"] == 0).all()
    anew = predict(fit, coin, given=[])["z"].mean()
    assert abs(float(anew) - 0.3) < 5 * (0.21 / DRAWS) ** 0.5


def test_a_latent_that_depends_on_what_is_missing_is_refused() -> None:
    def coin() -> None:
        z = sample("z", dist.Bernoulli(0.3))
        sample("x", dist.Normal(z, 1.0))

    fit = Fit("by hand", {"x": torch.full((1, 4000), 2.0)}, latents=("x",))
    with pytest.raises(ProgramError, match=r"'x'|depends on \['z'\]") as told:
        predict(fit, coin)
    assert any("discrete='prior'" in note for note in told.value.__notes__)


# --------------------------------------------------------------------------------- what is refused


def test_what_has_no_posterior_is_refused_by_name() -> None:
    fit = Fit("by hand", {"centre": f([-2.0, 2.0]).expand(1, 5, 2)}, latents=("centre",))
    with pytest.raises(DataError, match="prior predictive has no posterior"):
        predict(5, mixture, Y, discrete="max")
    with pytest.raises(ValueError, match="discrete is one of"):
        predict(fit, mixture, Y, discrete="mode")  # type: ignore[arg-type]
    with pytest.raises(ProgramError, match=r"depends on \['centre'\] too.*'y'.*discrete='prior'"):
        predict(fit, mixture, Y, given=[])
    assert predict(fit, mixture, Y, given=[], discrete="prior")["z"].shape == (1, 5, 4)

    def impossible(y: Tensor) -> None:
        p = sample("p", dist.Beta(1.0, 1.0))
        z = sample("z", dist.Bernoulli(p))
        observe("y", dist.Poisson(z * 0.0), y)

    sure = Fit("by hand", {"p": f(0.5).expand(1, 5)}, latents=("p",))
    with pytest.raises(ZeroMassError, match="impossible"):
        predict(sure, condition(impossible, {}), f(1.0))
