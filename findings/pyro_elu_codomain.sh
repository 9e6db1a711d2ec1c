#!/usr/bin/env bash
# Pyro's ELUTransform says that it maps the line onto the positive numbers; its image is (-1, oo).
#
# pyro-ppl 1.9.2 with torch 2.13.0: a normal law under it states the support GreaterThan(0), half of
# its own draws are negative, and log_prob refuses them where arguments are validated; the bijection
# from the reals onto that support gives NaN at such a draw, so that a sampler in unconstrained
# coordinates never reaches half of the law.  Expected: codomain greater_than(-1).
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q torch==2.13.0 pyro-ppl==1.9.2
"$dir/venv/bin/python" -W ignore - <<'PY'
import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.transforms import ELUTransform
from torch.distributions import biject_to

torch.manual_seed(0)
law = dist.TransformedDistribution(dist.Normal(0.0, 1.0), [ELUTransform()])
draws = law.sample((1000,))
print("torch", torch.__version__, "pyro", pyro.__version__)
print("stated support:", law.support)
print("draws below zero:", int((draws < 0).sum()), "of 1000; least", round(float(draws.min()), 3))
assert str(law.support) == "GreaterThan(lower_bound=0.0)"
assert 400 < int((draws < 0).sum()) < 600 and -1 < float(draws.min()) < -0.9
try:
    law.log_prob(draws.min())
except ValueError as error:
    print("log_prob of an own draw:", str(error).split("\n")[0])
else:
    raise SystemExit("log_prob takes its own draws now")
assert bool(biject_to(law.support).inv(torch.tensor(-0.5)).isnan())
PY
