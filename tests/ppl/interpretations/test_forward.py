"""Forward filtering along a scan: the sum that elimination gives."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from support.scoped import with_data
from support.sizes import quick
from torch import Tensor

from pushforward import iterate, marginal, observe, plate, program, sample, scan
from pushforward.ppl.compile.potential import Potential
from pushforward.ppl.distributions.validate import no_validation
from pushforward.ppl.interpretations.factors import FiniteLatents
from pushforward.ppl.interpretations.log_density import LogDensity
from pushforward.ppl.interpretations.recorder import Recorder
from pushforward.ppl.language.program import Callback
from pushforward.ppl.tensors.capture import capture_vector

pytestmark = pytest.mark.usefixtures("double")


class Chain:
    """A hidden Markov model, drawn by a seed; its steps' sites see this step and the last."""

    def __init__(self, seed: int) -> None:
        r = random.Random(seed)
        self.k, self.length = r.choice((2, 3)), r.randint(8, 11)
        self.has = {name: r.random() < 0.4 for name in FEATURES}
        generator = torch.Generator().manual_seed(seed)
        self.y = torch.randn(self.length, generator=generator)
        self.w = torch.randn(self.length, 2, generator=generator)

    def __call__(self) -> None:
        has, k = self.has, self.k
        p = sample("p", dist.Dirichlet(torch.ones(k, k)).to_event(1))
        loc = sample("loc", dist.Normal(torch.arange(k) - 1.0, 1.0).to_event(1))
        if has["impossible"]:
            p = p.triu() / p.triu().sum(-1, keepdim=True)

        def step(carry: Any, row: Any = None) -> Any:
            z, drift = carry
            y, w = (self.y[0], self.w[0]) if row is None else row
            before = z
            z = sample("z", dist.Categorical(p[z]))
            level = loc[z]
            if has["second"]:
                level = level + sample("b", dist.Bernoulli(0.2 + 0.3 * (z == before)))
            if has["drift"]:
                drift = 0.5 * drift + loc[0]
                level = level + drift
            if has["seen late"]:
                level = level + 0.3 * loc[before]
            observe("y", dist.Normal(level, 1.0), y)
            if has["plate"]:
                with plate("n", 2):
                    observe("w", dist.Normal(loc[z], 2.0), w)
            if has["data later"]:
                sample("late", dist.StudentT(3.0, level, 1.0))
            if has["factor"]:
                pyro.factor("f", -0.3 * z.double())
            return ((z, drift), drift) if row is not None else (z, drift)

        start = (torch.tensor(0), torch.tensor(0.0))
        if has["iterate"]:
            iterate(step, self.length)(start)
        else:
            (_, drift), drifts = scan(step)(start, (self.y, self.w))
            if has["outputs"]:
                observe("total", dist.Normal(drifts.sum() + drift, 1.0), torch.tensor(0.3))
        observe("outside", dist.Normal(loc.sum(), 1.0), torch.tensor(0.1))


FEATURES = (
    *("second", "drift", "seen late", "plate", "data later", "factor", "iterate", "outputs"),
    *("impossible", "scope"),
)


def drawn(seed: int) -> Callback:
    member = Chain(seed)
    data = {"late": member.y} if member.has["data later"] else {}
    return with_data(member.__call__, data, scoped=member.has["scope"])


def values_at(p: Callback, seed: int) -> dict[str, Tensor]:
    """Values of the latents that are not finite."""
    layout = LogDensity(marginal(p, exact=True)).layout
    return layout.unpack(torch.randn(layout.size, generator=torch.Generator().manual_seed(seed)))[0]


