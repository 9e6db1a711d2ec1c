"""Loops in lane code: a loop that is kept has the values and gradients of the loop itself."""

from __future__ import annotations

import random
from typing import Any

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import torch
from support.random_graphs import OPS
from support.scoped import with_data
from support.sizes import quick
from torch import Tensor

from pushforward import cond, condition, iterate, observe, plate, program, sample, scan
from pushforward.ppl.compile import potential
from pushforward.ppl.compile.potential import Potential
from pushforward.ppl.interpretations.log_density import LogDensity
from pushforward.ppl.language.program import Callback
from pushforward.ppl.tensors.capture import capture_vector, value_and_gradient
from pushforward.ppl.tensors.turns import Turns

pytestmark = pytest.mark.usefixtures("double")


def mixed(r: random.Random, parts: list[Tensor], shape: tuple[int, ...], ops: int) -> Tensor:
    """A tensor of this shape from some operations on these."""
    pool = [x[None] if x.ndim == 0 else x for x in parts]
    for _ in range(ops):
        y = r.choice(OPS)(r, r.choice(pool), pool)
        if 0 < y.numel() <= 60 and y.ndim <= 3:
            pool.append(y[None] if y.ndim == 0 else y)
    flat = torch.cat([x.reshape(-1) for x in pool])
    need = torch.Size(shape).numel()
    places = torch.tensor([r.randrange(len(flat)) for _ in range(2 * need)])
    x, y = flat[places].reshape(2, need)
    return (0.4 * x.tanh() + 0.3 * y.sin()).reshape(shape)


class Drawn:
    """A program with loops, drawn by a seed; ``loops`` are those that can be kept."""

    def __init__(self, seed: int) -> None:
        r = random.Random(seed)
        self.seed, self.length, self.ops = seed, r.randint(9, 12), r.randint(0, 3)
        self.shapes = r.choice(([()], [(3,)], [(), (2, 2)], [(2,), (3,)]))
        self.scan = r.random() < 0.7
        self.has = {name: r.random() < 0.4 for name in FEATURES}
        generator = torch.Generator().manual_seed(seed)
        self.data = torch.randn(self.length, 3, generator=generator)
        self.places = torch.randint(5, (self.length,), generator=generator)
        self.later = torch.randn(self.length, generator=generator)

    def step(self, theta: Tensor, carry: dict[str, Tensor], row: Any) -> tuple[Any, Any]:
        r, has = random.Random(self.seed + 1), self.has
        parts = [*carry.values(), theta[1:4]]
        if self.scan:
            x, i, moving = row
            parts += [x, moving]
            if has["index"]:
                parts.append(theta[i])
        level = mixed(r, parts, (), self.ops)
        if has["latent"]:
            parts.append(sample("z", dist.Normal(level, 1.5)))
        if has["vector latent"]:
            parts.append(sample("v", dist.LogNormal(torch.zeros(2), level.exp()).to_event(1)))
        if has["observed"] and self.scan:
            observe("y", dist.Normal(level.expand(3), (0.3 * level).exp()).to_event(1), x)
        if has["data later"]:
            sample("w", dist.StudentT(4.0, level, 1.0))
        if has["factor"]:
            pyro.factor("f", -(level**2))
        if has["plate"]:
            with plate("inner", 3):
                parts.append(sample("p", dist.Normal(level, theta[:3].exp())))
        if has["mask"] and self.scan:
            with poutine.mask(mask=i > 2), poutine.scale(scale=0.5):
                observe("m", dist.Gamma(level.exp(), 1.0), x[0].abs() + 0.1)
        if has["branch"]:
            parts.append(cond(level > 0.05, lambda: level * 2, lambda: theta[2] - level)())
        if has["matrix"]:
            a = torch.eye(2) + 0.3 * torch.outer(parts[-1].reshape(-1)[:1].expand(2), theta[:2])
            parts.append(torch.linalg.cholesky(a @ a.mT + 0.5 * torch.eye(2)))
        if has["nested"]:
            inner = iterate(lambda c: {"x": mixed(random.Random(self.seed + 2), [c["x"], level],
                                                  (2,), 1)}, 9)  # fmt: skip
            parts.append(inner({"x": level.expand(2)})["x"])
        after = {name: mixed(r, parts, tuple(old.shape), 1) for name, old in carry.items()}
        if has["swapped"] and len(after) == 2:
            after = dict(zip(after, reversed(after.values()), strict=True))
        return (after if _shapes(after) == _shapes(carry) else carry), mixed(r, parts, (2,), 1)

    def __call__(self) -> None:
        theta = sample("theta", dist.Normal(torch.zeros(5), 1.0).to_event(1))
        carry = {f"c{k}": theta[0] * torch.ones(shape) for k, shape in enumerate(self.shapes)}
        moving = torch.outer(self.later, theta[:2]).cumsum(0).tanh()
        if self.scan:
            xs = (self.data, self.places, moving)
            loop: Callback = scan(lambda carry, row: self.step(theta, carry, row))
            carry, outputs = loop(carry, xs)
            if self.has["outputs"]:
                observe("o", dist.Normal(outputs.sum(), 1.0), torch.tensor(0.3))
                observe("o2", dist.Normal(outputs[3, 1], 1.0), torch.tensor(0.1))
        else:
            carry = iterate(lambda c: self.step(theta, c, None)[0], self.length)(carry)
        for name, x in carry.items():
            observe(f"last {name}", dist.Normal(x, 1.0).to_event(x.ndim), torch.zeros(x.shape))


