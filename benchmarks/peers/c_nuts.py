"""NUTS and densities by hand, in C: what is left where the machinery costs nothing."""

from __future__ import annotations

import numpy as np

from peers.c_functions import Functions
from peers.posteriors import parameters
from peers.runner import CHAINS, DRAWS, WARMUP, Job


def main() -> None:
    job = Job()
    job.mark()
    functions = Functions(job.name, job.folder)
    job.mark()
    seeds = range(CHAINS * job.seed, CHAINS * (job.seed + 1))
    pairs = zip(job.start, seeds, strict=True)
    chains = [functions.chain(start, seed, WARMUP, DRAWS) for start, seed in pairs]
    job.mark()
    draws, gradients, divergences = zip(*chains, strict=True)
    found = parameters(job.name, np.stack(draws))
    job.mark()
    job.report(found, sum(gradients), sum(divergences))


if __name__ == "__main__":
    main()
