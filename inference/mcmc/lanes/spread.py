"""Chains of the engine at the workers of an executor: each does what it does in one process."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch.utils._pytree import tree_map

from ....ppl.tasks.workers import Client, Workers
from .engine import Advance, Chains, Engine, Metric, parted, together


@dataclass(frozen=True)
class Spread:
    """An engine with the workers who know its ``advance``, and in how many parts chains go there.

    What travels is the machine code of the density as text, and chains; programs stay.  As chains
    do not depend on each other, draws are bit for bit those of the engine in one process.
    """

    engine: Engine
    workers: Workers
    parts: int
    piece: ClassVar[float] = 5.0  # as long as a lost worker costs, and much longer than the way

    @property
    def sizes(self) -> tuple[int, ...]:
        return self.engine.sizes

    @property
    def decomposes(self) -> bool:
        return self.engine.decomposes

    def advance(
        self, chains: Chains, metric: Metric, transitions: int, *, target: float = 0.0
    ) -> Advance:
        """Make so many transitions of each chain: see ``Engine.advance``."""
        parts = parted(chains, self.parts)
        tasks = {
            i: (tree_map(torch.clone, part), metric, transitions, target)  # a view brings it all
            for i, part in enumerate(parts)
        }
        made = dict(self.workers.results(tasks))
        return together([made[i] for i in range(len(parts))])


def spread(engine: Engine, executor: Executor | Client, parts: int) -> Spread:
    """The engine with the workers of an executor."""
    return Spread(engine, Workers(executor, partial(_advanced, engine)), parts)


def _advanced(
    engine: Engine, chains: Chains, metric: Metric, transitions: int, target: float
) -> Advance:
    return engine.advance(chains, metric, transitions, target=target)