@pytest.mark.parametrize("seed", range(20))
def test_it_is_what_elimination_gives(seed: int) -> None:
    p = drawn(seed)
    model, values = FiniteLatents(p, ()), values_at(p, seed)
    assert model.chain is not None
    found, expected = model.log_mass(values), model.solved(values).log_mass
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("seed", quick(2, range(0, 20, 4)))
def test_it_is_one_loop_of_a_trace_with_the_same_gradient(seed: int) -> None:
    p = drawn(seed)
    density = LogDensity(marginal(p, exact=True))
    u = 0.5 * torch.randn(3, density.layout.size, generator=torch.Generator().manual_seed(seed))
    loops = capture_vector(density, u[0], loops=True).meta["loops"]
    assert loops.kept and not loops.unrolled
    potential = Potential(density, u)
    assert potential.lanes is not None
    value, gradient = potential(u)
    model = FiniteLatents(p, ())

    def by_elimination(u: Tensor) -> Tensor:
        values, _ = density.layout.unpack(u)
        rest = density(u) - model.log_mass(values)
        return rest + model.solved(values).log_mass

    for k in range(3):
        expected = torch.func.grad_and_value(by_elimination)(u[k])
        torch.testing.assert_close(value[k], expected[1], rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(gradient[k], expected[0], rtol=1e-8, atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20, 220))
def test_two_hundred_chains(seed: int) -> None:
    test_it_is_what_elimination_gives(seed)


# --------------------------------------------------------------------- structures that are no chain


