#!/usr/bin/env bash
# Quantile functions of torch are infinite, or wrong by orders of magnitude, at chances that the
# precision holds.
#
# torch 2.13.0: HalfNormal(1).icdf(1 - 2^-53) in float64 is infinite, for 8.29 (it asks the normal
# law for (u + 1) / 2, which rounds to 1); Laplace(0, 1).icdf(1e-9) in float32 is -inf, for -20.03;
# Cauchy(0, 1).icdf(1e-9) in float32 is 2.3e7, of the wrong sign, for -3.2e8 (both ask for u - 1/2).
# Expected: formulas that keep the digits of the nearer end, as scipy has.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q torch==2.13.0 numpy
"$dir/venv/bin/python" -W ignore - <<'PY'
import torch
from torch.distributions import Cauchy, HalfNormal, Laplace

print("torch", torch.__version__)
last = torch.tensor(1.0 - 2.0**-53, dtype=torch.float64)
half = HalfNormal(torch.tensor(1.0, dtype=torch.float64)).icdf(last)
laplace = Laplace(torch.tensor(0.0), torch.tensor(1.0)).icdf(torch.tensor(1e-9))
cauchy = Cauchy(torch.tensor(0.0), torch.tensor(1.0)).icdf(torch.tensor(1e-9))
print("HalfNormal(1) at 1 - 2^-53:", half.item(), "for 8.29")
print("Laplace(0, 1) at 1e-9, float32:", laplace.item(), "for -20.03")
print("Cauchy(0, 1) at 1e-9, float32:", cauchy.item(), "for -3.18e8")
assert half.isinf() and laplace.isinf() and cauchy > -1e8
PY
