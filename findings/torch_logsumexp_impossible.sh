#!/usr/bin/env bash
# The derivative of torch.logsumexp is NaN where all terms are minus infinity, in both modes.
#
# torch 2.13.0: one term of minus infinity beside a finite one has the derivative zero, as one would
# have it for an impossible path; if all are, value -inf and derivative NaN, reverse and forward.  A
# sum over paths of which one group is impossible (a state of a hidden Markov model that cannot be
# reached) so spoils the gradient of everything, although it has weight zero.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q torch==2.13.0 numpy
"$dir/venv/bin/python" -W ignore - <<'PY'
import torch

print("torch", torch.__version__)
for terms in ([-torch.inf, 1.0], [-torch.inf, -torch.inf]):
    x = torch.tensor(terms, requires_grad=True)
    value = torch.logsumexp(x, 0)
    (reverse,) = torch.autograd.grad(value, x)
    _, forward = torch.func.jvp(
        lambda t: torch.logsumexp(t, 0), (x.detach(),), (torch.ones(2),)
    )
    print(terms, "value", value.item(), "reverse", reverse.tolist(), "forward", forward.item())
    impossible = bool(torch.isneginf(x).all())
    assert bool(reverse.isnan().all()) == impossible and bool(forward.isnan()) == impossible

rows = torch.tensor([[0.0, 0.5], [-torch.inf, -torch.inf]], requires_grad=True)
total = torch.logsumexp(torch.logsumexp(rows, 1), 0)
(slope,) = torch.autograd.grad(total, rows)
print("a sum of sums:", total.item(), "with slopes", slope.tolist())
assert bool(slope[1].isnan().all()) and bool(slope[0].isfinite().all())
PY
