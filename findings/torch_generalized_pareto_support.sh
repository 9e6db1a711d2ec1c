#!/usr/bin/env bash
# torch's GeneralizedPareto states its support as an interval with an infinite end, which no bijection
# of torch takes: the one that biject_to gives maps every real number to infinity.
#
# torch 2.13.0: GeneralizedPareto(0, 1, 0.1).support is Interval(0, inf), and biject_to(it) is a
# sigmoid that is scaled by infinity.  Code that reads constraints (samplers in unconstrained
# coordinates) starts every chain at infinity.  Expected: greater_than_eq(loc), as Pareto has.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q torch==2.13.0 numpy
"$dir/venv/bin/python" -W ignore - <<'PY'
import torch
from torch.distributions import GeneralizedPareto, Pareto, biject_to

law = GeneralizedPareto(torch.tensor(0.0), torch.tensor(1.0), torch.tensor(0.1))
print("torch", torch.__version__)
print("support:", law.support, "| Pareto's:", Pareto(1.0, 2.0).support)
values = biject_to(law.support)(torch.tensor([-1.0, 0.0, 1.0]))
print("biject_to(support) of -1, 0, 1:", values.tolist())
assert str(law.support) == "Interval(lower_bound=0.0, upper_bound=inf)"
assert bool(values.isinf().all())
assert "GreaterThan" in str(Pareto(1.0, 2.0).support)
PY
