"""Distributions as pytrees: any distribution, taken apart into its tensors and put together again.

A distribution object is a class and its attributes; the tensors among them, also those of nested
distributions, transforms and constraints, are its leaves.  With a lane axis in front of every leaf,
and of every batch shape, the same attributes make the batched distribution: no constructor runs, so
that this works inside ``torch.func.vmap`` and while tracing.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Distribution, Transform
from torch.distributions.constraints import Constraint
from torch.distributions.relaxed_categorical import ExpRelaxedCategorical
from torch.distributions.transforms import _InverseTransform
from torch.distributions.utils import lazy_property

from ..errors import UnsupportedDistributionError, located
from .repeated import Repeated

Leaf = Callable[[Tensor, int], Tensor]
"""What to do with a tensor, given the number of dimensions that it should fill behind the lanes."""

_CONTAINERS = (Distribution, Transform, Constraint, dist.ImproperUniform)
_OUT_OF_LINE = "not every tensor in it has its batch shape on the left"
_HIDING = "its draws carry values beside their own, which lanes would lose"
# Laws that cannot run in lanes, and why.
_NO_LANES = {
    "AVFMultivariateNormal": _OUT_OF_LINE,
    "CoalescentTimes": _OUT_OF_LINE,
    "CoalescentTimesWithRate": _OUT_OF_LINE,
    "DiscreteHMM": _OUT_OF_LINE,
    "Empirical": _OUT_OF_LINE,
    "GammaGaussianHMM": _OUT_OF_LINE,
    "GaussianHMM": _OUT_OF_LINE,
    "GaussianMRF": _OUT_OF_LINE,
    "GaussianScaleMixture": _OUT_OF_LINE,
    "GroupedNormalNormal": _OUT_OF_LINE,
    "IndependentHMM": _OUT_OF_LINE,
    "LinearHMM": _OUT_OF_LINE,
    "MixtureOfDiagNormals": _OUT_OF_LINE,
    "MixtureOfDiagNormalsSharedCovariance": _OUT_OF_LINE,
    "OMTMultivariateNormal": _OUT_OF_LINE,
    "OneOneMatching": _OUT_OF_LINE,
    "OneTwoMatching": _OUT_OF_LINE,
    "Rejector": _OUT_OF_LINE,
    "RelaxedBernoulliStraightThrough": _HIDING,
    "RelaxedOneHotCategoricalStraightThrough": _HIDING,
    "SpanningTree": _OUT_OF_LINE,
}
_KNOWN = ("torch.distributions", "pyro.distributions", "pushforward.")


def flatten(distribution: Any) -> tuple[list[Tensor], Any]:
    """The tensors of a distribution, and the rest of it.

    Errors:
        UnsupportedDistributionError: the distribution hides tensors in attributes of unknown kind.
    """
    if isinstance(distribution, Repeated):
        distribution = distribution.expanded()
    leaves: list[Tensor] = []

    def collect(tensor: Tensor, rank: int) -> Tensor:
        leaves.append(tensor)
        return tensor

    spec = _walk(distribution, collect, None, 0)
    return leaves, spec


def rebuild(spec: Any, leaves: Sequence[Tensor]) -> Any:
    """The distribution that ``flatten`` took apart, with other tensors."""
    remaining = iter(leaves)
    return _walk(spec, lambda tensor, rank: next(remaining), None, 0)


def batch(spec: Any, leaves: Sequence[Tensor], in_dims: Sequence[int | None], size: int) -> Any:
    """The distribution of all lanes: one more batch dimension, of ``size``, on the left.

    ``leaves[i]`` carries its lane axis at ``in_dims[i]``, or none.
    """
    _require_known(spec)
    remaining = iter(zip(leaves, in_dims, strict=True))

    def lanes(tensor: Tensor, rank: int) -> Tensor:
        leaf, dim = next(remaining)
        moved = leaf.expand(size, *leaf.shape) if dim is None else leaf.movedim(dim, 0)
        missing = max(0, rank - (moved.ndim - 1))
        return moved.reshape(size, *(1,) * missing, *moved.shape[1:])

    return _walk(spec, lanes, size, 0)


def draw_from(distribution: Any) -> Tensor:
    """One draw, with its gradient where the distribution has one."""
    value = distribution.rsample() if distribution.has_rsample else distribution.sample()
    return value  # type: ignore[no-any-return]


def _walk(node: Any, leaf: Leaf, size: int | None, rank: int) -> Any:
    """Copy a tree of distributions, transforms and constraints, with its tensors replaced."""
    if isinstance(node, Tensor):
        return leaf(node, rank)
    if isinstance(node, dist.ExpandedDistribution):
        return _walk_expanded(node, leaf, size)
    if isinstance(node, Distribution):
        return _walk_distribution(node, leaf, size)
    if isinstance(node, _CONTAINERS):
        if isinstance(node, torch.nn.Module):
            _require_constant(node)
            return node
        return _with_attributes(node, lambda name, value: _walk(value, leaf, size, rank))
    if isinstance(node, list | tuple) and not isinstance(node, torch.Size):
        return type(node)(_walk(item, leaf, size, rank) for item in node)
    if isinstance(node, dict):
        return type(node)((key, _walk(item, leaf, size, rank)) for key, item in node.items())
    return node


def _walk_distribution(node: Any, leaf: Leaf, size: int | None) -> Any:
    batch_rank, event_rank = len(node.batch_shape), len(node.event_shape)

    def attribute(name: str, value: Any) -> Any:
        if name == "_batch_shape" and size is not None:
            return torch.Size((size, *value))
        if name in ("transforms", "_support"):
            return _walk(value, leaf, size, batch_rank + event_rank)
        if name == "temperature" and isinstance(node, ExpRelaxedCategorical):
            return _shared(value, leaf)
        matrix = name in ("_unbroadcasted_scale_tril", "_unbroadcasted_cov_factor")
        own = 2 if matrix else 1 if name == "_unbroadcasted_cov_diag" else 0
        return _walk(value, leaf, size, batch_rank + own)

    return _with_attributes(node, attribute)


def _shared(value: Tensor, leaf: Leaf) -> Tensor:
    """A scalar that all of an event's numbers share, and which torch cannot batch."""
    lanes = leaf(value, 0)
    if lanes.ndim > value.ndim and not bool((lanes == lanes.flatten()[0]).all()):
        raise UnsupportedDistributionError(
            located("the temperature of a relaxed categorical differs by lane")
        )
    return lanes.flatten()[0] if lanes.ndim > value.ndim else lanes


