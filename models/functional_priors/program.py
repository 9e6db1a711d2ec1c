"""The network with a prior as a program: without data a law of functions, with data a model."""

from __future__ import annotations

from typing import Any, Protocol

from pyro import distributions as dist
from torch import Tensor

from ...ppl import Program, observe, plate, program
from ...ppl.errors import located
from .networks import Network
from .priors import NetworkPrior


class Likelihood(Protocol):
    """The law of targets by the outputs of the network."""

    def law(self, f: Tensor) -> Any:
        """The law of targets [...] by outputs [..., K]."""
        ...


class Normal:
    """y ~ Normal(f, noise), of one output."""

    def __init__(self, noise: float = 0.1) -> None:
        if not noise > 0:
            raise ValueError(located(f"the deviation of noise is positive, not {noise}"))
        self.noise = noise

    def law(self, f: Tensor) -> Any:
        return dist.Normal(f[..., 0], self.noise)


class Classes:
    """y ~ Categorical(softmax(f)), y in 0 .. K - 1."""

    def law(self, f: Tensor) -> Any:
        return dist.Categorical(logits=f)


def functions(net: Network, prior: NetworkPrior) -> Program:
    """The program f(x): values [M, K] at x [M, D] of a network with weights from the prior."""
    prior.bind(net)

    @program
    def network(x: Tensor) -> Tensor:
        return net(prior.layers(prior.choices()), x)

    return network


def bnn(net: Network, prior: NetworkPrior, likelihood: Likelihood) -> Program:
    """The same with targets y [N] at x [N, D], or at ``rows`` of them alone, scaled up to all.

    It returns the outputs [N, K] at these rows.
    """
    f = functions(net, prior)

    @program
    def model(x: Tensor, y: Tensor, rows: Tensor | None = None) -> Tensor:
        values: Tensor = f(x if rows is None else x[rows])
        with plate("data", len(y), subsample=rows) as i:
            observe("y", likelihood.law(values), y[i] if rows is not None else y)
        return values

    return model
