#!/usr/bin/env bash
# Draws of torch's LKJCholesky are not from its density in three dimensions and more.
#
# torch 2.13.0: under LKJ(eta) each correlation of d variables is 2 B - 1, B ~ Beta(a, a) with
# a = eta - 1 + d / 2 (Lewandowski, Kurowicka, Joe 2009, section 3), so E r^2 = 1 / (2 a + 1) for all
# of them.  The sampler gives that for the first pair only: with d = 3, eta = 2 the others have .214
# for .167.  Weighting draws of one eta by the ratio of log_prob to another, whose mean must be 1,
# shows that the density is the right one of the two.  The row of length k needs a squared radius
# Beta(k / 2, .), and gets Beta(k - 1 / 2, .).
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q torch==2.13.0 numpy
"$dir/venv/bin/python" -W ignore - <<'PY'
import torch
from torch.distributions import LKJCholesky

torch.set_default_dtype(torch.float64)
torch.manual_seed(0)
print("torch", torch.__version__)
for d, eta in ((2, 2.0), (3, 2.0), (4, 1.0)):
    lower = LKJCholesky(d, eta).sample((100_000,))
    squares = (lower @ lower.mT).square().mean(0)
    right = 1 / (2 * (eta - 1 + d / 2) + 1)
    pairs = [round(float(squares[i, j]), 3) for i in range(d) for j in range(i)]
    ratio = (LKJCholesky(d, eta + 1).log_prob(lower) - LKJCholesky(d, eta).log_prob(lower)).exp()
    print(f"d {d}, eta {eta}: E r^2 = {right:.3f}; drawn {pairs}; mean ratio {ratio.mean():.3f}")
    wrong = [abs(p - right) > 0.01 for p in pairs]  # ten standard errors
    assert wrong == [False] + [True] * (len(pairs) - 1)
    assert (abs(float(ratio.mean()) - 1) > 0.02) == (d > 2)
PY