def second_order() -> None:
    """A law that sees the two choices before."""

    def step(carry: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        a, b = carry
        return b, sample("z", dist.Bernoulli(0.2 + 0.3 * a + 0.3 * b))

    iterate(step, 9)((torch.tensor(0.0), torch.tensor(0.0)))


def seen_after() -> None:
    """A site after the loop that sees its last choice."""
    z = iterate(lambda z: sample("z", dist.Bernoulli(0.2 + 0.5 * z)), 9)(torch.tensor(0.0))
    observe("y", dist.Normal(z, 1.0), torch.tensor(0.3))


def global_too() -> None:
    """Another finite latent outside the loop."""
    g = sample("g", dist.Bernoulli(0.4))
    iterate(lambda z: sample("z", dist.Bernoulli(0.2 + 0.3 * z + 0.3 * g)), 9)(torch.tensor(0.0))


def plated() -> None:
    """Chains in a plate."""
    with plate("n", 2):
        iterate(lambda z: sample("z", dist.Bernoulli(0.2 + 0.5 * z)), 9)(torch.zeros(2))


def moving() -> None:
    """A latent within the loop that is not finite."""

    def step(z: Tensor) -> Tensor:
        h = sample("h", dist.Normal(0.0, 1.0))
        return sample("z", dist.Bernoulli(logits=z + h))

    iterate(step, 9)(torch.tensor(0.0))


def short() -> None:
    """A loop of a few steps."""
    iterate(lambda z: sample("z", dist.Bernoulli(0.2 + 0.5 * z)), 4)(torch.tensor(0.0))


OTHERS = (second_order, seen_after, global_too, plated, moving, short)


@pytest.mark.parametrize("p", OTHERS)
def test_other_structures_are_eliminated(p: Callback) -> None:
    model = FiniteLatents(p, ())
    assert model.chain is None
    values = {name: torch.tensor(0.3) for name in model.given}
    assert float(model.log_mass(values)) == pytest.approx(float(model.solved(values).log_mass))


def test_a_chain_that_is_taken_for_one_wrongly_gives_another_sum() -> None:
    """Negative control: with a site that sees further back the recursion is wrong."""
    model = FiniteLatents(program(distant), ())
    assert model.chain is None
    taken = FiniteLatents(program(near), ())
    right = model.solved({}).log_mass
    model.chain = taken.chain
    assert model.chain is not None
    assert abs(float(model.log_mass({}) - right)) > 1e-3
    assert float(taken.log_mass({})) == pytest.approx(float(taken.solved({}).log_mass))


def distant() -> None:
    def step(carry: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        a, b = carry
        z = sample("z", dist.Bernoulli(0.2 + 0.3 * b))
        observe("y", dist.Normal(z + a, 0.5), torch.tensor(1.5))
        return b, z

    iterate(step, 9)((torch.tensor(0.0), torch.tensor(0.0)))


def near() -> None:
    def step(z: Tensor) -> Tensor:
        z = sample("z", dist.Bernoulli(0.2 + 0.3 * z))
        observe("y", dist.Normal(z, 0.5), torch.tensor(1.5))
        return z

    iterate(step, 9)(torch.tensor(0.0))


# ------------------------------------------------------------------- loops and steps of other kinds


def _path(y: Tensor, kind: str) -> None:
    """A chain beside other loops, or whose steps see each other otherwise than by the carry."""
    m = sample("m", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    memory, past, seen = [torch.tensor(0.0)], [torch.tensor(0.0)], list[Tensor]()

    def step(carry: Any, x: Tensor) -> Any:
        z, own = carry if kind == "carries a latent" else (carry, m)
        before = memory[0] if kind == "remembers" else z
        z = sample("z", dist.Bernoulli(0.2 + 0.5 * before))
        memory[0] = z
        seen.append(x)
        scale = 1.0 + (0.1 * len(seen) if kind == "counts" else 0.0)
        if kind == "remembers for later" and len(seen) > 1:
            scale = scale + torch.relu(own[0] - 9.0) * past[0]
        past[0] = z
        observe("y", dist.Normal(own[z.long()], scale), x)
        return ((z, own) if kind == "carries a latent" else z), None

    if kind == "a loop before":
        iterate(lambda c: 0.5 * c + m[1], len(y))(torch.tensor(0.0))
    start = torch.tensor(0.0)
    scan(step)((start, m) if kind == "carries a latent" else start, y)
    if kind == "a scored loop after":
        scan(lambda c, x: (c, observe("w", dist.Normal(m[0], 1.0), x)))(torch.tensor(0.0), y)
    if kind == "a second chain":
        iterate(lambda z: sample("w", dist.Bernoulli(0.3 + 0.2 * z)), len(y))(torch.tensor(0.0))


KINDS = (
    *("a loop before", "a scored loop after", "a second chain", "carries a latent", "remembers"),
    *("counts", "remembers for later"),
)


NO_CHAINS = ("a second chain", "remembers", "remembers for later")


@pytest.mark.parametrize("kind", KINDS)
def test_other_loops_and_memories(kind: str) -> None:
    """Against the sum over all paths; of two chains, against elimination."""
    y = torch.linspace(-1.0, 1.2, 8)
    p, values = program(_path), {"m": torch.tensor([0.3, -0.8])}
    model = FiniteLatents(p, (y, kind))
    assert (model.chain is None) is (kind in NO_CHAINS)
    if kind == "a second chain":
        torch.testing.assert_close(model.log_mass(values), model.solved(values).log_mass)
        return
    logs = []
    for path in itertools.product((0.0, 1.0), repeat=len(model.values)):
        chosen = dict(zip(model.values, map(torch.tensor, path), strict=True))
        with no_validation(), Recorder({**values, **chosen}, density=True, validate=False) as run:
            _path(y, kind)
        logs.append(torch.as_tensor(run.log_density))
    prior = dist.Normal(0.0, 1.0).log_prob(values["m"]).sum()
    expected = torch.logsumexp(torch.stack(logs), 0) - prior
    torch.testing.assert_close(model.log_mass(values), expected)


def test_a_carry_that_holds_a_latent_has_its_gradient() -> None:
    y = torch.linspace(-1.0, 1.2, 8)
    density = LogDensity(marginal(program(_path), exact=True), y, "carries a latent")
    plain = LogDensity(marginal(program(_path), exact=True), y, "a loop before")
    u = torch.tensor([0.3, -0.8])
    torch.testing.assert_close(torch.func.grad(density)(u), torch.func.grad(plain)(u))
    assert torch.func.vmap(density)(u.expand(3, 2)).shape == (3,)
