"""The skew normal law."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from .parameters import together
from .tails import log_ndtr

NODES = 64


class SkewNormal(dist.TorchDistribution):  # type: ignore[misc]
    """2 / scale phi(z) Phi(skew z), z = (x - loc) / scale: normal where skew is zero.

    Source: Azzalini, Scandinavian Journal of Statistics 12 (1985).

    Args:
        loc, scale, skew: [*batch]; scale positive.
    """

    arg_constraints = {
        "loc": constraints.real,
        "scale": constraints.positive,
        "skew": constraints.real,
    }
    support = constraints.real
    has_rsample = True

    def __init__(
        self,
        loc: Tensor | float,
        scale: Tensor | float,
        skew: Tensor | float,
        validate_args: bool | None = None,
    ) -> None:
        parts = together(loc, scale, skew)
        self.loc, self.scale, self.skew = parts
        super().__init__(self.loc.shape, torch.Size(), validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> SkewNormal:
        batch = torch.Size(batch_shape)
        loc, scale, shape = (x.expand(batch) for x in (self.loc, self.scale, self.skew))
        return SkewNormal(loc, scale, shape, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        z = (value - self.loc) / self.scale
        constant = math.log(2.0) - math.log(2 * math.pi) / 2
        return constant - z.square() / 2 + log_ndtr(self.skew * z) - self.scale.log()

    @property
    def _share(self) -> Tensor:
        """skew / sqrt(1 + skew^2)."""
        return self.skew / torch.hypot(self.skew, torch.ones_like(self.skew))

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        shape = (2, *self._extended_shape(sample_shape))
        first, second = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        rest = 1 / torch.hypot(self.skew, torch.ones_like(self.skew))
        z = self._share * first.abs() + rest * second
        found: Tensor = self.loc + self.scale * z
        return found

    def cdf(self, value: Tensor) -> Tensor:
        """Phi(z) - 2 T(z, skew), T of Owen; to 1e-10.

        Where |skew| > 1 it is by T(|skew| z, 1 / |skew|), since the other has a steep edge.
        """
        z, skew = (value - self.loc) / self.scale, self.skew.abs()
        steep = skew > 1
        other = skew * z
        p, q = log_ndtr(z).exp(), log_ndtr(other).exp()
        inner = _owen(torch.where(steep, other, z), torch.where(steep, 1 / skew, skew))
        turned = (p + q) / 2 - p * q - inner
        owen = torch.where(steep, turned, inner) * self.skew.sign()
        return (p - 2 * owen).clamp(0.0, 1.0)

    @property
    def mean(self) -> Tensor:
        return self.loc + self.scale * self._share * math.sqrt(2 / math.pi)

    @property
    def variance(self) -> Tensor:
        return self.scale.square() * (1 - self._share.square() * (2 / math.pi))


def _owen(h: Tensor, a: Tensor) -> Tensor:
    """Owen's T(h, a), 0 <= a <= 1, by Gauss's rule over the angle."""
    nodes, weights = (x.to(h) for x in _rule())
    angle = torch.atan(a)[..., None] * nodes
    inside = (-(h[..., None].square()) / (2 * angle.cos().square())).exp()
    found: Tensor = torch.atan(a) / (2 * math.pi) * (weights * inside).sum(-1)
    return found


@cache
def _rule() -> tuple[Tensor, Tensor]:
    """Nodes and weights of Gauss's rule on (0, 1)."""
    x, w = np.polynomial.legendre.leggauss(NODES)
    return torch.as_tensor((x + 1) / 2), torch.as_tensor(w / 2)
