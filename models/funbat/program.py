"""The model as a program, and q as its guide."""

from __future__ import annotations

import math

import pyro.distributions as dist
import torch
from torch import Tensor

from ...inference.vi import reparam
from ...ppl import Program, observe, program, sample
from .cores import TuckerCore
from .decomposition import Decomposition


def funbat(of: Decomposition) -> Program:
    """tau, the core w, paths of the functions' states u0, u1, ..., and entries y given all.

    It returns the entries without their noise [N].
    """

    @program
    def model() -> Tensor:
        shape, rate = of.y.new_tensor(of.prior)
        tau = sample("tau", dist.Gamma(shape, rate))
        paths = [sample(f"u{k}", mode.prior) for k, mode in enumerate(of.modes)]
        functions = [
            (path @ mode.through.mT)[mode.index] for path, mode in zip(paths, of.modes, strict=True)
        ]
        if isinstance(of.core, TuckerCore):
            zero = torch.zeros_like(of.core.mean)
            products = functions[0]
            for u in functions[1:]:
                products = (products[:, :, None] * u[:, None, :]).flatten(1)
            f = products @ sample("w", dist.Normal(zero, 1.0).to_event(1))
        else:
            f = math.prod(functions[1:], start=functions[0]).sum(-1)
        observe("y", dist.Normal(f, tau.rsqrt()).to_event(1), of.y)
        return f

    return model


def guide(of: Decomposition) -> Program:
    """q as it is now; its draws carry derivatives by what they are made of."""

    @program
    def q() -> None:
        sample("tau", reparam(dist.Gamma(of.shape, of.rate)))
        for k, mode in enumerate(of.modes):
            sample(f"u{k}", reparam(mode.posterior.law))
        if isinstance(of.core, TuckerCore):
            sample("w", reparam(dist.MultivariateNormal(of.core.mean, of.core.covariance)))

    return q
