"""A normal law that planar flows have moved, with its density anywhere.

Rezende and Mohamed, "Variational inference with normalizing flows", arXiv 1505.05770.  A flow is

    z' = z + v tanh(w . z + c),   v = u + (m(w . u) - w . u) w / |w|^2,   m(a) = log(1 + e^a) - 1,

so that w . v > -1 and it is one to one, with log |det| = log |1 + (1 - tanh^2(w . z + c)) w . v|.
Its inverse needs one number: a = w . z solves a + w . v tanh(a + c) = w . z'.
"""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints
from torch.nn.functional import softplus

from ..errors import ProgramError, located

HALVINGS = 60  # of an interval of length 2 |w . v|
POLISH = 2  # Newton's steps, of which derivatives go through the last ones


def planar(z: Tensor, w: Tensor, u: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """A flow of points [..., d] by w, u [..., d] and c [...]: images, and log |det| [...]."""
    v, along = _allowed(w, u)
    t = torch.tanh((w * z).sum(-1) + c)
    return z + v * t[..., None], torch.log1p((1.0 - t.square()) * along)


def planar_inverse(x: Tensor, w: Tensor, u: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """The points [..., d] of which x [..., d] are images, and log |det| [...] of the flow there.

    Derivatives of the first and second order are those of the solution.
    """
    v, along = _allowed(w, u)
    t = torch.tanh(_solved((w * x).sum(-1), along, c) + c)
    return x - v * t[..., None], torch.log1p((1.0 - t.square()) * along)


def _allowed(w: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """v as above, and w . v, which is above -1."""
    inner = (w * u).sum(-1)
    along = softplus(inner) - 1.0
    return u + ((along - inner) / w.square().sum(-1))[..., None] * w, along


def _solved(b: Tensor, along: Tensor, c: Tensor) -> Tensor:
    """The a [...] of a + along tanh(a + c) = b: its left side rises in a."""
    with torch.no_grad():
        low, high = (b - along.abs()).detach(), (b + along.abs()).detach()
        for _ in range(HALVINGS):
            a = (low + high) / 2
            below = a + along * torch.tanh(a + c) < b
            low, high = torch.where(below, a, low), torch.where(below, high, a)
    a = ((low + high) / 2).detach()
    for _ in range(POLISH):
        t = torch.tanh(a + c)
        a = a - (a + along * t - b) / (1.0 + along * (1.0 - t.square()))
    return a


class PlanarFlow(dist.TorchDistribution):  # type: ignore[misc]
    """z ~ Normal(loc, scale) moved by flows, one after the other.

    Args:
        loc, scale: [*batch, d] of the independent normals.
        w, u: [*batch, T, d], c: [*batch, T], of T flows.

    Errors:
        ProgramError: shapes do not fit.
    """

    arg_constraints: dict[str, Any] = {}
    support = constraints.independent(constraints.real, 1)
    has_rsample = True

    def __init__(self, loc: Tensor, scale: Tensor, w: Tensor, u: Tensor, c: Tensor) -> None:
        d, flows = loc.shape[-1], c.shape[-1:]
        if w.shape[-2:] != (*flows, d) or u.shape[-2:] != w.shape[-2:] or scale.shape[-1] != d:
            what = f"flows of {d} numbers have w, u [T, {d}] and c [T]"
            raise ProgramError(located(f"{what}, not {[list(x.shape) for x in (w, u, c)]}"))
        leading = loc.shape[:-1], scale.shape[:-1], w.shape[:-2], u.shape[:-2], c.shape[:-1]
        batch = torch.broadcast_shapes(*leading)
        self.loc, self.scale = loc.expand(*batch, d), scale.expand(*batch, d)
        self.w, self.u = w.expand(*batch, *flows, d), u.expand(*batch, *flows, d)
        self.c = c.expand(*batch, *flows)
        super().__init__(batch, loc.shape[-1:], validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> PlanarFlow:
        batch, flows = tuple(batch_shape), self.w.shape[-2:]
        loc, scale = (x.expand(*batch, flows[1]) for x in (self.loc, self.scale))
        w, u = (x.expand(*batch, *flows) for x in (self.w, self.u))
        return PlanarFlow(loc, scale, w, u, self.c.expand(*batch, flows[0]))

    def along(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """What standard normal noise [*sample, *batch, d] becomes, and its log density there."""
        z = self.loc + self.scale * noise
        density = self._base(z)
        for k in range(self.c.shape[-1]):
            z, log_det = planar(z, self.w[..., k, :], self.u[..., k, :], self.c[..., k])
            density = density - log_det
        return z, density

    def rsample_with_density(self, sample_shape: Any = torch.Size()) -> tuple[Tensor, Tensor]:
        """Draws [*sample, *batch, d], and their log densities, for which nothing is inverted."""
        shape = torch.Size(sample_shape) + self.batch_shape + self.event_shape
        return self.along(torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device))

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        return self.rsample_with_density(sample_shape)[0]

    def log_prob(self, value: Tensor) -> Tensor:
        """Of any vectors [..., d], by the inverses of the flows."""
        z, total = value, self.c.new_zeros(())
        for k in reversed(range(self.c.shape[-1])):
            z, log_det = planar_inverse(z, self.w[..., k, :], self.u[..., k, :], self.c[..., k])
            total = total + log_det
        density: Tensor = self._base(z) - total
        return density

    def _base(self, z: Tensor) -> Tensor:
        standard = (z - self.loc) / self.scale
        logs = self.scale.log() + math.log(2 * math.pi) / 2
        return -(standard.square() / 2 + logs).sum(-1)
