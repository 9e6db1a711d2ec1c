#!/usr/bin/env bash
# Pyro's SMCFilter chooses a particle beyond the last where its weights sum to less than one.
#
# pyro-ppl 1.9.2 with torch 2.13.0.  Systematic resampling takes floor(N * cumsum + u).  In single
# precision the last of these can be N - 1, as the normalised weights sum to a little less than one:
# then the last index is N.  The gap is some 1e-7, so that N times it is the chance at each step: one
# in a thousand with 10^4 particles, a half at most with 10^6.  SMCFilter then fails with "index ... is
# out of bounds" (an assertion on a GPU).  Expected: an index of a particle.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q torch==2.13.0 pyro-ppl==1.9.2 numpy
"$dir/venv/bin/python" -W ignore - <<'PY'
import pyro
import torch
from pyro.infer.smcfilter import _systematic_sample

print("pyro", pyro.__version__, "torch", torch.__version__)
torch.manual_seed(0)
particles, beyond, chances = 1_000_000, 0, []
for _ in range(100):
    log_weights = torch.randn(particles)
    log_weights -= log_weights.logsumexp(-1)  # as SMCFilter does
    weights = log_weights.exp()
    chances.append(max(0.0, particles * float(1 - weights.cumsum(-1)[-1])))
    beyond += int(_systematic_sample(weights).max()) == particles
print(f"{beyond} of 100 resamplings of {particles} particles choose number {particles}")
print(f"expected from what the sums lack: {sum(chances):.1f}")
assert beyond > 0, "the behaviour has changed"
PY
