"""The episodes as a program, their computed guide, and the objective that is left of the bound."""

from __future__ import annotations

from typing import Any

import torch
from pyro import distributions as dist
from torch import Tensor

from ...inference.vi import log_density, objective, reparam, sample_trace
from ...ppl import observe, plate, program, sample
from ...ppl.distributions.inverse_wishart import NormalInverseWishart
from .curvature import Net, Quadratic
from .likelihoods import Likelihood
from .local import Global


@program
def niw(law: NormalInverseWishart) -> tuple[Tensor, Tensor]:
    """A mean and a covariance of the law; with an infinite count the mean is its location."""
    covariance = sample("covariance", law.covariance)
    known = not bool(torch.as_tensor(law.count).isfinite().all())
    mean = law.loc if known else sample("mean", law.given(covariance))
    return mean, covariance


@program
def episodes(
    law: NormalInverseWishart, net: Net, likelihood: Likelihood, x: Tensor, y: Tensor
) -> Tensor:
    """Parameters [E, d] of episodes with inputs [E, n, ...] and targets [E, n]."""
    mean, covariance = niw(law)
    with plate("episode", len(x)):
        theta: Tensor = sample("theta", dist.MultivariateNormal(mean, covariance))
    _targets(theta, net, likelihood, x, y)
    return theta


def _targets(theta: Tensor, net: Net, likelihood: Likelihood, x: Tensor, y: Tensor) -> None:
    with plate("episode", len(x)):
        outputs = torch.func.vmap(net)(theta, x)
        observe("y", likelihood.law(outputs).to_event(1), y)


@program
def guide(mean: Tensor, variance: Tensor) -> Tensor:
    """Parameters [E, d] of episodes: normal, of variances [E, d] or covariances [E, d, d]."""
    law: Any
    if variance.ndim == mean.ndim:
        law = dist.Normal(mean, variance.sqrt()).to_event(1)
    else:
        law = dist.MultivariateNormal(mean, variance)
    with plate("episode", len(mean)):
        return sample("theta", reparam(law))  # type: ignore[no-any-return]


@objective
def episode_bound(
    shared: Global, net: Net, likelihood: Likelihood, loss: Quadratic, x: Tensor, y: Tensor
) -> Tensor:
    """The mean bound of episodes [], without their share of the divergence of q(phi).

    The guide of theta is computed: by algebra from the quadratic loss and ``shared``, through which
    the derivative goes.  Its expected divergence is exact, and the likelihood is estimated.
    """
    mean, variance = shared.posterior(loss)
    theta = sample_trace(guide, mean, variance).value
    given = program(lambda: _targets(theta, net, likelihood, x, y))
    score: Tensor = log_density(given, {}) / len(x)
    return score - shared.expected_kl(mean, variance).mean()
