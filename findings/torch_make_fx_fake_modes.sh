#!/usr/bin/env bash
# make_fx in its default mode makes a new FakeTensorMode for nearly every node that it traces.
#
# torch 2.13.0: with real example tensors, the note of each node's value (`meta["val"]`) is made under
# a fake mode of its own, which extracts a stack trace each time: half of the time of a long trace.
# Under a TracingContext that has a fake mode, one serves all nodes, and the graph is the same.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q torch==2.13.0 numpy
"$dir/venv/bin/python" -W ignore - <<'PY'
import torch
from torch._guards import TracingContext, tracing
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

made = 0
original = FakeTensorMode.__init__


def counting(self, *args, **kwargs):
    global made
    made += 1
    original(self, *args, **kwargs)


FakeTensorMode.__init__ = counting


def chain(x):
    for _ in range(100):
        x = torch.sin(x) + 1.0
    return x


print("torch", torch.__version__)
plain = make_fx(chain)(torch.zeros(3))
alone, made = made, 0
with tracing(TracingContext(FakeTensorMode())):
    shared = make_fx(chain)(torch.zeros(3))
print("nodes", len(plain.graph.nodes), "fake modes", alone, "and with a context", made)
assert alone >= 200 and made == 1
assert [n.target for n in plain.graph.nodes] == [n.target for n in shared.graph.nodes]
PY
