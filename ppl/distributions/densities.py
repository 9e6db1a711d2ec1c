"""Log densities, exact at probability zero."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from pyro.distributions import (
    Delta,
    DiscreteHMM,
    ExpandedDistribution,
    MaskedDistribution,
    MaskedMixture,
    NanMaskedMultivariateNormal,
    NanMaskedNormal,
    Stable,
    ZeroInflatedDistribution,
)
from torch import Tensor

from ..tensors.logs import log_of, log_rest, logsumexp
from .data import as_numbers
from .masks import over_events
from .points import filled, point_or_half
from .repeated import Repeated
from .stable import stable_log_density
from .validate import possible


def log_density(distribution: Any, value: Tensor, *, inside: bool = False) -> Tensor:
    """``distribution.log_prob(value)``, exact at probability zero.

    torch clamps the probabilities of discrete laws away from 0 and 1, so that an impossible event
    keeps a mass of about 1e-16 (1e-7 in float32); and the formulas of many laws go on outside their
    support, which may move with a choice, or the value may.  ``inside``: the value is known to lie
    in the support, by how it was made.
    """
    if isinstance(distribution, Repeated):
        return log_density(distribution.base, value, inside=inside)
    distribution = unvalidated(distribution)
    kind: Any = type(distribution)
    if has_own_density(kind):
        value = as_numbers(value, distribution)
        return _inside(distribution, distribution.log_prob(value), value, inside)
    if isinstance(distribution, torch.distributions.Independent):
        inner = log_density(distribution.base_dist, value, inside=inside)
        dims = distribution.reinterpreted_batch_ndims
        return inner.sum(tuple(range(-dims, 0))) if dims else inner
    if isinstance(distribution, MaskedDistribution):
        value = filled(value, distribution._mask, distribution)
        inner = log_density(distribution.base_dist, value, inside=inside)
        return torch.where(torch.as_tensor(distribution._mask), inner, torch.zeros_like(inner))
    if isinstance(distribution, ExpandedDistribution):
        inner = log_density(distribution.base_dist, value, inside=inside)
        return inner.expand(torch.broadcast_shapes(inner.shape, distribution.batch_shape))
    value = as_numbers(value, distribution)
    exact = _exact(distribution)
    log_prob = distribution.log_prob(value) if exact is None else exact(distribution, value)
    return _inside(distribution, log_prob, value, inside)


def _inside(distribution: Any, log_prob: Tensor, value: Tensor, inside: bool) -> Tensor:
    lies = None if inside else possible(distribution, value)
    return log_prob if lies is None else log_prob.masked_fill(~lies, -math.inf)


@cache
def has_own_density(kind: Any) -> bool:
    """Whether a law says itself what its density is, whatever library's law it derives from."""
    owner: type = next(each for each in kind.__mro__ if "log_prob" in vars(each))
    return owner.__module__.partition(".")[0] not in ("torch", "pyro")


def unvalidated(distribution: Any) -> Any:
    """The same law without checks of its arguments, which a distribution keeps when it expands."""
    changed: dict[str, Any] = {"_validate_args": False} if _validates(distribution) else {}
    for name, part in vars(distribution).items():
        if isinstance(part, torch.distributions.Distribution):
            inner = unvalidated(part)
            if inner is not part:
                changed[name] = inner
    if not changed:
        return distribution
    new = copy.copy(distribution)
    vars(new).update(changed)
    return new


def _validates(distribution: Any) -> bool:
    return bool(getattr(distribution, "_validate_args", False))


def _by_probs(distribution: Any) -> bool:
    """Whether the probabilities are the parameters, and not made from logits."""
    fields = vars(distribution)
    return "probs" in fields and fields.get("_param", fields["probs"]) is fields["probs"]


def _delta(distribution: Any, value: Tensor) -> Tensor:
    """Its own value needs no comparison, which would be a jump where that value moves."""
    if value is distribution.v:
        own: Tensor = distribution.log_density.expand(distribution.batch_shape)
        return own
    log_prob: Tensor = distribution.log_prob(value)
    return log_prob


