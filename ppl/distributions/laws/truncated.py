"""A law of single numbers, given that they lie between two ends."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from ...errors import ProgramError, located
from ...tensors.hidden import is_known
from ...types.supports import support_of
from ..data import value_dtype
from ..densities import has_own_density, log_density
from ..masks import core
from .tails import (
    Tails,
    ends_of,
    log_above,
    log_below,
    log_difference,
    log_rest_of,
    quantile,
    tails_of,
)
from .whole import WholeNumbers

End = Tensor | float | None


class Truncated(dist.TorchDistribution):  # type: ignore[misc]
    """X given low <= X <= high: its density is that of X over P(low <= X <= high).

    Tails are taken by themselves: a normal law beyond 30 standard deviations has all its digits.
    Where what is known of a law's tail has none, the density is NaN.

    Args:
        base_dist: a law of single numbers [*batch], continuous with a distribution function, or of
            whole numbers; then the ends are known numbers.
        low, high: [*batch] or numbers; None for no end.

    Errors:
        ProgramError: low is not below high, or nothing of the support is between them.
        UnsupportedDistributionError: the law has no distribution function of single numbers.
    """

    arg_constraints = {"low": constraints.dependent, "high": constraints.dependent}

    def __init__(
        self,
        base_dist: Any,
        low: End = None,
        high: End = None,
        validate_args: bool | None = None,
    ) -> None:
        dtype = value_dtype(base_dist)
        ends = (
            torch.as_tensor(-math.inf if low is None else low, dtype=dtype),
            torch.as_tensor(math.inf if high is None else high, dtype=dtype),
        )
        shapes = (end.shape for end in ends)
        batch = torch.broadcast_shapes(base_dist.batch_shape, *shapes)
        self.base_dist = base_dist.expand(batch)
        self.low, self.high = (end.expand(batch) for end in ends)
        whole = support_of(base_dist).is_discrete
        self._whole = WholeNumbers.of(base_dist, *ends) if whole else None
        if not whole:
            tails_of(base_dist)
            _require_room(ends_of(base_dist), ends)
        super().__init__(batch, torch.Size(), validate_args=validate_args)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        return self._whole is None

    @property
    def has_enumerate_support(self) -> bool:  # type: ignore[override]
        return self._whole is not None and self._whole.listed

    @constraints.dependent_property(event_dim=0)
    def support(self) -> Any:
        if self._whole is not None:
            return self._whole.support(self.low, self.high)
        low, high = ends_of(self.base_dist)
        return constraints.interval(_later(self.low, low), -_later(-self.high, -high))  # type: ignore[no-untyped-call]

    def expand(self, batch_shape: Any, _instance: Any = None) -> Truncated:
        batch = torch.Size(batch_shape)
        low, high = self.low.expand(batch), self.high.expand(batch)
        return Truncated(self.base_dist.expand(batch), low, high, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        inside = (value >= self.low) & (value <= self.high)
        log_mass = self.log_mass
        score = log_density(self.base_dist, value) - log_mass
        score = torch.where(torch.isneginf(log_mass), math.nan, score)  # no digits are left of it
        return torch.where(inside, score, -math.inf)

    @property
    def log_mass(self) -> Tensor:
        """log P(low <= X <= high) [*batch]."""
        if self._whole is not None:
            return self._whole.log_mass(self.base_dist, self.low, self.high)
        lower, below, above = self._sides
        return torch.where(lower, log_difference(*below), log_difference(*above))

    @property
    def _sides(self) -> tuple[Tensor, tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Whether the interval has less below its high end than above its low one; each side.

        A side is the log probability that the interval is part of, and what it lacks to be all.
        """
        below = [log_below(self.base_dist, end) for end in (self.high, self.low)]
        above = [log_above(self.base_dist, end) for end in (self.low, self.high)]
        return below[0] <= above[0], (below[0], below[1]), (above[0], above[1])

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        self._require_continuous("rsample")
        shape = self._extended_shape(sample_shape)
        u = torch.rand(shape, dtype=self.low.dtype, device=self.low.device)
        u = u.clamp(min=torch.finfo(u.dtype).tiny)
        return self._quantile(u.log(), torch.log1p(-u))

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        with torch.no_grad():
            if self._whole is None:
                return self.rsample(sample_shape)
            shape = self._extended_shape(sample_shape)
            return self._whole.sample(self.base_dist, self.low, self.high, shape)

    def cdf(self, value: Tensor) -> Tensor:
        """P(X <= value | low <= X <= high), of continuous laws."""
        self._require_continuous("cdf")
        return self._log_below(value.clamp(self.low, self.high)).exp()

    def icdf(self, value: Tensor) -> Tensor:
        """The quantile of continuous laws."""
        self._require_continuous("icdf")
        return self._quantile(value.log(), torch.log1p(-value))

    @property
    def tails(self) -> Tails:
        """Both, by those of the law within, so that laws of this law have their digits too."""
        return Tails(
            lambda d, x: d._log_below(x),
            lambda d, x: d._log_above(x),
            lambda d, log_p: d._quantile(log_p, log_rest_of(log_p)),
            lambda d, log_p: d._quantile(log_rest_of(log_p), log_p),
        )

    def _log_below(self, x: Tensor) -> Tensor:
        """log P(X <= x | low <= X <= high), of x between the ends."""
        lower, (_, under), (most, _) = self._sides
        up = log_difference(log_below(self.base_dist, x), under)
        down = log_difference(most, log_above(self.base_dist, x))
        return torch.where(lower, up, down) - self.log_mass

    def _log_above(self, x: Tensor) -> Tensor:
        """log P(X > x | low <= X <= high), of x between the ends."""
        lower, (most, _), (_, over) = self._sides
        up = log_difference(most, log_below(self.base_dist, x))
        down = log_difference(log_above(self.base_dist, x), over)
        return torch.where(lower, up, down) - self.log_mass

    def _quantile(self, log_p: Tensor, log_rest: Tensor) -> Tensor:
        (_, under), (_, over) = self._sides[1:]
        log_p = torch.logaddexp(under, self.log_mass + log_p)
        log_q = torch.logaddexp(over, self.log_mass + log_rest)
        return quantile(self.base_dist, log_p, log_q).clamp(self.low, self.high)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        if self._whole is None or not self._whole.listed:
            raise NotImplementedError
        values = self._whole.values(self.low).reshape(-1, *(1,) * len(self.batch_shape))
        return values.expand(-1, *self.batch_shape) if expand else values

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
        if self._whole is not None:
            return self._whole.moments(self.base_dist, self.low, self.high)
        law = core(self.base_dist)
        kind: Any = type(law)
        if has_own_density(kind):
            raise NotImplementedError(f"the moments of a truncated {type(law).__name__}")
        if isinstance(law, torch.distributions.Uniform):
            low = torch.maximum(self.low, law.low)
            width = torch.minimum(self.high, law.high) - low
            return low + width / 2, width**2 / 12
        if isinstance(law, torch.distributions.Normal):
            return _normal_moments(law, self.low, self.high, self.log_mass)
        raise NotImplementedError(f"the moments of a truncated {type(law).__name__}")

    def _require_continuous(self, what: str) -> None:
        if self._whole is not None:
            raise NotImplementedError(f"{what} of whole numbers")


