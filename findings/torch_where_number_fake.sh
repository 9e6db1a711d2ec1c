#!/usr/bin/env bash
# torch.ops.aten.where with a number, on fake tensors, fails outside of their mode, where other
# operations of a tensor and a number do not: they take the mode from the tensor.
#
# torch 2.13.0: aten.add.Scalar(x, 1.0) and aten.where.self(c, x, x) of FakeTensors give one;
# aten.where.ScalarSelf(c, 1.0, x) raises an AssertionError ("Please convert all Tensors to
# FakeTensors first"), for it makes a real tensor of the number.  Within the mode it works.  A pass
# that rewrites an FX graph and computes `meta["val"]` of new nodes meets this; full_like serves.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q torch==2.13.0 numpy
"$dir/venv/bin/python" -W ignore - <<'PY'
import torch
from torch._subclasses import FakeTensorMode

aten = torch.ops.aten
with FakeTensorMode() as mode:
    c, x = torch.ones(3, dtype=torch.bool), torch.zeros(3)
print("torch", torch.__version__)
for name, found in (("add.Scalar", aten.add.Scalar(x, 1.0)), ("where.self", aten.where.self(c, x, x))):
    print(name, "outside the mode:", type(found).__name__)
    assert type(found).__name__ == "FakeTensor"
try:
    aten.where.ScalarSelf(c, 1.0, x)
except AssertionError as error:
    print("where.ScalarSelf outside the mode:", str(error)[:50])
    assert "convert all Tensors to FakeTensors" in str(error)
else:
    raise SystemExit("where.ScalarSelf takes fake tensors outside of their mode now")
with mode:
    print("where.ScalarSelf within:", type(aten.where.ScalarSelf(c, 1.0, x)).__name__)
PY
