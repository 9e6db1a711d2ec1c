#!/usr/bin/env bash
# ArviZ 1's psislw (array_stats.psislw, and azstats.psislw of arrays) says that it computes log
# weights, and takes the negative of raw log weights: log likelihoods.  In ArviZ 0.x psislw took log
# weights.  Code that is carried over runs, smooths the wrong tail, and returns weights that favour
# the draws of least weight, with a k-hat that tells of no trouble.
#
# arviz-stats 1.3.3 (Python 3.12 or newer, the first that is found), weights of a Pareto law of shape 1,
# whose k-hat should be about 0.9: -0.87 for their logs, and 0.95 for minus their logs; the largest
# weight goes to the draw that has the least.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
for python in python3 python3.{12..19} ~/.pyenv/versions/3.1[2-9]*/bin/python; do
    "$python" -c "import sys; sys.exit(sys.version_info < (3, 12))" 2>/dev/null && break
done
"$python" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q arviz-stats==1.3.3 numpy==2.4.6
cat >"$dir/script.py" <<'PY'
import importlib.metadata

import numpy as np
from arviz_stats.base import array_stats

print("arviz-stats", importlib.metadata.version("arviz-stats"))
n = 2500
logs = -np.log1p(-(np.arange(n) + 0.5) / n)  # of the quantiles of a Pareto law of shape 1
smoothed, k_hat = array_stats.psislw(logs)
negated, right = array_stats.psislw(-logs)
print(f"k-hat of the log weights {float(k_hat):.2f}, of minus them {float(right):.2f}")
print(f"the largest weight is at {smoothed.argmax()} and {negated.argmax()}, of 0 to {n - 1}")
assert float(k_hat) < 0.5 < 0.8 < float(right), "the behaviour has changed"
assert smoothed.argmax() == 0 and negated.argmax() == n - 1, "the behaviour has changed"
PY
"$dir/venv/bin/python" "$dir/script.py"
