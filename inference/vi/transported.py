"""A guide by bijections of Pyro: couplings, autoregressive maps, splines, planar flows."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ...ppl.errors import GuideError, located
from ...ppl.language.program import Callback
from .guides import SPREAD, Guide

SHIFTS = 0.0, 1.0, 3.0  # of the parameters, where determinants are checked
TOLERANCE = 1e-4  # of a log-determinant, beside one by autograd in float64


class Transported(Guide):
    """u = loc + scale * T(noise), for T one bijection after the other.

    The log-determinant of each is held against its Jacobian by autograd when the guide is made,
    with its parameters as they are and with others: where it is wrong, so is what is maximised.

    Args:
        transforms: from a number d of coordinates to a bijection of vectors [d] of real numbers,
            such as those of ``pyro.distributions.transforms``: ``affine_coupling``,
            ``affine_autoregressive``, ``spline``, ``spline_coupling``, ``spline_autoregressive``,
            ``planar``, ``radial``, ``householder``, ``permute``.

    Errors:
        GuideError: there is no such bijection for d coordinates, or its log-determinant is not that
            of its Jacobian (as of Pyro's ``sylvester`` and ``matrix_exponential``).
    """

    def __init__(
        self,
        model: Callback,
        *args: Any,
        transforms: Sequence[Callable[[int], Any]],
        **about: Any,
    ) -> None:
        self.makers = tuple(transforms)
        super().__init__(model, *args, **about)

    def build(self, model: Callback, args: tuple[Any, ...]) -> None:
        d = self.layout.size
        self.loc = self.parameter(d)
        self.log_scale = self.parameter(d, fill=math.log(SPREAD))
        self.moves = [_made(make, d) for make in self.makers]
        self.trained = nn.ModuleList(move for move in self.moves if isinstance(move, nn.Module))
        self.trained.to(self.layout.dtype)

    def move(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        u, log_det = noise, self.log_scale.sum()
        for transform in self.moves:
            u, each = moved(transform, u)
            log_det = log_det + each
        return self.loc + self.log_scale.exp() * u, log_det


def moved(transform: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """A vector under a bijection, with the log-determinant [] of that; no cache keeps them."""
    with _untouched(transform), Masking():
        y = transform(x)
        return y, transform.log_abs_det_jacobian(x, y).sum()


class Masking(TorchFunctionMode):
    """Within, ``y[mask] = x[mask]`` chooses entries, as lanes and graphs can: Pyro's splines so
    leave alone what lies outside of them."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in (Tensor.__getitem__, Tensor.__setitem__) and _is_mask(args[1], args[0]):
            if func is Tensor.__getitem__:
                return args[0]  # all entries: those that count are chosen when they are set
            into, mask, value = args
            chosen = torch.where(mask, torch.as_tensor(value, dtype=into.dtype), into)
            return into.copy_(chosen)
        return func(*args, **(kwargs or {}))


def _is_mask(index: Any, x: Any) -> bool:
    return isinstance(index, Tensor) and index.dtype == torch.bool and index.shape == x.shape


@contextmanager
def _untouched(transform: Any) -> Iterator[None]:
    """Within, transforms may keep what they like; lanes and traces must not meet it later."""
    parts = transform.modules() if isinstance(transform, nn.Module) else [transform]
    before = [(part, dict(vars(part))) for part in parts]
    try:
        yield
    finally:
        for part, state in before:
            vars(part).clear()
            vars(part).update(state)


def _made(make: Callable[[int], Any], d: int) -> Any:
    """A transform of d coordinates whose log-determinant is right."""
    name = getattr(make, "__name__", repr(make))
    try:
        transform = make(d)
        worst = max(_error(_copied(transform, shift), d) for shift in SHIFTS)
    except Exception as error:  # whatever a maker or a transform raises
        what = f"{name} makes no bijection of {d} real coordinates: {error}"
        raise GuideError(located(what, hint="see pyro.distributions.transforms")) from error
    if not worst < TOLERANCE:
        what = f"the log-determinant of {name} is wrong by {worst:.2g}"
        hint = "use another transform: couplings, splines, affine autoregressive ones"
        raise GuideError(located(what, hint=hint))
    return transform


def _copied(transform: Any, shift: float) -> Any:
    """A copy in float64, of other parameters."""
    copied = copy.deepcopy(transform)
    if not isinstance(copied, nn.Module):
        return copied
    copied.double()
    with torch.no_grad():
        for k, p in enumerate(copied.parameters()):
            wave = torch.arange(p.numel(), dtype=p.dtype).add(k).mul(1.7).sin()
            p.add_(shift * wave.reshape(p.shape))
    return copied


def _error(transform: Any, d: int) -> float:
    """The largest error of the log-determinant, at three vectors."""
    worst = 0.0
    for k in range(3):
        x = torch.arange(d, dtype=torch.float64).add(1).mul(2.3 + k).cos().mul(1.5)
        y, log_det = moved(transform, x)
        if y.shape != x.shape:
            raise ValueError(f"it gives a shape {list(y.shape)}")
        jacobian: Any = torch.autograd.functional.jacobian(lambda at: moved(transform, at)[0], x)
        gap = abs(float(log_det.detach()) - float(torch.linalg.slogdet(jacobian)[1]))
        worst = max(worst, gap) if math.isfinite(gap) else math.inf
    return worst
