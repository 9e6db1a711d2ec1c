#!/usr/bin/env bash
# A Bernoulli law with parameters in float64 scores a value in float32 in float32; its siblings promote.
#
# torch 2.13.0: log_prob of a coin whose probability is a float64 tensor, at torch.tensor(1.0), which is
# float32 by default, is a float32 tensor, off by 1e-8.  Normal, Poisson, Binomial, Geometric and
# NegativeBinomial give float64 there, with all its digits.  ContinuousBernoulli gives a float64 tensor
# that has float32's digits.  The cause is binary_cross_entropy_with_logits, whose result has the type of
# its target.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q torch==2.13.0 numpy
"$dir/venv/bin/python" -W ignore - <<'PY'
import torch
from torch import distributions as dist

print("torch", torch.__version__)
p = torch.tensor(0.3, dtype=torch.float64)
laws = {
    "Bernoulli": dist.Bernoulli(p),
    "ContinuousBernoulli": dist.ContinuousBernoulli(p),
    "Normal": dist.Normal(p, p),
    "Poisson": dist.Poisson(p),
    "Binomial": dist.Binomial(3, p),
    "Geometric": dist.Geometric(p),
}
found = {}
for name, law in laws.items():
    value = 0.5 if name == "ContinuousBernoulli" else 1.0
    single = law.log_prob(torch.tensor(value))
    double = law.log_prob(torch.tensor(value, dtype=torch.float64))
    found[name] = single.dtype, abs(float(single.double() - double))
    print(name, *found[name])
assert found["Bernoulli"][0] == torch.float32
assert 1e-9 < found["Bernoulli"][1] < 1e-7
assert found["ContinuousBernoulli"][0] == torch.float64
assert 1e-9 < found["ContinuousBernoulli"][1] < 1e-7
for name in ("Normal", "Poisson", "Binomial", "Geometric"):
    assert found[name] == (torch.float64, 0.0)
PY
