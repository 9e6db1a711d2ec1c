"""The no-U-turn sampler: multinomial, with biased progressive sampling between trees.

Hoffman and Gelman, arXiv 1111.4246; Betancourt, arXiv 1701.02434, appendix A; Stan from 2.14, with
the U-turn criterion across subtrees of Stan 2.21.  Trees are built leaf by leaf as by Phan, Pradhan
and Jankowiak, arXiv 1912.11554.

The transition on the tree leaves the weights exp(log_weight) of an orbit invariant because whether
a tree is built depends on the set of its points alone: on each aligned subtree being free of
U-turns and of divergences, whatever the start and the order of building.  The tree logic knows of
points only their momentum and weight, and moves along the orbit only by ``leapfrog``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, reduce
from typing import Any, Literal, NamedTuple, Protocol, cast

import pyro.distributions as dist
import torch
from torch import Tensor

from ...ppl import draw, iterate, program
from .hamiltonian import (
    DIVERGENCE,
    Kernel,
    Parameters,
    Phase,
    Potential,
    State,
    coin,
    init,
    leapfrog,
    refresh,
    select,
)


class Point(Protocol):
    """A named tuple of tensors, chains leading: momentum [chains, d] and log_weight [chains]."""

    @property
    def momentum(self) -> Tensor: ...

    @property
    def log_weight(self) -> Tensor: ...


# (point, direction [chains] of +-1) -> the next point of the orbit
Leapfrog = Callable[[Any, Tensor], Any]


class Span(NamedTuple):
    """The momenta of a stretch of orbit: at its two ends and summed, each [chains, d]."""

    first: Tensor
    last: Tensor
    total: Tensor


class Subtree(NamedTuple):
    """Leaves built from one edge of the tree in one direction.

    ``size`` leaves, of which ``edge`` is the last; a ``proposal`` among them, drawn by weight; the
    log of the sum of their weights, and of the ``lowest``; ``spans`` of their largest aligned
    subtrees, one for each binary one of ``size``.  Where ``valid`` is false, building has stopped,
    and only ``divergent``, ``accept_sum`` and ``leapfrogs`` still mean something.
    """

    size: int
    edge: Any
    proposal: Any
    log_weight: Tensor
    lowest: Tensor
    spans: tuple[Span, ...]
    valid: Tensor
    divergent: Tensor
    accept_sum: Tensor
    leapfrogs: Tensor


class Tree(NamedTuple):
    """The trajectory after ``depth`` doublings, of which ``doublings`` [chains] succeeded.

    ``proposal`` is the transition's result; ``total`` sums the momenta.  Where ``growing`` is
    false, edges, weights and total no longer mean anything.
    """

    depth: int
    left: Any
    right: Any
    proposal: Any
    log_weight: Tensor
    lowest: Tensor
    total: Tensor
    growing: Tensor
    divergent: Tensor
    doublings: Tensor
    accept_sum: Tensor
    leapfrogs: Tensor


# ----------------------------------------------------------------------------------------- criteria


def join(left: Span, right: Span) -> Span:
    """The span of two adjacent stretches, of which ``left.last`` and ``right.first`` touch."""
    return Span(left.first, right.last, left.total + right.total)


def turned(left: Span, right: Span) -> Tensor:
    """Whether two adjacent stretches, joined, turn back, [chains].

    A stretch has turned if the momentum at either end points against the sum of its momenta.  This
    is asked of the whole, and of each half with the nearest point of the other.  The same answer
    comes from the mirror image, so the direction of building does not matter.
    """
    total = left.total + right.total
    left_seam, right_seam = left.total + right.first, left.last + right.total
    ends = torch.stack((left.first, right.last, left.first, right.first, left.last, right.last))
    totals = torch.stack((total, total, left_seam, left_seam, right_seam, right_seam))
    return ((ends * totals).sum(-1) <= 0.0).any(0)


def diverged(lowest: Tensor, log_weight: Tensor) -> Tensor:
    """Whether a set of points has one with no weight to speak of, [chains]."""
    return lowest < log_weight - DIVERGENCE


# --------------------------------------------------------------------------------------- selections


def direction(tree: Tree) -> Tensor:
    """Whether to double forward in time, [chains]: a fair coin."""
    return coin(torch.full_like(tree.log_weight, 0.5))


def leaf_probability(subtree: Subtree, leaf: Point) -> Tensor:
    """With which probability a leaf replaces the proposal of the leaves before it, [chains].

    It is w / (w + W), so that every leaf is chosen in proportion to its weight.
    """
    return (leaf.log_weight - subtree.log_weight).sigmoid()


def subtree_probability(tree: Tree, subtree: Subtree) -> Tensor:
    """With which probability the proposal of a subtree replaces that of the tree, [chains].

    It is min(1, W_new / W_old): biased progressive sampling, which prefers the newer half.
    """
    return (subtree.log_weight - tree.log_weight).clamp(max=0.0).exp()


# ----------------------------------------------------------------------------------------- subtrees


def first_leaf(edge: Point, sign: Tensor, leapfrog: Leapfrog) -> Point:
    """The leaf next to the edge of the tree."""
    return cast(Point, leapfrog(edge, sign))


def single(leaf: Point, tree_weight: Tensor, reference: Tensor) -> Subtree:
    """The subtree of one leaf."""
    momentum, log_weight = leaf.momentum, leaf.log_weight
    divergent = diverged(log_weight, torch.maximum(log_weight, tree_weight))
    return Subtree(
        size=1,
        edge=leaf,
        proposal=leaf,
        log_weight=log_weight,
        lowest=log_weight,
        spans=(Span(momentum, momentum, momentum),),
        valid=~divergent,
        divergent=divergent,
        accept_sum=(log_weight - reference).clamp(max=0.0).exp(),
        leapfrogs=torch.ones_like(log_weight, dtype=torch.int64),
    )


def close_spans(
    spans: tuple[Span, ...], leaf: Point, size: int
) -> tuple[tuple[Span, ...], list[Tensor]]:
    """Add the ``size``-th leaf; the spans of the aligned subtrees, and which that it closes turn.

    Adding one to a binary number: a trailing one, which stands for a closed subtree of that size,
    is joined with the carry to its right.
    """
    span = Span(leaf.momentum, leaf.momentum, leaf.momentum)
    turns = []
    while size % 2 == 0:
        *spans, left = spans  # type: ignore[assignment]
        turns.append(turned(left, span))
        span = join(left, span)
        size //= 2
    return (*spans, span), turns


def add_leaf(
    subtree: Subtree, sign: Tensor, leapfrog: Leapfrog, tree_weight: Tensor, reference: Tensor
) -> Subtree:
    """The subtree with its next leaf.

    A leaf far below the weight of the tree stops the building at once: joined with the tree the
    subtree would be selected with probability exp(-DIVERGENCE), which is zero.
    """
    leaf = leapfrog(subtree.edge, sign)
    size = subtree.size + 1
    take = coin(leaf_probability(subtree, leaf))
    log_weight = torch.logaddexp(subtree.log_weight, leaf.log_weight)
    lowest = torch.minimum(subtree.lowest, leaf.log_weight)
    spans, turns = close_spans(subtree.spans, leaf, size)
    diverges = diverged(lowest, torch.maximum(log_weight, tree_weight))
    stops = reduce(torch.logical_or, turns, diverges)
    accept = (leaf.log_weight - reference).clamp(max=0.0).exp()
    return Subtree(
        size=size,
        edge=leaf,
        proposal=select(take, leaf, subtree.proposal),
        log_weight=log_weight,
        lowest=lowest,
        spans=spans,
        valid=subtree.valid & ~stops,
        divergent=torch.where(subtree.valid, diverges, subtree.divergent),
        accept_sum=subtree.accept_sum + accept * subtree.valid,
        leapfrogs=subtree.leapfrogs + subtree.valid,
    )


@program
def build_subtree(
    leapfrog: Leapfrog,
    edge: Point,
    sign: Tensor,
    depth: int,
    tree_weight: Tensor,
    reference: Tensor,
) -> Subtree:
    """The subtree of 2^depth leaves beyond an edge; it ends early once no chain's is valid."""

    def step(subtree: Subtree) -> Subtree:
        return add_leaf(subtree, sign, leapfrog, tree_weight, reference)

    start = single(first_leaf(edge, sign, leapfrog), tree_weight, reference)
    grow = iterate(step, 2**depth - 1, until=lambda subtree: ~subtree.valid)
    return cast(Subtree, grow(start))


