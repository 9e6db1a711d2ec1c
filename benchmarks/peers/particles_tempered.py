"""The package ``particles``: adaptive tempering, waste-free, by its random walks.

``python -m peers.particles_tempered PARTICLES RUNS``; prints as ``blackjax_tempered``.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np
import particles
from particles import distributions, smc_samplers
from scipy import stats

from peers.regression import NOISE, SLOPES, data

LENGTH = 20  # of a waste-free chain


class Regression(smc_samplers.StaticModel):  # type: ignore[misc]
    """Normal errors of a known size."""

    def loglik(self, theta: Any, t: Any = None) -> Any:
        """Of each particle."""
        x, y = self.data
        slopes = np.stack([theta[f"w{k}"] for k in range(SLOPES)])
        return stats.norm.logpdf(y[:, None], x @ slopes, NOISE).sum(0)


def main() -> None:
    """Run it."""
    count, runs = int(sys.argv[1]), int(sys.argv[2])
    prior = distributions.StructDist({f"w{k}": distributions.Normal() for k in range(SLOPES)})
    found = []
    for seed in range(runs):
        np.random.seed(seed)
        start = time.process_time()
        model = Regression(data=data(), prior=prior)
        tempering = smc_samplers.AdaptiveTempering(model, len_chain=LENGTH, ESSrmin=0.9)
        smc = particles.SMC(fk=tempering, N=count // LENGTH, verbose=False)
        smc.run()
        seconds = time.process_time() - start
        weights = smc.W
        theta = np.stack([smc.X.theta[f"w{k}"] for k in range(SLOPES)])
        mean = theta @ weights
        spread = np.sqrt((theta - mean[:, None]) ** 2 @ weights)
        found.append((seconds, float(smc.logLt), mean.tolist(), spread.tolist()))
    print(json.dumps({"compiling": 0.0, "runs": found}))


if __name__ == "__main__":
    main()
