"""State-space models for filters in lane code, and a filter's choices, written down."""

from __future__ import annotations

import math
import random
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pushforward.ppl import (
    Program,
    cond,
    deterministic,
    draw,
    factor,
    observe,
    program,
    sample,
    scan,
)
from pushforward.ppl.tensors.noise import Noise, Shape

F64 = torch.float64


def f(*x: float) -> Tensor:
    """Numbers in double precision."""
    return torch.tensor(x[0] if len(x) == 1 else x, dtype=F64)


class Written(Noise):
    """Random numbers, and all of them in the order in which lane code asks for them."""

    def __init__(self, particles: int) -> None:
        super().__init__()
        self.particles, self.parts = particles, list[Tensor]()

    def numbers(self, shape: Shape, like: Tensor, *, normal: bool) -> Tensor:
        make = torch.randn if normal else torch.rand
        x = make(shape, dtype=F64)
        each = x.reshape(self.particles, -1).t() if shape[:1] == (self.particles,) else x
        self.parts.append(each.reshape(-1))
        return x.to(like.dtype)

    @property
    def given(self) -> Tensor:
        return torch.cat(self.parts) if self.parts else torch.zeros(0, dtype=F64)


def linear(ys: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
    """A state that is scalar, and its path as output."""

    def step(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        x = sample("x", dist.Normal(phi * x, 1.0))
        observe("y", dist.Normal(x, f(0.5)), y)
        return x, x

    return scan(step)(sample("x0", dist.Normal(f(0.0), f(1.0))), ys)


def kalman(ys: Tensor, phi: float) -> float:
    """The log evidence of ``linear``."""
    mean, variance, total = 0.0, 1.0, 0.0
    for y in ys.tolist():
        mean, variance = phi * mean, phi**2 * variance + 1.0
        s = variance + 0.25
        total -= 0.5 * (math.log(2 * math.pi * s) + (y - mean) ** 2 / s)
        mean, variance = mean + variance / s * (y - mean), variance * 0.25 / s
    return total


def volatility(ys: Tensor) -> Tensor:
    """Parameters before the scan, of which one matters at the end only."""
    mu = sample("mu", dist.Normal(f(0.0), f(1.0)))
    sigma = sample("sigma", dist.Exponential(f(2.0)))
    extra = sample("extra", dist.Laplace(f(0.0), f(1.0)))
    sample("unused", dist.Uniform(f(0.0), f(1.0)))

    def step(x: Tensor, y: Tensor) -> tuple[Tensor, None]:
        x = sample("x", dist.Normal(mu + 0.9 * (x - mu), sigma))
        observe("y", dist.StudentT(f(4.0), f(0.0), (x / 2).exp()), y)
        return x, None

    last = scan(step)(mu, ys)[0]
    observe("end", dist.Normal(last, f(1.0)), f(0.3))
    return last * extra


def hidden_markov(ys: Tensor) -> Tensor:
    """A chain of three states that emits counts; the state has a number of its own at the start."""
    rows = torch.softmax(torch.arange(12, dtype=F64).reshape(4, 3).sin() * 2, -1)
    rates = f(0.5, 2.0, 6.0)

    def step(z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        z = sample("z", dist.Categorical(rows[z]))
        observe("y", dist.Poisson(rates[z]), y)
        return z, z

    return scan(step)(torch.tensor(3), ys)[1]


def vector(ys: Tensor) -> Any:
    """A state with two parts, a vector and a flag, and weights by hand."""
    turn = f(0.8, 0.6, -0.6, 0.8).reshape(2, 2)

    def step(carry: Any, y: Tensor) -> Any:
        x, up = carry
        up = sample("up", dist.Bernoulli(torch.where(up > 0, f(0.9), f(0.2))))
        x = sample("x", dist.Normal(turn @ x, f(0.3, 0.5)).to_event(1))
        observe("y", dist.Normal(x[0] + up, f(0.7)), y)
        factor("f", -0.1 * (x**2).sum())
        return (x, up), {"x": x, "both": deterministic("both", x.sum() + up)}

    return scan(step)((torch.zeros(2, dtype=F64), f(1.0)), ys)


def branches(ys: Tensor) -> Tensor:
    """Draws without names, and a branch by the state."""

    def step(x: Tensor, y: Tensor) -> tuple[Tensor, None]:
        x = cond(x > 0, lambda x: x - draw(dist.Exponential(f(1.0))), lambda x: x + 1.0)(x)
        x = x + draw(dist.Cauchy(f(0.0), f(0.1)))
        observe("y", dist.Laplace(x, f(0.5)), y)
        return x, None

    return scan(step)(draw(dist.Gumbel(f(0.0), f(1.0))), ys)[0]


def dying(ys: Tensor) -> Tensor:
    """A random walk on whole numbers, of which some are impossible."""

    def step(k: Tensor, y: Tensor) -> tuple[Tensor, None]:
        k = k + 2 * sample("up", dist.Bernoulli(f(0.5))).long() - 1
        factor("alive", torch.where(k.abs() <= 1, f(0.0), f(-torch.inf)))
        observe("y", dist.Normal(k.double(), f(1.0)), y)
        return k, None

    return scan(step)(torch.tensor(0), ys)[0]


YS = torch.sin(torch.arange(7, dtype=F64) * 1.3)
COUNTS = torch.tensor([0.0, 3.0, 1.0, 7.0, 2.0], dtype=F64)
MODELS: dict[str, tuple[Program, tuple[Any, ...]]] = {
    "linear": (program(linear), (YS, f(0.9))),
    "volatility": (program(volatility), (YS,)),
    "hidden Markov": (program(hidden_markov), (COUNTS,)),
    "vector": (program(vector), (YS,)),
    "branches": (program(branches), (YS,)),
    "dying": (program(dying), (YS,)),
}


# ------------------------------------------------------------------------------------ random models


def random_model(seed: int) -> tuple[Program, tuple[Any, ...]]:
    """A program with a scan whose state, laws, data and outputs are chosen at random.

    Its state has real numbers, vectors, whole numbers and flags, each moved by a law that looks at
    the others; some of its parameters are chosen before the scan, some are arguments.
    """
    pick = random.Random(seed)
    kinds = [
        pick.choice(("real", "real", "vector", "place", "flag")) for _ in range(pick.randint(1, 3))
    ]
    laws = [pick.choice(REAL_LAWS) for _ in kinds]
    table = torch.softmax(
        3 * torch.rand(4, 4, generator=torch.Generator().manual_seed(seed), dtype=F64), -1
    )
    before, by_time, emission = pick.random() < 0.5, pick.random() < 0.5, pick.choice(EMISSIONS)
    outputs = pick.choice(("none", "all", "first", "both"))
    weighted, branch, plated = (pick.random() < 0.3 for _ in range(3))
    steps = pick.randint(2, 6)

    def model(ys: Tensor, phi: Tensor) -> Any:
        scale = sample("scale", dist.HalfNormal(f(1.0))) + 0.1 if before else f(0.7)

        def step(carry: tuple[Tensor, ...], row: Any) -> Any:
            y, drift = row if by_time else (row, f(0.1))
            mean = phi * sum((x.double().sum() for x in carry), f(0.0)).tanh() + drift
            after: list[Tensor] = []
            for k, (kind, law, x) in enumerate(zip(kinds, laws, carry, strict=True)):
                if kind == "real":
                    new = sample(f"x{k}", law(mean + 0.5 * x, scale))
                elif kind == "vector":
                    new = sample(f"x{k}", dist.Normal(mean - 0.3 * x.flip(0), scale).to_event(1))
                elif kind == "place":
                    new = sample(f"x{k}", dist.Categorical(table[x]))
                else:
                    new = sample(f"x{k}", dist.Bernoulli(torch.sigmoid(mean + x)))
                after.append(new)
                mean = mean + 0.2 * new.double().sum().clamp(-5.0, 5.0)
            if branch:
                mean = cond(mean > 0, lambda m: m - draw(dist.Exponential(f(2.0))), lambda m: -m)(
                    mean
                )
            if plated:
                with pyro.plate("several", 2):
                    observe("y", emission(mean, scale), torch.stack([y, y]))
            else:
                observe("y", emission(mean, scale), y)
            if weighted:
                factor("weight", -mean.abs())
            given = {
                "none": None,
                "all": tuple(after),
                "first": after[0],
                "both": {"m": mean, "one": f(1.0)},
            }
            return tuple(after), given[outputs]

        starts = {"real": f(0.2), "vector": f(0.1, -0.4), "place": torch.tensor(1), "flag": f(1.0)}
        data = (ys, 0.1 * torch.arange(len(ys), dtype=F64)) if by_time else ys
        carry, found = scan(step)(tuple(starts[kind] for kind in kinds), data)
        return carry if found is None else (carry, found)

    ys = torch.tensor([float(pick.randint(0, 3)) for _ in range(steps)], dtype=F64)
    return program(model), (ys, f(pick.uniform(-1.0, 1.0)))


def lowered(x: Tensor) -> Tensor:
    return x - draw(dist.Exponential(f(2.0)))


REAL_LAWS = (
    dist.Normal,
    dist.Laplace,
    dist.Gumbel,
    dist.Cauchy,
    lambda m, s: dist.Uniform(m - s, m + s),
    lambda m, s: dist.Exponential(s + m.abs()),
    lambda m, s: dist.LogNormal(m.clamp(-2.0, 2.0), s.clamp(max=1.0)),
    lambda m, s: dist.TransformedDistribution(dist.Normal(m, s), [dist.transforms.TanhTransform()]),
)
EMISSIONS = (
    dist.Normal,
    lambda m, s: dist.StudentT(f(3.0), m, s),
    lambda m, s: dist.Poisson(m.clamp(-3.0, 3.0).exp()),
    lambda m, s: dist.NegativeBinomial(f(4.0), logits=m.clamp(-3.0, 3.0)),
)
