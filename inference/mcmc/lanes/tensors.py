"""The engine as tensors: NUTS for many chains that wait for no other, on any device.

It is the machine of ``nuts.cpp`` for densities that are no lane code, and for other devices: one
call of the density moves every chain by one leapfrog of whatever tree it is in, and a chain whose
trajectory ends begins the next at once (Dance et al., arXiv 2503.17405).  Names, criteria and the
order of random choices are those of ``nuts.py``, which defines the transition.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ....ppl.tensors.decompositions import OF_BATCHES
from ..adaptation import DualAveraging, averaging_update
from ..hamiltonian import (
    Parameters,
    Phase,
    Potential,
    State,
    leapfrog,
    select,
    with_momentum,
)
from ..nuts import NUTSInfo, Span, diverged, turned
from .engine import Advance, Chains, Metric, StepSizes
from .streams import Choices, Given


class Machine(NamedTuple):
    """Chains amid their trajectories; everything has the chains first.

    ``left``, ``right``, ``proposal``, ``log_weight``, ``lowest``, ``total`` and ``depth`` are those
    of the tree; ``factor`` multiplies the steps of the transition; the subtree has ``size`` leaves,
    of which ``edge`` is the last, a ``candidate`` and ``spans`` [chains, max_depth + 2, 3, d], of
    which ``open`` are in use: first and last momentum and the sum, see ``Span``.
    """

    left: Phase
    right: Phase
    proposal: Phase
    log_weight: Tensor
    lowest: Tensor
    reference: Tensor
    total: Tensor
    depth: Tensor
    factor: Tensor
    forward: Tensor
    size: Tensor
    edge: Phase
    candidate: Phase
    subtree_weight: Tensor
    subtree_lowest: Tensor
    spans: Tensor
    open: Tensor
    accept_sum: Tensor
    leapfrogs: Tensor
    divergent: Tensor


def started(state: State, max_depth: int, jitter: float, choices: Choices) -> Machine:
    """New trajectories from these states, before their first leapfrog."""
    weight, every = state.log_density, torch.ones_like(state.log_density, dtype=torch.bool)
    at, none = with_momentum(state, torch.zeros_like(state.position)), torch.zeros_like(every)
    chains, d = state.position.shape
    machine = Machine(
        left=at,
        right=at,
        proposal=at,
        log_weight=weight,
        lowest=weight,
        reference=weight,
        total=at.momentum,
        depth=none.long(),
        factor=torch.ones_like(weight),
        forward=none,
        size=none.long(),
        edge=at,
        candidate=at,
        subtree_weight=weight,
        subtree_lowest=weight,
        spans=state.position.new_zeros(chains, max_depth + 2, 3, d),
        open=none.long(),
        accept_sum=torch.zeros_like(weight),
        leapfrogs=none.long(),
        divergent=none,
    )
    return doubled(restarted(machine, every, jitter, choices), every, choices)


def restarted(machine: Machine, over: Tensor, jitter: float, choices: Choices) -> Machine:
    """New trajectories for the chains whose are over, from what these proposed."""
    start = with_momentum(machine.proposal.state, choices.normals(machine.proposal.position, over))
    weight, none, factor = start.log_weight, torch.zeros_like(machine.depth), machine.factor
    if jitter > 0.0:
        drawn = 1.0 + jitter * (2.0 * choices.share(over) - 1.0)
        factor = torch.where(over, drawn.to(factor.dtype), factor)
    return machine._replace(
        left=select(over, start, machine.left),
        right=select(over, start, machine.right),
        proposal=select(over, start, machine.proposal),
        log_weight=torch.where(over, weight, machine.log_weight),
        lowest=torch.where(over, weight, machine.lowest),
        reference=torch.where(over, weight, machine.reference),
        total=torch.where(over[:, None], start.momentum, machine.total),
        depth=torch.where(over, none, machine.depth),
        factor=factor,
        accept_sum=torch.where(over, 0.0, machine.accept_sum),
        leapfrogs=torch.where(over, none, machine.leapfrogs),
        divergent=machine.divergent & ~over,
    )


def doubled(machine: Machine, begins: Tensor, choices: Choices) -> Machine:
    """New subtrees for these chains, from an end of their tree."""
    heads = choices.coin(torch.full_like(machine.log_weight, 0.5), begins)
    forward = torch.where(begins, heads, machine.forward)
    return machine._replace(
        forward=forward,
        edge=select(begins, select(forward, machine.right, machine.left), machine.edge),
        size=machine.size.masked_fill(begins, 0),
        open=machine.open.masked_fill(begins, 0),
    )


def grown(
    machine: Machine, move: Callable[[Phase, Tensor], Phase], choices: Choices
) -> tuple[Machine, Tensor]:
    """One leaf more for each chain, and whether its subtree must be given up."""
    leaf = move(machine.edge, torch.where(machine.forward, machine.factor, -machine.factor))
    first, weight = machine.size == 0, leaf.log_weight
    share = (weight - machine.subtree_weight).sigmoid()
    take = first | choices.coin(share, ~first)
    joint = torch.logaddexp(machine.subtree_weight, weight)
    spans, open_, turns = closed(machine, leaf, machine.size + 1)
    machine = machine._replace(
        size=machine.size + 1,
        edge=leaf,
        candidate=select(take, leaf, machine.candidate),
        subtree_weight=torch.where(first, weight, joint),
        subtree_lowest=torch.where(first, weight, torch.minimum(machine.subtree_lowest, weight)),
        spans=spans,
        open=open_,
        accept_sum=machine.accept_sum + (weight - machine.reference).clamp(max=0.0).exp(),
        leapfrogs=machine.leapfrogs + 1,
    )
    heaviest = torch.maximum(machine.subtree_weight, machine.log_weight)
    diverges = diverged(machine.subtree_lowest, heaviest)
    return machine._replace(divergent=machine.divergent | diverges), diverges | turns


def closed(machine: Machine, leaf: Phase, size: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The leaf among the spans of aligned subtrees, as one is added to a binary number.

    The spans, how many are open, and whether one that it closes turns.
    """
    rows = torch.arange(len(size), device=size.device)
    spans, open_ = machine.spans.clone(), machine.open + 1
    spans[rows, machine.open] = leaf.momentum[:, None].expand(-1, 3, -1)
    turns, left = torch.zeros_like(machine.divergent), size
    while bool((carries := ~turns & (left % 2 == 0)).any()):
        last = open_.clamp(min=2) - 1
        one, other = (Span(*spans[rows, k].unbind(1)) for k in (last - 1, last))
        turns = turns | (carries & turned(one, other))
        joint = torch.stack((one.first, other.last, one.total + other.total), 1)
        spans[rows, last - 1] = torch.where(carries[:, None, None], joint, spans[rows, last - 1])
        open_, left = open_ - carries.long(), torch.where(carries, left // 2, 1)
    return spans, open_, turns


def merged(
    machine: Machine, fails: Tensor, max_depth: int, choices: Choices
) -> tuple[Machine, Tensor, Tensor]:
    """Trees joined with their subtrees where these are whole.

    Also which chains double their tree again, and whose transition is over.
    """
    whole = ~fails & (machine.size == 2**machine.depth)
    taken = (machine.subtree_weight - machine.log_weight).clamp(max=0.0).exp()
    take = choices.coin(taken, whole) & whole
    near = select(machine.forward, machine.right, machine.left)
    far = select(machine.forward, machine.left, machine.right)
    new = Span(*machine.spans[:, 0].unbind(1))
    turning = turned(Span(far.momentum, near.momentum, machine.total), new)
    joint = torch.logaddexp(machine.log_weight, machine.subtree_weight)
    log_weight = torch.where(whole, joint, machine.log_weight)
    lowest = torch.minimum(machine.lowest, machine.subtree_lowest)
    lowest = torch.where(whole, lowest, machine.lowest)
    diverges = whole & diverged(lowest, log_weight)
    depth = machine.depth + whole
    doubles = whole & ~(turning | diverges | (depth == max_depth))
    machine = machine._replace(
        left=select(doubles & ~machine.forward, machine.edge, machine.left),
        right=select(doubles & machine.forward, machine.edge, machine.right),
        proposal=select(take, machine.candidate, machine.proposal),
        log_weight=log_weight,
        lowest=lowest,
        total=torch.where(doubles[:, None], machine.total + new.total, machine.total),
        depth=depth,
        divergent=machine.divergent | diverges,
    )
    return machine, doubles, fails | (whole & ~doubles)


# ------------------------------------------------------------------------------------------- a run


@dataclass(frozen=True)
class TensorEngine:
    """NUTS on any density, with the ``max_depth`` and ``jitter`` of ``nuts``."""

    density: Potential
    max_depth: int = 10
    jitter: float = 0.0
    sizes: ClassVar[tuple[int, ...]] = ()  # it draws no whole numbers
    decomposes: ClassVar[bool] = False  # points without decomposition are counted if there are any
    piece: ClassVar[float] = 0.2

    def advance(
        self,
        chains: Chains,
        metric: Metric,
        transitions: int,
        *,
        target: float = 0.0,
        choices: Choices | None = None,
    ) -> Advance:
        """Make so many transitions of each chain: see ``Engine.advance``."""
        choices = choices or Choices(chains.random)
        sizes, device = chains.step_sizes, chains.position.device
        rows = torch.arange(len(chains.position), device=device)
        record = _Record.of(chains, transitions)
        done, now = torch.zeros_like(rows), State(*chains[:3])
        machine, evaluations = started(now, self.max_depth, self.jitter, choices), 0
        while bool((busy := done < transitions).any()):
            step = sizes.log_step.exp().to(chains.position.dtype)
            parameters = Parameters(step, metric.root.square(), metric.directions, metric.stretch)
            stretched = parameters.stretched if len(metric.stretch) else None
            scale = parameters.scale

            def move(
                edge: Phase, by: Tensor, scale: Tensor = scale, stretched: Any = stretched
            ) -> Phase:
                return leapfrog(edge, self.density, by[:, None] * scale, stretched)

            with OF_BATCHES.collected() as failed:
                machine, fails = grown(machine, move, choices)
            record.count(failed, rows[busy], done[busy], busy)
            machine, doubles, over = merged(machine, fails, self.max_depth, choices)
            evaluations, ends = evaluations + 1, over & busy
            record.write(machine, ends, done)
            now = select(ends, machine.proposal.state, now)
            if target:
                rate = machine.accept_sum / machine.leapfrogs
                sizes = learnt(sizes, rate.double(), target, ends)
            done = done + ends
            choices.awake = done < transitions
            machine = restarted(machine, over, self.jitter, choices)
            machine = doubled(machine, over | doubles, choices)
        after = Chains(*now, sizes, choices.random)
        return record.made(after, evaluations)

    def replay(
        self, chains: Chains, metric: Metric, choices: Tensor
    ) -> tuple[Advance, list[list[float]]]:
        """One transition of each chain whose random choices are given: see ``Engine.replay``."""
        given = Given(choices, chains.random, len(metric.root))
        return self.advance(chains, metric, 1, choices=given), given.asked


def learnt(sizes: StepSizes, acceptance: Tensor, target: float, ends: Tensor) -> StepSizes:
    """The search for the step size by one transition more of the chains that ended one."""
    found = averaging_update(DualAveraging(**sizes._asdict()), acceptance, target)
    return select(ends, StepSizes(**found._asdict()), sizes)


@dataclass(frozen=True)
class _Record:
    """What is told of transitions, [chains, transitions, ...]."""

    draws: Tensor
    gradients: Tensor
    info: NUTSInfo
    log_density: Tensor
    failures: Tensor

    @staticmethod
    def of(chains: Chains, transitions: int) -> _Record:
        u = chains.position
        n, d = u.shape
        draws, gradients = (u.new_empty(n, transitions, d) for _ in range(2))
        reals = [u.new_empty(n, transitions) for _ in range(3)]
        counts = [torch.zeros(n, transitions, dtype=torch.int64, device=u.device) for _ in range(3)]
        diverging = counts[0] > 0
        info = NUTSInfo(reals[0], diverging, reals[1], counts[0], counts[1])
        return _Record(draws, gradients, info, reals[2], counts[2])

    def write(self, machine: Machine, ends: Tensor, done: Tensor) -> None:
        """The transitions that ended, each after those that its chain has done."""
        if not bool(ends.any()):
            return
        at = torch.nonzero(ends).flatten(), done[ends]
        found = machine.proposal
        rate = machine.accept_sum / machine.leapfrogs
        told = (rate, machine.divergent, -found.log_weight, machine.depth, machine.leapfrogs)
        self.draws[at], self.gradients[at] = found.position[ends], found.gradient[ends]
        self.log_density[at] = found.log_density[ends]
        for column, value in zip(self.info, told, strict=True):
            column[at] = value[ends]

    def count(self, failed: list[Tensor], rows: Tensor, done: Tensor, busy: Tensor) -> None:
        """The points without decomposition, for the chains that are not at their end."""
        for each in failed:
            self.failures[rows, done] += each.to(self.failures.dtype)[busy]

    def made(self, chains: Chains, evaluations: int) -> Advance:
        return Advance(
            chains, self.draws, self.gradients, self.info, self.log_density, self.failures,
            evaluations,
        )  # fmt: skip
