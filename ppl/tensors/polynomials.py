"""Whether a function is a quadratic polynomial: by what it does, and then at points.

A smooth function is one if its Hessian does not depend on the point.  A product of the Hessian is
computed once, and every operation on the way is looked at: what depends on the point must not reach
the result, and must not pass an operation with steps or kinks, which derivatives do not see.  What
hides from derivatives otherwise (``torch.no_grad``, derivatives written by hand) shows at points.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .abstract_tensor import STEPS
from .following import Following, tensors
from .seeds import seeded

aten = torch.ops.aten
CHUNK = 64  # rows of a Hessian at a time


class NotQuadratic(ValueError):
    """The function is not, or not visibly, a quadratic polynomial; the text says why."""


def require_quadratic(f: Callable[[Tensor], Tensor], at: Tensor) -> None:
    """Raise unless a function of vectors [d] is a quadratic polynomial; it is run at ``at``.

    Errors:
        NotQuadratic: its Hessian depends on the point, it has steps or kinks, or its derivatives
            are not those of its values.
    """
    at = at.clone()
    following = _Smooth([at])
    with torch.enable_grad(), following:
        slope, back = torch.func.vjp(torch.func.grad(f), at)[:2]
        product = back(torch.ones_like(at))[0]
    if following.pieces:
        raise NotQuadratic(f"it has steps or kinks, by {following.pieces[0]}")
    if following.depends(product):
        raise NotQuadratic("its second derivative is not constant")
    with torch.no_grad(), seeded(0):
        step = torch.randn_like(at)
        parts = torch.stack([f(at), slope @ step, 0.5 * step @ back(step)[0]]).double()
        value = f(at + step).double()
    gap, size = (value - parts.sum()).abs(), 1.0 + value.abs() + parts.abs().sum()
    nowhere = float(value) == float(parts[0]) == -math.inf  # a density that is zero
    if not nowhere and not bool(gap <= torch.finfo(at.dtype).eps ** 0.75 * size):
        raise NotQuadratic("its values are not what its derivatives say")


def ties(product: Callable[[Tensor, Tensor, Tensor], Tensor], given: Tensor, at: Tensor) -> Tensor:
    """Which entries [d, d] of a Hessian may be other than zero for some numbers ``given`` [k].

    Args:
        product: of given, at [d] and vectors v [d] to the Hessian times v.

    What depends on the given numbers alone is replaced by other numbers about one on the way: an
    entry that is zero then is zero by the form of the function, and not because a factor vanishes.
    """
    units = torch.eye(len(at), dtype=at.dtype)
    given, at = given.clone(), at.clone()
    with seeded(0), _Generic([given], [at, units]):
        rows = torch.func.vmap(lambda v: product(given, at, v), chunk_size=CHUNK)(units)
    return rows != 0


class _Generic(Following):
    """Replaces what depends on some tensors, and not on others, by numbers in (1/2, 3/2)."""

    def __init__(self, sources: list[Tensor], others: list[Tensor]) -> None:
        super().__init__([*sources, *others])
        self.moving = Following(others)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        met = list(tensors((args, kwargs)))
        results = func(*args, **kwargs)
        moves = any(map(self.moving.depends, met))
        if not moves and not any(map(self.depends, met)):
            return results
        for x in tensors(results):
            if moves:
                self.moving.note(x)
            elif x.is_floating_point() and not _is_view(func):
                x.uniform_(0.5, 1.5)
            self.note(x)
        return results


def _is_view(func: Any) -> bool:
    return any(r.alias_info is not None for r in func._schema.returns)


def pieces(f: Callable[[Tensor], Tensor], at: Tensor) -> list[str]:
    """The operations by which f, run at ``at``, may not be one analytic function of it.

    A parameter on the way counts: it may have other values later.
    """
    at = at.clone()
    following = _Smooth([at])
    with following:
        f(at)
    return following.pieces + following.parameters


class _Smooth(Following):
    """Notes operations with steps or kinks on the way of what depends, and parameters."""

    def __init__(self, sources: list[Tensor]) -> None:
        super().__init__(sources)
        self.pieces, self.parameters = list[str](), list[str]()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if any(x.requires_grad and x.is_leaf for x in tensors((args, kwargs))):
            self.parameters.append("a parameter")
        return super().__torch_dispatch__(func, types, args, kwargs)

    def see(self, func: Any, args: Any, kwargs: dict[str, Any], results: Any) -> bool:
        if _is_constant(func, args):
            return False
        if _has_pieces(func, results, kwargs):
            self.pieces.append(str(func))
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


def _has_pieces(func: Any, results: Any, kwargs: dict[str, Any]) -> bool:
    """Whether an operation may jump or bend, or hides what it computes from derivatives.

    Of those that work on each number by itself only those are smooth that are known to be.
    """
    name = func.overloadpacket.__name__.removesuffix("_")  # written in place or not
    whole = any(not x.is_floating_point() for x in tensors(results))
    bends = torch.Tag.pointwise in func.tags and name.removesuffix("_backward") not in _SMOOTH
    return whole or bends or name in STEPS | _BENT or "rounding_mode" in kwargs


_SMOOTH = {"add", "sub", "rsub", "mul", "div", "true_divide", "neg", "pow", "square", "reciprocal"}
_SMOOTH |= {"exp", "exp2", "expm1", "log", "log1p", "log2", "log10", "sqrt", "rsqrt", "sigmoid"}
_SMOOTH |= {"sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "asinh", "acosh"}
_SMOOTH |= {"atanh", "erf", "erfc", "erfinv", "lgamma", "digamma", "polygamma", "mvlgamma", "logit"}
_SMOOTH |= {"softplus", "log_sigmoid", "log_sigmoid_forward", "silu", "gelu", "mish", "sinc", "i0"}
_SMOOTH |= {"special_erfcx", "special_ndtri", "special_log_ndtr", "special_i0e", "special_i1"}
_SMOOTH |= {"special_i1e", "special_entr", "special_xlog1py", "xlogy", "logaddexp", "logaddexp2"}
_SMOOTH |= {"addcmul", "addcdiv", "lerp", "where", "clone", "copy", "_to_copy", "to", "positive"}
_SMOOTH |= {"masked_fill", "fill", "real", "conj", "deg2rad", "rad2deg", "ldexp"}
_BENT = {"max", "min", "amax", "amin", "aminmax", "sort", "topk", "kthvalue", "median", "mode"}
_BENT |= {"nanmedian", "cummax", "cummin", "histc", "quantile", "nanquantile", "_prelu_kernel"}
_BENT |= {
    "prelu",
    "rrelu",
    "rrelu_with_noise",
    "bernoulli",
    "multi_margin_loss",
    "cdist",
    "_cdist_forward",
    "renorm",
}
_BENT |= {"max_pool1d", "max_pool2d", "max_pool2d_with_indices", "max_pool3d_with_indices", "norm"}
_BENT |= {"linalg_vector_norm", "_pdist_forward", "huber_loss", "smooth_l1_loss", "l1_loss"}
