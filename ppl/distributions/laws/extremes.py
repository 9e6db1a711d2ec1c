"""The law of the greatest of many: Gumbel, Frechet and Weibull laws as one."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
from scipy.special import zeta
from torch import Tensor
from torch.distributions import constraints

from .parameters import together

EULER = 0.5772156649015329
NEAR = 0.1  # below, moments are by power series: differences of log gammas lose all digits
TERMS = 24
SMALL = 1e-3  # below, quotients that are 0 / 0 at zero are series


class GeneralizedExtremeValue(dist.TorchDistribution):  # type: ignore[misc]
    """P(X <= x) = exp(-(1 + c z)^(-1 / c)), z = (x - loc) / scale; Gumbel's law where c = 0.

    Args:
        loc, scale: [*batch]; scale positive.
        concentration: [*batch], c.  Where c > 0 the least value is loc - scale / c, and the tail is
            heavy; where c < 0 that is the greatest value.  scipy's genextreme has -c.
    """

    arg_constraints = {
        "loc": constraints.real,
        "scale": constraints.positive,
        "concentration": constraints.real,
    }
    has_rsample = True

    def __init__(
        self,
        loc: Tensor | float,
        scale: Tensor | float,
        concentration: Tensor | float,
        validate_args: bool | None = None,
    ) -> None:
        parts = together(loc, scale, concentration)
        self.loc, self.scale, self.concentration = parts
        super().__init__(self.loc.shape, torch.Size(), validate_args=validate_args)

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> Any:
        c = self.concentration
        end = self.loc - self.scale / torch.where(c == 0, 1.0, c)
        low, high = torch.where(c > 0, end, -math.inf), torch.where(c < 0, end, math.inf)
        return constraints.interval(low, high)  # type: ignore[no-untyped-call]

    def expand(self, batch_shape: Any, _instance: Any = None) -> GeneralizedExtremeValue:
        batch = torch.Size(batch_shape)
        loc, scale, shape = (x.expand(batch) for x in (self.loc, self.scale, self.concentration))
        return GeneralizedExtremeValue(loc, scale, shape, validate_args=False)

    def _gumbel(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """log(1 + c z) / c, which has Gumbel's law, and whether 1 + c z is positive."""
        z = (value - self.loc) / self.scale
        inside = self.concentration * z > -1
        s = torch.where(inside, self.concentration * z, 1.0)
        near = s.abs() < SMALL
        series = 1 - s * (1 / 2 - s * (1 / 3 - s * (1 / 4 - s * (1 / 5 - s / 6))))
        far = torch.where(near, 1.0, s)
        return z * torch.where(near, series, torch.log1p(far) / far), inside

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        w, inside = self._gumbel(value)
        score = -(1 + self.concentration) * w - (-w).exp() - self.scale.log()
        return torch.where(inside, score, -math.inf)

    def cdf(self, value: Tensor) -> Tensor:
        w, inside = self._gumbel(value)
        beyond = (self.concentration < 0).to(w.dtype)
        return torch.where(inside, (-(-w).exp()).exp(), beyond)

    def icdf(self, value: Tensor) -> Tensor:
        return self._from_gumbel(-(-value.log()).log())

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        e = torch.empty(shape, dtype=self.loc.dtype, device=self.loc.device).exponential_()
        return self._from_gumbel(-e.log())

    def _from_gumbel(self, w: Tensor) -> Tensor:
        s = self.concentration * w
        near = s.abs() < SMALL
        series = 1 + s * (1 / 2 + s * (1 / 6 + s * (1 / 24 + s * (1 / 120 + s / 720))))
        far = torch.where(near, 1.0, s)
        return self.loc + self.scale * w * torch.where(near, series, torch.expm1(far) / far)

    @property
    def mean(self) -> Tensor:
        """Infinite unless concentration < 1."""
        c = self.concentration
        near, safe = _near(c, 1.0)
        a = _power_series(_FIRST, c)
        series = a * _expm1_over(c * a)
        some = torch.where(near, series, torch.expm1(torch.lgamma(1 - safe)) / safe)
        return torch.where(c < 1, self.loc + self.scale * some, math.inf)

    @property
    def variance(self) -> Tensor:
        """Infinite unless concentration < 1 / 2."""
        c = self.concentration
        near, safe = _near(c, 0.5)
        a, b = _power_series(_FIRST, c), _power_series(_SECOND, c)
        series = (2 * c * a).exp() * b * _expm1_over(c.square() * b)
        first = torch.lgamma(1 - safe)
        ratio = torch.expm1(torch.lgamma(1 - 2 * safe) - 2 * first)
        some = torch.where(near, series, (2 * first).exp() * ratio / safe.square())
        return torch.where(c < 0.5, self.scale.square() * some, math.inf)


# log G(1 - c) / c and (log G(1 - 2 c) - 2 log G(1 - c)) / c^2, G the gamma function, in powers of c
_FIRST = (EULER, *(float(zeta(k)) / k for k in range(2, TERMS)))
_SECOND = tuple(float(zeta(k)) * (2.0**k - 2) / k for k in range(2, TERMS))


def _near(c: Tensor, end: float) -> tuple[Tensor, Tensor]:
    """Whether the series converge fast, and c or, there and beyond an end, a number between."""
    near = c.abs() < NEAR
    return near, torch.where(near | (c >= end), end / 2, c)


def _power_series(coefficients: tuple[float, ...], c: Tensor) -> Tensor:
    found = torch.zeros_like(c)
    for each in reversed(coefficients):
        found = found * c + each
    return found


def _expm1_over(x: Tensor) -> Tensor:
    """(exp(x) - 1) / x, of small x."""
    zero = x == 0
    safe = torch.where(zero, 1.0, x)
    return torch.where(zero, 1.0, torch.expm1(safe) / safe)