# -------------------------------------------------------------------------------------------- trees


def root(point: Point) -> Tree:
    """The tree of the initial point alone."""
    log_weight = point.log_weight
    none = torch.zeros_like(log_weight, dtype=torch.int64)
    return Tree(
        depth=0,
        left=point,
        right=point,
        proposal=point,
        log_weight=log_weight,
        lowest=log_weight,
        total=point.momentum,
        growing=none == 0,
        divergent=none != 0,
        doublings=none,
        accept_sum=torch.zeros_like(log_weight),
        leapfrogs=none,
    )


def extended_edge(tree: Tree, forward: Tensor) -> Point:
    """The point from which the tree is doubled."""
    return cast(Point, select(forward, tree.right, tree.left))


def usable(subtree: Subtree) -> Tensor:
    """Whether the proposal of a subtree may be taken: only if it is complete, [chains]."""
    return subtree.valid


def added_weight(tree: Tree, subtree: Subtree, take: Tensor) -> Tensor:
    """The log weight of the doubled tree, [chains]: of all its points, whichever is proposed."""
    del take
    return torch.logaddexp(tree.log_weight, subtree.log_weight)


def double(tree: Tree, leapfrog: Leapfrog, reference: Tensor) -> Tree:
    """The tree joined with a subtree of its own size, in a random direction."""
    forward = direction(tree)
    near, far = extended_edge(tree, forward), select(forward, tree.left, tree.right)
    sign = torch.where(forward, 1, -1)
    subtree = build_subtree(leapfrog, near, sign, tree.depth, tree.log_weight, reference)

    joined = tree.growing & usable(subtree)
    take = coin(torch.where(joined, subtree_probability(tree, subtree), 0.0))
    log_weight = added_weight(tree, subtree, take)
    lowest = torch.minimum(tree.lowest, subtree.lowest)
    old, new = Span(far.momentum, near.momentum, tree.total), subtree.spans[0]
    turning = turned(old, new)
    diverges = diverged(lowest, log_weight)
    return Tree(
        depth=tree.depth + 1,
        left=select(forward, tree.left, subtree.edge),
        right=select(forward, subtree.edge, tree.right),
        proposal=select(take, subtree.proposal, tree.proposal),
        log_weight=log_weight,
        lowest=lowest,
        total=tree.total + new.total,
        growing=joined & ~(turning | diverges),
        divergent=tree.divergent | (tree.growing & subtree.divergent) | (joined & diverges),
        doublings=tree.doublings + joined,
        accept_sum=tree.accept_sum + subtree.accept_sum * tree.growing,
        leapfrogs=tree.leapfrogs + subtree.leapfrogs * tree.growing,
    )


