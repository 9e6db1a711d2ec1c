"""Real latents that were integrated out, after the fact, against the conditional law by hand."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import chi2
from support.sizes import quick
from torch import Tensor

from pushforward import marginal, observe, plate, program, sample
from pushforward.errors import DataError, InfiniteMassError, ProgramError
from pushforward.inference import MCMC, Fit, predict
from pushforward.ppl.interpretations import quadratic

pytestmark = pytest.mark.usefixtures("double")

LEVEL = 1e-6  # of each statistical test
DRAWS = 2000
Array = NDArray[np.float64]


def f(x: Any) -> Tensor:
    return torch.as_tensor(x, dtype=torch.float64)


# -------------------------------------------------------------------------- random normal models


@dataclass
class Node:
    """x ~ Normal(offset + sum of weights @ parent, sd) [k], and what is known of it.

    ``role``: "out", it is not held; "held", its ``value`` is; "data", that is observed where
    ``seen``.
    """

    name: str
    way: str
    offset: Array
    weights: dict[str, Array]
    sd: float
    role: str
    value: Array
    seen: NDArray[np.bool_]

    @property
    def size(self) -> int:
        return len(self.offset)


class Model:
    """A random graph of normal laws, by plates, events and single numbers, that a fit half holds.

    Means scale with a finite latent that is held, and deviations with a positive one.  A finite
    latent that is not held has data of its own, and something not normal looks at the last node.
    """

    def __init__(self, seed: int) -> None:
        rng, numbers = random.Random(seed), np.random.default_rng(seed)
        self.t, self.kind = rng.uniform(0.5, 2.0), float(rng.randrange(2))
        self.nodes: list[Node] = []
        roles = ["out", "out", *rng.choices(["out", "held", "data"], k=3), "data"]
        for i, role in enumerate(roles):
            size = rng.choice([1, 2, 3])
            latent = [node for node in self.nodes if node.role != "data"]
            parents = rng.sample(latent, min(len(latent), rng.choice([1, 2])))
            self.nodes.append(
                Node(
                    f"x{i}",
                    "number" if size == 1 else rng.choice(["plate", "event"]),
                    numbers.normal(size=size),
                    {at.name: numbers.normal(size=(size, at.size)) for at in parents},
                    rng.uniform(0.3, 2.0),
                    role,
                    3.0 * numbers.normal(size=size),
                    numbers.random(size) < 0.7,
                )
            )
        self.coin = rng.random() < 0.5

    def program(self) -> None:
        t = sample("t", dist.LogNormal(0.0, 1.0))
        kind = sample("kind", dist.Bernoulli(0.4))
        values: dict[str, Tensor] = {}
        for node in self.nodes:
            mean = f(node.offset) * (1 + kind)
            for name, weights in node.weights.items():
                mean = mean + f(weights) @ values[name]
            values[node.name] = self.site(node, mean, t * node.sd)
        if self.coin:
            z = sample("z", dist.Bernoulli(0.3))
            observe("w", dist.Normal(z, t), f(0.8))
        sample("unseen", dist.StudentT(f(3.0), values[self.nodes[0].name].sum(), 1.0))

    def site(self, node: Node, mean: Tensor, sd: Tensor) -> Tensor:
        if node.way == "number":
            found = self.made(node, dist.Normal(mean[0], sd), f(node.value)[0], f(node.seen)[0])
            return found[None]
        if node.way == "event":
            return self.made(node, dist.Normal(mean, sd).to_event(1), f(node.value), f(1.0))
        with plate(f"rows of {node.name}", node.size):
            return self.made(node, dist.Normal(mean, sd), f(node.value), f(node.seen))

    def made(self, node: Node, law: Any, value: Tensor, seen: Tensor) -> Tensor:
        if node.role != "data":
            return sample(node.name, law)  # type: ignore[no-any-return]
        with poutine.mask(mask=seen > 0):
            return observe(node.name, law, value)  # type: ignore[no-any-return]

    def fit(self, n: int) -> Fit:
        held = {node.name: f(node.value) for node in self.nodes if node.role == "held"}
        held = {n: x[0] if self.of(n).way == "number" else x for n, x in held.items()}
        held |= {"t": f(self.t), "kind": f(self.kind)}
        draws = {name: x.expand(1, n, *x.shape) for name, x in held.items()}
        return Fit("by hand", draws, latents=tuple(draws))

    def of(self, name: str) -> Node:
        return next(node for node in self.nodes if node.name == name)

    def told(self) -> list[str]:
        """The nodes that are not held, of which held ones or data tell: their ancestors."""
        pending = [node for node in self.nodes if node.role != "out"]
        found: set[str] = set()
        while pending:
            for name in pending.pop().weights:
                if self.of(name).role == "out" and name not in found:
                    found.add(name)
                    pending.append(self.of(name))
        return [node.name for node in self.nodes if node.name in found]

    def conditional(self, names: list[str]) -> tuple[Array, Array]:
        """Mean and covariance of these nodes, given what is known, by the structural equations."""
        starts = np.cumsum([0, *(node.size for node in self.nodes)])
        place = {
            node.name: np.arange(starts[i], starts[i + 1]) for i, node in enumerate(self.nodes)
        }
        d = int(starts[-1])
        weights, known = np.zeros((d, d)), np.zeros(d, dtype=bool)
        values = np.concatenate([node.value for node in self.nodes])
        for node in self.nodes:
            for name, w in node.weights.items():
                weights[np.ix_(place[node.name], place[name])] = w
            if node.role != "out":
                whole = node.role == "held" or node.way == "event"
                known[place[node.name]] = True if whole else node.seen
        solve = np.linalg.inv(np.eye(d) - weights)
        sds = np.concatenate([np.full(node.size, self.t * node.sd) for node in self.nodes])
        mean = solve @ (np.concatenate([node.offset for node in self.nodes]) * (1 + self.kind))
        covariance = solve @ np.diag(sds**2) @ solve.T
        own = np.concatenate([place[name] for name in names])
        gain = covariance[np.ix_(own, known)] @ np.linalg.inv(covariance[np.ix_(known, known)])
        after = covariance[np.ix_(own, own)] - gain @ covariance[np.ix_(known, own)]
        return mean[own] + gain @ (values - mean)[known], after

    def predicted(self, n: int, names: list[str], **about: Any) -> Array:
        """Draws of these nodes, [n, d]."""
        found = predict(self.fit(n), program(self.program), **about)
        return torch.cat([found[name][0].reshape(n, -1) for name in names], 1).numpy()


def p_values(x: Array, mean: Array, covariance: Array) -> list[float]:
    """Of the means, squares and products of draws [n, d], made standard: three tests."""
    n, d = x.shape
    z = np.linalg.solve(np.linalg.cholesky(covariance), (x - mean).T)
    products = (z @ z.T)[np.triu_indices(d, 1)]
    squares = float((z**2).sum())
    return [
        float(chi2.sf(n * (z.mean(1) ** 2).sum(), d)),
        2 * float(min(chi2.sf(squares, n * d), chi2.cdf(squares, n * d))),
        float(chi2.sf((products**2).sum() / n, len(products))) if d > 1 else 1.0,
    ]


MODELS = quick(2, range(100))


@pytest.mark.parametrize("seed", MODELS)
def test_draws_have_the_conditional_law(seed: int) -> None:
    model = Model(seed)
    names = [node.name for node in model.nodes if node.role == "out"]
    x = model.predicted(DRAWS, names, seed=seed)
    assert min(p_values(x, *model.conditional(names))) > LEVEL


def test_draws_from_their_law_without_data_are_rejected() -> None:
    """The negative control: what predict did before."""
    for seed in range(3):
        model = Model(seed)
        names = [node.name for node in model.nodes if node.role == "out"]
        x = model.predicted(DRAWS, names, real="prior", seed=seed)
        assert min(p_values(x, *model.conditional(names))) < 1e-12


def off_by(model: Model, monkeypatch: pytest.MonkeyPatch) -> float:
    """By how much mean and covariance are off: draws are those of noise that is given."""
    names = model.told()
    mean, covariance = model.conditional(names)

    def at(noise: Tensor) -> Array:
        monkeypatch.setattr(quadratic, "draw", lambda law, **about: noise)
        return model.predicted(1, names)[0]

    centre = at(torch.zeros(len(mean)))
    root = np.stack([at(unit) - centre for unit in torch.eye(len(mean))], 1)
    return max(np.abs(centre - mean).max(), np.abs(root @ root.T - covariance).max())


@pytest.mark.parametrize("seed", quick(1, range(40)))
def test_mean_and_covariance_are_those_by_hand(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert off_by(Model(seed), monkeypatch) < 1e-9


@pytest.mark.parametrize("fault", ["held ones tell nothing", "too wide"])
def test_faults_are_seen(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seed = next(s for s in range(40) if any(n.role == "held" and n.weights for n in Model(s).nodes))
    if fault == "too wide":
        law = quadratic.QuadraticLatents._law
        wider = lambda self, s: (w := law(self, s))._replace(spread=lambda z: 1.01 * w.spread(z))  # noqa: E731
        monkeypatch.setattr(quadratic.QuadraticLatents, "_law", wider)
    else:
        score = quadratic.QuadraticLatents.score

        def without(self: Any, given: Any) -> Any:
            self.unscored = set(self.given)
            return score(self, given)

        monkeypatch.setattr(quadratic.QuadraticLatents, "score", without)
    assert off_by(Model(seed), monkeypatch) > 1e-3


# ------------------------------------------------------------------------------ programs of users


@program
def schools(sigma: Tensor, effects: Tensor) -> None:
    mu = sample("mu", dist.Normal(0.0, 5.0))
    tau = sample("tau", dist.HalfCauchy(5.0))
    with plate("school", len(sigma)):
        theta = sample("theta", dist.Normal(mu, tau))
        observe("y", dist.Normal(theta, sigma), effects)


SIGMA, EFFECTS = f([15.0, 10.0, 16.0]), f([28.0, 8.0, -3.0])


def test_effects_that_nuts_did_not_see() -> None:
    """By hand: shrunk towards mu by the share of tau in the variance, at each draw."""
    kept = marginal(schools, keep=["mu", "tau"], exact=True)
    fit = MCMC(draws=500, warmup=200, progress=False).run(kept, SIGMA, EFFECTS, seed=1)
    found = predict(fit, schools, SIGMA, EFFECTS, seed=2)
    mu, tau = fit["mu"][..., None], fit["tau"][..., None]
    share = tau**2 / (tau**2 + SIGMA**2)
    z = (found["theta"] - mu - share * (EFFECTS - mu)) / (share * SIGMA**2).sqrt()
    assert min(p_values(z.reshape(-1, 3).numpy(), np.zeros(3), np.eye(3))) > LEVEL


def test_what_is_left_out_is_drawn_anew_unless_told() -> None:
    """mu is 100 in the fit and theta is 0: a new group is about 100, an old one about its data."""
    held = {"mu": f(100.0), "tau": f(1e-3), "theta": torch.zeros(3)}
    draws = {name: x.expand(1, 40, *x.shape) for name, x in held.items()}
    fit = Fit("by hand", draws, latents=tuple(draws))
    new = predict(fit, schools, SIGMA, EFFECTS, given=["mu", "tau"])["theta"]
    assert (new - 100.0).abs().max() < 0.1
    wide = Fit("by hand", {**draws, "tau": f(1e3).expand(1, 40)}, latents=tuple(draws))
    told = predict(wide, schools, SIGMA, EFFECTS, given=["mu", "tau"], real="sample")["theta"]
    assert ((told - EFFECTS) / SIGMA).abs().max() < 6.0


def test_where_nothing_is_given() -> None:
    """By hand: x given y = 2 is Normal(1, 1/2)."""

    def line() -> None:
        x = sample("x", dist.Normal(0.0, 1.0))
        observe("y", dist.Normal(x, 1.0), f(2.0))

    fit = Fit("by hand", {"x": torch.zeros(1, DRAWS)}, latents=("x",))
    x = predict(fit, line, given=[], real="sample")["x"][0, :, None].numpy()
    assert min(p_values(x, np.ones(1), np.full((1, 1), 0.5))) > LEVEL
    assert predict(DRAWS, line)["x"].mean().abs() < 0.2


def test_finite_ones_are_drawn_given_the_real_ones() -> None:
    """x and z are both out, and z looks at data of its own and of x: p(z | x) by hand."""

    def both() -> None:
        sample("s", dist.LogNormal(0.0, 1.0))
        x = sample("x", dist.Normal(0.0, 1.0))
        z = sample("z", dist.Bernoulli(0.5))
        observe("y", dist.Normal(x, 1.0), f(2.0))
        observe("v", dist.Normal(2 * z, 1.0), f(1.5))

    fit = Fit("by hand", {"s": torch.ones(1, DRAWS)}, latents=("s",))
    found = predict(fit, both)
    assert min(p_values(found["x"][0, :, None].numpy(), np.ones(1), np.full((1, 1), 0.5))) > LEVEL
    p = 1 / (1 + np.exp(-(1.5**2 - 0.5**2) / 2))
    assert abs(float(found["z"].mean()) - p) < 5 * (p * (1 - p) / DRAWS) ** 0.5


# --------------------------------------------------------------------------------- what is refused


def test_what_cannot_be_integrated_out_is_refused_by_name() -> None:
    fit = Fit("by hand", {"m": torch.zeros(1, 5)}, latents=("m",))

    def curved() -> None:
        x = sample("x", dist.Normal(sample("m", dist.Normal(0.0, 1.0)), 1.0))
        observe("y", dist.Normal(x**3, 1.0), f(2.0))

    def positive() -> None:
        scale = sample("scale", dist.LogNormal(sample("m", dist.Normal(0.0, 1.0)), 1.0))
        observe("y", dist.Normal(0.0, scale), f(2.0))

    def mixed() -> None:
        sample("m", dist.Normal(0.0, 1.0))
        x = sample("x", dist.Normal(0.0, 1.0 + sample("z", dist.Bernoulli(0.5))))
        observe("y", dist.Normal(x, 1.0), f(2.0))

    for p, said in (
        (curved, "not quadratic in x"),
        (positive, "'scale'"),
        (mixed, r"'x'.*depends on|depends on .*'z'"),
    ):
        with pytest.raises(ProgramError, match=said) as told:
            predict(fit, p)
        assert any("real='prior'" in note for note in told.value.__notes__)
        assert predict(fit, p, real="prior", discrete="prior").sites


def test_words_and_what_has_no_posterior_are_refused() -> None:
    fit = Fit("by hand", {"mu": torch.zeros(1, 5)}, latents=("mu",))
    with pytest.raises(ValueError, match="real is one of"):
        predict(fit, schools, SIGMA, EFFECTS, real="max")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="prior predictive has no posterior: real="):
        predict(5, schools, SIGMA, EFFECTS, real="sample")
    with pytest.raises(ProgramError, match=r"depends on \['tau'\] too|'tau'"):
        predict(fit, schools, SIGMA, EFFECTS)

    def flat() -> None:
        m = sample("m", dist.Normal(0.0, 1.0))
        x = sample("x", dist.ImproperUniform(torch.distributions.constraints.real, (), ()))
        observe("y", dist.Normal(m * x, 1.0), f(2.0))

    still = Fit("by hand", {"m": torch.zeros(1, 5)}, latents=("m",))
    with pytest.raises(InfiniteMassError, match=r"\['x'\] have no posterior"):
        predict(still, flat)
