"""The support of a law: where its density is positive.

That of a transformed law is the image of the support of its base.  Monotone maps of the line move
the ends of an interval; any other map is known only where it is defined on just that support.  An
image that is not known is ``constraints.dependent``, which is refused by name where it is needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from pyro.distributions import transforms as T
from torch import Tensor
from torch.distributions import TransformedDistribution
from torch.distributions.constraints import Constraint, MixtureSameFamilyConstraint
from torch.distributions.transforms import Transform, _InverseTransform

from ..errors import BranchError

Bound = float | Tensor
UNKNOWN = constraints.dependent


def support_of(distribution: Any) -> Constraint:
    """The support of a law; ``constraints.dependent`` where it is not known.

    Errors:
        NotImplementedError: the law has none, as torch says.
    """
    base = vars(distribution).get("base_dist")
    if isinstance(distribution, dist.MaskedDistribution | dist.ExpandedDistribution):
        return support_of(base)
    if isinstance(distribution, torch.distributions.Independent):
        return _elementwise(support_of(base), distribution.reinterpreted_batch_ndims)
    if isinstance(distribution, torch.distributions.MixtureSameFamily):
        return _union(support_of(distribution.component_distribution))
    inherited = type(distribution).support is TransformedDistribution.support
    if isinstance(distribution, TransformedDistribution) and inherited:
        support = support_of(base)
        for transform in distribution.transforms:
            support = image(support, transform)
        more = len(distribution.event_shape) - support.event_dim
        return _elementwise(support, more) if more > 0 and not _unknown(support) else support
    found: Constraint = getattr(distribution, "support", None) or UNKNOWN
    if isinstance(found, constraints.interval) and (ends := interval_of(found)) is not None:
        return _between(*ends) if any(map(_endless, ends)) else found
    return found


def _union(support: Constraint) -> Constraint:
    """The support of a mixture, by that of its components; not known where they differ.

    torch asks that a value lies in the supports of all of them.
    """
    bounds = [bound for bound in vars(_core(support)).values() if isinstance(bound, Tensor)]
    if any(not _same(bound, bound.flatten()[0]) for bound in bounds):
        return UNKNOWN
    return MixtureSameFamilyConstraint(support)


def _unknown(support: Constraint) -> bool:
    return isinstance(support, type(UNKNOWN))


def _elementwise(support: Constraint, dims: int) -> Constraint:
    if _unknown(support) or not dims:
        return support
    return constraints.independent(support, dims)  # type: ignore[no-untyped-call,no-any-return]


def image(support: Constraint, transform: Transform) -> Constraint:
    """What a transform makes of a support."""
    if _unknown(support) or support.is_discrete:
        return UNKNOWN  # torch multiplies masses by a Jacobian
    if isinstance(transform, T.ComposeTransform):
        for part in transform.parts:
            support = image(support, part)
        return support
    dims = 0
    while isinstance(support, constraints.independent):
        dims += support.reinterpreted_batch_ndims
        support = support.base_constraint
    while isinstance(transform, T.IndependentTransform):
        transform = transform.base_transform
    ends, moved = interval_of(support), _moved(transform)
    if ends is not None and moved is not None:
        return _elementwise(_between(*moved(*ends)), dims)
    if _is_all_of(support, transform.domain) and transform.bijective:
        codomain: Constraint = transform.codomain
        more = dims - (transform.codomain.event_dim - _core(codomain).event_dim)
        return _elementwise(codomain, max(0, more))
    return UNKNOWN


def _core(constraint: Constraint) -> Constraint:
    while isinstance(constraint, constraints.independent):
        constraint = constraint.base_constraint
    return constraint


def _is_all_of(support: Constraint, domain: Any) -> bool:
    """Whether a support is the whole domain of a transform."""
    support, domain = _core(support), _core(domain)
    ends, whole = interval_of(support), interval_of(domain)
    if ends is not None and whole is not None:
        return all(map(_same, ends, whole))
    alike = type(support) is type(domain) and not _unknown(support)
    return alike and not vars(support) and not vars(domain)


def _same(a: Bound, b: Bound) -> bool:
    try:
        return bool((torch.as_tensor(a) == torch.as_tensor(b)).all())
    except (BranchError, RuntimeError):  # abstract tensors and lanes
        return False


# ------------------------------------------------------------------------------- intervals and maps


def interval_of(support: Constraint) -> tuple[Bound, Bound] | None:
    """The ends of an interval of the line; None for any other support."""
    if isinstance(support, type(constraints.real)):
        return -math.inf, math.inf
    if isinstance(support, type(constraints.softplus_positive)):
        return 0.0, math.inf
    if isinstance(support, constraints.greater_than | constraints.greater_than_eq):
        return support.lower_bound, math.inf
    if isinstance(support, constraints.less_than):
        return -math.inf, support.upper_bound
    if isinstance(support, constraints.interval | constraints.half_open_interval):
        return support.lower_bound, support.upper_bound
    return None


def _between(low: Bound, high: Bound) -> Constraint:
    """The interval between two ends."""
    below, above = _endless(low), _endless(high)
    if below and above:
        return constraints.real
    if above:
        return constraints.greater_than(low)  # type: ignore[no-untyped-call,no-any-return]
    if below:
        return constraints.less_than(high)  # type: ignore[no-untyped-call,no-any-return]
    return constraints.interval(low, high)  # type: ignore[no-untyped-call,no-any-return]


def _endless(end: Bound) -> bool:
    """Whether an end is known to be at infinity."""
    if not isinstance(end, Tensor):
        return math.isinf(end)
    try:
        return bool(end.isinf().all())
    except (BranchError, RuntimeError):  # abstract tensors and lanes
        return False


def _inverse_softplus(y: Tensor) -> Tensor:
    return torch.where(y.isinf(), y, torch.expm1(y).log())


# Monotone maps of the line and their inverses, exact at infinity.
_MONOTONE: dict[type[Transform], tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    T.ExpTransform: (torch.exp, torch.log),
    T.SigmoidTransform: (torch.sigmoid, torch.logit),
    T.TanhTransform: (torch.tanh, torch.atanh),
    T.SoftplusTransform: (torch.nn.functional.softplus, _inverse_softplus),
    T.ELUTransform: (torch.nn.functional.elu, lambda y: torch.where(y > 0, y, torch.log1p(y))),
}


def _moved(transform: Transform) -> Callable[[Bound, Bound], tuple[Bound, Bound]] | None:
    """What a map of the line does to the ends of an interval; None if it is none that we know."""
    inverse = isinstance(transform, _InverseTransform)
    known = transform.inv if inverse else transform
    if isinstance(known, T.AbsTransform) and not inverse:
        return _folded
    function: Callable[..., Any] | None = None
    moves = any(isinstance(part, Tensor) for part in vars(known).values())
    if isinstance(known, T.AffineTransform):
        loc, scale = known.loc, known.scale
        function = (lambda y: (y - loc) / scale) if inverse else (lambda x: loc + scale * x)
    elif isinstance(known, T.PowerTransform):
        exponent = 1 / known.exponent if inverse else known.exponent
        function = lambda x: torch.as_tensor(x) ** exponent  # noqa: E731
    elif type(known) in _MONOTONE:
        own = _MONOTONE[type(known)][inverse]
        function = lambda x: own(torch.as_tensor(x, dtype=_wide(x)))  # noqa: E731
    elif known.bijective and _is_monotone(known):
        function = lambda x: transform(torch.as_tensor(x, dtype=_wide(x)))  # noqa: E731
    if function is None:
        return None

    def ends(low: Bound, high: Bound) -> tuple[Bound, Bound]:
        kept = moves or isinstance(low, Tensor) or isinstance(high, Tensor)
        return _ordered(function(low), function(high), kept)

    return ends


def _is_monotone(transform: Transform) -> bool:
    """Whether a map says that it is one of the line, and monotone: then it has a sign."""
    try:
        return transform.domain.event_dim == transform.codomain.event_dim == 0 != transform.sign
    except (NotImplementedError, AttributeError):
        return False


def _wide(x: Bound) -> torch.dtype:
    return x.dtype if isinstance(x, Tensor) else torch.float64


def _ordered(a: Bound, b: Bound, kept: bool) -> tuple[Bound, Bound]:
    """The ends in order; ``kept`` as tensors, which a choice may move."""
    if not isinstance(a, Tensor) and not isinstance(b, Tensor):
        return min(a, b), max(a, b)
    first, second = torch.as_tensor(a), torch.as_tensor(b)
    low, high = torch.minimum(first, second), torch.maximum(first, second)
    return (low, high) if kept else (_plain(low), _plain(high))


def _plain(end: Tensor) -> Bound:
    """A Python number where the end is one that is known and has no shape."""
    try:
        return float(end) if end.ndim == 0 else end
    except (BranchError, RuntimeError):  # abstract tensors and lanes
        return end


def _folded(low: Bound, high: Bound) -> tuple[Bound, Bound]:
    """|x| of an interval: from zero if that lies inside."""
    a, b = torch.as_tensor(low), torch.as_tensor(high)
    nearest = torch.where((a < 0) & (b > 0), torch.zeros_like(a), torch.minimum(a.abs(), b.abs()))
    return _plain(nearest), _plain(torch.maximum(a.abs(), b.abs()))
