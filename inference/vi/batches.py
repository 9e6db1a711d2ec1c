"""Batches of the rows of arrays in files, which may be larger than memory: a share each process."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from ...ppl import draw
from ...ppl.errors import DataError, located
from ...ppl.tasks.checkpoint import stream
from ...ppl.tensors.seeds import seeded
from .processes import rank, size_of_group

MOST = 2**22  # runs of an epoch, unless ``together`` is given


class Batches(IterableDataset[tuple[Tensor, ...]]):
    """Rows at the same places of some arrays, without end: for ``SVI.run(batches=)``.

    Each epoch cuts the rows into runs of ``together`` neighbours, from a random place on, and
    shuffles the runs; a batch is of as many as it takes.  In a process group of
    ``torch.distributed`` the processes have other runs each, so that they see the data once
    together.  What is left over at the end, less than a batch for each process, is left out; it is
    random, so that all rows have the same chance to be in a batch, and gradients are unbiased.

    Files are opened for one batch at a time.  Memory holds a batch, and 16 bytes of each run: torch
    would list the places of all rows for a ``DataLoader`` that shuffles.  One that is given these
    batches (with ``batch_size=None``) reads ahead in other processes, in the same order.

    Make it after the process group.

    Args:
        files: arrays in NumPy's format (``numpy.save``), all of one length.
        size: rows of a batch, in each process.
        together: neighbours that are read together, a divisor of ``size``; where neighbours are
            alike, more of them make gradients vary more.  As few as make 4 million runs, unless
            given.
        seed: of the order.

    Errors:
        DataError: a file does not exist, the arrays differ in length, or are too short for a batch
            of each process.
        ValueError: ``together`` does not divide ``size``.
    """

    def __init__(
        self, *files: str | Path, size: int, together: int | None = None, seed: int = 0
    ) -> None:
        lengths = {str(file): len(_array(file)) for file in files}
        if len(set(lengths.values())) != 1:
            raise DataError(located(f"the arrays must have one length, not {lengths}"))
        self.files, self.size, self.seed = files, size, seed
        (self.rows,) = set(lengths.values())
        self.process, self.processes = rank(), size_of_group()
        divisors = [k for k in range(1, size + 1) if size % k == 0]
        few = (k for k in divisors if self.rows <= k * MOST)
        self.together = next(few, size) if together is None else together
        if self.together not in divisors:
            raise ValueError(f"runs of {together} rows do not make a batch of {size}")
        if self.rows // self.together * self.together < size * self.processes:
            what = f"{self.rows} rows are no batch of {size} for each of {self.processes} processes"
            raise DataError(located(what, hint="give a smaller size"))

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        reader = get_worker_info()
        first, step = (0, 1) if reader is None else (reader.id, reader.num_workers)
        for places in islice(self.places(), first, None, step):
            yield tuple(torch.from_numpy(_array(file)[places]) for file in self.files)

    def places(self) -> Iterator[Any]:
        """The rows of each batch of this process."""
        zero, one = (torch.tensor(x, dtype=torch.float64) for x in (0.0, 1.0))
        for epoch in count():
            with seeded(stream(self.seed, epoch)):
                start = draw(dist.Uniform(zero, one), label="start")
                keys = draw(dist.Uniform(zero, one), (self.rows // self.together,), label="order")
            yield from self.epoch(int(start * self.rows), keys.argsort())

    def epoch(self, start: int, order: Tensor) -> Iterator[Any]:
        """Those of one epoch, which cuts runs from a row on and takes them in this order."""
        runs = self.size // self.together
        mine = order.split(runs)[self.process :: self.processes]
        within = torch.arange(self.together)
        for batch in mine[: len(order) // (runs * self.processes)]:
            yield ((start + batch[:, None] * self.together + within) % self.rows).flatten().numpy()


def _array(file: str | Path) -> Any:
    """The array in a file, of which nothing is read yet."""
    try:
        return np.load(file, mmap_mode="r")
    except (OSError, ValueError) as error:
        what = f"{file} is no array that can be read: {error}"
        raise DataError(located(what, hint="write it with numpy.save")) from error
