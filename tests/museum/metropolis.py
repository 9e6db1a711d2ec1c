"""Metropolis and Hastings: ratios and accept steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pushforward import dist, draw, program, sample
from pushforward.semantics import check

from .exhibit import Exhibit, f

Rows = Callable[[Tensor], Tensor]


def accept(ratio: Tensor) -> bool:
    """Whether a proposal with this ratio is taken."""
    return bool(draw(dist.Bernoulli(ratio.clamp(max=1.0))) == 1)


def law(masses: Tensor) -> Any:
    """The program that draws a place, in proportion to masses [n]."""
    return program(lambda: sample("x", dist.Categorical(masses)))


def grid(*axes: tuple[float, float], n: int = 9) -> Tensor:
    """Points of a grid, as rows."""
    lines = [torch.linspace(low, high, n, dtype=torch.float64) for low, high in axes]
    return torch.cartesian_prod(*lines)


# ------------------------------------------------------------------------------------ finite states


def independence(pi: Tensor, proposed: Tensor, believed: Tensor) -> Callable[[Tensor], Tensor]:
    """Propose by ``proposed``, whatever the state; correct by the density ``believed`` of that."""

    def step(x: Tensor) -> Tensor:
        y = draw(dist.Categorical(proposed))
        return y if accept(pi[y] * believed[x] / (pi[x] * believed[y])) else x

    return step


def neighbour(pi: Tensor, compared: Callable[[Tensor, Tensor], Tensor]) -> Any:
    """Propose the other of two states; accept if log u < log pi(new) - log pi(compared)."""

    def step(x: Tensor) -> Tensor:
        y = 1 - x
        return y if accept((pi[y].log() - pi[compared(x, y)].log()).exp()) else x

    return step


def slice_sampler(masses: list[int], right: Callable[[int, int, int], int]) -> Any:
    """Neal's slice sampler on a ladder of states: a level, and a bracket that shrinks onto it.

    The bracket is of three states; its right end is ``right(x, left, width)``.
    """
    width = 3

    def mass(y: int) -> int:
        return masses[y] if 0 <= y < len(masses) else 0

    def step(state: Tensor) -> Tensor:
        x = int(state)
        level = int(draw(dist.Categorical(torch.ones(mass(x)))))
        low = x - int(draw(dist.Categorical(torch.ones(width))))
        high = right(x, low, width)
        while True:
            y = low + int(draw(dist.Categorical(torch.ones(high - low + 1))))
            if mass(y) > level:
                return torch.tensor(y)
            low, high = (y + 1, high) if y < x else (low, y - 1)

    return step


THREE, UNEVEN = f([0.2, 0.3, 0.5]), f([0.6, 0.3, 0.1])
FEW, EVEN = f([0.0, 0.5, 0.3, 0.2, 0.0]), f([0.2] * 5)
LADDER = [1, 2, 4, 3, 1]


# ---------------------------------------------------------------------------------- swaps of a line


def log_posterior(theta: Tensor) -> Tensor:
    """Beta(2, 2) and ten failures."""
    return theta.log() + 11 * (1 - theta).log()


def by_likelihood(rows: Tensor) -> Tensor:
    return ((1 - rows[:, 1]) / (1 - rows[:, 0])).pow(10).clamp(max=1.0)


def by_joint_on_the_line(rows: Tensor) -> Tensor:
    """The ratio of joint densities of logits."""
    x, y = rows.unbind(1)
    joint = [log_posterior(theta) + (theta * (1 - theta)).log() for theta in (x, y)]
    return (joint[1] - joint[0]).exp().clamp(max=1.0)


def swapped(rows: Tensor) -> Tensor:
    """A state and a proposal that is independent of it change places."""
    return rows.flip(1)


def with_prior_draw(rows: Tensor) -> Tensor:
    """The log density of a state of the posterior, and of a draw of the prior."""
    return log_posterior(rows[:, 0]) + (rows[:, 1] * (1 - rows[:, 1])).log()


# ------------------------------------------------------------------------------- Langevin proposals


class Langevin:
    """MALA as an involution of points and noise: y = x + drift(x) + sqrt(h) z, and back."""

    def __init__(self, log_density: Rows, gradient: Rows, h: float) -> None:
        self.log_target, self.gradient, self.h = log_density, gradient, h

    def drift(self, x: Tensor) -> Tensor:
        return self.h / 2 * self.gradient(x)

    def map(self, rows: Tensor) -> Tensor:
        x, z = rows.chunk(2, 1)
        y = x + self.drift(x) + self.h**0.5 * z
        return torch.cat([y, (x - y - self.drift(y)) / self.h**0.5], 1)

    def accept(self, sign: int = 1, drift: int = 1) -> Rows:
        """By Hastings' ratio; ``sign`` is that of the log q, and ``drift`` of the drift in them."""

        def log_q(b: Tensor, a: Tensor) -> Tensor:
            return -(b - a - drift * self.drift(a)).square().sum(1) / (2 * self.h)

        def acceptance(rows: Tensor) -> Tensor:
            x, y = rows.chunk(2, 1)[0], self.map(rows).chunk(2, 1)[0]
            proposals = log_q(x, y) - log_q(y, x)
            ratio = self.log_target(y) - self.log_target(x) + sign * proposals
            return ratio.exp().clamp(max=1.0)

        return acceptance

    def log_density(self, rows: Tensor) -> Tensor:
        x, z = rows.chunk(2, 1)
        return self.log_target(x) - z.square().sum(1) / 2


