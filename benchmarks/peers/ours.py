"""This library's NUTS with default settings.

In a new cache the engine is compiled too, once per machine; a short run does it.
"""

from __future__ import annotations

from typing import Any

import torch

from peers.programs import built, content
from peers.runner import CHAINS, DRAWS, WARMUP, Job
from pushforward.inference.mcmc.lanes.engine import Advance, Engine
from pushforward.inference.mcmc.lanes.sampling import sample_lanes
from pushforward.inference.results.fit import fit_from_vectors
from pushforward.inference.runs.start import starting_points
from pushforward.models.posteriordb.comparison import parameter
from pushforward.ppl import seeded
from pushforward.ppl.compile.potential import Potential, by_columns
from pushforward.ppl.interpretations.log_density import LogDensity


class Counting(Engine):
    """An engine that counts the gradients of all chains."""

    gradients = 0

    def advance(self, *args: Any, **kwargs: Any) -> Advance:
        made = super().advance(*args, **kwargs)
        Counting.gradients += int(made.info.n_steps.sum())
        return made


def main() -> None:
    job = Job()
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    job.mark()
    p, args = built(job.name)
    density = LogDensity(p, *args, turning=True)
    with seeded(job.seed):
        u0 = by_columns(starting_points(density, CHAINS))
        potential = Potential(density, u0)
        assert potential.lanes is not None, f"{job.name} is not in lane code"
        sample_lanes(Engine(potential.lanes), potential, u0, 20, 5)
        job.mark()
        engine = Counting(potential.lanes)
        samples = sample_lanes(engine, potential, u0, WARMUP, DRAWS, target=None, thin=None)
    job.mark()
    about: dict[str, Any] = {"method": "NUTS", "stats": samples.stats, "state": {}}
    fit = fit_from_vectors(
        density, samples.draws, seconds=0.0, interrupted=False, seed=job.seed, **about
    )
    names = content(job.name)["reference"]["summary"]
    draws = torch.stack([parameter(fit, name) for name in names], -1).numpy()
    job.mark()
    job.report(draws, Counting.gradients, fit.divergences or 0)


if __name__ == "__main__":
    main()
