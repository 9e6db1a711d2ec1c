"""Hamiltonian trajectories and U-turn trees, on one orbit of which every point can be listed."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from pushforward import dist, draw
from pushforward.semantics import check
from pushforward.semantics.checks.orbit import Orbit, OrbitPoint

from .exhibit import Exhibit, f
from .metropolis import accept, grid


class Tree(NamedTuple):
    """Points in a row along the orbit, their weights and summed momentum.

    ``proposal`` is one of the points; ``turned`` says that the row, or a half of it, and so on,
    makes a U-turn.
    """

    points: list[OrbitPoint]
    weights: list[Tensor]
    rho: Tensor
    proposal: OrbitPoint
    turned: bool = False

    def weight(self) -> Tensor:
        return torch.stack(self.weights).sum()

    def turns(self, rho: Tensor) -> bool:
        """Whether a summed momentum leads back at one of the ends."""
        ends = self.points[0], self.points[-1]
        return any(float(end.momentum[0] @ rho) <= 0 for end in ends)


class NoUTurn:
    """The multinomial no-U-turn sampler; each mutant replaces one of its methods."""

    def __init__(self, depth: int) -> None:
        self.depth, self.__qualname__ = depth, type(self).__name__

    def __call__(self, start: OrbitPoint, leapfrog: Any) -> OrbitPoint:
        tree = self.tree([start], start)
        weight = tree.weight()
        for depth in range(self.depth):
            sign = 2 * int(draw(dist.Bernoulli(f(0.5)))) - 1
            points = [self.origin(tree, sign)]
            for _ in range(2**depth):
                points.append(leapfrog(points[-1], torch.tensor([sign])))
            new = self.tree(self.fresh(points), self.reference(start, tree))
            if new.turned:
                break
            taken = self.takes(new, weight)
            weight = self.added(weight, new.weight(), taken)
            tree = joined(tree, new, sign)._replace(
                proposal=self.one_of(new) if taken else tree.proposal
            )
            if self.stops(tree):
                break
        return self.chosen(tree)

    def tree(self, points: list[OrbitPoint], reference: OrbitPoint, before: Any = 0.0) -> Tree:
        """Of points, the nearest first, by halves; ``before`` is the momentum of nearer ones."""
        if len(points) == 1:
            weight = (points[0].log_weight[0] - reference.log_weight[0]).exp()
            return Tree(points, [weight], points[0].momentum[0], points[0])
        half = len(points) // 2
        near = self.tree(points[:half], reference, before)
        far = self.tree(points[half:], reference, before + near.rho)
        whole = joined(near, far, 1)
        turned = near.turned or far.turned or whole.turns(self.tested(whole.rho, before))
        return whole._replace(turned=turned)

    def origin(self, tree: Tree, sign: int) -> OrbitPoint:
        """From where the trajectory is extended."""
        return tree.points[-1 if sign > 0 else 0]

    def fresh(self, points: list[OrbitPoint]) -> list[OrbitPoint]:
        """What is new of the origin and the points after it."""
        return points[1:]

    def reference(self, start: OrbitPoint, tree: Tree) -> OrbitPoint:
        """With which energies are compared."""
        return start

    def tested(self, rho: Tensor, before: Any) -> Tensor:
        """The momentum by which a part of a new tree is tested."""
        return rho

    def stops(self, tree: Tree) -> bool:
        return tree.turns(tree.rho)

    def takes(self, new: Tree, weight: Tensor) -> bool:
        """Whether the proposal comes from the new half."""
        return accept(new.weight() / weight)

    def added(self, old: Tensor, new: Tensor, taken: bool) -> Tensor:
        return old + new

    def one_of(self, new: Tree) -> OrbitPoint:
        return new.points[int(draw(dist.Categorical(torch.stack(new.weights))))]

    def chosen(self, tree: Tree) -> OrbitPoint:
        return tree.proposal


def joined(old: Tree, new: Tree, sign: int) -> Tree:
    """Two trees, one after the other in a direction, as one in the order of the orbit."""
    new_points, new_weights = new.points[::sign], new.weights[::sign]
    points = old.points + new_points if sign > 0 else new_points + old.points
    weights = old.weights + new_weights if sign > 0 else new_weights + old.weights
    return Tree(points, weights, old.rho + new.rho, old.proposal)


class AtTheEnd(NoUTurn):
    """The same law with fewer draws: a point of the whole trajectory, by weight."""

    def takes(self, new: Tree, weight: Tensor) -> bool:
        return False

    def chosen(self, tree: Tree) -> OrbitPoint:
        return self.one_of(tree)


class OthersMomentum(AtTheEnd):
    def tested(self, rho: Tensor, before: Any) -> Tensor:
        return rho + before


class WeightOfTheTaken(NoUTurn):
    def added(self, old: Tensor, new: Tensor, taken: bool) -> Tensor:
        return new if taken else old


class StartCountedAgain(NoUTurn):
    def fresh(self, points: list[OrbitPoint]) -> list[OrbitPoint]:
        return points[:-1]


class FromTheProposal(NoUTurn):
    def origin(self, tree: Tree, sign: int) -> OrbitPoint:
        return tree.proposal

    def reference(self, start: OrbitPoint, tree: Tree) -> OrbitPoint:
        return tree.proposal


class OnlyTheNewHalf(AtTheEnd):
    def stops(self, tree: Tree) -> bool:
        return False


class EvenWithin(NoUTurn):
    def one_of(self, new: Tree) -> OrbitPoint:
        return new.points[int(draw(dist.Categorical(torch.ones(len(new.points)))))]


def window(depth: int) -> tuple[Orbit, int]:
    """A stretch of an orbit that winds and drifts, and how far a tree of this depth reaches."""
    reach = 2**depth - 1
    t = torch.arange(4.0 * reach + 3, dtype=torch.float64)
    momentum = torch.stack([0.5 + (1.7 * t).cos(), (1.7 * t).sin()], 1)
    log_weight = 0.8 * (1.1 * t).sin()
    return Orbit(momentum, log_weight - log_weight.max()), reach


# ------------------------------------------------------------------------------------- one leapfrog


def leapfrog_of_a_normal(rows: Tensor) -> Tensor:
    """One step in the standard normal law, the momentum turned round."""
    q, p = rows.unbind(1)
    p = p - 0.4 * q
    q = q + 0.8 * p
    return torch.stack([q, -(p - 0.4 * q)], 1)


def log_density_of_a_normal(rows: Tensor) -> Tensor:
    return -rows.square().sum(1) / 2


def by_energy(kinetic_of: int) -> Any:
    """Accept by the energy, whose kinetic part at the start is that of this coordinate."""

    def acceptance(rows: Tensor) -> Tensor:
        before = rows[:, 0] ** 2 / 2 + rows[:, kinetic_of] ** 2 / 2
        after = -log_density_of_a_normal(leapfrog_of_a_normal(rows))
        return (before - after).exp().clamp(max=1.0)

    return acceptance


def on_an_orbit(number: int, fault: str, source: str, mutant: type[NoUTurn], depth: int) -> Exhibit:
    twin = mutant.__base__(depth)
    return Exhibit(number, fault, source, check.orbit, twin, mutant(depth), against=window(depth))


EXHIBITS = [
    on_an_orbit(
        9,
        "the half of a subtree that is built later is tested with a summed momentum that is not "
        "its own",
        "stan-dev/stan, issue 2178",
        OthersMomentum,
        depth=3,
    ),
    on_an_orbit(
        10,
        "the weight of a trajectory grows only if its new half gives the proposal",
        "blackjax-devs/blackjax, PR 30",
        WeightOfTheTaken,
        depth=2,
    ),
    on_an_orbit(
        11,
        "each new subtree holds the state from which it started, which is so counted again",
        "blackjax-devs/blackjax, PR 30",
        StartCountedAgain,
        depth=2,
    ),
    on_an_orbit(
        12,
        "a trajectory is extended from its present proposal, not from its edge, and energies are "
        "compared with that",
        "blackjax-devs/blackjax, PR 30",
        FromTheProposal,
        depth=2,
    ),
    on_an_orbit(
        13,
        "the U-turn is looked for in the new half only, never in the whole trajectory",
        "blackjax-devs/blackjax, PR 18",
        OnlyTheNewHalf,
        depth=3,
    ),
    Exhibit(
        14,
        "the kinetic energy at the start is that of the position",
        "blackjax-devs/blackjax, issue 46",
        check.involution,
        (leapfrog_of_a_normal, by_energy(kinetic_of=1)),
        (leapfrog_of_a_normal, by_energy(kinetic_of=0)),
        against=(log_density_of_a_normal, grid((-2, 2), (-2, 1.5))),
    ),
    on_an_orbit(
        15,
        "a state of a subtree is chosen evenly, not by weight",
        "tensorflow/probability, issue 542",
        EvenWithin,
        depth=2,
    ),
]
