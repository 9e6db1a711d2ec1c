"""A bootstrap filter in JAX, as one writes it by hand: one compiled ``lax.scan``, in its process.

Called by ``benchmarks/filters.py``: reads a line "model steps n dtype runs data-file", and prints
the seconds of compilation, and of each run its process-CPU seconds and log evidence.
"""

from __future__ import annotations

import json
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np


def main() -> None:
    """Run what the command line says."""
    model, n, dtype, runs, file = sys.argv[1:6]
    jax.config.update("jax_enable_x64", dtype == "float64")
    ys = jnp.asarray(np.load(file), dtype)
    particles = int(n)

    def started(key):
        z = jax.random.normal(key, (particles,), dtype)
        if model == "volatility":
            return -1.0 + 0.25 / np.sqrt(1 - 0.95**2) * z
        return z / np.sqrt(1 - 0.9**2)

    def moved(key, x):
        z = jax.random.normal(key, (particles,), dtype)
        return -1.0 + 0.95 * (x + 1.0) + 0.25 * z if model == "volatility" else 0.9 * x + z

    def density(x, y):
        if model == "volatility":
            return -0.5 * (y * y * jnp.exp(-x) + x) - 0.5 * np.log(2 * np.pi)
        return -2.0 * (y - x) ** 2 + np.log(2.0) - 0.5 * np.log(2 * np.pi)

    def resampled(key, x, log_weights, total):
        places = (jnp.arange(particles) + jax.random.uniform(key, (), dtype)) / particles
        ends = jnp.cumsum(jax.nn.softmax(log_weights))
        chosen = jnp.clip(jnp.searchsorted(ends, places, method="scan"), 0, particles - 1)
        gained = jax.nn.logsumexp(log_weights) - np.log(particles)
        return x[chosen], jnp.zeros_like(log_weights), total + gained

    @jax.jit
    def filtered(key):
        first, rest = jax.random.split(key)
        x = started(first)

        def step(state, given):
            x, log_weights, total = state
            y, key = given
            one, other = jax.random.split(key)
            weights = jax.nn.softmax(log_weights)
            x, log_weights, total = jax.lax.cond(
                1 / jnp.sum(weights**2) < 0.5 * particles,
                lambda: resampled(one, x, log_weights, total),
                lambda: (x, log_weights, total),
            )
            x = moved(other, x)
            return (x, log_weights + density(x, y), total), None

        begun = x, density(x, ys[0]), jnp.zeros((), dtype)
        keys = jax.random.split(rest, len(ys) - 1)
        (x, log_weights, total), _ = jax.lax.scan(step, begun, (ys[1:], keys))
        return total + jax.nn.logsumexp(log_weights) - np.log(particles)

    start = time.process_time()
    run = filtered.lower(jax.random.key(0)).compile()
    compiling = time.process_time() - start
    run(jax.random.key(0)).block_until_ready()
    found = []
    for seed in range(int(runs)):
        key = jax.random.key(seed + 1)
        start = time.process_time()
        value = run(key).block_until_ready()
        found.append((time.process_time() - start, float(value)))
    print(json.dumps({"compiling": compiling, "runs": found, "version": jax.__version__}))


main()