FEATURES = (
    *("index", "latent", "vector latent", "observed", "data later", "factor", "plate", "mask"),
    *("branch", "matrix", "nested", "swapped", "outputs", "scope"),
)


def _shapes(tree: dict[str, Tensor]) -> list[torch.Size]:
    return [x.shape for x in tree.values()]


def drawn(seed: int) -> Callback:
    member = Drawn(seed)
    data = {"w": member.later} if member.has["data later"] else {}
    return with_data(member.__call__, data, scoped=member.has["scope"])


def loops_of(p: Callback, *args: Any) -> list[Turns]:
    density = LogDensity(p, *args)
    graph = capture_vector(density, 0.1 * torch.ones(density.layout.size), loops=True)
    kept: list[Turns] = graph.meta["loops"].kept
    return kept


def error(p: Callback, *args: Any, seed: int = 0) -> float:
    """How far compiled values and gradients are from the program's, where three chains are."""
    density = LogDensity(p, *args)
    generator = torch.Generator().manual_seed(seed)
    u = 0.5 * torch.randn(3, density.layout.size, generator=generator)
    potential = Potential(density, u)
    assert potential.lanes is not None
    value, gradient = potential(u)
    worst = 0.0
    for row, v, g in zip(u, value, gradient, strict=True):
        true = value_and_gradient(density, row)
        worst = max(worst, float((v - true[0]).abs() / (1 + true[0].abs())))
        worst = max(worst, float((g - true[1]).abs().max() / (1 + true[1].abs().max())))
    return worst


@pytest.mark.parametrize("seed", quick(3, range(6)))
def test_a_kept_loop_is_the_loop(seed: int) -> None:
    assert error(drawn(seed), seed=seed) < 1e-11


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6, 106))
def test_a_hundred_kept_loops(seed: int) -> None:
    assert error(drawn(seed), seed=seed) < 1e-11


def test_all_of_them_are_kept() -> None:
    for seed in range(4):
        assert loops_of(drawn(seed))


def test_loops_within_loops_are_kept() -> None:
    nested = [seed for seed in range(30) if Drawn(seed).has["nested"]][:3]
    assert nested
    for seed in nested:
        density = LogDensity(drawn(seed))
        graph = capture_vector(density, 0.1 * torch.ones(density.layout.size), loops=True)
        loops = graph.meta["loops"]
        assert not loops.unrolled
        assert len(loops.kept) > 1


# --------------------------------------------------------------------- loops that cannot be kept


@program
def counting(y: Tensor) -> None:
    """A step that knows its number by itself."""
    m, steps = sample("m", dist.Normal(0.0, 1.0)), [0]

    def step(c: Tensor, x: Tensor) -> tuple[Tensor, None]:
        steps[0] += 1
        c = c + m * steps[0]
        observe("y", dist.Normal(c, 1.0), x)
        return c, None

    scan(step)(torch.tensor(0.0), y)


@program
def remembering(y: Tensor) -> None:
    """A step that leaves something behind besides its carry and output."""
    m, seen = sample("m", dist.Normal(0.0, 1.0)), list[Tensor]()

    def step(c: Tensor, x: Tensor) -> tuple[Tensor, None]:
        seen.append(c * m + x)
        return seen[-1], None

    scan(step)(torch.tensor(0.0), y)
    observe("y", dist.Normal(torch.stack(seen).mean(), 1.0), torch.tensor(0.5))


@program
def writing(y: Tensor) -> None:
    """A step that writes into a tensor from outside."""
    total = sample("m", dist.Normal(0.0, 1.0)) * torch.ones(3)

    def step(c: Tensor, x: Tensor) -> tuple[Tensor, None]:
        total.add_(c)
        return c * 0.5 + x, None

    scan(step)(torch.tensor(0.0) * total[0], y)
    observe("y", dist.Normal(total, 1.0).to_event(1), torch.ones(3))


@program
def looking(y: Tensor) -> None:
    """A step that looks at its data."""
    m = sample("m", dist.Normal(0.0, 1.0))

    def step(c: Tensor, x: Tensor) -> tuple[Tensor, None]:
        c = m - c if x > 0 else m * c
        observe("y", dist.Normal(c, 1.0), x)
        return c, None

    scan(step)(torch.tensor(0.0), y)


@program
def changing(y: Tensor) -> None:
    """A step with sites of its own after some time."""
    m, late = sample("m", dist.Normal(0.0, 1.0)), iter([False] * 5 + [True] * 100)

    def step(c: Tensor, x: Tensor) -> tuple[Tensor, None]:
        if next(late):
            c = c + sample("late", dist.Normal(0.0, 1.0))
        observe("y", dist.Normal(c * m, 1.0), x)
        return c, None

    scan(step)(torch.tensor(0.0), y)