def _walk_expanded(node: Any, leaf: Leaf, size: int | None) -> Any:
    """An expansion keeps its base small; the base is first filled up to the rank of the whole."""
    base = node.base_dist
    missing = len(node.batch_shape) - len(base.batch_shape)
    if missing:
        base = base.expand(torch.Size((1,) * missing) + base.batch_shape)
    shape = node.batch_shape if size is None else torch.Size((size, *node.batch_shape))
    walked = _walk(base, leaf, size, 0)
    return (
        walked.expand(shape)
        if isinstance(base, dist.ExpandedDistribution)
        else (dist.ExpandedDistribution(walked, shape))
    )


def _with_attributes(node: Any, change: Callable[[str, Any], Any]) -> Any:
    new = copy.copy(node)
    kind = type(node)
    for name, value in vars(node).items():
        if name == "_inv" and not isinstance(node, _InverseTransform):
            vars(new)[name] = None  # a cached inverse, which knows this transform in turn
            continue
        if isinstance(getattr(kind, name, None), lazy_property) and name not in _stored(node):
            del vars(new)[name]  # a cached value, which would go stale
        else:
            vars(new)[name] = change(name, value)
    if "_param" in vars(node):  # the one parameter of Bernoulli, Categorical, ... has two names
        for name in _stored(node):
            vars(new)["_param"] = vars(new)[name]
    return new


def _stored(node: Any) -> Iterator[str]:
    """Which of the lazily computed parameters the distribution was made from."""
    parameter = vars(node).get("_param")
    names = (
        ("probs", "logits")
        if parameter is not None
        else tuple(getattr(node, "arg_constraints", ()))
    )
    kept = [
        n for n in names if n in vars(node) and (parameter is None or vars(node)[n] is parameter)
    ]
    return iter(kept[:1] if parameter is not None else kept)


def _require_known(distribution: Any) -> None:
    kind = type(distribution)
    for part in _parts(distribution):
        if (reason := _NO_LANES.get(type(part).__name__)) is not None:
            raise UnsupportedDistributionError(
                located(
                    f"{type(part).__name__} cannot be batched: {reason}",
                    hint="run it outside vmap and loops over lanes, or write it by simpler sites",
                )
            )
    if not any(base.__module__.startswith(_KNOWN) for base in kind.__mro__[:1]) and not all(
        name in vars(distribution) for name in kind.arg_constraints or ("no parameters",)
    ):
        raise UnsupportedDistributionError(
            located(
                f"{kind.__name__} cannot be batched: its parameters are not its attributes",
                hint="store each parameter of arg_constraints under its own name",
            )
        )


def _parts(distribution: Any) -> Iterator[Any]:
    """A distribution and those inside it."""
    yield distribution
    for value in vars(distribution).values():
        if isinstance(value, Distribution):
            yield from _parts(value)


def _require_constant(module: torch.nn.Module) -> None:
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor
    if any(wrapped(tensor) for tensor in (*module.parameters(), *module.buffers())):
        raise UnsupportedDistributionError(
            located(f"the parameters of {type(module).__name__} differ by lane")
        )
