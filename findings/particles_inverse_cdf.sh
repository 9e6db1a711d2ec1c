#!/usr/bin/env bash
# The resampling schemes of particles read past the weights where these sum to less than one, as
# rounding has it, and the last uniform number lies beyond their sum.
#
# particles 0.3 with numba 0.68.1.  inverse_cdf adds the weights one by one until the sum reaches
# the point, and never asks whether there is another weight.  Ten weights of 0.1 add up to
# 1 - 1.1e-16, and the last point of systematic resampling rounds to 1.0 for the largest number
# that numpy's rand() gives.  With N weights of 1/N the chance is N times what is missing: 0.0025
# at each step with 10^7 of them.  The Python code raises an IndexError, which is shown here; the
# compiled code does not look at bounds, and is not run on such an input.  Expected: the last index.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q particles==0.3 numba==0.68.1 numpy==2.4.6
"$dir/venv/bin/python" - <<'PY'
import importlib.metadata

import numpy as np
from particles import resampling

print("particles", importlib.metadata.version("particles"))
weights, largest = np.full(10, 0.1), 1 - 2.0**-53
points = (largest + np.arange(10)) / 10
print("sum of ten tenths, one by one:", repr(float(np.cumsum(weights)[-1])), "last point:", points[-1])
try:
    resampling.inverse_cdf.py_func(points, weights)
    found = "no error"
except IndexError as error:
    found = f"IndexError: {error}"
print("inverse_cdf, as Python:", found)
assert "out of bounds" in found, "the behaviour has changed"
many = 10_000_000
chance = many * (1 - np.cumsum(np.full(many, 1 / many))[-1])
print(f"chance of such a point among {many} equal weights: {chance:.4f}")
assert 0.002 < chance < 0.003, "the behaviour has changed"
PY
