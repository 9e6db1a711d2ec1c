#!/usr/bin/env bash
# The log-determinant of Pyro's Sylvester transform is not that of its Jacobian.
#
# pyro-ppl 1.9.2 with torch 2.13.0: the map of rows is x + tanh(x S Q' + b) Q R, whose Jacobian has
# the determinant of I + diag(tanh') Q R S Q'; log_abs_det_jacobian is that of I + diag(tanh' R S).
# At the start, where all parameters are below 0.01, the two agree to 1e-7, and later they do not: a
# density that is learnt with this transform does not have mass one.  Expected: the columns of van
# den Berg et al. (arXiv 1803.05649) as rows, x + tanh(x Q S' + b) R' Q'.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q torch==2.13.0 pyro-ppl==1.9.2
"$dir/venv/bin/python" -W ignore - <<'PY'
import pyro
import torch
from pyro.distributions.transforms import sylvester

torch.set_default_dtype(torch.float64)
torch.manual_seed(0)
transform = sylvester(3)
x = torch.tensor([0.3, -0.2, 0.5])


def gap():
    said = float(transform.log_abs_det_jacobian(x, transform(x)).detach())
    jacobian = torch.autograd.functional.jacobian(lambda at: transform(at), x)
    is_ = float(torch.linalg.slogdet(jacobian)[1])
    print(f"log_abs_det_jacobian {said:.6f}, by autograd {is_:.6f}")
    return abs(said - is_)


print("torch", torch.__version__, "pyro", pyro.__version__)
assert gap() < 1e-6
with torch.no_grad():
    for p in transform.parameters():
        p.add_(torch.randn_like(p))
assert gap() > 0.1
PY
