"""NUTS with Gibbs sampling of finite latents: exact sweeps, the engine by them, whole runs."""

from __future__ import annotations

import itertools
import math
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from support.engine import GivenChoices, altered
from torch import Tensor

from pushforward import dist, draw, factor, observe, plate, program, sample
from pushforward.inference import MCMC
from pushforward.inference.kernels import chains as kernel_chains
from pushforward.inference.kernels.chains import start as prior_run
from pushforward.inference.mcmc import Parameters, State, chees, hmc, nuts, with_gibbs
from pushforward.inference.mcmc.convergence import effective_size
from pushforward.inference.mcmc.lanes.engine import Chains, Engine, Metric, step_sizes
from pushforward.inference.mcmc.within_gibbs import of_sizes, swept
from pushforward.inference.runs.start import mixed_starting_points
from pushforward.ppl import marginal, seeded
from pushforward.ppl.compile.folding import fold
from pushforward.ppl.compile.lanes.function import LaneFunction
from pushforward.ppl.errors import (
    InitializationError,
    ProgramError,
    UnsupportedDistributionError,
)
from pushforward.ppl.interpretations.log_density import LogDensity
from pushforward.ppl.interpretations.mixed_density import MixedDensity
from pushforward.ppl.tensors.capture import capture_vector
from pushforward.semantics import check

pytestmark = pytest.mark.usefixtures("double")

# ------------------------------------------------------------------------------------------- sweep

SIZES = (2, 3, 1, 2)
STATES = list(itertools.product(*map(range, SIZES)))
WEIGHTS = torch.linspace(-2.0, 3.0, len(STATES), dtype=torch.float64).mul(5).sin()


@program
def weighted() -> tuple[int, ...]:
    return STATES[int(draw(dist.Categorical(logits=WEIGHTS)))]


def log_weight(position: Tensor) -> tuple[Tensor, Tensor]:
    rows = [WEIGHTS[STATES.index(tuple(map(int, row.tolist())))] for row in position]
    return torch.stack(rows), torch.zeros_like(position)


@program
def sweep(state: tuple[int, ...]) -> tuple[int, ...]:
    position = torch.tensor([state], dtype=torch.float64)
    return tuple(map(int, swept(position, log_weight, SIZES)[0].tolist()))


def test_a_sweep_leaves_the_law_of_the_numbers_as_it_is() -> None:
    check.invariant(sweep, weighted).require()


def test_a_sweep_by_other_weights_is_rejected() -> None:
    def potential(at: Tensor) -> tuple[Tensor, Tensor]:
        return 1.1 * log_weight(at)[0], torch.zeros_like(at)

    @program
    def wrong(state: tuple[int, ...]) -> tuple[int, ...]:
        position = torch.tensor([state], dtype=torch.float64)
        return tuple(map(int, swept(position, potential, SIZES)[0].tolist()))

    assert check.invariant(wrong, weighted).verdict == "fail"


# ------------------------------------------------------------------------------------------ engine


class OfOneChain(GivenChoices):
    """Coins that cannot show heads, which the engine does not toss, take no choice."""

    def _process_message(self, msg: Any) -> None:
        before, law = self.at, msg["fn"]
        super()._process_message(msg)
        while hasattr(law, "base"):
            law = law.base
        tossed = isinstance(law, dist.Bernoulli) and self.at == before + 1
        if tossed and bool((law.probs == 0).all()):
            self.at = before


D, MANY = 2, (3, 1, 2)


def tied(v: Tensor) -> Tensor:
    """Two numbers whose law depends on three whole ones, which are tied to each other."""
    place = v[D:].to(torch.int64)
    centre = torch.tensor([[-1.0, 0.0], [0.5, 1.0], [2.0, -1.0]])[place[:1]][0]
    scale = torch.tensor([0.7, 1.4])[place[2:]]
    return -0.5 * ((v[:D] - centre) / scale).square().sum() - scale.log().sum() + v[2] * v[4] / 3


