"""Fits the mean of rows in a large file: ``large_rows.py FILE``, under ``torchrun`` or not.

Prints where each process ended, and its peak memory in bytes.  With a second word it reads the
whole file first, as one does who has the memory.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pushforward import dist, observe, plate, sample
from pushforward.inference.vi import SVI, Batches, elbo, reparam

BLOCK = 2**16  # rows; of sixteen blocks all rows of one are 1, and the others 0


def write(path: Path, rows: int) -> None:
    """A file of rows of four numbers, of which most of the disk holds nothing."""
    array = np.lib.format.open_memmap(path, "w+", np.float32, (rows, 4))
    for start in range(0, rows, 16 * BLOCK):
        array[start : start + BLOCK] = 1.0
        array.flush()


def fit(path: Path, steps: int) -> Tensor:
    """The posterior mean [4], nearly: those of all rows."""
    batches = Batches(path, size=4096)
    loc = torch.nn.Parameter(torch.zeros(4))

    def model(rows: Tensor) -> None:
        mean = sample("mean", dist.Normal(torch.zeros(4), 10.0).to_event(1))
        with plate("rows", batches.rows, subsample=torch.arange(len(rows))):
            observe("y", dist.Normal(mean, 1.0).to_event(1), rows)

    def guide(rows: Tensor) -> None:
        sample("mean", reparam(dist.Normal(loc, 1e-3).to_event(1)))

    optimizer = torch.optim.Adam([loc], lr=0.003)
    svi = SVI(elbo(model, guide), optimizer, compiled=False, progress=False)
    svi.run(batches=batches, steps=steps)
    return loc.detach()


if __name__ == "__main__":
    if torch.distributed.is_torchelastic_launched():
        torch.distributed.init_process_group("gloo")
    path = Path(sys.argv[1])
    if sys.argv[2:]:
        whole = np.load(path)
    loc = fit(path, 300)
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"{float(loc.mean())} {float(loc.std())} {peak}", flush=True)
