"""Rewritten programs: the same measure, exactly, and fits of the program itself."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import torch
from torch import Tensor

from pushforward import (
    cond,
    condition,
    deterministic,
    iterate,
    observe,
    plate,
    program,
    sample,
    scan,
    scope,
)
from pushforward.inference import MCMC
from pushforward.inference.kernels import single_site
from pushforward.inference.rewriting import Rewriting, decentred, integrated, rewritten, summed
from pushforward.inference.rewriting.centring import SUFFIX, chosen_centring
from pushforward.inference.rewriting.quadratic import quadratic_latents
from pushforward.ppl import assess, seeded
from pushforward.ppl.errors import DataError
from pushforward.ppl.interpretations.log_density import LogDensity
from pushforward.ppl.language.program import Callback
from pushforward.semantics import denote

pytestmark = pytest.mark.usefixtures("double")


def f(x: Any) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


# ------------------------------------------------------------------------------- finite latents


@program
def mixture(y: Tensor) -> Tensor:
    centre = sample("centre", dist.Normal(f([-2.0, 2.0]), 1.0).to_event(1))
    weight = sample("weight", dist.Beta(2.0, 3.0))
    with plate("points", len(y)):
        z = sample("z", dist.Bernoulli(weight))
        deterministic("own", centre[z.long()])
        observe("y", dist.Normal(centre[z.long()], 1.0), y)
    return z


@program
def chain(y: Tensor) -> None:
    stay = sample("stay", dist.Beta(4.0, 2.0))
    rate = sample("rate", dist.Gamma(2.0, 1.0))

    def step(z: Tensor, x: Tensor) -> tuple[Tensor, None]:
        p = torch.stack([stay, 1 - stay])
        z = sample("z", dist.Categorical(torch.where(z == 0, p, p.flip(0))))
        observe("y", dist.Poisson(rate * (1 + 3 * z)), x)
        return z, None

    scan(step)(torch.tensor(0), y)


FINITE: dict[str, tuple[Callback, Tensor]] = {
    "mixture": (mixture, f([-1.5, 1.0, 2.5])),
    "chain": (chain, f([1.0, 0.0, 6.0])),
}


@pytest.mark.parametrize("name", FINITE)
def test_what_is_summed_out_is_drawn_from_its_conditional(name: str) -> None:
    p, y = FINITE[name]
    layout = LogDensity(summed(p, (y,))[0], y).layout
    for seed in range(3):
        u = torch.randn(layout.size, generator=torch.Generator().manual_seed(seed))
        values, _ = layout.unpack(u)
        restored = summed(p, (y,))[1]
        names = sorted(restored(values).keys() - values.keys())

        def drawn(
            values: dict[str, Tensor] = values, names: list[str] = names, restored: Any = restored
        ) -> tuple[float, ...]:
            found = restored(values)
            return tuple(float(x) for n in names for x in found[n].reshape(-1))

        found = denote(drawn)
        weights = {z: found_density(p, y, values, names, z) for z in all_values(name, names)}
        total = torch.logsumexp(torch.stack(list(weights.values())), 0)
        assert found.mass() == pytest.approx(1.0)
        for z, weight in weights.items():
            assert found.log_weight(z) == pytest.approx(float(weight - total), abs=1e-9)


def all_values(name: str, names: list[str]) -> list[tuple[float, ...]]:
    return list(itertools.product((0.0, 1.0), repeat=3 if name == "mixture" else len(names)))


def found_density(
    p: Callback, y: Tensor, values: dict[str, Tensor], names: list[str], z: tuple[float, ...]
) -> Tensor:
    steps = {name: torch.tensor(int(x)) for name, x in zip(names, z, strict=False)}
    given = {"z": f(z)} if names == ["z"] else steps
    return assess(p, {**values, **given}, y)[0]


# ------------------------------------------------------------------------------------- centring


def hierarchy(seed: int) -> tuple[Callback, list[str]]:
    """A random program of locations and scales, and the sites whose parameters are random."""
    r = random.Random(seed)
    law = r.choice((dist.Normal, dist.Laplace, dist.Cauchy, lambda m, s: dist.StudentT(4.0, m, s)))
    steps, plated, event = r.random() < 0.4, r.random() < 0.6, r.random() < 0.4
    y = torch.randn(4, generator=torch.Generator().manual_seed(seed))

    def model() -> None:
        m = sample("m", dist.Normal(0.0, 2.0))
        s = sample("s", dist.LogNormal(0.0, 0.5))
        if steps:
            iterate(lambda x: sample("x", law(0.5 * x + m, s)), 4)(m)
        elif event:
            sample("x", law(m * torch.arange(4.0), s * torch.ones(4)).to_event(1))
        elif plated:
            with plate("n", 4):
                x = sample("x", law(m, s))
                observe("y", dist.Normal(x, 1.0), y)
        else:
            sample("w", law(sample("x", law(m, s)), s))

    names = [f"x[{t}]" for t in range(4)] if steps else ["x"]
    return program(model), names


@pytest.mark.parametrize("seed", range(12))
def test_a_decentred_program_is_the_image_of_the_program(seed: int) -> None:
    """Its density at z is that of p at x(z) times |dx / dz|."""
    p, names = hierarchy(seed)
    q, restored = decentred(p, (), names)
    layout = LogDensity(q).layout
    own = [block.name for block in layout.blocks]
    assert all(name not in own and name + SUFFIX in " ".join(own) for name in names)
    u = torch.randn(layout.size, generator=torch.Generator().manual_seed(seed))
    original = LogDensity(p)

    def moved(u: Tensor) -> Tensor:
        return original.layout.pack(restored(dict(layout.unpack(u)[0])))

    jacobian = torch.func.jacrev(moved)(u)
    expected = original(moved(u)) + torch.linalg.slogdet(jacobian)[1]
    torch.testing.assert_close(LogDensity(q)(u), expected, rtol=1e-10, atol=1e-10)


SCALES, EFFECTS = f([15.0, 10, 16, 11, 9, 11, 10, 18]), f([28.0, 8, -3, 7, -1, 1, 18, 12])


@program
def schools(sigma: Tensor, effects: Tensor) -> None:
    mu = sample("mu", dist.Normal(0.0, 5.0))
    tau = sample("tau", dist.HalfCauchy(5.0))
    with plate("school", len(sigma)):
        theta = sample("theta", dist.Normal(mu, tau))
        deterministic("twice", 2 * theta)
        observe("y", dist.Normal(theta, sigma), effects)


def test_weak_data_want_no_centre_and_strong_data_do() -> None:
    assert chosen_centring(schools, (SCALES, EFFECTS)) == ["theta"]
    assert chosen_centring(schools, (SCALES / 300, EFFECTS)) == []
    assert chosen_centring(plain, ()) == []


@program
def plain() -> None:
    sample("x", dist.Normal(0.0, 1.0))


# ------------------------------------------------------------------------------------------- fits


def test_a_fit_is_of_the_program_itself() -> None:
    y = f([-1.9, 2.2, 1.7, -2.4, 2.0])
    fit = MCMC(rewrite="auto", draws=400, warmup=300, progress=False).run(mixture, y, seed=1)
    assert fit.method == "MCMC (NUTS, z summed out)"
    assert set(fit.latents) == {"centre", "weight", "z"} and fit["z"].shape == (4, 400, 5)
    assert torch.equal(fit["own"], fit["centre"].gather(-1, fit["z"].long()))
    assert fit.log_likelihood["y"].shape == (4, 400, 5)
    # given centre and weight the choices are independent; 5 standard errors, a level of 6e-7 each
    densities = dist.Normal(fit["centre"][..., None, :], 1.0).log_prob(y[:, None]).exp()
    share = fit["weight"][..., None]
    odds = share * densities[..., 1] / (share * densities[..., 1] + (1 - share) * densities[..., 0])
    error = (odds * (1 - odds)).sum((0, 1)).sqrt() / (4 * 400)
    assert bool(((fit["z"] - odds).mean((0, 1)).abs() < 5 * error + 1e-12).all())


@program
def robust(sigma: Tensor, effects: Tensor) -> None:
    mu = sample("mu", dist.Normal(0.0, 5.0))
    tau = sample("tau", dist.HalfCauchy(5.0))
    with plate("school", len(sigma)):
        theta = sample("theta", dist.Normal(mu, tau))
        deterministic("twice", 2 * theta)
        observe("y", dist.StudentT(400.0, theta, sigma), effects)


@pytest.mark.parametrize(
    ("p", "how"), [(schools, "theta integrated out"), (robust, "theta non-centred")]
)
def test_schools_without_a_centre(p: Callback, how: str) -> None:
    before = MCMC(progress=False, thin=1).run(p, SCALES, EFFECTS)
    fit = MCMC(rewrite="auto", progress=False, thin=1).run(p, SCALES, EFFECTS)
    assert fit.method == f"MCMC (NUTS, {how})"
    assert set(fit.latents) == {"mu", "tau", "theta"}
    torch.testing.assert_close(fit["twice"], 2 * fit["theta"])
    table, old = fit.summary(), before.summary()
    assert float(table["ess_bulk"].min()) > 3 * float(old["ess_bulk"].min())
    # 4.4 is the posterior mean of mu, 3.6 that of tau (posteriordb, eight_schools)
    assert float(fit["mu"].mean()) == pytest.approx(4.4, abs=0.5)
    assert float(fit["tau"].mean()) == pytest.approx(3.6, abs=0.4)


def test_seeds_and_words() -> None:
    told = list[str]()
    found = rewritten(schools, (SCALES, EFFECTS), told.append)
    assert found.done == ("theta integrated out",) == tuple(told)
    assert Rewriting(plain).then(rewritten(plain, ())).done == ()
    fits = [
        MCMC(rewrite="auto", draws=50, warmup=50, progress=False).run(schools, SCALES, EFFECTS)
        for _ in range(2)
    ]
    assert torch.equal(fits[0]["theta"], fits[1]["theta"])


def test_what_cannot_be_rewritten_is_refused() -> None:
    with pytest.raises(ValueError, match="leave rewrite out"):
        MCMC(single_site(), rewrite="auto", progress=False).run(plain)
    with pytest.raises(ValueError, match="None or 'auto'"):
        MCMC(rewrite="always")  # type: ignore[arg-type]
    fit = MCMC(draws=10, warmup=10, progress=False).run(plain)
    with pytest.raises(DataError, match="cannot be resumed"):
        MCMC(rewrite="auto", draws=10, progress=False).run(plain, resume=fit)


def test_conditioned_programs() -> None:
    def model() -> None:
        z = sample("z", dist.Bernoulli(0.3))
        x = sample("x", dist.Normal(z * 3.0, 1.0))
        sample("y", dist.Normal(x, 0.5))

    p = condition(program(model), {"y": f(2.5), "z": f(1.0)})
    fit = MCMC(rewrite="auto", draws=50, warmup=50, progress=False).run(p)
    assert set(fit.latents) == {"x"}


@program
def powers(y: Tensor, by: str) -> None:
    t = sample("t", dist.LogNormal(0.0, 0.5))
    with plate("i", 6), poutine.scale(scale=0.4 if by == "scale" else 1.0):
        x = sample("x", dist.Normal(torch.zeros(()), t))
    observe("y", dist.Normal(x, 5.0).to_event(1), y)


def test_a_power_of_a_law_is_left_as_it_is() -> None:
    """N(x; 0, t)^s dx is no law of t z."""
    y = f([0.3, -0.8, 1.2, 0.1, -0.4, 0.9])
    assert chosen_centring(powers, (y, "scale")) == []
    assert chosen_centring(powers, (y, "none")) == ["x"]  # negative control


@program
def scoped(y: Tensor) -> None:
    with scope("part"):
        m = sample("m", dist.Normal(0.0, 2.0))
        s = sample("s", dist.LogNormal(0.0, 1.0))
        with plate("n", 8):
            x = sample("x", dist.Normal(m, s))
    observe("y", dist.StudentT(9.0, x, 10.0).to_event(1), y)


@program
def branching(y: Tensor) -> None:
    m = sample("m", dist.Normal(0.0, 2.0))
    t = sample("t", dist.LogNormal(0.0, 1.0))
    x = cond(
        m > 0, lambda: sample("p", dist.Normal(m, t)), lambda: sample("q", dist.Normal(0.0, t))
    )()
    observe("y", dist.Normal(x, 10.0), y)


@pytest.mark.parametrize(("p", "y"), [(scoped, EFFECTS), (branching, f(0.4))])
def test_sites_in_scopes_and_branches(p: Callback, y: Tensor) -> None:
    fit = MCMC(rewrite="auto", draws=40, warmup=60, progress=False).run(p, y)
    names = {"part/m", "part/s", "part/x"} if p is scoped else {"m", "t", "p", "q"}
    assert set(fit.latents) == names
    if p is scoped:
        assert fit.method == "MCMC (NUTS, part/x non-centred)"


@program
def nested(law: Any) -> None:
    mu = sample("mu", dist.Normal(0.0, 1.0))
    s, t = (sample(n, dist.LogNormal(0.0, 1.0)) for n in ("s", "t"))
    with plate("groups", 4):
        a = sample("a", dist.Normal(mu, s))
        with plate("members", 3):
            b = sample("b", dist.Normal(a, t))
    observe("y", law(b, 8.0).to_event(2), torch.ones(3, 4))


def test_a_hierarchy_of_two_levels_is_rewritten_level_by_level() -> None:
    found = rewritten(nested, (dist.Laplace,))
    assert {name for what in found.done for name in what.split()[0].split(",")} == {"a", "b"} or (
        found.done == ("a, b non-centred",)
    )


# ------------------------------------------------------------------------------ quadratic latents


def test_levels_that_are_few_are_integrated_out_together() -> None:
    assert rewritten(nested, (dist.Normal,)).done == ("a, b integrated out",)


@pytest.mark.parametrize("p", [plain, branching, scoped, robust])
def test_what_is_not_quadratic_or_has_no_scale_stays(p: Callback) -> None:
    args = {plain: (), branching: (f(0.4),), scoped: (EFFECTS,), robust: (SCALES, EFFECTS)}[p]
    expected = ["q"] if p is branching else []
    assert quadratic_latents(p, args) == expected


def test_the_exact_evaluator_sees_what_is_drawn_again() -> None:
    """One school: the mean and the variance of its effect, by quadrature of the noise."""
    restored = integrated(schools, (SCALES[:1], EFFECTS[:1]), ["theta"])[1]
    found = denote(lambda: restored({"mu": f(3.0), "tau": f(2.0)})["theta"][0], quadrature=64)
    precision = 1 / SCALES[0] ** 2 + 0.25
    mean = (EFFECTS[0] / SCALES[0] ** 2 + 3.0 * 0.25) / precision
    assert float(found.expect()) == pytest.approx(float(mean), abs=1e-9)
    spread = found.expect(lambda x: (x - mean) ** 2)
    assert float(spread) == pytest.approx(float(1 / precision), abs=1e-8)


@pytest.mark.parametrize("mu", [-0.5, 3.0])
def test_what_is_integrated_out_is_drawn_from_its_conditional(mu: float) -> None:
    """2 000 draws against the normal law by hand; 5 standard errors, a level of 6e-7 each."""
    values = {"mu": f(mu).expand(2_000), "tau": f(2.0).expand(2_000)}
    restored = integrated(schools, (SCALES, EFFECTS), ["theta"])[1]
    with seeded(1):
        draws = torch.func.vmap(restored, randomness="different")(values)["theta"]
    precision = 1 / SCALES**2 + 0.25
    mean, sd = (EFFECTS / SCALES**2 + mu * 0.25) / precision, precision.rsqrt()
    z = (draws - mean) / sd
    assert bool((z.mean(0).abs() < 5 / 2_000**0.5).all())
    assert bool(((z**2).mean(0) - 1).abs().max() < 5 * (2 / 2_000) ** 0.5)
    assert bool((z.prod(1).mean().abs() < 5 / 2_000**0.5).all())
