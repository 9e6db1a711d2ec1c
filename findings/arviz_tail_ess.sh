#!/usr/bin/env bash
# ArviZ 1's summary and ess(method="tail") take for the tail the quantiles at stats.ci_prob, which is
# 0.89 unless set, and at what is left of 1: those of 11 and 89 per cent.  Tail ESS is that of the 5
# and 95 per cent quantiles in its definition (Vehtari, Gelman, Simpson, Carpenter and Buerkner,
# Rank-normalization, folding, and localization, 2021), in ArviZ 0.x, in Stan's posterior and in
# array_stats.ess of the same package with these.  A chain that is slow in its outer tenths only
# looks better than it is.
#
# arviz 1.3.0, arviz-stats 1.3.3 (Python 3.12 or newer, the first that is found), a chain whose values
# above the 93rd percentile come in runs of 50: summary says ess_tail 107, and of the 5 % tails it
# is 42.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
for python in python3 python3.{12..19} ~/.pyenv/versions/3.1[2-9]*/bin/python; do
    "$python" -c "import sys; sys.exit(sys.version_info < (3, 12))" 2>/dev/null && break
done
"$python" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q arviz==1.3.0 arviz-stats==1.3.3 arviz-base==1.3.1 numpy==2.4.6
cat >"$dir/script.py" <<'PY'
import importlib.metadata

import arviz as az
import numpy as np
from arviz_stats.base import array_stats

print("arviz", importlib.metadata.version("arviz"), importlib.metadata.version("arviz-stats"))
r = np.random.default_rng(0)
x = r.uniform(0.0, 0.93, (4, 1000))
at = np.repeat(r.random((4, 20)) < 0.07, 50, axis=1)  # one run of 50 in 14 is above
x = np.where(at, r.uniform(0.93, 1.0, x.shape), x)

table = az.summary(az.from_dict({"posterior": {"x": x}}), round_to="none")
said = float(table["ess_tail"].iloc[0])
defined = float(array_stats.ess(x, method="tail", prob=(0.05, 0.95)))
of_11 = float(array_stats.ess(x, method="tail", prob=(0.11, 0.89)))
print(f"summary: ess_tail {said:.0f}; at 5 and 95 %: {defined:.0f}; at 11 and 89 %: {of_11:.0f}")
assert abs(said - of_11) < 1e-6 and defined < 0.5 * said, "the behaviour has changed"
PY
"$dir/venv/bin/python" "$dir/script.py"
