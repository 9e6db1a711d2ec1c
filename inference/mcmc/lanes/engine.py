"""The engine of ``nuts.cpp`` from Python: chains as tensors, advanced by whole transitions."""

from __future__ import annotations

import ctypes
import itertools
import math
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar, NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from ....ppl import draw, program
from ....ppl.compile.lanes.build import library
from ....ppl.compile.lanes.function import REALS, LaneFunction
from ..hamiltonian import Parameters
from ..nuts import NUTSInfo

SOURCE = Path(__file__).with_name("nuts.cpp")


class StepSizes(NamedTuple):
    """The search of each chain for its step size, all [chains]: see ``DualAveraging``."""

    log_step: Tensor
    log_average: Tensor
    error: Tensor
    centre: Tensor
    tried: Tensor


class Chains(NamedTuple):
    """Where chains are, all that their next transition depends on but the metric.

    position [chains, d + m], of which the last m are whole numbers, log_density [chains], gradient
    [chains, d]; ``random`` [chains, 4] is the state of each chain's own generator.
    """

    position: Tensor
    log_density: Tensor
    gradient: Tensor
    step_sizes: StepSizes
    random: Tensor


class Metric(NamedTuple):
    """A root of the inverse metric, see ``Parameters``: [d], directions [k, d], stretch [k]."""

    root: Tensor
    directions: Tensor
    stretch: Tensor

    @staticmethod
    def diagonal(root: Tensor) -> Metric:
        return Metric(root, root.new_zeros(0, len(root)), root.new_zeros(0))

    @staticmethod
    def of(parameters: Parameters) -> Metric:
        """That of a kernel."""
        root = parameters.inverse_mass.sqrt()
        if parameters.directions is None or parameters.stretch is None:
            return Metric.diagonal(root)
        return Metric(root, parameters.directions, parameters.stretch)


class Advance(NamedTuple):
    """What chains did: where they are, and of each transition its end, gradient there and info.

    draws [chains, transitions, d + m]; gradients [chains, transitions, d]; infos and log_density
    [chains, transitions]; ``failures`` counts points where a matrix had no decomposition.
    ``evaluations`` is how often the density was called, for all chains that waited.
    """

    chains: Chains
    draws: Tensor
    gradients: Tensor
    info: NUTSInfo
    log_density: Tensor
    failures: Tensor
    evaluations: int


_STOP = ctypes.CFUNCTYPE(ctypes.c_int)


@contextmanager
def _noticing() -> Iterator[list[int]]:
    """Within, Ctrl-C is noted in the list: no exception can interrupt machine code."""
    pressed: list[int] = []
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT) if main else None
    if before is not signal.default_int_handler:
        yield pressed
        return
    signal.signal(signal.SIGINT, lambda number, frame: pressed.append(number))
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


_COUNTS = ("chains", "d", "m", "transitions", "max_depth", "results")


class _Run(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("density", "tables", "work")),
        *((name, ctypes.c_long) for name in _COUNTS),
        *((name, ctypes.c_void_p) for name in ("position", "log_density", "gradient", "sizes")),
        ("root_mass", ctypes.c_void_p),
        ("rank", ctypes.c_long),
        *((name, ctypes.c_void_p) for name in ("directions", "stretch", "averaging")),
        *((name, ctypes.c_double) for name in ("target", "jitter")),
        *((name, ctypes.c_void_p) for name in ("random", "draws", "gradients", "infos")),
        *((name, ctypes.c_void_p) for name in ("failures", "given")),
        ("given_count", ctypes.c_long),
        ("asked", ctypes.c_void_p),
        ("asked_count", ctypes.c_long),
        ("evaluations", ctypes.c_long),
        ("stop", _STOP),
    ]


@cache
def _engine(text: str, real: str) -> ctypes.CDLL:
    return library(text, f"-DREAL={real}", "-ftree-vectorize", "-fopenmp-simd")