def _bernoulli(distribution: Any, value: Tensor) -> Tensor:
    if not _by_probs(distribution):
        logits = distribution.logits
        return torch.nn.functional.logsigmoid(torch.where(value == 1, logits, -logits))
    p = distribution.probs
    return log_of(torch.where(value == 1, p, 1 - p))


def _categorical(distribution: Any, value: Tensor) -> Tensor:
    index, p = torch.broadcast_tensors(value.long()[..., None], distribution.probs)
    return log_of(p.gather(-1, index[..., :1])[..., 0])


def _one_hot(distribution: Any, value: Tensor) -> Tensor:
    return _categorical(distribution._categorical, value.max(-1).indices)


def _multinomial(distribution: Any, value: Tensor) -> Tensor:
    """The log density of counts, without the indexing by a mask that lanes do not allow."""
    inner = distribution._categorical
    logs = log_of(inner.probs) if _by_probs(inner) else inner.logits
    terms = _times(value, logs) - torch.lgamma(value + 1)
    total: Tensor = torch.lgamma(value.sum(-1) + 1) + terms.sum(-1)
    return total


def _binomial(distribution: Any, value: Tensor) -> Tensor:
    n, p = distribution.total_count, distribution.probs
    orders = torch.lgamma(n + 1) - torch.lgamma(value + 1) - torch.lgamma(n - value + 1)
    return orders + _times(value, log_of(p)) + _times(n - value, log_rest(p))


def _geometric(distribution: Any, value: Tensor) -> Tensor:
    p = distribution.probs
    return _times(value, log_rest(p)) + log_of(p)


def _negative_binomial(distribution: Any, value: Tensor) -> Tensor:
    """Of no failures there is no success either: a total of zero has its mass at zero."""
    n, p = distribution.total_count, distribution.probs
    some = torch.where(n == 0, 1.0, n)
    orders = torch.lgamma(some + value) - torch.lgamma(value + 1) - torch.lgamma(some)
    orders = torch.where((n == 0) & (value > 0), -math.inf, orders)
    return orders + _times(value, log_of(p)) + _times(n, log_rest(p))


def _poisson(distribution: Any, value: Tensor) -> Tensor:
    """A rate of zero has the mass 1 at zero, of slope -1, and none elsewhere."""
    rate = distribution.rate
    log_prob: Tensor = _times(value, log_of(rate)) - rate - torch.lgamma(value + 1)
    return log_prob


def _times(count: Tensor, log: Tensor) -> Tensor:
    """The product, zero where the count is zero, with a gradient that is finite there."""
    return torch.where(count == 0, 0.0, count * torch.where(count == 0, 0.0, log))


def _nan_normal(distribution: Any, value: Tensor) -> Tensor:
    """Entries that are not finite are not there."""
    there = value.isfinite()
    known = torch.where(there, value, 0.0)
    z = (known - distribution.loc) / distribution.scale
    log_prob = -0.5 * (z * z) - distribution.scale.log() - 0.5 * math.log(2 * math.pi)
    return torch.where(there, log_prob, 0.0)


def _nan_multivariate_normal(distribution: Any, value: Tensor) -> Tensor:
    """The law of the finite entries of each event: the others get an identity of their own."""
    there = value.isfinite()
    z = torch.where(there, torch.where(there, value, 0.0) - distribution.loc, 0.0)
    both = there[..., :, None] & there[..., None, :]
    identity = torch.eye(z.shape[-1], dtype=z.dtype, device=z.device)
    factor = torch.linalg.cholesky(torch.where(both, distribution.covariance_matrix, identity))
    white = torch.linalg.solve_triangular(factor, z[..., None], upper=False)[..., 0]
    log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    constant = 0.5 * math.log(2 * math.pi) * there.to(z.dtype).sum(-1)
    log_prob: Tensor = -0.5 * (white * white).sum(-1) - log_det - constant
    return log_prob


