"""Laws as functions of uniform numbers: how many each takes, and the value that they make."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from pyro import distributions as dist
from torch import Tensor

_AROUND = (dist.MaskedDistribution, dist.ExpandedDistribution)


Quantile = Callable[[Any, Tensor], Any]


def numbers_of(law: Any) -> int | None:
    """How many uniform numbers make a value of a law; None if no function here does."""
    if isinstance(law, torch.distributions.Independent):
        return numbers_of(law.base_dist)
    if isinstance(law, _AROUND):
        inner, shape = law.base_dist, law.batch_shape
        spread = inner.batch_shape != shape and numbers_of(inner) is not None
        return numbers_of(inner.expand(shape) if spread else inner)
    if not _is_a_librarys(law):
        return None
    if isinstance(law, dist.Delta):
        return 0
    if isinstance(law, dist.MultivariateNormal):
        return int(law.loc.numel())
    if type(law).__name__ in _QUANTILES:
        return int(math.prod(law.batch_shape))
    if isinstance(law, torch.distributions.TransformedDistribution):
        return numbers_of(law.base_dist)
    return None


def by_quantile(law: Any, u: Tensor) -> Any:
    """The value of a law that uniform numbers [numbers_of(law)] in (0, 1) make.

    Its law is that law, if they are independent.  It is increasing in each number of laws of real
    numbers one by one, and finite: numbers that round to one in a lower precision are the number
    below it.
    """
    if isinstance(law, torch.distributions.Independent):
        return by_quantile(law.base_dist, u)
    if isinstance(law, _AROUND):
        return _spread(law, u)
    if isinstance(law, dist.Delta):
        return law.v
    if isinstance(law, dist.MultivariateNormal):
        z = torch.special.ndtri(_inside(u, law.loc.dtype)).reshape(law.loc.shape)
        moved = (law._unbroadcasted_scale_tril @ z[..., None]).squeeze(-1)
        return law.loc + moved
    if (quantile := _QUANTILES.get(type(law).__name__)) is not None:
        return quantile(law, u.reshape(law.batch_shape))
    value = by_quantile(law.base_dist, u)
    for transform in law.transforms:
        value = transform(value)
    return value


def _spread(law: Any, u: Tensor) -> Any:
    """Of a law in larger shape, one value for each entry."""
    inner = law.base_dist
    if law.batch_shape == inner.batch_shape:
        return by_quantile(inner, u)
    return by_quantile(inner.expand(law.batch_shape), u)


def _is_a_librarys(law: Any) -> bool:
    """Whether torch or Pyro says how a law is drawn."""
    return type(law).__module__.partition(".")[0] in ("torch", "pyro")


def _inside(u: Tensor, dtype: torch.dtype) -> Tensor:
    """Numbers below one in another precision."""
    return u.to(dtype).clamp(max=1.0 - torch.finfo(dtype).eps / 2)


def _real(quantile: Quantile, about: str) -> Quantile:
    """A quantile, by numbers in the precision of a parameter."""
    return lambda law, u: quantile(law, _inside(u, getattr(law, about).dtype))


def _bernoulli(law: Any, u: Tensor) -> Any:
    return (_inside(u, law.probs.dtype) > 1.0 - law.probs).to(law.probs.dtype)


def _categorical(law: Any, u: Tensor) -> Any:
    """The first whose sum is beyond u; one of probability zero never is."""
    sums = law.probs.cumsum(-1)
    total = sums[..., -1:]
    place = _inside(u, sums.dtype)[..., None] * total
    return ((sums <= place) & (sums < total)).long().sum(-1)


def _laplace(law: Any, u: Tensor) -> Any:
    """By the nearer end, whose digits are all there."""
    return law.loc + law.scale * torch.sign(u - 0.5) * -torch.log(2.0 * torch.minimum(u, 1.0 - u))


def _cauchy(law: Any, u: Tensor) -> Any:
    end = torch.minimum(u, 1.0 - u)
    return law.loc + law.scale * torch.sign(u - 0.5) / torch.tan(math.pi * end)


def _half_cauchy(law: Any, u: Tensor) -> Any:
    turn = math.pi / 2.0
    value = torch.where(u < 0.5, torch.tan(turn * u), 1.0 / torch.tan(turn * (1.0 - u)))
    return law.scale * value


_QUANTILES: dict[str, Quantile] = {
    "Normal": _real(lambda law, u: law.loc + law.scale * torch.special.ndtri(u), "loc"),
    "Uniform": _real(lambda law, u: law.low + (law.high - law.low) * u, "low"),
    "Exponential": _real(lambda law, u: -torch.log1p(-u) / law.rate, "rate"),
    "Laplace": _real(_laplace, "loc"),
    "Cauchy": _real(_cauchy, "loc"),
    "HalfNormal": _real(lambda law, u: -law.scale * torch.special.ndtri((1.0 - u) / 2.0), "scale"),
    "HalfCauchy": _real(_half_cauchy, "scale"),
    "Bernoulli": _bernoulli,
    "Categorical": _categorical,
}