@program
def growing(y: Tensor) -> None:
    """A carry that grows."""
    m = sample("m", dist.Normal(0.0, 1.0))
    c = iterate(lambda c: torch.cat([c, c[-1:] * m]), 12)(torch.ones(1))
    observe("y", dist.Normal(c.sum(), 1.0), y[0])


@program
def whole_numbers(y: Tensor) -> None:
    """A carry of whole numbers."""
    m = sample("m", dist.Normal(torch.zeros(12), 1.0).to_event(1))

    def step(k: Tensor, x: Tensor) -> tuple[Tensor, None]:
        observe("y", dist.Normal(m[k], 1.0), x)
        return k + 1, None

    scan(step)(torch.tensor(0), y)


@program
def named() -> None:
    """Steps of which one is observed alone."""
    m = sample("m", dist.Normal(0.0, 1.0))
    iterate(lambda c: sample("z", dist.Normal(m * c, 1.0)), 12)(torch.tensor(1.0))


Y = torch.linspace(-1.0, 1.3, 12, dtype=torch.float64)
UNKEPT: dict[str, Callback] = {
    **{p.__name__: condition(p, {}) for p in (counting, remembering, writing, looking)},
    **{p.__name__: condition(p, {}) for p in (changing, growing, whole_numbers)},
}


@pytest.mark.parametrize("name", UNKEPT)
def test_other_loops_are_unrolled(name: str) -> None:
    assert error(UNKEPT[name], Y) < 1e-11


def test_a_step_that_is_observed_alone_unrolls_its_loop() -> None:
    p = condition(named, {"z[3]": torch.tensor(0.4)})
    assert loops_of(p) == []
    assert error(p) < 1e-11


@pytest.mark.parametrize("part", ["step", "back"])
def test_a_wrong_turn_is_seen(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: turns whose code is another one's are unrolled, and told of."""
    told = list[str]()
    p, density = drawn(2), LogDensity(drawn(2))
    assert loops_of(p)
    made = Turns.__post_init__

    def wrong(self: Turns) -> None:
        made(self)
        graph = getattr(self, part)
        node = [n for n in graph.graph.nodes if n.target is torch.ops.aten.mul.Tensor][-1]
        node.target = torch.ops.aten.add.Tensor
        graph.recompile()

    monkeypatch.setattr(Turns, "__post_init__", wrong)
    Potential(density, torch.ones(2, density.layout.size) * 0.1, notify=told.append)
    assert any("unrolling loops" in message for message in told)


# ------------------------------------------------ what matters only elsewhere than at the start


def _remembers(kind: str) -> Callback:
    """A step that sees what an earlier one did, other than by its carry, where c is large."""

    def model(y: Tensor) -> None:
        a = sample("a", dist.Normal(0.0, 2.0))
        seen, last, total = list[Tensor](), [torch.zeros(())], [torch.zeros(())]
        numbers = iter(range(1000))

        def step(c: Tensor, x: Tensor) -> tuple[Tensor, None]:
            seen.append(c)
            extra = torch.relu(c - 1.5)
            if kind == "length":
                extra = extra * len(seen)
            if kind == "iterator":
                extra = extra * next(numbers)
            if kind == "last row":
                extra, last[0] = extra * last[0], x
            if kind == "last carry":
                extra, last[0] = extra * last[0], c
            if kind == "total":
                total[0] = total[0] + extra
            observe("y", dist.Normal(c - 2 * extra, 0.5), x)
            return 0.5 * c + a, None

        scan(step)(torch.tensor(0.0), y)
        pyro.factor("total", -(total[0] ** 2))

    return program(model)


@pytest.mark.parametrize("kind", ["length", "iterator", "last row", "last carry", "total"])
def test_what_steps_remember_is_seen_wherever_chains_start(kind: str) -> None:
    p = _remembers(kind)
    density = LogDensity(p, Y)
    potential = Potential(density, torch.tensor([[-1.0], [0.0]]))  # where c stays small
    u = torch.tensor([[1.5], [2.5], [-1.0]])
    value, gradient = potential(u)
    for k in range(3):
        expected = value_and_gradient(density, u[k])
        torch.testing.assert_close(value[k], expected[0])
        torch.testing.assert_close(gradient[k], expected[1])


def test_a_long_loop_of_python_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    def unrolled() -> None:
        x = sample("x", dist.Normal(0.0, 1.0))
        level = x
        for _ in range(40):
            level = 0.9 * level + 0.1 * (level * x).sin()
        observe("y", dist.Normal(level, 1.0), torch.tensor(0.3))

    assert potential.LONG > 5_000
    monkeypatch.setattr(potential, "LONG", 200)
    with pytest.warns(RuntimeWarning, match="as scan"):
        Potential(LogDensity(unrolled), torch.zeros(1, 1))
