"""Finite supports and quadrature rules of distributions, jointly over their batch."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pyro.distributions as dist
import scipy.special
import torch
from pyro.distributions.distribution import Distribution as PyroDistribution
from pyro.poutine.subsample_messenger import _Subsample
from torch import Tensor
from torch.distributions import Distribution, constraints

from ..errors import BudgetError, InfiniteSupportError, UnsupportedDistributionError, located
from ..types import space_of
from ..types.bijections import bijection
from .data import value_dtype
from .densities import log_density
from .repeated import Repeated
from .subsets import Subsets

LIMIT = 1_000_000


def lists_values(distribution: Any) -> bool:
    """Whether a law is carried by values that can be listed, whatever its support is called."""
    if isinstance(distribution, torch.distributions.Independent | dist.MaskedDistribution):
        return lists_values(distribution.base_dist)
    if isinstance(distribution, torch.distributions.MixtureSameFamily):
        return lists_values(distribution.component_distribution)
    enumerable = bool(getattr(distribution, "has_enumerate_support", False))
    return enumerable or isinstance(distribution, dist.Delta | dist.Unit)


def finite_support(
    distribution: Any, limit: int = LIMIT, *, impossible: bool = False
) -> tuple[Tensor, Tensor]:
    """All joint outcomes of a distribution, and their log probabilities by batch element.

    Returns:
        values [m, *batch, *event] and log probabilities [m, *batch]; outcomes of probability zero
        are left out, unless the ``impossible`` ones are asked for too.

    Errors:
        InfiniteSupportError: the distribution is continuous or unbounded.
        BudgetError: there are more than ``limit`` joint outcomes.
    """
    if isinstance(distribution, _Subsample):
        size = distribution.size
        distribution = Subsets(size, min(distribution.subsample_size or size, size), ())
    if isinstance(distribution, Subsets) and math.perm(distribution.size, distribution.k) > limit:
        n, k = distribution.size, distribution.k
        what = f"a plate that draws {k} of {n} indices has {math.perm(n, k)} outcomes, over {limit}"
        raise BudgetError(
            located(what, hint="draw fewer, give them as subsample=, or raise budget=")
        )
    choices = _choices(distribution)
    elements, count = torch.Size(distribution.batch_shape).numel(), len(choices)
    if elements * math.log(max(count, 1)) > math.log(limit) + 1e-9:
        raise BudgetError(
            located(
                f"{type(distribution).__name__} has {count}^{elements} outcomes, over {limit}",
                hint="use a smaller plate, or a loop whose steps merge, or raise budget=",
            )
        )
    index = torch.tensor(list(itertools.product(range(count), repeat=elements)), dtype=torch.long)
    shape = (len(index), *distribution.batch_shape, *distribution.event_shape)
    flat = choices.expand(count, *distribution.batch_shape, *distribution.event_shape)
    flat = flat.reshape(count, elements, *distribution.event_shape)
    values = flat[index, torch.arange(elements)].reshape(shape)
    log_probs = log_density(distribution, values)
    if log_probs.numel() != len(values) * elements:
        name = type(distribution).__name__
        raise UnsupportedDistributionError(
            located(f"the density of {name} does not take several values at once")
        )
    if impossible:
        return values, log_probs
    possible = log_probs.reshape(len(index), -1).sum(1) > -math.inf
    return values[possible], log_probs[possible]


def first_values(distribution: Any, count: int) -> tuple[Tensor, Tensor] | None:
    """The first values [n] of a scalar law on the natural numbers, with their log probabilities.

    None for any other law: several numbers, a finite or a continuous support.
    """
    if space_of(distribution).kind != "Nat" or torch.Size(distribution.batch_shape).numel() != 1:
        return None
    shape = (count, *distribution.batch_shape)
    dtype = value_dtype(distribution)
    values = torch.arange(count, dtype=dtype).reshape(count, *(1,) * len(distribution.batch_shape))
    values = values.expand(shape)
    log_probs = log_density(distribution, values).reshape(count)
    return values[log_probs > -math.inf], log_probs[log_probs > -math.inf]


def _choices(distribution: Any) -> Tensor:
    """The outcomes [k, ...] of one batch element, batch dimensions of size one or expanded."""
    kind = type(distribution).__name__
    if isinstance(distribution, torch.distributions.Independent):
        return _independent_choices(distribution)
    if kind in ("Delta", "Unit"):
        value = distribution.v if kind == "Delta" else distribution.sample()
        return torch.as_tensor(value)[None]
    if kind == "Multinomial":
        counts = _compositions(int(distribution.total_count), distribution.event_shape[0])
        return counts.to(distribution.logits.dtype).reshape(
            -1, *(1,) * len(distribution.batch_shape), *distribution.event_shape
        )
    if kind in ("MaskedDistribution", "ExpandedDistribution") and not isinstance(
        distribution, Subsets
    ):
        inner = _choices(distribution.base_dist)
        lead = (1,) * (len(distribution.batch_shape) - len(distribution.base_dist.batch_shape))
        return inner.reshape(len(inner), *lead, *inner.shape[1:])
    if isinstance(distribution, torch.distributions.MixtureSameFamily):
        return _mixed(_choices(distribution.component_distribution), distribution)
    if getattr(distribution, "has_enumerate_support", False):
        return distribution.enumerate_support(expand=False)  # type: ignore[no-any-return]
    raise InfiniteSupportError(
        located(
            f"{kind} has no finite support to enumerate",
            hint="pass quadrature= for continuous choices, or use a sampling method",
        )
    )


def _mixed(inner: Tensor, distribution: Any) -> Tensor:
    """The distinct outcomes of all components, which stand along the last batch dimension."""
    batch, events = len(distribution.batch_shape), len(distribution.event_shape)
    if inner.shape[1 + batch] == 1:
        return inner.squeeze(1 + batch)
    rows = inner.movedim(1 + batch, 0)
    rows = rows.reshape(-1, *rows.shape[2:])  # [components * k, *batch, *event]
    first = rows.flatten(1, batch)[:, 0] if batch else rows
    if batch and not bool(
        (rows == first.reshape(len(rows), *(1,) * batch, *first.shape[1:])).all()
    ):
        raise InfiniteSupportError(
            located(
                "a batch of mixtures whose components have other values has no one list of them",
                hint="sample the elements one by one",
            )
        )
    distinct: Tensor = first.unique(dim=0)
    return distinct.reshape(len(distinct), *(1,) * batch, *distinct.shape[1 : 1 + events])


def _independent_choices(distribution: Any) -> Tensor:
    """Joint outcomes over the event dimensions that were batch dimensions."""
    base, dims = distribution.base_dist, distribution.reinterpreted_batch_ndims
    inner = _choices(base)
    event = base.batch_shape[len(base.batch_shape) - dims :]
    full = inner.expand(len(inner), *base.batch_shape, *base.event_shape)
    lead = base.batch_shape[: len(base.batch_shape) - dims]
    elements = event.numel()
    if elements * math.log(max(len(inner), 1)) > math.log(LIMIT):
        raise BudgetError(located(f"an event has {len(inner)}^{elements} outcomes, over {LIMIT}"))
    index = torch.tensor(
        list(itertools.product(range(len(inner)), repeat=elements)), dtype=torch.long
    )
    moved = full.reshape(len(inner), *lead, elements, *base.event_shape).movedim(1 + len(lead), 1)
    joint = moved[index, torch.arange(elements)].movedim(1, 1 + len(lead))
    return joint.reshape(len(index), *lead, *event, *base.event_shape)


def _compositions(total: int, parts: int) -> Tensor:
    """All vectors of ``parts`` counts that sum to ``total``."""
    rows = [c for c in itertools.product(range(total + 1), repeat=parts) if sum(c) == total]
    return torch.tensor(rows, dtype=torch.get_default_dtype())


# ------------------------------------------------------------------------------------- quadrature


def quadrature_rule(distribution: Any, n: int, limit: int = LIMIT) -> tuple[Tensor, Tensor]:
    """Nodes x_k and log weights with sum_k w_k f(x_k) close to E f(X), jointly over the batch.

    Gauss-Hermite for the normal (exact for polynomials of degree 2n - 1), Gauss-Legendre for the
    uniform, Gauss-Jacobi for the beta, generalised Gauss-Laguerre for the gamma and exponential; a
    trapezoidal rule in unconstrained coordinates for every other univariate continuous family.

    Returns:
        nodes [n ** batch, *batch] and log weights of the same shape, by batch element.

    Errors:
        InfiniteSupportError: the distribution is not univariate and continuous.
        BudgetError: there are more than ``limit`` joint nodes.
    """
    if isinstance(distribution, Repeated):
        distribution = distribution.expanded()
    if (
        isinstance(distribution, torch.distributions.Independent)
        and not distribution.base_dist.event_shape
    ):
        nodes, logs = quadrature_rule(distribution.base_dist, n, limit)
        dims = distribution.reinterpreted_batch_ndims
        return nodes, logs.sum(tuple(range(-dims, 0)))
    if distribution.event_shape or not isinstance(distribution, Distribution | PyroDistribution):
        raise InfiniteSupportError(
            located(
                f"quadrature needs a univariate distribution, not {type(distribution).__name__}"
            )
        )
    batch_shape = torch.Size(distribution.batch_shape)  # type: ignore[union-attr]
    elements = batch_shape.numel()
    if elements * math.log(n) > math.log(limit):
        raise BudgetError(
            located(f"{n} nodes for {elements} coordinates give {n}^{elements} joint nodes")
        )
    x, log_w = _univariate(distribution, n)  # [n, *batch]
    x, log_w = x.reshape(-1, elements), log_w.reshape(-1, elements)
    index = torch.tensor(list(itertools.product(range(len(x)), repeat=elements)), dtype=torch.long)
    pick = torch.arange(elements)
    shape = (len(index), *batch_shape)
    return x[index, pick].reshape(shape), log_w[index, pick].reshape(shape)


def _univariate(distribution: Any, n: int) -> tuple[Tensor, Tensor]:
    shape = distribution.batch_shape
    name = type(distribution).__name__

    def spread(values: Any) -> Tensor:
        column = torch.as_tensor(np.asarray(values, dtype=np.float64))
        return column.reshape(-1, *(1,) * len(shape)).expand(-1, *shape)

    if name == "Normal":
        x, w = scipy.special.roots_hermitenorm(n)
        return distribution.loc + distribution.scale * spread(x), spread(np.log(w / w.sum()))
    if name == "Uniform":
        x, w = scipy.special.roots_legendre(n)
        width = distribution.high - distribution.low
        return distribution.low + width * (spread(x) + 1) / 2, spread(np.log(w / 2))
    if name == "Beta":
        return _by_element(
            lambda a, b: scipy.special.roots_sh_jacobi(n, a + b - 1, a),
            distribution.concentration1,
            distribution.concentration0,
        )
    if name in ("Gamma", "Exponential"):
        shape_ = (
            distribution.concentration if name == "Gamma" else torch.ones_like(distribution.rate)
        )
        x, log_w = _by_element(lambda a: scipy.special.roots_genlaguerre(n, a - 1), shape_)
        return x / distribution.rate, log_w
    return _trapezoidal(distribution, n)


def _by_element(rule: Any, *parameters: Tensor) -> tuple[Tensor, Tensor]:
    columns = [
        rule(*row) for row in zip(*(p.detach().flatten().tolist() for p in parameters), strict=True)
    ]
    shape = (-1, *parameters[0].shape)
    nodes = torch.as_tensor(np.stack([x for x, _ in columns], 1)).reshape(shape)
    with np.errstate(divide="ignore"):  # of nodes whose weight is below any number
        logs = [np.log(w / w.sum()) for _, w in columns]
    weights = torch.as_tensor(np.stack(logs, 1)).reshape(shape)
    return nodes, weights


class _Sinh(torch.distributions.Transform):
    """x = sinh(u)."""

    domain = codomain = constraints.real
    bijective = True

    def _call(self, x: Tensor) -> Tensor:
        return torch.sinh(x)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return x.abs() + torch.log1p(torch.exp(-2.0 * x.abs())) - math.log(2.0)


def _trapezoidal(distribution: Any, n: int) -> tuple[Tensor, Tensor]:
    """The trapezoidal rule in t, with u = sinh(t) spread over an unconstrained coordinate.

    On the whole line that coordinate is asinh(x), in which even Cauchy's tails are exponential.
    """
    support = space_of(distribution).constraint
    if support.is_discrete or isinstance(support, type(constraints.dependent)):
        raise InfiniteSupportError(
            located(f"{type(distribution).__name__} is not continuous: it has no quadrature rule")
        )
    t = torch.linspace(-4.5, 4.5, n, dtype=torch.float64)
    t = t.reshape(-1, *(1,) * len(distribution.batch_shape)).expand(-1, *distribution.batch_shape)
    u = torch.sinh(t)
    transform = _Sinh() if support is constraints.real else bijection(support)
    x = transform(u)
    log_dx = transform.log_abs_det_jacobian(u, x) + torch.log(torch.cosh(t) * 9.0 / (n - 1))
    log_w = distribution.log_prob(x) + log_dx
    return x, torch.where(torch.isnan(log_w), torch.full_like(log_w, -math.inf), log_w)
