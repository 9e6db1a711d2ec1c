"""BlackJAX: window adaptation and NUTS, vmapped over chains."""

from __future__ import annotations

from typing import Any

import blackjax
import jax
import numpy as np

from peers.densities import log_density, with_jax
from peers.posteriors import parameters
from peers.runner import CHAINS, DRAWS, WARMUP, Job


def main() -> None:
    job = Job()
    density = log_density(job.name, with_jax())
    job.mark()

    def adapted(key: Any, start: Any) -> Any:
        adaptation = blackjax.window_adaptation(blackjax.nuts, density)
        (state, found), info = adaptation.run(key, start, num_steps=WARMUP)
        return state, found, info.info.num_integration_steps.sum()

    def sampled(key: Any, state: Any, found: Any) -> Any:
        kernel = blackjax.nuts(density, **found)

        def step(state: Any, key: Any) -> Any:
            state, info = kernel.step(key, state)
            return state, (state.position, info.num_integration_steps, info.is_divergent)

        return jax.lax.scan(step, state, jax.random.split(key, DRAWS))[1]

    def fit(key: Any, start: Any) -> Any:
        first, second = jax.random.split(key)
        state, found, steps = adapted(first, start)
        draws, later, diverging = sampled(second, state, found)
        return draws, steps + later.sum(), diverging.sum()

    keys = jax.random.split(jax.random.key(job.seed), CHAINS)
    compiled = jax.jit(jax.vmap(fit)).lower(keys, job.start).compile()
    job.mark()
    draws, steps, diverging = jax.block_until_ready(compiled(keys, job.start))
    job.mark()
    draws = parameters(job.name, np.asarray(draws))
    job.mark()
    job.report(draws, int(steps.sum()), int(diverging.sum()))


if __name__ == "__main__":
    main()
