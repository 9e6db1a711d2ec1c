"""A law of single numbers of which those beyond an end are only known to lie there."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from ...errors import ProgramError, located
from ...types.points_of_mass import WithPoints
from ..densities import log_density
from ..points import point_or_half
from .tails import log_above, log_below, quantile
from .truncated import End, Truncated


class Censored(dist.TorchDistribution):  # type: ignore[misc]
    """min(max(X, low), high): ``low`` has the mass of all X <= low, and ``high`` of all X >= high.

    Between the ends it has the density of X.  A continuous law may be observed, and drawn from, but
    is no latent of NUTS or a guide, since it has points of mass.

    Args:
        base_dist: a law of single numbers [*batch], continuous with a distribution function, or of
            whole numbers; then the ends are known numbers.
        low, high: [*batch] or numbers; None for no end.

    Errors:
        ProgramError: low is not below high, or nothing of the support is between them; or an end of
            a law of whole numbers is none.
        UnsupportedDistributionError: the law has no distribution function of single numbers.
    """

    arg_constraints = {"low": constraints.dependent, "high": constraints.dependent}
    has_rsample = False

    def __init__(
        self,
        base_dist: Any,
        low: End = None,
        high: End = None,
        validate_args: bool | None = None,
    ) -> None:
        self._inner = Truncated(base_dist, low, high, validate_args=False)
        self.low, self.high = self._inner.low, self._inner.high
        self.base_dist = self._inner.base_dist
        if self._discrete:
            _require_whole(self.low, self.high)
        super().__init__(self._inner.batch_shape, torch.Size(), validate_args=validate_args)

    @property
    def _discrete(self) -> bool:
        return self._inner._whole is not None

    @property
    def has_enumerate_support(self) -> bool:  # type: ignore[override]
        return self._inner.has_enumerate_support

    @constraints.dependent_property(event_dim=0)
    def support(self) -> Any:
        if self._discrete:
            return self._inner.support
        return WithPoints(self.low, self.high, "its ends")

    def expand(self, batch_shape: Any, _instance: Any = None) -> Censored:
        batch = torch.Size(batch_shape)
        low, high = self.low.expand(batch), self.high.expand(batch)
        return Censored(self.base_dist.expand(batch), low, high, validate_args=False)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        return self._inner.enumerate_support(expand)

    def log_prob(self, value: Tensor) -> Tensor:
        """Of an end the log mass, else the log density."""
        if self._validate_args:
            self._validate_sample(value)
        x = value.to(self.low.dtype)
        under, over = x <= self.low, x >= self.high
        between = torch.where(under | over, point_or_half(self.base_dist).to(x), x)
        at_low, at_high = self._log_masses
        score = torch.where(over, at_high, log_density(self.base_dist, between))
        score = torch.where(under, at_low, score)
        return torch.where((x < self.low) | (x > self.high), -math.inf, score)

    @property
    def _log_masses(self) -> tuple[Tensor, Tensor]:
        """log P(X <= low) and log P(X >= high) [*batch]."""
        if not self._discrete:
            return log_below(self.base_dist, self.low), log_above(self.base_dist, self.high)
        assert self._inner._whole is not None
        own, last = self._inner._whole.own, self._inner._whole.last
        under = over = torch.full_like(self.low, -math.inf)
        end = torch.finfo(self.high.dtype).max if last is None else last
        low, high = self.low >= own, self.high <= end  # where there is mass beyond
        if low.any():
            law = Truncated(self.base_dist, None, torch.where(low, self.low, own))
            under = torch.where(low, law.log_mass, under)
        if high.any():
            law = Truncated(self.base_dist, torch.where(high, self.high, own))
            over = torch.where(high, law.log_mass, over)
        return under, over

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        drawn: Tensor = self.base_dist.sample(torch.Size(sample_shape))
        return drawn.clamp(self.low, self.high)

    def cdf(self, value: Tensor) -> Tensor:
        """P(X <= value), of continuous laws."""
        self._require_continuous("cdf")
        inside = log_below(self.base_dist, value.clamp(self.low, self.high)).exp()
        return torch.where(value < self.low, 0.0, torch.where(value >= self.high, 1.0, inside))

    def icdf(self, value: Tensor) -> Tensor:
        """The quantile of continuous laws: that of the law inside, no further than the ends."""
        self._require_continuous("icdf")
        return quantile(self.base_dist, value.log(), torch.log1p(-value)).clamp(self.low, self.high)

    @property
    def mean(self) -> Tensor:
        """Of normal and uniform laws, and of whole numbers."""
        return self._moments[0]

    @property
    def variance(self) -> Tensor:
        """Of normal and uniform laws, and of whole numbers."""
        return self._moments[1]

    @property
    def _moments(self) -> tuple[Tensor, Tensor]:
        inside, mean = self._inner.log_mass.exp(), self._inner.mean
        first, second = inside * mean, inside * (self._inner.variance + mean**2)
        for end, log_mass in zip((self.low, self.high), self._log_masses, strict=True):
            at = torch.where(end.isinf(), 0.0, end)
            own = log_density(self.base_dist, at).exp() if self._discrete else 0.0
            beyond = torch.where(end.isinf(), 0.0, log_mass.exp() - own)
            first, second = first + beyond * at, second + beyond * at**2
        return first, second - first**2

    def _require_continuous(self, what: str) -> None:
        if self._discrete:
            raise NotImplementedError(f"{what} of whole numbers")


def _require_whole(*ends: Tensor) -> None:
    """Raise unless ends, whose values such a law takes, are whole numbers or infinite."""
    for end in ends:
        if not bool((end.isinf() | (end == end.round())).all()):
            shown = end.flatten()[:3].tolist()
            what = f"a censored law of whole numbers takes the values of its ends: {shown}"
            raise ProgramError(located(what, hint="give whole numbers"))
