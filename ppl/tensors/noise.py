"""Draws as functions of noise: what torch draws, made of uniform and normal numbers."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten

Shape = tuple[int, ...]


class UnknownDraw(Exception):
    """Something is drawn that is no function of a fixed number of uniform and normal numbers."""


class Noise(TorchDispatchMode, ABC):
    """Within, what torch draws is made of ``numbers``: of as many, whatever they are.

    Each draw follows its law if the numbers do.

    Errors:
        UnknownDraw: the law is not one of those known here.
    """

    @abstractmethod
    def numbers(self, shape: Shape, like: Tensor, *, normal: bool) -> Tensor:
        """Independent numbers of the type of ``like``: standard normal, or uniform in (0, 1)."""

    def uniforms(self, like: Tensor) -> Tensor:
        return self.numbers(tuple(like.shape), like, normal=False)

    def normals(self, like: Tensor) -> Tensor:
        return self.numbers(tuple(like.shape), like, normal=True)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = {name: x for name, x in (kwargs or {}).items() if name != "generator"}
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        if (law := _LAWS.get(func)) is None:
            raise UnknownDraw(str(func))
        return law(self, *args, **kwargs)


Law = TypeVar("Law", bound=Callable[..., Tensor])
_LAWS: dict[Any, Callable[..., Tensor]] = {}


def _of(*operations: Any) -> Callable[[Law], Law]:
    def entered(law: Law) -> Law:
        _LAWS.update(dict.fromkeys(operations, law))
        return law

    return entered


def _like(shape: Any, about: dict[str, Any]) -> Tensor:
    return torch.empty(shape, dtype=about.get("dtype"), device=about.get("device"))


@_of(aten.randn.default, aten.randn.generator)
def _randn(noise: Noise, shape: Any, **about: Any) -> Tensor:
    return noise.normals(_like(shape, about))


@_of(aten.rand.default, aten.rand.generator)
def _rand(noise: Noise, shape: Any, **about: Any) -> Tensor:
    return noise.uniforms(_like(shape, about))


@_of(aten.randn_like.default)
def _randn_like(noise: Noise, x: Tensor, **about: Any) -> Tensor:
    return noise.normals(x)


@_of(aten.rand_like.default)
def _rand_like(noise: Noise, x: Tensor, **about: Any) -> Tensor:
    return noise.uniforms(x)


@_of(aten.normal.Tensor_Tensor)
def _normal(noise: Noise, mean: Tensor, std: Tensor) -> Tensor:
    both = torch.broadcast_shapes(mean.shape, std.shape)
    return noise.normals(mean.expand(both)) * std + mean


@_of(aten.normal.Tensor_float)
def _normal_about(noise: Noise, mean: Tensor, std: float = 1.0) -> Tensor:
    return noise.normals(mean) * std + mean


@_of(aten.normal.float_Tensor)
def _normal_scaled(noise: Noise, mean: float, std: Tensor) -> Tensor:
    return noise.normals(std) * std + mean


@_of(aten.normal_.default)
def _fill_normal(noise: Noise, x: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    return x.copy_(noise.normals(x) * std + mean)


@_of(aten.uniform_.default)
def _fill_uniform(noise: Noise, x: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
    return x.copy_(low + (high - low) * noise.uniforms(x))


@_of(aten.exponential_.default)
def _fill_exponential(noise: Noise, x: Tensor, rate: float = 1.0) -> Tensor:
    return x.copy_(-torch.log(noise.uniforms(x)) / rate)


@_of(aten.cauchy_.default)
def _fill_cauchy(noise: Noise, x: Tensor, median: float = 0.0, scale: float = 1.0) -> Tensor:
    return x.copy_(median + scale * torch.tan(math.pi * (noise.uniforms(x) - 0.5)))


@_of(aten.bernoulli.default)
def _bernoulli(noise: Noise, p: Tensor) -> Tensor:
    return (noise.uniforms(p) < p).to(p.dtype)


@_of(aten.multinomial.default)
def _multinomial(noise: Noise, p: Tensor, count: int, replacement: bool = False) -> Tensor:
    """The place of u within the sums of the weights; one of weight zero is never taken."""
    if count > 1 and not replacement:
        raise UnknownDraw("aten.multinomial without replacement")
    sums = p.cumsum(-1)
    total = sums[..., -1:]
    u = noise.numbers((*p.shape[:-1], count), p, normal=False) * total
    before = (sums[..., None, :] <= u[..., None]) & (sums < total)[..., None, :]
    return before.long().sum(-1)
