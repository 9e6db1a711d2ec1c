"""Real latents integrated out: against Gaussian evidences, on random programs of many shapes."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import torch
from support.sizes import quick
from torch import Tensor

from pushforward import cond, condition, factor, marginal, observe, plate, program, sample, scan
from pushforward.errors import ProgramError
from pushforward.inference import MCMC, Exact
from pushforward.ppl import assess
from pushforward.ppl.compile.potential import Potential
from pushforward.ppl.interpretations import quadratic
from pushforward.ppl.interpretations.log_density import LogDensity
from pushforward.ppl.interpretations.quadratic import Law, QuadraticLatents
from pushforward.ppl.language.program import Callback

pytestmark = pytest.mark.usefixtures("double")

KEPT = ("mu", "s", "t")
SIZES = 4, 9  # groups, data
POINTS = [{"mu": 0.3, "s": 0.8, "t": 1.7}, {"mu": -2.0, "s": 2.5, "t": 0.2}]


def f(x: Any) -> Tensor:
    return torch.as_tensor(x, dtype=torch.float64)


def given(i: int) -> dict[str, Tensor]:
    return {name: f(x) for name, x in POINTS[i].items()}


PRIORS = ("plate", "event", "steps", "matrix", "walk", "branch")
DATA = ("index", "slopes", "neighbours", "sum", "gated", "seldom")


def random_program(seed: int) -> Callback:
    """Normal effects with random means, scales and ties, seen through normal data.

    The ties are drawn among: none, pairs, a few others, a chain, all; by plates, indices, matrices,
    events, steps of a loop, branches, masks and scales; those that come and go with mu as well.
    """
    r = random.Random(seed)
    scale = r.choice((1.0, 1.0, 0.5, 3.0))
    return made(r.choice(PRIORS), r.choice(DATA), r.random() < 0.3, scale, seed)


def made(prior: str, data: str, mask: bool = False, scale: float = 1.0, seed: int = 0) -> Callback:
    noise = torch.Generator().manual_seed(seed)
    groups, n = SIZES
    x, y = torch.randn(n, generator=noise), torch.randn(n, generator=noise)
    g = torch.randint(groups, (n,), generator=noise)
    root = torch.randn(groups, groups, generator=noise).tril(-1) + torch.eye(groups)

    def effects(mu: Tensor, t: Tensor) -> Tensor:
        if prior == "plate":
            with plate("groups", groups):
                return sample("a", dist.Normal(mu, t))
        if prior == "event":
            return sample("a", dist.Normal(mu * torch.arange(4.0), t).to_event(1))
        if prior == "matrix":
            return sample("a", dist.MultivariateNormal(mu.expand(4), scale_tril=t * root))
        if prior == "branch":
            one = sample("a", dist.Normal(f([0.0, 1.0, 2.0]), t).to_event(1))
            far, near = dist.Normal(3.0, t), dist.Normal(mu, 1.0)
            last = cond(mu > 0, lambda: sample("b", far), lambda: sample("c", near))()
            return torch.cat([one, last[None]])
        step = 0.9 if prior == "walk" else 0.0

        def moved(a: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
            a = sample("a", dist.Normal(mu + step * a, t))
            return a, a

        return scan(moved)(f(0.0), torch.zeros(groups))[1]

    def means(a: Tensor, mu: Tensor) -> Tensor:
        if data == "index":
            return a[g]
        if data == "slopes":
            with plate("other", groups):
                b = sample("slope", dist.Normal(0.0, 2.0))
            return a[g] + b[g] * x
        if data == "neighbours":
            return a[g] - mu * a.roll(2)[g]
        if data == "sum":
            return a.sum() * x
        if data == "gated":  # it ties others if mu is large
            return a[g] + torch.where(mu > 5.0, a.roll(1)[g], 0.0)
        return a[g] + (mu + 2.0).clamp(max=0.0) * a.roll(1)[g]

    def model() -> Tensor:
        mu = sample("mu", dist.Normal(0.0, 2.0))
        s, t = (sample(name, dist.LogNormal(0.0, 1.0)) for name in ("s", "t"))
        with poutine.scale(scale=scale):
            a = effects(mu, t)
        mean = means(a, mu)
        with plate("data", n), poutine.mask(mask=x > -0.5 if mask else torch.ones(n).bool()):
            observe("y", dist.Normal(mean, s), y)
        factor("more", -0.5 * (a[0] - mu) ** 2)
        return a

    return program(model)


def exactly(p: Callback, values: dict[str, Tensor]) -> float:
    """The log of the integral over all but these, by the driver of Gaussian programs."""
    found = Exact(draws=1).run(condition(p, values)).log_evidence
    assert found is not None
    return found


@pytest.mark.parametrize("seed", quick(8, range(240)))
def test_integrals_are_those_of_normal_laws(seed: int) -> None:
    p = random_program(seed)
    q = marginal(p, KEPT, exact=True)
    for values in map(given, range(len(POINTS))):
        found = assess(q, values)[0]
        assert float(found) == pytest.approx(exactly(p, values), abs=1e-8)


@pytest.mark.parametrize("mu", [8.0, -5.0])
@pytest.mark.parametrize("data", ["gated", "seldom"])
def test_ties_that_come_and_go_are_seen(data: str, mu: float) -> None:
    """At values of the others that no random point is near."""
    p, values = made("plate", data), {**given(0), "mu": f(mu)}
    found = float(assess(marginal(p, KEPT, exact=True), values)[0])
    assert found == pytest.approx(exactly(p, values), abs=1e-8)


def test_they_are_not_without_a_look_at_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control of the test above."""
    monkeypatch.setattr(quadratic, "pieces", lambda *args: [])
    p, values = made("plate", "gated"), {**given(0), "mu": f(8.0)}
    found = float(assess(marginal(p, KEPT, exact=True), values)[0])
    assert abs(found - exactly(p, values)) > 1e-3


