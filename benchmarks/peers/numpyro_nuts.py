"""NumPyro: NUTS with chains vectorised.

The steps of its kernel are compiled ahead, as its ``MCMC`` compiles them within a run, so that both
can be told apart.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from numpyro.infer import NUTS

from peers.densities import log_density, with_jax
from peers.posteriors import parameters
from peers.runner import CHAINS, DRAWS, WARMUP, Job


def main() -> None:
    job = Job()
    density = log_density(job.name, with_jax())
    kernel = NUTS(potential_fn=lambda u: -density(u))
    job.mark()
    keys = jax.random.split(jax.random.PRNGKey(job.seed), CHAINS)
    state = kernel.init(keys, WARMUP, jax.numpy.asarray(job.start), (), {})

    def step(state: Any, _: Any) -> Any:
        state = kernel.sample(state, (), {})
        return state, (state.z, state.num_steps, state.diverging)

    def fit(state: Any) -> Any:
        state, (_, steps, _) = jax.lax.scan(step, state, length=WARMUP)
        draws, later, diverging = jax.lax.scan(step, state, length=DRAWS)[1]
        return draws, steps.sum() + later.sum(), diverging.sum()

    compiled = jax.jit(fit).lower(state).compile()
    job.mark()
    draws, steps, diverging = jax.block_until_ready(compiled(state))
    job.mark()
    draws = parameters(job.name, np.asarray(draws).swapaxes(0, 1))
    job.mark()
    job.report(draws, int(steps), int(diverging))


if __name__ == "__main__":
    main()
