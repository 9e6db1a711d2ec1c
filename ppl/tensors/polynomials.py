"""Whether a function is a quadratic polynomial: by what it does, and not by trying points.

A smooth function is one if its Hessian does not depend on the point.  A product of the Hessian is
computed once, and every operation on the way is looked at: what depends on the point must not reach
the result, and must not pass an operation with steps, which derivatives do not see.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .abstract_tensor import STEPS
from .following import Following, tensors

aten = torch.ops.aten


class NotQuadratic(ValueError):
    """The function is not, or not visibly, a quadratic polynomial; the text says why."""


def require_quadratic(f: Callable[[Tensor], Tensor], at: Tensor) -> None:
    """Raise unless a function of vectors [d] is a quadratic polynomial; it is run at ``at``.

    Errors:
        NotQuadratic: its Hessian depends on the point, or it has steps.
    """
    at = at.clone()
    with torch.enable_grad(), _Degree(at) as following:
        back = torch.func.vjp(torch.func.grad(f), at)[1]
        product = back(torch.ones_like(at))[0]
    if following.steps:
        raise NotQuadratic(f"it has steps, by {following.steps[0]}")
    if following.depends(product):
        raise NotQuadratic("its second derivative is not constant")


def pieces(f: Callable[[Tensor], Tensor], at: Tensor) -> list[str]:
    """The operations by which f, run at ``at``, may not be one analytic function of it.

    A parameter on the way counts: it may have other values later.
    """
    at = at.clone()
    following = _Pieces(at)
    with following:
        f(at)
    return following.met


class _Pieces(Following):
    """Notes operations with steps or kinks on the way, and parameters."""

    def __init__(self, source: Tensor) -> None:
        super().__init__([source])
        self.met: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if any(x.requires_grad for x in tensors((args, kwargs)) if x.is_leaf):
            self.met.append("a parameter")
        return super().__torch_dispatch__(func, types, args, kwargs)

    def see(self, func: Any, args: Any, kwargs: dict[str, Any], results: Any) -> bool:
        if _is_constant(func, args):
            return False
        name = func.overloadpacket.__name__.removesuffix("_")
        if _has_steps(func, results, kwargs) or name in _KINKS:
            self.met.append(str(func))
        return True


class _Degree(Following):
    """Notes operations with steps on the way."""

    def __init__(self, source: Tensor) -> None:
        super().__init__([source])
        self.steps: list[str] = []

    def see(self, func: Any, args: Any, kwargs: dict[str, Any], results: Any) -> bool:
        if _is_constant(func, args):
            return False
        if _has_steps(func, results, kwargs):
            self.steps.append(str(func))
        return True


def _is_constant(func: Any, args: tuple[Any, ...]) -> bool:
    """Whether an operation looks at the shape of its inputs only, or has one possible result.

    No polynomial with finite coefficients is NaN or infinite anywhere.
    """
    return func in _CONSTANT or (func is aten.pow.Tensor_Scalar and args[1] == 0)


_CONSTANT = {
    *(aten.zeros_like.default, aten.ones_like.default, aten.full_like.default),
    *(aten.empty_like.default, aten.new_zeros.default, aten.new_ones.default),
    *(aten.new_full.default, aten.new_empty.default, aten.new_empty_strided.default),
    *(aten.isnan.default, aten.isinf.default, aten.isfinite.default),
}


def _has_steps(func: Any, results: Any, kwargs: dict[str, Any]) -> bool:
    """Whether an operation may jump, or hides what it computes from derivatives."""
    name = func.overloadpacket.__name__.removesuffix("_")  # written in place or not
    whole = any(not x.is_floating_point() for x in tensors(results))
    return whole or name in STEPS | _MORE_STEPS or "rounding_mode" in kwargs


_MORE_STEPS = {"nextafter", "copysign", "bernoulli"}

_KINKS = {"abs", "clamp", "clamp_min", "clamp_max", "relu", "leaky_relu", "hardtanh", "threshold"}
_KINKS |= {"maximum", "minimum", "fmax", "fmin", "max", "min", "amax", "amin", "aminmax", "sort"}
_KINKS |= {"topk", "kthvalue", "median", "nanmedian", "mode", "cummax", "cummin", "elu", "hypot"}
_KINKS |= {"hardsigmoid", "hardswish", "hardshrink", "softshrink", "prelu", "rrelu"}
