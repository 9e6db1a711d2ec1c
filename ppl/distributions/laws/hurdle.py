"""Laws of zero or more: with a mass at zero of its own, and beyond it a law of positive numbers."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.utils import lazy_property
from torch.nn.functional import logsigmoid

from ...errors import ProgramError, UnsupportedDistributionError, located
from ...tensors.hidden import is_known
from ...tensors.logs import log_of, log_rest
from ...types.points_of_mass import WithPoints
from ...types.supports import support_of
from ..densities import log_density
from ..points import point_or_half
from .tails import ends_of, quantile
from .truncated import Truncated


class Hurdle(dist.TorchDistribution):  # type: ignore[misc]
    """Zero with probability ``gate``, and else X given that X > 0.

    Of a continuous X it has a density beyond zero, and may be observed or drawn; it is no latent of
    NUTS or a guide, since zero is a point of mass.

    Args:
        base_dist: the law of X [*batch], of whole numbers or of positive numbers.
        gate: [*batch] or a number in [0, 1]; or its logits.

    Errors:
        ProgramError: not one of gate and gate_logits is given.
        UnsupportedDistributionError: X is no law of single numbers that are positive, or whole.
    """

    arg_constraints = {"gate": constraints.unit_interval, "gate_logits": constraints.real}
    has_rsample = False

    def __init__(
        self,
        base_dist: Any,
        gate: Tensor | float | None = None,
        gate_logits: Tensor | float | None = None,
        validate_args: bool | None = None,
    ) -> None:
        if (gate is None) == (gate_logits is None):
            raise ProgramError(located("a hurdle law has one of gate and gate_logits"))
        inner = _positive(base_dist)
        given = torch.as_tensor(gate if gate_logits is None else gate_logits)
        batch = torch.broadcast_shapes(given.shape, base_dist.batch_shape)
        if gate_logits is None:
            self.gate = given.expand(batch)
        else:
            self.gate_logits = given.expand(batch)
        self._inner = inner.expand(batch)
        super().__init__(batch, torch.Size(), validate_args=validate_args)

    @lazy_property
    def gate(self) -> Tensor:
        """P(X = 0) [*batch]."""
        return self.gate_logits.sigmoid()

    @lazy_property
    def gate_logits(self) -> Tensor:
        return self.gate.logit()

    @property
    def _discrete(self) -> bool:
        return bool(support_of(self._inner).is_discrete)

    @constraints.dependent_property(event_dim=0)
    def support(self) -> Any:
        if not self._discrete:
            zero = torch.zeros_like(self._log_gate[0])
            return WithPoints(zero, zero + math.inf, "zero")
        own = support_of(self._inner)
        if hasattr(own, "upper_bound"):
            return constraints.integer_interval(0, own.upper_bound)  # type: ignore[no-untyped-call]
        return constraints.nonnegative_integer

    @property
    def has_enumerate_support(self) -> bool:  # type: ignore[override]
        return bool(self._inner.has_enumerate_support)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        more: Tensor = self._inner.enumerate_support(expand)
        return torch.cat([torch.zeros_like(more[:1]), more])

    @property
    def _log_gate(self) -> tuple[Tensor, Tensor]:
        """log P(0) and log P(more)."""
        if "gate" in vars(self):
            return log_of(self.gate), log_rest(self.gate)
        return logsigmoid(self.gate_logits), logsigmoid(-self.gate_logits)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Hurdle:
        batch = torch.Size(batch_shape)
        names = [name for name in ("gate", "gate_logits") if name in vars(self)]
        gates = {name: vars(self)[name].expand(batch) for name in names}
        return Hurdle(self._inner.expand(batch), **gates, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Of zero the log mass, else the log density."""
        if self._validate_args:
            self._validate_sample(value)
        gate, rest = self._log_gate
        zero = value == 0
        x = torch.where(zero, point_or_half(self._inner).to(gate.dtype), value.to(gate.dtype))
        return torch.where(zero, gate, rest + log_density(self._inner, x))

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        chance = self._log_gate[0].exp()
        with torch.no_grad():
            none = torch.rand(shape, dtype=chance.dtype, device=chance.device) < chance
            return torch.where(none, 0.0, self._inner.sample(torch.Size(sample_shape)))

    def cdf(self, value: Tensor) -> Tensor:
        """P(X <= value), where the law of positive numbers has one."""
        gate, rest = (x.exp() for x in self._log_gate)
        above = value > 0
        inside = self._inner.cdf(torch.where(above, value, 1.0))
        return torch.where(above, gate + rest * inside, torch.where(value < 0, 0.0, gate))

    def icdf(self, value: Tensor) -> Tensor:
        """The quantile, where the law of positive numbers has one."""
        gate, rest = (x.exp() for x in self._log_gate)
        above = value > gate
        share = torch.where(above, (value - gate) / rest, 0.5)
        inside = quantile(self._inner, log_of(share), log_rest(share))
        return torch.where(above, inside, 0.0)

    @property
    def mean(self) -> Tensor:
        found: Tensor = self._log_gate[1].exp() * self._inner.mean
        return found

    @property
    def variance(self) -> Tensor:
        rest, mean = self._log_gate[1].exp(), self._inner.mean
        found: Tensor = rest * (self._inner.variance + (1 - rest) * mean**2)
        return found