@dataclass(frozen=True)
class Engine:
    """NUTS on a density in lane code, with the ``max_depth`` and ``jitter`` of ``nuts``.

    ``sizes`` [m]: after each trajectory the last m numbers of the vector are drawn, each from its
    conditional on 0, ..., size - 1.  ``text`` is its code, which tests alter.  ``cores``: threads
    that share the chains; whatever they are, each chain draws the same.
    """

    density: LaneFunction
    max_depth: int = 10
    text: str = SOURCE.read_text()
    cores: int = 1
    sizes: tuple[int, ...] = ()
    jitter: float = 0.0
    piece: ClassVar[float] = 0.2  # seconds between two looks at a run

    @property
    def decomposes(self) -> bool:
        """Whether the density decomposes matrices, and counts where it cannot."""
        return self.density.results > 2

    def advance(
        self, chains: Chains, metric: Metric, transitions: int, *, target: float = 0.0
    ) -> Advance:
        """Make so many transitions of each chain, with this metric.

        Chains do not depend on each other: what one does is the same alone and among others.  With
        a ``target`` each learns its step size from each of its transitions.

        Errors:
            KeyboardInterrupt: Ctrl-C was pressed; the transitions are lost.
        """
        parts = parted(chains, self.cores)
        with _noticing() as pressed, ThreadPoolExecutor(len(parts)) as pool:

            def run(part: Chains) -> Advance:
                return self._run(part, metric, transitions, pressed, target=target)

            made = list(pool.map(run, parts)) if len(parts) > 1 else [run(chains)]
        if pressed:
            raise KeyboardInterrupt
        return made[0] if len(made) == 1 else together(made)

    def replay(
        self, chains: Chains, metric: Metric, choices: Tensor
    ) -> tuple[Advance, list[list[float]]]:
        """One transition of each chain whose random choices are given, float64 [chains, n].

        They are d standard normals, with ``jitter`` a uniform number for the step size, then one
        for each coin, of which a number with K values tosses K - 1 at most; a coin for which none
        is left shows tails.  Also the probabilities of heads of the coins that each chain tossed.
        """
        most = 2 ** (self.max_depth + 1) + 2 * self.max_depth + 2 + sum(self.sizes)
        asked = torch.zeros(len(chains.position), most, dtype=torch.float64)
        done = self._run(chains, metric, 1, [], choices=choices.contiguous(), asked=asked)
        return done, [row[: int(row[-1])].tolist() for row in asked]

    def _run(
        self,
        chains: Chains,
        metric: Metric,
        transitions: int,
        pressed: list[int],
        *,
        target: float = 0.0,
        choices: Tensor | None = None,
        asked: Tensor | None = None,
    ) -> Advance:
        dtype, n, d, m = self.density.dtype, len(chains.position), len(metric.root), len(self.sizes)
        sizes = torch.tensor(self.sizes, dtype=torch.int64)
        position, log_density, gradient, random = (
            x.clone(memory_format=torch.contiguous_format)
            for x in (chains.position, chains.log_density, chains.gradient, chains.random)
        )
        averaging = torch.stack([x.double() for x in chains.step_sizes], 1).contiguous()
        root, directions, stretch = (x.to(dtype).contiguous() for x in metric)
        draws, gradients = (torch.empty(n, transitions, k, dtype=dtype) for k in (d + m, d))
        infos = torch.empty(n, transitions, 6, dtype=torch.float64)
        failures = torch.zeros(n, transitions, dtype=torch.int64)
        work, tables = self.density.work(), self.density.tables()
        run = _Run(
            self.density.address, ctypes.addressof(tables), work.data_ptr(),
            n, d, m, transitions, self.max_depth, self.density.results,
            position.data_ptr(), log_density.data_ptr(), gradient.data_ptr(), sizes.data_ptr(),
            root.data_ptr(), len(stretch), directions.data_ptr(), stretch.data_ptr(),
            averaging.data_ptr(), target, self.jitter, random.data_ptr(),
            draws.data_ptr(), gradients.data_ptr(), infos.data_ptr(), failures.data_ptr(),
            None if choices is None else choices.data_ptr(),
            0 if choices is None else choices.shape[1],
            None if asked is None else asked.data_ptr(),
            0 if asked is None else asked.shape[1], 0,
        )  # fmt: skip
        run.stop = _STOP(lambda: len(pressed))
        _engine(self.text, REALS[dtype]).run(ctypes.byref(run))
        rate, diverging, energy, depth, steps, at = infos.unbind(-1)
        info = NUTSInfo(rate.to(dtype), diverging > 0, energy.to(dtype), depth.long(), steps.long())
        after = Chains(position, log_density, gradient, StepSizes(*averaging.unbind(1)), random)
        return Advance(after, draws, gradients, info, at.to(dtype), failures, int(run.evaluations))


def cores_for(chains: int, lanes: int) -> int:
    """As many as this process may use and can have a whole vector of chains each."""
    has = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(has, chains // lanes))


def parted(chains: Chains, parts: int) -> list[Chains]:
    """The chains in so many parts, or in one each."""
    n = len(chains.position)
    bounds = [n * k // parts for k in range(parts + 1)]
    spans = [slice(a, b) for a, b in itertools.pairwise(bounds) if a < b]
    return [tree_map(lambda x, span=span: x[span], chains) for span in spans]


def together(parts: list[Advance]) -> Advance:
    """What chains in parts did."""
    joint: Advance = tree_map(
        lambda first, *others: (
            torch.cat([first, *others]) if isinstance(first, Tensor) else first + sum(others)
        ),
        *parts,
    )
    return joint


@program
def transition(
    engine: Engine, start: Chains, metric: Metric, momentum: Tensor, share: float = 0.5
) -> Chains:
    """The engine's transition of one chain, as a program: each of its coins is a draw.

    So ``check.orbit`` enumerates what the machine code does.  momentum [1, d] is in the coordinates
    in which it is standard normal; ``share``, within (0, 1), says where the step size lies in what
    ``jitter`` allows.
    """
    first = momentum.double()
    if engine.jitter > 0.0:
        first = torch.cat([first, first.new_tensor([[share]])], 1)
    coins: list[float] = []
    while True:
        choices = torch.cat([first, torch.tensor([coins], dtype=torch.float64)], 1)
        done, (asked,) = engine.replay(start, metric, choices)
        for probability in asked[len(coins) :]:
            heads = draw(dist.Bernoulli(torch.tensor(probability, dtype=torch.float64)))
            coins.append(0.0 if heads == 1 else 1.0)
            if coins[-1] == 0.0:  # what follows was asked for after tails
                break
        else:
            return done.chains


def step_sizes(step: Tensor) -> StepSizes:
    """A search that starts from these step sizes [chains] and shrinks towards ten times as much."""
    log_step, zero = step.double().log(), torch.zeros_like(step, dtype=torch.float64)
    return StepSizes(log_step, zero, zero, log_step + math.log(10.0), zero)
