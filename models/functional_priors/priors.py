"""Priors of the weights of a network, with parameters: normal, hierarchical, and by planar flows.

Source: arXiv 2011.12829, and its public code for starting values.  Two choices of that code are not
made here: one variance for all functions of a batch, and for a flow the density of its inverse.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pyro import distributions as dist
from torch import Tensor, nn
from torch.nn.functional import softplus

from ...inference import Conditional
from ...ppl import assess, draw, sample, vmap
from ...ppl.distributions.planar import PlanarFlow
from ...ppl.errors import ProgramError, located
from .networks import Layer, Network

Values = Mapping[str, Tensor]


class NetworkPrior(nn.Module):
    """A law of the layers of a network; ``bind`` makes its parameters for one."""

    net: Network | None = None

    def bind(self, net: Network) -> NetworkPrior:
        """Make the parameters for a network, unless they are there.

        Errors:
            ValueError: the prior is bound to another.
        """
        if self.net is None:
            self.net = net
            self.start(net)
        elif self.net != net:
            what = "a prior of the weights of one network is given another"
            raise ValueError(located(what, hint="make a prior for each"))
        return self

    def start(self, net: Network) -> None:
        """Make the parameters, at their first values."""
        raise NotImplementedError

    def choices(self) -> dict[str, Tensor]:
        """Sample all sites, by name: as part of a program."""
        raise NotImplementedError

    def layers(self, values: Values) -> list[Layer]:
        """The layers that values of the sites, [..., *shape], stand for."""
        return [(values[f"W{k}"], values[f"b{k}"]) for k in range(len(self.bound.sizes))]

    def conditional(self) -> Conditional | None:
        """Sites that have a law in closed form given the others."""
        return None

    def sample(self, n: int) -> dict[str, Tensor]:
        """``n`` independent draws of all sites, [n, *shape], along paths of the parameters."""
        if n < 1:
            raise ValueError(located(f"a prior is drawn once at least, not {n} times"))
        _ = self.bound
        found: dict[str, Tensor] = vmap(self.choices, size=n)()
        return found

    def log_prob(self, params: Values) -> Tensor:
        """The joint log density [n] of all sites, [n, *shape]."""
        _ = self.bound
        one = torch.func.vmap(lambda values: assess(self.choices, values)[0])
        found: Tensor = one(dict(params))
        return found

    @property
    def bound(self) -> Network:
        """The network.

        Errors:
            ProgramError: there is none yet.
        """
        if self.net is None:
            what = f"{type(self).__name__} has no network yet"
            raise ProgramError(located(what, hint="call bind(net), or give it to a matcher"))
        return self.net


def _kinds(net: Network) -> list[tuple[str, tuple[int, ...]]]:
    """Names and shapes of the weights and biases of all layers."""
    return [
        (f"{kind}{k}", shape)
        for k, (a, b) in enumerate(net.sizes)
        for kind, shape in (("W", (a, b)), ("b", (b,)))
    ]


class GaussianPrior(NetworkPrior):
    """W ~ N(0, softplus(rho_W)^2), b ~ N(0, softplus(rho_b)^2), from rho = 1.

    Args:
        per: one rho for each "layer" and kind, or for each "parameter".

    Errors:
        ValueError: ``per`` is neither.
    """

    def __init__(self, per: Literal["layer", "parameter"] = "layer") -> None:
        super().__init__()
        if per not in ("layer", "parameter"):
            raise ValueError(located(f"per is 'layer' or 'parameter', not {per!r}"))
        self.per = per
        self.rho = nn.ParameterDict()

    def start(self, net: Network) -> None:
        for name, shape in _kinds(net):
            self.rho[name] = nn.Parameter(torch.ones(shape if self.per == "parameter" else ()))

    def choices(self) -> dict[str, Tensor]:
        found = {}
        for name, shape in _kinds(self.bound):
            scale = softplus(self.rho[name]).expand(shape)
            law = dist.Normal(torch.zeros_like(scale), scale)
            found[name] = sample(name, law.to_event(len(shape)))
        return found


class HierarchicalPrior(NetworkPrior):
    """variance ~ InverseGamma(shape, rate) of each layer and kind, W ~ N(0, variance) given it.

    Shape and rate are softplus of parameters that start at 1.  Each function has variances of its
    own.  The public code adds 1e-8 to the root of a gamma draw, which we leave out, so that draws
    have the density.
    """

    def __init__(self) -> None:
        super().__init__()
        self.shape, self.rate = nn.ParameterDict(), nn.ParameterDict()

    def start(self, net: Network) -> None:
        for name, _ in _kinds(net):
            self.shape[name] = nn.Parameter(torch.ones(()))
            self.rate[name] = nn.Parameter(torch.ones(()))

    def choices(self) -> dict[str, Tensor]:
        found = {}
        for name, shape in _kinds(self.bound):
            law = dist.InverseGamma(softplus(self.shape[name]), softplus(self.rate[name]))
            variance = found[f"variance_{name}"] = sample(f"variance_{name}", law)
            scale = variance.sqrt().expand(shape)
            weights = dist.Normal(torch.zeros_like(scale), scale)
            found[name] = sample(name, weights.to_event(len(shape)))
        return found

    def given(self, values: Values) -> dict[str, Any]:
        """The laws of the variances given weights W: InverseGamma(shape + n / 2, rate + |W|^2 / 2).

        n is how many numbers a W has.
        """
        found = {}
        for name, _ in _kinds(self.bound):
            shape, rate = (softplus(each[name]).detach() for each in (self.shape, self.rate))
            w = values[name]
            law = dist.InverseGamma(shape + w.numel() / 2, rate + w.square().sum() / 2)
            found[f"variance_{name}"] = law
        return found

    def conditional(self) -> Conditional:
        names = tuple(f"variance_{name}" for name, _ in _kinds(self.bound))

        def drawn(values: Values) -> dict[str, Tensor]:
            return {name: draw(law, label="variance") for name, law in self.given(values).items()}

        return Conditional(names, drawn)


class FlowPrior(NetworkPrior):
    """Biases and weights of a layer as one vector, by planar flows of normals; biases come first.

    Site ``layer0`` and so on, [(n_in + 1) n_out].  Means of the normals are 0, their log variances
    parameters from 0; where the flows start is not told by the source: w small normal, u = 0 is our
    choice.

    Args:
        n_flows: T, for each layer.

    Errors:
        ValueError: there are none.
    """

    def __init__(self, n_flows: int = 4) -> None:
        super().__init__()
        if n_flows < 1:
            raise ValueError(located(f"a flow prior has one flow at least, not {n_flows}"))
        self.n_flows = n_flows
        self.log_variance, self.w = nn.ParameterDict(), nn.ParameterDict()
        self.u, self.c = nn.ParameterDict(), nn.ParameterDict()

    def start(self, net: Network) -> None:
        for k, (a, b) in enumerate(net.sizes):
            name, d = f"layer{k}", (a + 1) * b
            zeros = torch.zeros(self.n_flows, d)
            self.log_variance[name] = nn.Parameter(torch.zeros(d))
            normal = dist.Normal(zeros, torch.full_like(zeros, d**-0.5))
            self.w[name] = nn.Parameter(draw(normal, label="flows"))
            self.u[name] = nn.Parameter(zeros)
            self.c[name] = nn.Parameter(torch.zeros(self.n_flows))

    def law(self, name: str) -> PlanarFlow:
        """That of a layer, by the name of its site."""
        scale = (self.log_variance[name] / 2).exp()
        return PlanarFlow(torch.zeros_like(scale), scale, self.w[name], self.u[name], self.c[name])

    def choices(self) -> dict[str, Tensor]:
        names = [f"layer{k}" for k in range(len(self.bound.sizes))]
        return {name: sample(name, self.law(name)) for name in names}

    def layers(self, values: Values) -> list[Layer]:
        found = []
        for k, (a, b) in enumerate(self.bound.sizes):
            matrix = values[f"layer{k}"].unflatten(-1, (a + 1, b))
            found.append((matrix[..., 1:, :], matrix[..., 0, :]))
        return found


FAMILIES: dict[str, type[NetworkPrior]] = {
    "gaussian": GaussianPrior,
    "hierarchical": HierarchicalPrior,
    "flow": FlowPrior,
}


def prior_of(family: str | NetworkPrior) -> NetworkPrior:
    """A prior by the name of its family.

    Errors:
        ValueError: there is no such family.
    """
    if isinstance(family, NetworkPrior):
        return family
    if family not in FAMILIES:
        what = f"there is no family of priors {family!r}"
        raise ValueError(located(what, hint=f"take one of {sorted(FAMILIES)}"))
    return FAMILIES[family]()
