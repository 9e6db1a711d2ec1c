#!/usr/bin/env bash
# Pyro's RenyiELBO has no score-function gradient: discrete guides do not learn from it.
#
# pyro-ppl 1.9.2 with torch 2.13.0.  The bound of k particles with a Bernoulli guide is a finite sum,
# so that its derivative is known.  loss_and_grads takes a part for it that is zero for alpha = 0
# (the importance weighted bound) whatever is drawn, and biased for other alphas; nothing is said.
# Trace_ELBO and TraceGraph_ELBO have the right mean; so has RenyiELBO where the guide is
# reparameterised.  Expected: the score of all particles times the bound, or an error.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q torch==2.13.0 pyro-ppl==1.9.2 numpy
"$dir/venv/bin/python" -W ignore - <<'PY'
import pyro
import torch
from pyro import distributions as dist
from pyro.infer import RenyiELBO, Trace_ELBO

torch.set_default_dtype(torch.float64)
at = torch.tensor(2.0)
prior, likelihood = torch.tensor([0.6, 0.4]), torch.tensor([0.2, 0.4])


def model():
    z = pyro.sample("z", dist.Bernoulli(prior[1]))
    pyro.sample("x", dist.Bernoulli(likelihood[z.long()]), obs=torch.tensor(1.0))


def guide():
    pyro.sample("z", dist.Bernoulli(pyro.param("logit", at.clone()).sigmoid()))


def gradients(loss, count):
    found = []
    for seed in range(count):
        pyro.clear_param_store()
        pyro.set_rng_seed(seed)
        loss.loss_and_grads(model, guide)
        found.append(pyro.param("logit").grad.item())
    return torch.tensor(found)


def exact(t, k):
    """The mean loss of k particles with alpha 0."""
    q = torch.stack([1 - t.sigmoid(), t.sigmoid()])
    w = prior * likelihood / q
    if k == 1:
        return -(q * w.log()).sum()
    return -sum(q[i] * q[j] * ((w[i] + w[j]) / 2).log() for i in range(2) for j in range(2))


for k, loss in ((1, Trace_ELBO()), (2, RenyiELBO(alpha=0.0, num_particles=2))):
    slope = torch.func.grad(lambda t: exact(t, k))(at).item()
    found = gradients(loss, 2_000)
    error = found.std().item() / len(found) ** 0.5
    print(f"{type(loss).__name__}: exact {slope:.4f}, mean {found.mean().item():.4f} +- {error:.4f}")
    if k == 1:
        assert abs(found.mean().item() - slope) < 5 * error
    else:
        assert slope > 0.005 and bool((found == 0).all()), "it has changed"
PY
