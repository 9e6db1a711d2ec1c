"""Vectors of continuous and finite latents: densities of random programs, at all of their values.

The class: programs whose finite latents choose in the ways that users write: as indices (also after
an ellipsis, from the end, two at once), as conditions, as numbers and as one-hot vectors; on their
own, in plates, by their parents, masked, with impossible values.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

import pytest
import torch
from pyro import poutine
from support.pyro_models import EXAMPLES
from torch import Tensor

from pushforward import dist, observe, plate, program, sample
from pushforward.ppl import marginal
from pushforward.ppl.compile.potential import Potential
from pushforward.ppl.interpretations.log_density import LogDensity
from pushforward.ppl.interpretations.mixed_density import MixedDensity

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
            n = sample("n", dist.Binomial(2, 0.3))
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


@pytest.mark.parametrize("block", range(4))
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