def _normal_moments(law: Any, low: Tensor, high: Tensor, log_mass: Tensor) -> tuple[Tensor, Tensor]:
    """By the densities at the ends: of standard numbers a and b, and their sums weighed by them."""
    one = torch.zeros_like(low), torch.ones_like(low)
    standard = torch.distributions.Normal(*one)
    first, second = torch.zeros_like(low), torch.zeros_like(low)
    for end, sign in ((low, 1.0), (high, -1.0)):
        z = torch.where(end.isinf(), 0.0, (end - law.loc) / law.scale)
        at = torch.where(end.isinf(), 0.0, sign * (standard.log_prob(z) - log_mass).exp())
        first, second = first + at, second + z * at
    return law.loc + law.scale * first, law.scale**2 * (1 + second - first**2)


def _later(end: Tensor, other: Tensor | float) -> Tensor:
    """The greater of an end and of the support's own, which may be infinite."""
    return torch.maximum(end, torch.as_tensor(other, dtype=end.dtype, device=end.device))


def _require_room(own: tuple[Any, Any], ends: tuple[Tensor, Tensor]) -> None:
    """Raise unless low < high, and both leave some of the support, as far as that is known."""
    low, high = ends
    for less, more, what in (
        (low, high, "low is below high"),
        (low, own[1], "low is below the support's own end"),
        (own[0], high, "high is above the support's own end"),
    ):
        room = torch.as_tensor(less) < torch.as_tensor(more)
        if is_known(room) and not bool(room.all()):
            shown = f"low is {low.flatten()[:3].tolist()} and high is {high.flatten()[:3].tolist()}"
            raise ProgramError(located(f"of a truncated law {what}: {shown}"))