class HurdlePoisson(Hurdle):
    """Zero with probability ``gate``, and else Poisson(rate) given that it is more.

    Args:
        rate: [*batch], positive; gate: as of ``Hurdle``.
    """

    def __init__(self, rate: Any, **gate: Any) -> None:
        super().__init__(dist.Poisson(rate), **gate)


class HurdleNegativeBinomial(Hurdle):
    """Zero with probability ``gate``, and else NegativeBinomial(total_count, ...) that is more.

    Args:
        total_count: [*batch], positive; probs or logits: of each count; gate: as of ``Hurdle``.
    """

    def __init__(
        self, total_count: Any, probs: Any = None, logits: Any = None, **gate: Any
    ) -> None:
        super().__init__(dist.NegativeBinomial(total_count, probs, logits), **gate)


class HurdleGamma(Hurdle):
    """Zero with probability ``gate``, and else Gamma(concentration, rate): amounts, as of rain.

    Args:
        concentration, rate: [*batch], positive; gate: as of ``Hurdle``.
    """

    def __init__(self, concentration: Any, rate: Any, **gate: Any) -> None:
        super().__init__(dist.Gamma(concentration, rate), **gate)


class HurdleLogNormal(Hurdle):
    """Zero with probability ``gate``, and else LogNormal(loc, scale).

    Args:
        loc, scale: [*batch], scale positive; gate: as of ``Hurdle``.
    """

    def __init__(self, loc: Any, scale: Any, **gate: Any) -> None:
        super().__init__(dist.LogNormal(loc, scale), **gate)


class ZeroInflatedBinomial(dist.ZeroInflatedDistribution):  # type: ignore[misc]
    """Zero with probability ``gate``, and else Binomial(total_count, ...), which may be zero too.

    Args:
        total_count: [*batch] or a number; probs or logits: of each success; gate or gate_logits:
            [*batch].
    """

    def __init__(
        self,
        total_count: Any,
        probs: Any = None,
        logits: Any = None,
        *,
        gate: Any = None,
        gate_logits: Any = None,
        validate_args: bool | None = None,
    ) -> None:
        base = dist.Binomial(total_count, probs, logits)
        gate = None if gate is None else torch.as_tensor(gate)
        gate_logits = None if gate_logits is None else torch.as_tensor(gate_logits)
        super().__init__(base, gate=gate, gate_logits=gate_logits, validate_args=validate_args)

    has_enumerate_support = True

    def enumerate_support(self, expand: bool = True) -> Tensor:
        values: Tensor = self.base_dist.enumerate_support(expand)
        return values


def _positive(base: Any) -> Any:
    """The law given that it is more than zero."""
    if base.event_shape:
        name = type(base).__name__
        what = f"a hurdle is a law of single numbers, and {name} has events {base.event_shape}"
        raise UnsupportedDistributionError(located(what, hint="put to_event around the hurdle"))
    if support_of(base).is_discrete:
        first = base.low if isinstance(base, Truncated) else None
        if first is not None and is_known(first) and bool((first >= 1).all()):
            return base
        return Truncated(base, 1, validate_args=False)
    low, _ = ends_of(base)
    known = is_known(low) if isinstance(low, Tensor) else True
    if known and not bool((torch.as_tensor(low) >= 0).all()):
        what = f"{type(base).__name__} has numbers below zero"
        raise UnsupportedDistributionError(located(what, hint="truncate it: Truncated(law, 0)"))
    return base
