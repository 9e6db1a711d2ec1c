"""The masked solve as a program: a Gaussian prior of C, descriptors given C, and its posterior."""

from __future__ import annotations

import torch
from pyro import distributions as dist
from torch import Tensor

from ...ppl import Program, draw, observe, program, sample
from .fmap import solve


def matching(a: Tensor, b: Tensor, mask: Tensor, mu: float, noise: float = 1.0) -> Program:
    """C_ij ~ normal(0, noise^2 / (mu mask_ij)); b ~ normal(C a, noise). The mask is positive.

    ``fmap.solve`` is the mean of its posterior; it returns C [k2, k1].
    """
    spread = noise * (mu * mask).rsqrt()

    @program
    def model() -> Tensor:
        C = sample("C", dist.Normal(torch.zeros_like(spread), spread).to_event(2))
        observe("b", dist.Normal(C @ a, noise).to_event(2), b)
        return C

    return model


def posterior(a: Tensor, b: Tensor, mask: Tensor, mu: float, noise: float = 1.0) -> Program:
    """The same measure by ``fmap.solve``: C from its posterior, and the log evidence."""
    mean = solve(a, b, mask, mu)
    factor = torch.linalg.cholesky(a @ a.mT + mu * torch.diag_embed(mask)) / noise
    covariance = noise**2 * (torch.eye(a.shape[1]).to(a) + (a.mT / (mu * mask)[:, None, :]) @ a)

    @program
    def algorithm() -> tuple[Tensor, Tensor]:
        e = draw(dist.Normal(torch.zeros_like(mean), 1.0).to_event(2))
        away = torch.linalg.solve_triangular(factor.mT, e[..., None], upper=True)[..., 0]
        evidence = dist.MultivariateNormal(torch.zeros_like(b), covariance).log_prob(b)
        return mean + away, evidence.sum()

    return algorithm
