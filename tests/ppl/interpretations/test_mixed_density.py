"""Vectors of continuous and finite latents: densities of random programs, at all of their values.

The class: programs whose finite latents choose in the ways that users write: as indices (also after
an ellipsis, from the end, two at once), as conditions, as numbers and as one-hot vectors; on their
own, in plates, by their parents, masked, with impossible values.  And counts whose bound is a
constant, of laws with random parameters, by the bound as users write it.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pyro import poutine
from support.pyro_models import EXAMPLES
from support.sizes import quick
from torch import Tensor

from pushforward import dist, observe, plate, program, sample
from pushforward.ppl import marginal
from pushforward.ppl.compile.potential import Potential
from pushforward.ppl.errors import UnsupportedDistributionError
from pushforward.ppl.interpretations.abstract_run import abstract_run
from pushforward.ppl.interpretations.log_density import LogDensity
from pushforward.ppl.interpretations.mixed_density import MixedDensity
from pushforward.ppl.tensors.abstract_tensor import dependence

pytestmark = pytest.mark.usefixtures("double")

N = 2  # entries of a plate
ROWS = torch.tensor([[0.2, 0.5, 0.3], [0.0, 0.6, 0.4], [1.0, 0.0, 0.0]], dtype=torch.float64)
DATA = torch.tensor([0.4, -1.1], dtype=torch.float64)

# How a location comes of three numbers mu and a choice z of 0, 1 or 2, alone or one an entry.
CHOOSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "index": lambda mu, z: mu[z],
    "ellipsis": lambda mu, z: torch.stack([mu, mu.exp()])[..., z].sum(0),
    "column": lambda mu, z: torch.stack([mu, mu.sin()])[:, z].prod(0),
    "from the end": lambda mu, z: mu[z - 1] * 2,
    "twice": lambda mu, z: (mu[:, None] * mu)[z, z],
    "condition": lambda mu, z: torch.where(z > 1, mu[0], mu[1]) * mu[2],
    "number": lambda mu, z: mu[0] + mu[1] * z,
    "one hot": lambda mu, z: (torch.nn.functional.one_hot(z, 3).to(mu.dtype) * mu).sum(-1),
    "data": lambda mu, z: mu[0] * ROWS[z, 1] + mu[1],
    "power": lambda mu, z: (1 + mu[0].square()) ** z,
}


def random_mixed(seed: int) -> tuple[Callable[[], None], bool]:
    """A program, and whether it is under a scale, which elimination refuses."""
    rng = random.Random(seed)
    ways = rng.sample(sorted(CHOOSES), 3)
    weights = rng.choice(("even", "latent", "impossible"))
    masked, shared, many, scaled = (rng.random() < 0.4 for _ in range(4))
    last = rng.choice(("binomial", "one-hot", "none"))

    @program
    def p() -> None:
        mu = sample("mu", dist.Normal(torch.tensor([-1.0, 0.2, 0.9]), 0.8).to_event(1))
        share = sample("share", dist.Dirichlet(torch.tensor([2.0, 1.0, 1.5])))
        row = {"even": torch.full((3,), 1 / 3), "latent": share, "impossible": ROWS[1]}[weights]
        first = sample("first", dist.Categorical(row))
        with plate("data", N, dim=-1):
            parent = ROWS[first] if shared else row
            with poutine.mask(mask=torch.tensor([True, not masked])):
                z = sample("z", dist.Categorical(parent))
            where = CHOOSES[ways[0]](mu, z) + CHOOSES[ways[1]](mu, first)
            if many:
                lit = sample("lit", dist.Bernoulli(share[0]))
                where = torch.where(lit > 0, where, mu[1])
            with poutine.scale(scale=1.5 if scaled else 1.0):
                observe("y", dist.Normal(where, 0.7), DATA)
        if last == "binomial":
            n = sample("n", dist.Binomial(2, share[0]))
            observe("c", dist.Poisson(1.0 + n * share[1]), torch.tensor(2.0))
        elif last == "one-hot":
            one = sample("one", dist.OneHotCategorical(share))
            observe("c", dist.Normal((one * mu).sum(-1), 1.0), torch.tensor(0.5))

    return p, scaled


def everywhere(density: MixedDensity, u: Tensor) -> Tensor:
    """Vectors of these coordinates [d] and all finite values."""
    values = [torch.tensor(z) for z in itertools.product(*map(range, density.sizes))]
    return torch.stack([torch.cat([u, z.to(u.dtype)]) for z in values])


def off(seed: int) -> bool:
    """Whether lane code is not the density at fixed values, or does not sum to the marginal one."""
    (p, scaled), generator = random_mixed(seed), torch.Generator().manual_seed(seed)
    density = MixedDensity(p)
    u = 0.7 * torch.randn(2, density.size, generator=generator)
    compiled = Potential(density, everywhere(density, u[0])[:5])
    assert compiled.lanes is not None
    summed = None if scaled else LogDensity(marginal(p, exact=True))
    for each in u:
        vectors = everywhere(density, each)
        found, gradient = compiled(vectors)
        for k in range(0, len(vectors), 7):
            values = density.at(vectors[k]).discrete
            at = LogDensity(p, discrete=values)
            if not torch.allclose(found[k], at(each), rtol=1e-11, atol=1e-11):
                return True
            slope = torch.func.grad(at)(each)
            if found[k].isfinite() and not torch.allclose(
                gradient[k, : density.size], slope, rtol=1e-9, atol=1e-9
            ):
                return True
            if density.numbers(values).tolist() != vectors[k, density.size :].tolist():
                return True
        if summed is not None:
            whole = found.logsumexp(0), summed(each)
            if not torch.allclose(*whole, rtol=1e-10, atol=1e-10):
                return True
    return False


@pytest.mark.parametrize("block", quick(1, range(4)))
def test_random_programs(block: int) -> None:
    assert [seed for seed in range(8 * block, 8 * block + 8) if off(seed)] == []


@pytest.mark.slow
@pytest.mark.parametrize("block", range(20))
def test_more_random_programs(block: int) -> None:
    assert [seed for seed in range(100 + 10 * block, 110 + 10 * block) if off(seed)] == []


@pytest.mark.parametrize("way", CHOOSES)
def test_each_way_is_drawn(way: str) -> None:
    """And a wrong one is seen: where the index is another, or the ellipsis is."""
    assert any(way in random.Random(seed).sample(sorted(CHOOSES), 3)[:2] for seed in range(32))


def test_a_wrong_choice_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    right = MixedDensity._site
    monkeypatch.setattr(
        MixedDensity, "_site", lambda self, name, number: right(self, name, 1 - number.clamp(max=1))
    )
    assert any(off(seed) for seed in range(4))


@pytest.mark.parametrize("name", [name for name, made in EXAMPLES.items() if made().discrete])
def test_examples_of_pyro(name: str) -> None:
    case = EXAMPLES[name]()
    density = MixedDensity(case.model, *case.args)
    fixed = LogDensity(case.model, *case.args, discrete=case.discrete)
    u = torch.linspace(-0.5, 0.5, density.size, dtype=fixed.layout.dtype)
    numbers = density.numbers(fixed.discrete)
    found = density(torch.cat([u, numbers.to(u.dtype)]))
    torch.testing.assert_close(found, fixed(u))


# -------------------------------------------------------------------------------- bounds of counts

MOST = 4

# How a bound is written, of a law of one event and of one in a plate of N.
BOUNDS: dict[str, Callable[[int], Any]] = {
    "number": lambda n: n,
    "tensor": lambda n: torch.tensor(float(n)),
    "whole tensor": lambda n: torch.tensor(n),
    "for each": lambda n: torch.full((N,), float(n)),
    "that differs": lambda n: torch.tensor([float(n), n - 2.0]),
}


def log_binomial(n: int, k: int, q: float) -> float:
    return math.log(math.comb(n, k)) + k * math.log(q) + (n - k) * math.log1p(-q)


def log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def beta_binomial(n: int, k: int, q: float) -> float:
    counted = log_beta(k + 1 + q, n - k + 2 * q) - log_beta(1 + q, 2 * q)
    return math.log(math.comb(n, k)) + counted


def zero_inflated(n: int, k: int, q: float) -> float:
    return math.log((k == 0) * 0.3 + 0.7 * math.exp(log_binomial(n, k, q)))


def mixed(n: int, k: int, q: float) -> float:
    first, second = (math.exp(log_binomial(n, k, x)) for x in (q, q * q))
    return math.log(0.4 * first + 0.6 * second)


def mixture(n: Any, q: Tensor) -> Any:
    shares = dist.Categorical(torch.tensor([0.4, 0.6]))
    shares = shares.expand(torch.broadcast_shapes(torch.as_tensor(n).shape, q.shape))
    count = n[..., None] if isinstance(n, Tensor) else n
    return dist.MixtureSameFamily(shares, dist.Binomial(count, torch.stack([q, q * q], -1)))


# Each a law by a bound and a number in (0, 1), and its log mass by hand.
COUNTS: dict[str, tuple[Callable[[Any, Tensor], Any], Callable[[int, int, float], float]]] = {
    "binomial": (dist.Binomial, log_binomial),
    "by logits": (lambda n, q: dist.Binomial(n, logits=q.logit()), log_binomial),
    "masked": (lambda n, q: dist.Binomial(n, q).mask(True), log_binomial),
    "beta-binomial": (lambda n, q: dist.BetaBinomial(1 + q, 2 * q, n), beta_binomial),
    "zero-inflated": (
        lambda n, q: dist.ZeroInflatedDistribution(dist.Binomial(n, q), gate=0.3 + 0 * q),
        zero_inflated,
    ),
    "mixture": (mixture, mixed),
}


def wrong_masses(law: str, bound: str) -> bool:
    """Whether the values of counts are others, or their masses or those of lane code."""
    made, log_mass = COUNTS[law]

    @program
    def p() -> None:
        q = sample("q", dist.Beta(2.0, 2.0))
        with plate("data", N):
            sample("n", made(BOUNDS[bound](MOST), q))

    density = MixedDensity(p)
    most = torch.as_tensor(BOUNDS[bound](MOST)).long().expand(N).tolist()
    if density.sizes != [n + 1 for n in most]:
        return True
    u = torch.tensor([0.4])
    vectors, q = everywhere(density, u), float(torch.sigmoid(u))
    prior = math.log(6 * q * (1 - q)) + math.log(q * (1 - q))  # of q, and its Jacobian
    exact = [
        prior + sum(log_mass(n, int(k), q) for n, k in zip(most, v[1:], strict=True))
        for v in vectors
    ]
    compiled = Potential(density, vectors[:5])(vectors)[0]
    each = torch.stack([density(v) for v in vectors])
    back = torch.stack([density.numbers(density.at(v).discrete) for v in vectors])
    same = all(torch.allclose(torch.tensor(exact), x, rtol=1e-10) for x in (each, compiled))
    return not (same and torch.equal(back, vectors[:, 1:]))


@pytest.mark.parametrize("law", COUNTS)
def test_counts_of_a_constant_bound_and_random_parameters(law: str) -> None:
    bounds = set(BOUNDS) - ({"that differs"} if law == "mixture" else set())  # see the next test
    assert [bound for bound in sorted(bounds) if wrong_masses(law, bound)] == []


def test_a_mixture_of_laws_whose_bounds_differ_has_no_known_support() -> None:
    with pytest.raises(UnsupportedDistributionError, match="an unknown support"):
        wrong_masses("mixture", "that differs")


def test_a_mass_of_another_law_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COUNTS, "binomial", (COUNTS["binomial"][0], mixed))
    assert wrong_masses("binomial", "number")


def test_a_count_of_a_random_bound_is_refused() -> None:
    @program
    def p() -> None:
        most = sample("most", dist.Binomial(3, 0.4))
        sample("n", dist.Binomial(most, 0.5))

    with pytest.raises(UnsupportedDistributionError, match=r"site 'n'.*test_mixed_density"):
        MixedDensity(p)


def test_what_an_operation_takes_of_an_argument_decides_what_its_result_depends_on() -> None:
    """By hand: values of the first, or shape and type alone of the second."""
    found = {}

    @program
    def p() -> None:
        q = sample("q", dist.Beta(2.0, 2.0))
        fixed = torch.tensor([1.0, 2.0])
        of_fixed = fixed.type_as(q), fixed[0].expand_as(q), fixed[0].view_as(q), fixed.to(q)
        of_q = q.type_as(fixed), q.expand_as(fixed), q.view_as(fixed[0]), q.to(fixed)
        found["fixed"] = [dependence(x) for x in (*of_fixed, q.new_tensor(3.0))]
        found["q"] = [dependence(x) for x in (*of_q, fixed * q)]

    abstract_run(p)
    assert set(found["fixed"]) == {frozenset()} and set(found["q"]) == {frozenset({"q"})}
