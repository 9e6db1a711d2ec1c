#!/usr/bin/env bash
# BlackJAX's mala does not run under jax.disable_jit(), which is there for looking into code.
#
# blackjax 1.7.1 with jax 0.10.2.  generate_gaussian_noise hands sigma=1.0 to linear_map, which asks
# its argument for a dtype: compiled, that is an array; uncompiled, a float, which has none.  hmc and
# additive_step_random_walk hand arrays over, and run.  Expected: a step of the chain, as compiled.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q blackjax==1.7.1 jax==0.10.2 jaxlib==0.10.2
"$dir/venv/bin/python" - <<'PY'
import importlib.metadata

import blackjax
import jax
import jax.numpy as jnp

print("blackjax", importlib.metadata.version("blackjax"), "jax", jax.__version__)


def log_density(x):
    return -0.5 * jnp.sum(x**2)


mala = blackjax.mala(log_density, 0.5)
key, state = jax.random.PRNGKey(0), mala.init(jnp.zeros(1))
print("compiled:", mala.step(key, state)[0].position)
with jax.disable_jit():
    try:
        found = mala.step(key, state)[0].position
    except AttributeError as error:
        found = f"AttributeError: {error}"
print("uncompiled:", found)
assert str(found) == "AttributeError: 'float' object has no attribute 'dtype'", "it has changed"
PY