@program
def trajectory(
    start: Point, leapfrog: Leapfrog, max_depth: int = 10, reference: Tensor | None = None
) -> Tree:
    """The random trajectory through ``start``, with the point selected from it as ``proposal``.

    Invariant: the transition start -> proposal preserves exp(log_weight) on each orbit of leapfrog.

    Args:
        start: the initial point of each chain.
        leapfrog: moves a point one step in the direction [chains] of +-1 along its orbit.
        max_depth: the most doublings.
        reference: the log weight [chains] to which ``accept_sum`` compares, that of the start
            unless given; nothing else depends on it.
    """
    if reference is None:
        reference = start.log_weight
    grow = iterate(
        partial(double, leapfrog=leapfrog, reference=reference),
        max_depth,
        until=lambda tree: ~tree.growing,
    )
    return cast(Tree, grow(root(start)))


# ------------------------------------------------------------------------------------------- kernel


class NUTSInfo(NamedTuple):
    """What one transition did, each [chains]; acceptance_rate is a mean over the trajectory."""

    acceptance_rate: Tensor
    diverging: Tensor
    energy: Tensor
    tree_depth: Tensor
    n_steps: Tensor


def step_factor(like: Tensor, jitter: float) -> Tensor:
    """By what the step size of each chain is multiplied, [chains]: uniform about 1."""
    zero, one = like.new_zeros(()), like.new_ones(())
    uniform = draw(dist.Uniform(zero, one, validate_args=False), like.shape, label="jitter")
    return 1.0 + jitter * (2.0 * uniform - 1.0)


def step(
    state: State,
    potential: Potential,
    parameters: Parameters,
    *,
    max_depth: int,
    jitter: float = 0.0,
) -> tuple[State, NUTSInfo]:
    """One transition: new momentum and step size, random trajectory, a point of it.

    The step size is drawn whatever the state, and is one for the whole trajectory: given it, the
    transition preserves the density, and so does the mixture.
    """
    start, scale = refresh(state), parameters.scale
    stretched = None if parameters.directions is None else parameters.stretched
    if jitter > 0.0:
        scale = step_factor(state.log_density, jitter)[:, None] * scale

    def move(phase: Phase, sign: Tensor) -> Phase:
        return leapfrog(phase, potential, sign.unsqueeze(-1) * scale, stretched)

    tree = trajectory(start, move, max_depth)
    info = NUTSInfo(
        acceptance_rate=tree.accept_sum / tree.leapfrogs,
        diverging=tree.divergent,
        energy=-tree.proposal.log_weight,
        tree_depth=tree.doublings,
        n_steps=tree.leapfrogs,
    )
    return tree.proposal.state, info


def nuts(
    max_depth: int = 10, jitter: float = 0.0, step_size: Literal["pooled", "own"] = "pooled"
) -> Kernel:
    """The no-U-turn kernel.

    Args:
        max_depth: trajectories have at most 2^max_depth - 1 leapfrogs.
        jitter: each transition, of warm-up too, multiplies the step size by a number that it draws
            uniformly from 1 - jitter to 1 + jitter, so that no trajectory keeps in step with a
            period of the posterior.  ``fit.stats["step_size"]`` is the one that is multiplied.
        step_size: "pooled": all chains draw with one, which they learnt together; "own": each with
            the one that it learnt itself, for chains that may be in modes of different scales.

    Errors:
        ValueError: ``max_depth`` is below 1, ``jitter`` not within [0, 1), or ``step_size`` another
            word.
    """
    if max_depth < 1:
        raise ValueError(f"nuts: max_depth must be at least 1, not {max_depth}")
    if not 0.0 <= jitter < 1.0:
        raise ValueError(f"nuts: jitter must be at least 0 and below 1, not {jitter}")
    if step_size not in ("pooled", "own"):
        raise ValueError(f"nuts: step_size is 'pooled' or 'own', not {step_size!r}")
    move = partial(step, max_depth=max_depth, jitter=jitter)
    return Kernel(init, move, "NUTS", max_depth, jitter, own_steps=step_size == "own")
