"""A process of two, by ``torchrun``: ``two_processes.py ROWS FOLDER`` writes there what it found.

Their guides begin apart, the state of the optimiser lies in parts, and choices have baselines.  In
its first life process 1 is killed amid the run that is kept; ``torchrun`` then begins both again.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.optim import ZeroRedundancyOptimizer

from pushforward import dist, observe, plate, sample
from pushforward.inference import Checkpoint
from pushforward.inference.vi import SVI, Batches, MovingAverage, elbo, reinforce, reparam


class Guide(torch.nn.Module):
    """A normal law of the mean, and of which of two scales."""

    def __init__(self) -> None:
        super().__init__()
        self.loc = torch.nn.Parameter(torch.randn(()))
        self.logit = torch.nn.Parameter(torch.randn(()))
        self.rest = torch.nn.Parameter(torch.randn(64))
        self.baseline = MovingAverage(0.9)

    def forward(self, rows: Tensor) -> None:
        sample("wide", reinforce(dist.Bernoulli(logits=self.logit), self.baseline))
        sample("mean", reparam(dist.Normal(self.loc + 0.01 * self.rest.sum(), 0.1)))


class Deadly(Batches):
    """Batches of which the thirteenth kills process 1 in its first life."""

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        for i, batch in enumerate(super().__iter__()):
            if i == 12 and self.process == 1 and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
                os.kill(os.getpid(), signal.SIGKILL)
            yield batch


def run(batches: Batches, kept: Path | None = None) -> dict[str, Any]:
    """A run that is kept after each step, of a guide that begins elsewhere in each process."""
    torch.manual_seed(torch.distributed.get_rank())
    found = 0
    if kept is not None and kept.exists():
        found = len(torch.load(kept, weights_only=True)["content"]["history"])
    guide = Guide()

    def model(rows: Tensor) -> None:
        wide = sample("wide", dist.Bernoulli(torch.tensor(0.5)))
        mean = sample("mean", dist.Normal(0.0, 10.0))
        with plate("rows", batches.rows, subsample=torch.arange(len(rows))):
            observe("y", dist.Normal(mean, 1.0 + wide), rows)

    optimizer = ZeroRedundancyOptimizer(guide.parameters(), torch.optim.Adam, lr=0.05)
    svi = SVI(elbo(model, guide), optimizer, compiled=False, progress=False)
    checkpoint = None if kept is None else Checkpoint(kept, 0.0)
    result = svi.run(batches=batches, steps=30, checkpoint=checkpoint)
    held = sum(x.numel() for state in optimizer.optim.state.values() for x in state.values())
    return {
        "parameters": torch.cat([p.detach().flatten() for p in guide.parameters()]).tolist(),
        "history": result.history.tolist(),
        "held": held,
        "found": found,
    }


if __name__ == "__main__":
    rows, folder = Path(sys.argv[1]), Path(sys.argv[2])
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    found = {
        "resumed": run(Deadly(rows, size=10), folder / "run"),
        "whole": run(Batches(rows, size=10)),
        "read": run(Batches(rows, size=10), folder / "run"),
    }
    (folder / f"{rank}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()