GROUPS = {
    ("plate", "index"): 1,
    ("plate", "slopes"): 2,
    ("plate", "neighbours"): 2,
    ("plate", "sum"): 4,
    ("plate", "gated"): 4,
    ("matrix", "index"): 4,
}


@pytest.mark.parametrize(("kind", "size"), GROUPS.items())
def test_only_what_is_tied_is_eliminated_together(kind: tuple[str, str], size: int) -> None:
    model = QuadraticLatents(made(*kind), (), KEPT)
    members = model.groups[model.groups < model.layout.size]
    assert model.groups.shape[1] == size
    assert sorted(members.tolist()) == list(range(model.layout.size))


FAULTS: dict[str, Callable[[Law], Law]] = {
    "no volume": lambda law: law._replace(log_volume=torch.zeros(())),
    "twice the volume": lambda law: law._replace(log_volume=2 * law.log_volume),
    "half the mean": lambda law: law._replace(mean=law.mean / 2),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_seen(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = QuadraticLatents._law
    monkeypatch.setattr(QuadraticLatents, "_law", lambda self, s: FAULTS[fault](right(self, s)))
    found = float(assess(marginal(made("plate", "index"), KEPT, exact=True), given(0))[0])
    assert abs(found - exactly(made("plate", "index"), given(0))) > 1e-3


@pytest.mark.parametrize("seed", quick(4, range(60)))
def test_draws_have_the_moments_of_the_posterior(seed: int) -> None:
    p = random_program(seed)
    model = QuadraticLatents(p, (), KEPT)
    law = model._law(model.score(given(0)))
    root = torch.stack([law.spread(unit) for unit in torch.eye(model.layout.size)], -1)
    moments = Exact(draws=1).run(condition(p, given(0))).moments
    sd = root.square().sum(-1).sqrt()
    for block in model.layout.blocks:
        if block.name in moments:  # those of a branch that is not taken are not met
            mean_sd = torch.stack([x[block.start : block.stop] for x in (law.mean, sd)])
            expected = moments[block.name].reshape(2, -1)
            torch.testing.assert_close(mean_sd, expected, rtol=1e-8, atol=1e-8)


# ---------------------------------------------------------------------------- by hand, and in lanes

SIGMA, EFFECTS = f([15.0, 10, 16, 11, 9, 11, 10, 18]), f([28.0, 8, -3, 7, -1, 1, 18, 12])


@program
def schools(effects: Tensor) -> None:
    mu = sample("mu", dist.Normal(0.0, 5.0))
    tau = sample("tau", dist.HalfCauchy(5.0))
    with plate("school", 8):
        observe("y", dist.Normal(sample("theta", dist.Normal(mu, tau)), SIGMA), effects)


def by_hand(u: Tensor) -> Tensor:
    mu, tau = u[0], u[1].exp()
    prior = dist.Normal(0.0, 5.0).log_prob(mu) + dist.HalfCauchy(5.0).log_prob(tau) + u[1]
    both: Tensor = dist.Normal(mu, (SIGMA**2 + tau**2).sqrt()).log_prob(EFFECTS).sum()
    return prior + both


def test_derivatives_of_any_order() -> None:
    density = LogDensity(marginal(schools, ["mu", "tau"], exact=True), EFFECTS)
    for u in torch.randn(5, 2, generator=torch.Generator().manual_seed(0)) * 3:
        torch.testing.assert_close(density(u), by_hand(u))
        for derivative in (torch.func.grad, torch.func.hessian):
            torch.testing.assert_close(derivative(density)(u), derivative(by_hand)(u))


@pytest.mark.parametrize("data", ["index", "slopes"])
def test_lanes(data: str) -> None:
    density = LogDensity(marginal(made("plate", data), KEPT, exact=True))
    u = torch.randn(6, density.size, generator=torch.Generator().manual_seed(1))
    potential = Potential(density, u)
    assert potential.lanes is not None
    value, gradient = potential(u)
    expected = torch.func.vmap(torch.func.grad_and_value(density))(u)
    torch.testing.assert_close((gradient, value), expected)


def test_far_from_zero_no_digits_are_lost() -> None:
    """In single precision, a million standard deviations away."""

    @program
    def far() -> None:
        t = sample("t", dist.LogNormal(torch.zeros((), dtype=torch.float32), 1.0))
        with plate("n", 3):
            x = sample("x", dist.Normal(torch.tensor(1e6, dtype=torch.float32), t))
            observe("y", dist.Normal(x, 1.0), torch.full((3,), 1e6 + 1, dtype=torch.float32))

    t = torch.tensor(1.0, dtype=torch.float32)
    found = assess(marginal(far, "t", exact=True), {"t": t})[0]
    expected = dist.LogNormal(0.0, 1.0).log_prob(f(1.0)) + 3 * dist.Normal(0.0, 2**0.5).log_prob(
        f(1.0)
    )
    assert float(found) == pytest.approx(float(expected), abs=1e-4)


# ---------------------------------------------------------------------------------- what may change


def test_data_that_tie_otherwise() -> None:
    @program
    def model(g: Tensor, h: Tensor) -> None:
        t = sample("t", dist.LogNormal(0.0, 1.0))
        with plate("groups", 3):
            a = sample("a", dist.Normal(0.0, t))
        observe("y", dist.Normal(a[g] + a[h], 1.0).to_event(1), f([0.5, -1.0, 2.0]))

    q = marginal(model, "t", exact=True)
    for g, h in (([0, 1, 2], [0, 1, 2]), ([0, 1, 2], [1, 2, 0]), ([0, 1, 2], [0, 2, 2])):
        args, t = (torch.tensor(g), torch.tensor(h)), {"t": f(0.7)}
        expected = Exact(draws=1).run(condition(model, t), *args).log_evidence
        assert float(assess(q, t, *args)[0]) == pytest.approx(expected, abs=1e-9)


def test_what_a_program_closes_over_may_change() -> None:
    w = torch.zeros(())

    @program
    def model() -> None:
        t = sample("t", dist.LogNormal(0.0, 1.0))
        with plate("groups", 3):
            a = sample("a", dist.Normal(0.0, t))
        observe("y", dist.Normal(a + w * a.roll(1), 1.0).to_event(1), f([0.5, -1.0, 2.0]))

    q, t = marginal(model, "t", exact=True), {"t": f(0.7)}
    for value in (0.0, 1.3):
        w.fill_(value)
        expected = Exact(draws=1).run(condition(model, t)).log_evidence
        assert float(assess(q, t)[0]) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("way", ["pyro.param", "a module"])
def test_parameters_are_no_constants(way: str) -> None:
    """One that begins as zero may tie later."""
    pyro.clear_param_store()
    module = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(module.weight)

    @program
    def model() -> None:
        w = pyro.param("w", torch.zeros(())) if way == "pyro.param" else module.weight[0, 0]
        t = sample("t", dist.LogNormal(0.0, 1.0))
        with plate("groups", 3):
            a = sample("a", dist.Normal(0.0, t))
        observe("y", dist.Normal(a + w * a.roll(1), 1.0).to_event(1), f([0.5, -1.0, 2.0]))

    assert QuadraticLatents(model, (), ["t"]).groups.shape == (1, 3)


# ----------------------------------------------------------------------------------------- refusals


def test_what_is_not_quadratic_is_refused() -> None:
    @program
    def counts() -> None:
        t = sample("t", dist.LogNormal(0.0, 1.0))
        a = sample("a", dist.Normal(0.0, t))
        observe("y", dist.Poisson(a.exp()), f(3.0))

    with pytest.raises(ProgramError, match=r"not quadratic in a: .*keep those"):
        assess(marginal(counts, "t", exact=True), {"t": f(1.0)})

    @program
    def above() -> None:
        a = sample("a", dist.Normal(0.0, 1.0))
        sample("b", dist.Normal(a, 1.0))

    with pytest.raises(ProgramError, match=r"depends on .'a'.*sample those too"):
        assess(marginal(above, "b", exact=True), {"b": f(1.0)})
    with pytest.raises(ProgramError, match=r"neither finite nor real.*keep it"):
        assess(marginal(counts, "a", exact=True), {"a": f(1.0)})


@pytest.mark.slow
def test_nuts_on_what_is_kept() -> None:
    """The posterior of mu and tau is that of the whole program (posteriordb, eight_schools)."""
    q = marginal(schools, ["mu", "tau"], exact=True)
    fit = MCMC(progress=False).run(q, EFFECTS)
    assert not fit.warnings()
    assert float(fit["mu"].mean()) == pytest.approx(4.4, abs=0.5)
    assert float(fit["tau"].mean()) == pytest.approx(3.6, abs=0.4)
