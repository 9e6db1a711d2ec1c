#!/usr/bin/env bash
# torch's MixtureSameFamily refuses its own draws where its components have different supports.
#
# torch 2.13.0: the support of a mixture holds a value if all components have it, so that a mixture of
# Uniform(0, 1) and Uniform(0, 2) says of each draw above 1 that it lies outside, and log_prob raises
# ValueError there while arguments are validated (the default).  Without validation the density is
# right.  Expected: a value lies in the support of a mixture if it lies in that of any component.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q torch==2.13.0 numpy
"$dir/venv/bin/python" -W ignore - <<'PY'
import torch
from torch.distributions import Categorical, MixtureSameFamily, Uniform


def mixture(validate):
    parts = Uniform(torch.zeros(2), torch.tensor([1.0, 2.0]), validate_args=validate)
    return MixtureSameFamily(Categorical(torch.tensor([0.3, 0.7])), parts, validate_args=validate)


print("torch", torch.__version__)
torch.manual_seed(0)
draws = mixture(True).sample((1000,))
refused = float((~mixture(True).support.check(draws)).float().mean())
print(f"of its draws {refused:.2f} are said to lie outside; {float((draws > 1).float().mean()):.2f} exceed 1")
try:
    mixture(True).log_prob(torch.tensor(1.5))
    raised = False
except ValueError as error:
    raised = True
    print("log_prob(1.5) raises", type(error).__name__)
density = float(mixture(False).log_prob(torch.tensor(1.5)).exp())
print("density at 1.5 without validation:", round(density, 6), "by hand", 0.7 * 0.5)
assert raised and 0.25 < refused < 0.45
assert abs(density - 0.35) < 1e-6
PY