@cache
def tied_function() -> LaneFunction:
    u = torch.zeros(4, D + len(MANY), dtype=torch.float64)
    return LaneFunction(fold(capture_vector(tied, u[0])), u)


def off(seed: int, text: str | None = None) -> bool:
    """Whether one random transition of the engine is not that of the kernel; half with jitter."""
    jitter = 0.3 * (seed % 2)
    g = torch.Generator().manual_seed(seed)
    u = torch.randn(1, D, generator=g, dtype=torch.float64)
    z = torch.stack([torch.randint(0, k, (1,), generator=g) for k in MANY], 1)
    position = torch.cat([u, z.double()], 1)
    choices = torch.cat(
        [torch.randn(1, D, generator=g), torch.rand(1, 200, generator=g)], 1
    ).double()
    metric = Metric.diagonal(torch.tensor([0.8, 1.3], dtype=torch.float64))
    size = torch.rand(1, generator=g, dtype=torch.float64) + 0.2

    def potential(v: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = tied_function()(v)
        return value, gradient

    value, gradient = potential(position)
    chains = Chains(
        position, value, gradient[:, :D].contiguous(), step_sizes(size), torch.ones(1, 4).long()
    )
    code = {"text": text} if text else {}
    engine = Engine(tied_function(), 4, sizes=MANY, jitter=jitter, **code)
    done = engine.replay(chains, metric, choices)[0].chains
    kernel = of_sizes(with_gibbs(nuts(4, jitter)), MANY)
    with OfOneChain(choices):
        state = State(position, value, gradient)
        after, _ = kernel.step(state, potential, Parameters(size[0], metric.root.square()))
    pairs = (
        (done.position, after.position),
        (done.log_density, after.log_density),
        (done.gradient, after.gradient[:, :D]),
    )
    return not all(torch.allclose(a, b, rtol=1e-9, atol=1e-9) for a, b in pairs)


def test_the_engine_makes_the_transitions_of_the_kernel() -> None:
    assert not any(off(seed) for seed in range(300))


FAULTS = {
    "numbers drawn by even coins": ("source.coin(std::exp(w - left[k]))", "source.coin(0.5)"),
    "the weight of the value at hand is another": (
        "weights[tried++] = state.log_density",
        "weights[tried++] = state.log_density + 0.5",
    ),
    "the weight of the value chosen is forgotten": (", state.log_density = weights[k]", ""),
    "the gradient of before the sweep": ("state.gradient[i] = slope[i * count];", ";"),
    "the last number is left as it is": (
        "for (; drawn < m; drawn++, tried = -1) {",
        "for (; drawn < m; drawn++, tried = -1) { if (drawn == m - 1) continue;",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_sweep_is_rejected(fault: str) -> None:
    text = altered(*FAULTS[fault])
    assert any(off(seed, text) for seed in range(60))


# -------------------------------------------------------------------------------------- whole runs

Y = torch.tensor([2.1, -0.4, 1.3, 0.2, 3.0], dtype=torch.float64)


@program
def mixture() -> None:
    low = sample("low", dist.Normal(0.0, 2.0))
    gap = sample("gap", dist.LogNormal(0.0, 0.5))
    share = sample("share", dist.Beta(2.0, 2.0))
    with plate("data", len(Y)):
        z = sample("z", dist.Bernoulli(share))
        observe("y", dist.Normal(torch.where(z > 0, low + gap, low), 0.7), Y)


@program
def chosen() -> None:
    """A continuous latent whose law a finite one chooses; a one-hot and a bounded count besides."""
    k = sample("k", dist.Categorical(torch.tensor([0.2, 0.5, 0.3])))
    x = sample("x", dist.Normal(torch.tensor([-1.0, 0.5, 2.0])[k], 0.8))
    one = sample("one", dist.OneHotCategorical(torch.tensor([0.3, 0.7])))
    n = sample("n", dist.Binomial(2, 0.4))
    observe("y", dist.Normal(x + one[..., 0] - n, 1.0), torch.tensor(1.2))


def exact_chosen() -> dict[str, Tensor]:
    """Posterior means of k == 0, k == 1, one[0], n == 1 and x, which is normal given the others."""
    total, means = torch.zeros(()), torch.zeros(5)
    for k, first, n in itertools.product(range(3), range(2), range(3)):
        centre = [-1.0, 0.5, 2.0][k]
        shift = first - n
        prior = [0.2, 0.5, 0.3][k] * [0.7, 0.3][first] * math.comb(2, n) * 0.4**n * 0.6 ** (2 - n)
        variance = 0.64 + 1.0
        weight = prior * math.exp(-0.5 * (1.2 - centre - shift) ** 2 / variance)
        x = centre + 0.64 / variance * (1.2 - centre - shift)
        total += weight
        means += weight * torch.tensor([k == 0, k == 1, first, n == 1, x], dtype=torch.float64)
    return dict(zip(("k0", "k1", "one", "n1", "x"), means / total, strict=True))


def figures(fit: Any) -> dict[str, Tensor]:
    k, n = fit["k"], fit["n"]
    return {
        "k0": (k == 0).double(),
        "k1": (k == 1).double(),
        "one": fit["one"][..., 0].double(),
        "n1": (n == 1).double(),
        "x": fit["x"],
    }


LEVEL = 5.5  # standard errors; beyond by chance in one of 2e7


def z_scores(fit: Any) -> dict[str, float]:
    found, exact = figures(fit), exact_chosen()
    return {
        name: float((x.mean() - exact[name]) / (x.std() / effective_size(x[..., None])[0].sqrt()))
        for name, x in found.items()
    }


@pytest.mark.parametrize("kernel", [nuts(), hmc(4)])
@pytest.mark.parametrize("compiled", [True, False])
def test_the_posterior_of_finite_and_continuous_latents(kernel: Any, compiled: bool) -> None:
    size = 2000 if compiled and kernel.max_depth else 150
    fit = MCMC(with_gibbs(kernel), draws=size, warmup=200, compiled=compiled, progress=False).run(
        chosen, seed=1
    )
    assert fit["one"].sum(-1).eq(1).all() and fit["k"].dtype == torch.int64
    assert max(map(abs, z_scores(fit).values())) < LEVEL
    assert "with Gibbs" in fit.method


def test_it_agrees_with_summing_out() -> None:
    gibbs = MCMC(with_gibbs(), draws=2000, progress=False).run(mixture, seed=0)
    summed = MCMC(rewrite="auto", draws=2000, progress=False).run(mixture, seed=1)
    assert not gibbs.warnings()
    for name in gibbs.latents:
        a, b = (fit[name].double().reshape(4, 2000, -1) for fit in (gibbs, summed))
        error = sum(x.var((0, 1)) / effective_size(x).nan_to_num(8000.0) for x in (a, b)).sqrt()
        assert bool(((a.mean((0, 1)) - b.mean((0, 1))).abs() < LEVEL * error).all()), name


def test_vectors_and_values() -> None:
    density = MixedDensity(chosen)
    assert (density.size, density.sizes) == (1, [3, 2, 3])
    v = torch.tensor([0.4, 2.0, 1.0, 0.0])
    values = density.results(v)[0]
    assert values["one"].tolist() == [0.0, 1.0] and int(values["k"]) == 2 and int(values["n"]) == 0
    fixed = LogDensity(chosen, discrete={k: x for k, x in values.items() if k != "x"})
    torch.testing.assert_close(density(v), fixed(v[:1]), rtol=0.0, atol=0.0)
    assert density.numbers(values).tolist() == v[1:].tolist()
    whole = [
        density(torch.cat([torch.zeros(3), torch.tensor(z, dtype=torch.float64)]))
        for z in itertools.product(range(2), repeat=5)
        for density in [MixedDensity(mixture)]
    ]
    summed = LogDensity(marginal(mixture, exact=True))(torch.zeros(3))
    torch.testing.assert_close(torch.stack(whole).logsumexp(0), summed)


@program
def counted() -> None:
    """A count with a constant bound, whose chance is a latent."""
    q = sample("q", dist.Beta(2.0, 3.0))
    n = sample("n", dist.Binomial(6, q))
    observe("y", dist.Normal(n, 1.5), torch.tensor(3.7))


def test_a_count_of_a_constant_bound_and_a_random_chance() -> None:
    def log_beta(a: float, b: float) -> float:
        return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)

    values = torch.arange(7.0, dtype=torch.float64)
    weights = [  # of the beta-binomial law and the observation
        math.log(math.comb(6, k)) + log_beta(2 + k, 9 - k) - 0.5 * ((3.7 - k) / 1.5) ** 2
        for k in range(7)
    ]
    share = torch.tensor(weights, dtype=torch.float64).softmax(0)
    fit = MCMC(with_gibbs(), draws=2000, warmup=200, progress=False).run(counted, seed=1)
    n, q = fit["n"].double(), fit["q"].double()
    exact = (share * values).sum(), (share * (2 + values) / 11).sum()
    for x, mean in zip((n, q), exact, strict=True):
        assert (
            abs(float((x.mean() - mean) / x.std())) * float(effective_size(x[..., None])[0].sqrt())
            < LEVEL
        )


@program
def finite_alone() -> None:
    a = sample("a", dist.Bernoulli(0.3))
    observe("y", dist.Normal(a, 1.0), torch.tensor(0.9))


@program
def ladder() -> None:
    """States that only rise: most of their joint values are impossible."""
    table = torch.tensor([[0.6, 0.4, 0.0], [0.0, 0.5, 0.5], [0.0, 0.0, 1.0]])
    level = sample("level", dist.Normal(0.0, 1.0))
    z = torch.tensor(0)
    for t in range(8):
        z = sample(f"z{t}", dist.Categorical(table[z]))
        observe(f"y{t}", dist.Normal(level * z, 0.5), torch.tensor(0.3 * t))


def test_programs_without_continuous_latents_and_with_zeros() -> None:
    for compiled in (True, False):
        fit = MCMC(with_gibbs(), draws=400, warmup=50, compiled=compiled, progress=False).run(
            finite_alone, seed=1
        )
        odds = 3 / 7 * math.exp(0.5 * (0.9**2 - 0.1**2))
        share = odds / (1 + odds)
        error = (share * (1 - share) / 1600) ** 0.5  # draws of a single latent are independent
        assert abs(float(fit["a"].double().mean()) - share) < LEVEL * error
    fit = MCMC(with_gibbs(), draws=200, warmup=200, progress=False).run(ladder, seed=1)
    states = torch.stack([fit[f"z{t}"] for t in range(8)])
    assert bool((states.diff(dim=0) >= 0).all())


def test_many_numbers_of_one_value() -> None:
    @program
    def alike() -> None:
        with plate("n", 100_000):
            sample("z", dist.Categorical(torch.ones(1)))

    fit = MCMC(with_gibbs(), chains=1, draws=2, warmup=0, progress=False).run(alike)
    assert not bool(fit["z"].any())


def test_chains_are_not_moved_by_the_density_at_one_value_of_many() -> None:
    """Sixty coins are uncertain in one mode and certain in the other; each has half the mass."""

    @program
    def modes() -> None:
        mu = sample("mu", dist.Normal(0.0, 1.0))
        with plate("n", 60):
            sample("z", dist.Bernoulli(torch.where(mu > 0, 0.5, 1e-4)))
        factor("gap", -50.0 * (1 - mu.square()).square())

    fit = MCMC(with_gibbs(), chains=8, draws=50, progress=False).run(modes, seed=0)
    assert not any("next to no mass" in note for note in fit.notes)


def test_runs_go_on_and_are_split(tmp_path: Path) -> None:
    method = MCMC(with_gibbs(), chains=8, draws=40, warmup=60, progress=False)
    whole = method.run(mixture, seed=2)
    split = MCMC(with_gibbs(), chains=8, draws=40, warmup=60, cores=3, progress=False).run(
        mixture, seed=2
    )
    kept = method.run(mixture, seed=2, checkpoint=tmp_path / "run")
    again = method.run(mixture, seed=2, checkpoint=tmp_path / "run")
    for other in (split, kept, again):
        for name in whole.draws:
            assert torch.equal(whole[name], other[name])
    more = method.run(mixture, seed=3, resume=whole)
    assert more["z"].shape == (8, 80, 5) and torch.equal(more["z"][:, :40], whole["z"])


def test_what_it_does_not_take() -> None:
    @program
    def counts() -> None:
        sample("n", dist.Poisson(2.0))
        sample("x", dist.Normal(0.0, 1.0))

    with pytest.raises(UnsupportedDistributionError, match="finite set of values"):
        MCMC(with_gibbs(), progress=False).run(counts)
    with pytest.raises(ValueError, match="not ChEES"):
        with_gibbs(chees())
    for options in ({"rewrite": "auto"}, {"init": {"low": 0.0}}):
        with pytest.raises(ValueError, match="starts at random"):
            MCMC(with_gibbs(), progress=False, **options).run(mixture)
    with pytest.raises(UnsupportedDistributionError, match="with_gibbs"):
        MCMC(progress=False).run(mixture)


# ------------------------------------------------------------------------------------------ starts


def starting(p: Any, seed: int) -> Tensor:
    density = MixedDensity(p)
    with seeded(seed):
        u = mixed_starting_points(density, lambda: prior_run(p).choices, 6)
    assert bool(torch.stack([density(row) for row in u]).isfinite().all())
    return u


def confined(low: float, scale: float, shape: tuple[int, ...]) -> Any:
    """Continuous latents with no density within the box of random starts."""

    @program
    def p() -> None:
        z = sample("z", dist.Bernoulli(0.5))
        x = sample("x", dist.Normal(0.0, scale).expand(shape).to_event(len(shape)))
        a = sample("a", dist.LogNormal(0.0, scale))
        inside = (x.abs() > low).all() & (a > low) & (z > 0)
        factor("f", torch.where(inside, 0.0, -torch.inf))

    return p


@pytest.mark.parametrize(
    ("low", "scale", "shape"), [(9.0, 9.0, ()), (20.0, 30.0, (2,)), (50.0, 60.0, (1, 2))]
)
def test_chains_start_at_runs_from_the_prior_where_the_box_has_no_density(
    low: float, scale: float, shape: tuple[int, ...]
) -> None:
    u = starting(confined(low, scale, shape), 0)
    assert bool((u[:, -1] == 1.0).all())
    assert bool((u[:, : math.prod(shape)].abs() > low).all())


def test_a_start_that_may_be_in_the_box_is_there() -> None:
    assert bool((starting(chosen, 1)[:, :1].abs() < 2.0).all())


def test_a_hopeless_start_fails_after_a_thousand_runs() -> None:
    runs = []

    @program
    def never() -> None:
        runs.append(1)
        z = sample("z", dist.Bernoulli(0.5))
        x = sample("x", dist.Normal(z, 1.0))
        factor("f", torch.where(x > 1e6, 0.0, -torch.inf))

    with pytest.raises(
        InitializationError, match=r"none of 1000 runs of .*never from.*test_with_gibbs"
    ):
        MCMC(with_gibbs(), progress=False).run(never)
    assert len(runs) < 1100


def test_a_long_search_for_a_start_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_chains, "LONG", -1.0)

    @program
    def seldom() -> None:
        z = sample("z", dist.Bernoulli(0.05))
        factor("f", torch.where(z > 0, 0.0, -torch.inf))

    said = r"none of 1 runs of .*seldom from .* of 1000"
    with seeded(0), pytest.warns(RuntimeWarning, match=said) as told:
        prior_run(seldom)
    assert len(told) == 1


def test_a_program_without_finite_latents_is_told() -> None:
    @program
    def model() -> None:
        sample("x", dist.Normal(0.0, 1.0))

    with pytest.raises(ProgramError, match="without finite latents"):
        MCMC(with_gibbs(nuts()), progress=False).run(model)
