#!/usr/bin/env bash
# In BlackJAX, random_walk.normal(sigma) looks like the proposal that rmh asks for, and is not: it
# makes a displacement, where rmh takes what it gets for the proposed position.  Both have the
# signature (key, position), rmh runs without a word, and its chain has another law: proposals
# come from one fixed normal law and are accepted as if they were symmetric about the state.
#
# blackjax 1.7.1 with jax 0.10.2, on the density of N(2, 1): the chain's mean is about 1.0 (and its
# variance 0.5, as of the product of both densities).  additive_step_random_walk, for which that
# proposal is made, gives 2.0; so does rmh with a proposal that adds the position.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q blackjax==1.7.1 jax==0.10.2 jaxlib==0.10.2
cat >"$dir/script.py" <<'PY'
import importlib.metadata

import blackjax
import jax
import jax.numpy as jnp

print("blackjax", importlib.metadata.version("blackjax"), "jax", jax.__version__)


def log_density(x):
    return -0.5 * jnp.sum((x - 2.0) ** 2)


normal = blackjax.mcmc.random_walk.normal(jnp.eye(1))


def mean_and_variance(algorithm):
    def step(state, key):
        state, _ = algorithm.step(key, state)
        return state, state.position[0]

    keys = jax.random.split(jax.random.PRNGKey(0), 200_000)
    _, chain = jax.lax.scan(step, algorithm.init(jnp.zeros(1)), keys)
    return float(chain[1000:].mean()), float(chain[1000:].var())


found = {
    "rmh with random_walk.normal": blackjax.rmh(log_density, normal),
    "rmh with x + random_walk.normal": blackjax.rmh(log_density, lambda k, x: x + normal(k, x)),
    "additive_step_random_walk": blackjax.additive_step_random_walk(log_density, normal),
}
for name, algorithm in found.items():
    mean, variance = mean_and_variance(algorithm)
    print(f"{name}: mean {mean:.3f}, variance {variance:.3f}")
    wanted = 1.0 if name == "rmh with random_walk.normal" else 2.0
    assert abs(mean - wanted) < 0.05, "the behaviour has changed"
PY
"$dir/venv/bin/python" "$dir/script.py"