def _discrete_hmm(distribution: Any, value: Tensor) -> Tensor:
    """The forward algorithm: the product of all steps, adjacent ones joined until one is left."""
    observed = distribution.observation_dist
    scores = log_density(observed, value.unsqueeze(-1 - len(observed.event_shape)))
    steps = distribution.transition_logits + scores.unsqueeze(-2)
    while (n := steps.shape[-3]) > 1:
        pairs = n // 2
        left, right = steps[..., 0 : 2 * pairs : 2, :, :], steps[..., 1 : 2 * pairs : 2, :, :]
        joined = logsumexp(left[..., :, :, None] + right[..., None, :, :], -2)
        steps = torch.cat((joined, steps[..., 2 * pairs :, :, :]), -3)
    first = distribution.initial_logits[..., :, None] + steps[..., 0, :, :]
    return logsumexp(first.flatten(-2), -1)


def _mixture(distribution: Any, value: Tensor) -> Tensor:
    """By components, each of which has a support of its own."""
    weights = distribution.mixture_distribution
    logs = log_of(weights.probs) if _by_probs(weights) else weights.logits.log_softmax(-1)
    parts = log_density(distribution.component_distribution, distribution._pad(value))
    return logsumexp(parts + logs, -1)


def _masked_mixture(distribution: Any, value: Tensor) -> Tensor:
    """By the component of each batch element; the other sees a point of its own there."""
    mask, events = distribution.mask, len(distribution.event_shape)
    parts = []
    for component, own in ((distribution.component0, ~mask), (distribution.component1, mask)):
        elsewhere = point_or_half(component).to(value)
        seen = torch.where(over_events(own, events, value), value, elsewhere)
        parts.append(log_density(component, seen))
    return torch.where(mask, parts[1], parts[0])


def _zero_inflated(distribution: Any, value: Tensor) -> Tensor:
    """Zero has the mass of the gate, and what the law inside gives it of the rest."""
    if "gate" in vars(distribution):
        gate, rest = log_of(distribution.gate), log_rest(distribution.gate)
    else:
        logits = distribution.gate_logits
        gate, rest = (torch.nn.functional.logsigmoid(x) for x in (logits, -logits))
    inner = rest + log_density(distribution.base_dist, value)
    both = torch.stack(torch.broadcast_tensors(gate, inner))
    return torch.where(value == 0, logsumexp(both), inner)


# What torch clamps, always and only where probabilities are given; and what it cannot do in lanes.
_ALWAYS: dict[type, Callable[[Any, Tensor], Tensor]] = {
    torch.distributions.Bernoulli: _bernoulli,
    torch.distributions.MixtureSameFamily: _mixture,
    torch.distributions.Multinomial: _multinomial,
    torch.distributions.Poisson: _poisson,
    Delta: _delta,
    DiscreteHMM: _discrete_hmm,
    MaskedMixture: _masked_mixture,
    NanMaskedNormal: _nan_normal,
    NanMaskedMultivariateNormal: _nan_multivariate_normal,
    Stable: stable_log_density,
    ZeroInflatedDistribution: _zero_inflated,
}
_GIVEN_PROBS: dict[type, Callable[[Any, Tensor], Tensor]] = {
    torch.distributions.Binomial: _binomial,
    torch.distributions.Categorical: _categorical,
    torch.distributions.Geometric: _geometric,
    torch.distributions.NegativeBinomial: _negative_binomial,
    torch.distributions.OneHotCategorical: _one_hot,
}


def _exact(distribution: Any) -> Callable[[Any, Tensor], Tensor] | None:
    """The density that takes the place of torch's, if one must."""
    given = _by_probs(vars(distribution).get("_categorical", distribution))
    kind: Any = type(distribution)
    return _exact_of(kind, given)


@cache
def _exact_of(kind: Any, given_probs: bool) -> Callable[[Any, Tensor], Tensor] | None:
    table = {**_ALWAYS, **_GIVEN_PROBS} if given_probs else _ALWAYS
    return next((f for each, f in table.items() if issubclass(kind, each)), None)
