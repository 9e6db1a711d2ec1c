"""BlackJAX: adaptive tempered SMC by HMC.

``python -m peers.blackjax_tempered PARTICLES RUNS STEP`` prints what compiling took and, for each
run, seconds of CPU, log evidence, means and sds.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import blackjax
import blackjax.smc.resampling as resampling
import jax
import jax.numpy as jnp
import numpy as np

from peers.regression import NOISE, SLOPES, data


def main() -> None:
    """Run it."""
    jax.config.update("jax_enable_x64", True)
    particles, runs, step = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    x, y = map(jnp.asarray, data())

    def log_prior(w: Any) -> Any:
        return jax.scipy.stats.norm.logpdf(w).sum()

    def log_likelihood(w: Any) -> Any:
        return jax.scipy.stats.norm.logpdf(y, x @ w, NOISE).sum()

    parameters = {
        "step_size": step,
        "inverse_mass_matrix": jnp.ones(SLOPES),
        "num_integration_steps": 10,
    }
    tempered = blackjax.adaptive_tempered_smc(
        log_prior,
        log_likelihood,
        blackjax.hmc.build_kernel(),
        blackjax.hmc.init,
        blackjax.smc.extend_params(parameters),
        resampling.systematic,
        0.9,
        num_mcmc_steps=10,
    )

    @jax.jit
    def run(key: Any) -> Any:
        first, key = jax.random.split(key)
        state = tempered.init(jax.random.normal(first, (particles, SLOPES)))

        def onward(carry: Any) -> Any:
            state, key, total = carry
            key, own = jax.random.split(key)
            state, info = tempered.step(own, state)
            return state, key, total + info.log_likelihood_increment

        state, _, total = jax.lax.while_loop(
            lambda carry: carry[0].tempering_param < 1, onward, (state, key, 0.0)
        )
        mean = state.weights @ state.particles
        spread = jnp.sqrt(state.weights @ (state.particles - mean) ** 2)
        return total, mean, spread

    start = time.process_time()
    jax.block_until_ready(run(jax.random.key(0)))
    compiling, found = time.process_time() - start, []
    for seed in range(1, runs + 1):
        start = time.process_time()
        total, mean, spread = jax.block_until_ready(run(jax.random.key(seed)))
        seconds = time.process_time() - start
        found.append(
            (seconds, float(total), np.asarray(mean).tolist(), np.asarray(spread).tolist())
        )
    print(json.dumps({"compiling": compiling, "runs": found}))


if __name__ == "__main__":
    main()