PRECISION = f([[2.0, -0.9], [-0.9, 1.0]])
SKEWED = Langevin(lambda x: (1.5 * x - x.exp()).sum(1), lambda x: 1.5 - x.exp(), 0.8)
CORRELATED = Langevin(lambda x: -(x @ PRECISION * x).sum(1) / 2, lambda x: -x @ PRECISION, 0.5)


# ------------------------------------------------------------------ a discrete step on a trajectory


class Mixed:
    """HMC with a step of a discrete variable z in the midst of its trajectory.

    Rows (x, p, z, k, w): a leapfrog, then z becomes the proposal w if that costs less than the
    budget k of kinetic energy, which pays; another leapfrog, and the momentum p turns round.
    """

    chances, places, step = f([0.1, 0.2, 0.3, 0.4]), f([-1.0, 0.3, 0.9, 2.0]), 0.4

    def __init__(self, by_energy: bool) -> None:
        self.by_energy = by_energy

    def potential(self, x: Tensor, z: Tensor) -> Tensor:
        at = z.round().long()
        return (x - self.places[at]) ** 2 / 2 - self.chances[at].log()

    def cost(self, x: Tensor, z: Tensor, w: Tensor) -> Tensor:
        """Of a proposal that is even among the other values."""
        if self.by_energy:
            return self.potential(x, w) - self.potential(x, z)
        values = torch.arange(4.0, dtype=torch.float64)
        weights = torch.softmax(-self.potential(x[:, None], values), 1)
        here, there = (weights.gather(1, v.round().long()[:, None])[:, 0] for v in (z, w))
        return (1 - there).log() - (1 - here).log()

    def leapfrog(self, x: Tensor, p: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        place = self.places[z.round().long()]
        p = p - self.step / 2 * (x - place)
        x = x + self.step * p
        return x, p - self.step / 2 * (x - place)

    def run(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Where the trajectory ends, and by how much its leapfrogs miss the energy."""
        x, p, z, k, w = rows.unbind(1)
        energy = self.potential(x, z) + p**2 / 2
        x, p = self.leapfrog(x, p, z)
        error = self.potential(x, z) + p**2 / 2 - energy
        cost = self.cost(x, z, w)
        pays = k > cost
        z, w, k = torch.where(pays, w, z), torch.where(pays, z, w), torch.where(pays, k - cost, k)
        energy = self.potential(x, z) + p**2 / 2
        x, p = self.leapfrog(x, p, z)
        error = error + self.potential(x, z) + p**2 / 2 - energy
        return torch.stack([x, -p, z, k, w], 1), error

    def map(self, rows: Tensor) -> Tensor:
        return self.run(rows)[0]

    def accept(self, rows: Tensor) -> Tensor:
        return (-self.run(rows)[1]).exp().clamp(max=1.0)


def log_density_of_mixed(rows: Tensor) -> Tensor:
    """Of a pair (x, z), a normal momentum, an exponential budget and an even proposal."""
    x, p, z, k, _ = rows.unbind(1)
    at = z.round().long()
    target = Mixed.chances[at].log() - (x - Mixed.places[at]) ** 2 / 2
    return target - p**2 / 2 - k


def mixed_points() -> Tensor:
    pairs = f([[z, w] for z in range(4) for w in range(4) if z != w])
    rest = f([[0.2, 0.7, 0.1], [-0.6, -0.4, 0.8], [1.3, 0.2, 2.0]])
    rows = [torch.cat([r[:2], pair[:1], r[2:], pair[1:]]) for r in rest for pair in pairs]
    return torch.stack(rows)


EXHIBITS = [
    Exhibit(
        1,
        "independence Metropolis-Hastings accepts by the ratio of targets alone, without the "
        "densities of its proposal",
        "blackjax-devs/blackjax, PR 581",
        check.invariant,
        independence(THREE, UNEVEN, UNEVEN),
        independence(THREE, UNEVEN, torch.ones(3)),
        against=(law(THREE),),
    ),
    Exhibit(
        2,
        "MALA exchanges source and destination of its proposal: the Hastings factor is inverted",
        "blackjax-devs/blackjax, PR 653",
        check.involution,
        (SKEWED.map, SKEWED.accept()),
        (SKEWED.map, SKEWED.accept(sign=-1)),
        against=(SKEWED.log_density, grid((-2, 1.5), (-2, 2))),
    ),
    Exhibit(
        3,
        "proposals from the prior are accepted by the ratio of joint densities in another space, "
        "where the ratio of likelihoods is due",
        "TuringLang/JuliaBUGS.jl, issue 531",
        check.involution,
        (swapped, by_likelihood),
        (swapped, by_joint_on_the_line),
        against=(with_prior_draw, grid((0.05, 0.9), (0.1, 0.8))),
    ),
    Exhibit(
        4,
        "a discrete step in an HMC trajectory pays by the difference of log(1 - p), which is its "
        "cost for two outcomes only",
        "pyro-ppl/numpyro, PR 826",
        check.involution,
        (Mixed(True).map, Mixed(True).accept),
        (Mixed(False).map, Mixed(False).accept),
        against=(log_density_of_mixed, mixed_points()),
    ),
    Exhibit(
        5,
        "MALA has the gradient with one sign in its proposal, and with the other in its density",
        "TuringLang/AdvancedMH.jl, issues 59 and 95",
        check.involution,
        (CORRELATED.map, CORRELATED.accept()),
        (CORRELATED.map, CORRELATED.accept(drift=-1)),
        against=(CORRELATED.log_density, grid(*[(-1.5, 1.0)] * 4, n=4)),
    ),
    Exhibit(
        6,
        "the new log density is compared with itself, so that every proposal is accepted",
        "bob-carpenter/walnuts, issue 27",
        check.invariant,
        neighbour(f([0.3, 0.7]), lambda old, new: old),
        neighbour(f([0.3, 0.7]), lambda old, new: new),
        against=(law(f([0.3, 0.7])),),
    ),
    Exhibit(
        7,
        "a custom proposal is corrected by the density of the prior, not by its own",
        "probmods/webppl, issue 115",
        check.invariant,
        independence(EVEN, FEW, FEW),
        independence(EVEN, FEW, EVEN),
        against=(law(EVEN),),
    ),
    Exhibit(
        8,
        "a slice sampler puts the left end of its bracket at random, and the right end a full "
        "width from the state",
        "pymc-devs/pymc, issue 5815",
        check.invariant,
        slice_sampler(LADDER, lambda x, left, width: left + width - 1),
        slice_sampler(LADDER, lambda x, left, width: x + width - 1),
        against=(law(f(LADDER)),),
    ),
]
