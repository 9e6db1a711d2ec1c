"""nutpie: its NUTS on a PyMC model of one vector, compiled by numba.

Chains start where nutpie lets them, at random about the origin.
"""

from __future__ import annotations

import nutpie
import pymc

from peers.densities import log_density, with_pytensor
from peers.posteriors import POSTERIORS, parameters
from peers.runner import CHAINS, DRAWS, WARMUP, Job


def main() -> None:
    job = Job()
    with pymc.Model() as model:
        u = pymc.Flat("u", shape=POSTERIORS[job.name].dim)
        pymc.Potential("density", log_density(job.name, with_pytensor())(u))
    job.mark()
    settings = {"cores": 1, "progress_bar": False, "seed": job.seed + 1}
    compiled = nutpie.compile_pymc_model(model)
    nutpie.sample(compiled, draws=5, tune=20, chains=1, **settings)  # compiles what is left
    job.mark()
    fit = nutpie.sample(compiled, draws=DRAWS, tune=WARMUP, chains=CHAINS, **settings)
    job.mark()
    draws = parameters(job.name, fit.posterior["u"].values)
    job.mark()
    parts = fit.warmup_sample_stats, fit.sample_stats
    gradients = sum(int(part["n_steps"].sum()) for part in parts)
    job.report(draws, gradients, int(fit.sample_stats["diverging"].sum()))


if __name__ == "__main__":
    main()
