"""Random tensor programs: a dozen operations on the entries of one vector.

What they cannot draw: matrix decompositions and laws, which have tests of their own.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from torch import Tensor

SIZE = 7
SIZES = (1, 2, 3, 3, 5, 11)
Op = Callable[[random.Random, Tensor, list[Tensor]], Tensor]


def smooth(r: random.Random, x: Tensor, pool: list[Tensor]) -> Tensor:
    functions = (
        *(torch.sin, torch.tanh, torch.sigmoid, torch.neg, torch.square, torch.erf),
        *(lambda x: (0.3 * x.clamp(-3, 3)).exp(), lambda x: (1 + x * x).log()),
        *(lambda x: (x * x).log1p(), lambda x: (2 + x.sin()).sqrt(), lambda x: 1.5 - x),
        *(lambda x: (x.abs() + 0.5).lgamma(), lambda x: torch.nn.functional.softplus(x)),
        *(lambda x: (x.abs() + 1.5) ** 1.3, lambda x: torch.expm1(x.clamp(max=1.0)) / 3),
    )
    return r.choice(functions)(x)


def jump(r: random.Random, x: Tensor, pool: list[Tensor]) -> Tensor:
    y = other(r, x, pool)
    mask = r.choice((x > y, x <= 0.1, (x > 0) & (y < 0.4), ~(y >= x), (x > y) | (y > 0.2)))
    return r.choice(
        (
            lambda: torch.where(mask, x, y * 0.5),
            lambda: y.masked_fill(mask, 0.25),
            lambda: mask.to(x.dtype) + x,
            lambda: ((x > y) + (x > 0.1)).to(x.dtype) * x,
            lambda: ((x > y) * mask).to(x.dtype) - x,
            lambda: mask.cumsum(-1) * 0.1 * x,
            lambda: (mask.long() * 3 - 1) * x,
            lambda: mask.sum(-1, keepdim=True) * x,
            lambda: torch.maximum(mask, x > 1).all(0).to(x.dtype),
            lambda: torch.maximum(x, y),
            lambda: x.clamp(-0.5, 0.7),
            lambda: torch.where(mask.any(-1, keepdim=True), x, y),
        )
    )()


def other(r: random.Random, x: Tensor, pool: list[Tensor]) -> Tensor:
    """A tensor that broadcasts with x, made from one of the pool or from numbers."""
    y = r.choice(pool)
    shape = [n if r.random() < 0.6 else 1 for n in x.shape]
    if r.random() < 0.3:
        return known(r, tuple(shape))
    flat = y.reshape(-1)
    need = torch.Size(shape).numel()
    places = torch.tensor([r.randrange(len(flat)) for _ in range(need)])
    return flat[places].reshape(shape)


def known(r: random.Random, shape: tuple[int, ...]) -> Tensor:
    n = torch.Size(shape).numel()
    return torch.tensor([r.uniform(-1, 1) for _ in range(n)]).reshape(shape)


def pair(r: random.Random, x: Tensor, pool: list[Tensor]) -> Tensor:
    y = other(r, x, pool)
    return r.choice((lambda: x + y, lambda: x * y, lambda: x - 2 * y, lambda: x / (1.5 + y * y)))()


def total(r: random.Random, x: Tensor, pool: list[Tensor]) -> Tensor:
    dims = [k for k in range(x.ndim) if r.random() < 0.5] or [0]
    keep = r.random() < 0.5
    functions = (
        *(lambda x: x.sum(dims, keep), lambda x: x.mean(dims, keep)),
        *(lambda x: x.logsumexp(dims, keep), lambda x: (0.5 + 0.1 * x.tanh()).prod(dims[0], keep)),
        *(lambda x: x.softmax(dims[0]), lambda x: x.log_softmax(dims[-1])),
        *(lambda x: x.expand(2, *x.shape).sum(0), lambda x: x.norm()),
    )
    return r.choice(functions)(x)


def running(r: random.Random, x: Tensor, pool: list[Tensor]) -> Tensor:
    dim = r.randrange(x.ndim)
    if r.random() < 0.5:
        return 0.3 * x.cumsum(dim)
    return (1 + 0.1 * x.sin()).cumprod(dim)


def moved(r: random.Random, x: Tensor, pool: list[Tensor]) -> Tensor:
    k = r.randrange(x.ndim)
    n = x.shape[k]
    order = list(range(x.ndim))
    r.shuffle(order)
    a = r.randrange(n)
    return r.choice(
        (
            lambda: x.permute(order),
            lambda: x.flip(k),
            lambda: x.unsqueeze(0).expand(2, *x.shape).reshape(-1).flip(0),
            lambda: x.unsqueeze(k).expand(*x.shape[:k], 3, *x.shape[k:]).flatten().flip(0)[1:],
            lambda: x.unsqueeze(-1).expand(*x.shape, 2).flatten().reshape(2, -1).flip(1),
            lambda: x.reshape(-1),
            lambda: x.reshape(-1, x.shape[0]),
            lambda: x.unsqueeze(k),
            lambda: x.narrow(k, a, n - a),
            lambda: x.select(k, a).reshape(-1),
            lambda: x.roll(1, k),
            lambda: x.unfold(k, min(2, n), 1),
            lambda: x.repeat_interleave(2, k),
            lambda: torch.diagonal(x[:, None] + x[None], dim1=0, dim2=1),
        )
    )()


def chosen(r: random.Random, x: Tensor, pool: list[Tensor]) -> Tensor:
    """Entries by known places, some twice."""
    k = r.randrange(x.ndim)
    n = x.shape[k]
    places = torch.tensor([r.randrange(-n, n) for _ in range(r.choice((1, 4, 9)))])
    along = torch.tensor([r.randrange(n) for _ in range(x.numel())]).reshape(x.shape)
    mask = torch.tensor([r.random() < 0.7 for _ in range(n)])
    mask[0] = True
    return r.choice(
        (
            lambda: x[(slice(None),) * k + (places,)],
            lambda: x.index_select(k, places.remainder(n)),
            lambda: x.gather(k, along),
            lambda: x[(slice(None),) * k + (mask,)],
            lambda: x[(*[places.remainder(m) for m in x.shape],)],
        )
    )()


def written(r: random.Random, x: Tensor, pool: list[Tensor]) -> Tensor:
    """Into a copy, or into zeros."""
    k = r.randrange(x.ndim)
    n = x.shape[k]
    y = r.choice((x.clone(), torch.zeros_like(x), x.new_ones(x.shape)))
    y = y + 0 * x
    part = other(r, x.select(k, 0), pool).expand(x.select(k, 0).shape)
    places = torch.tensor([r.randrange(n) for _ in range(3)])
    along = torch.tensor([r.randrange(n) for _ in range(x.numel())]).reshape(x.shape)
    return r.choice(
        (
            lambda: y.select_scatter(part, k, r.randrange(n)),
            lambda: y.index_add(k, places, torch.stack([part] * 3, k)),
            lambda: y.scatter_add(k, along, x.sin()),
            lambda: _set(y, (slice(None),) * k + (r.randrange(n),), part),
            lambda: _set(y, (slice(None),) * k + (slice(0, n, 2),), 0.5),
            lambda: y.slice_scatter(x.narrow(k, 0, max(n - 1, 1)) * 2, k, 0, max(n - 1, 1)),
            lambda: torch.nn.functional.pad(y, (1, 0)),
        )
    )()


def _set(y: Tensor, at: tuple[object, ...], part: Tensor | float) -> Tensor:
    y = y.clone()
    y[at] = part  # type: ignore[index]
    return y


def joined(r: random.Random, x: Tensor, pool: list[Tensor]) -> Tensor:
    y = other(r, x, pool).expand(x.shape)
    k = r.randrange(x.ndim)
    return r.choice((lambda: torch.cat([x, y, x], k), lambda: torch.stack([y, x], k)))()


def product(r: random.Random, x: Tensor, pool: list[Tensor]) -> Tensor:
    y = known(r, (x.shape[-1], 3)) if r.random() < 0.5 else other(r, x, pool).transpose(0, -1)
    if x.ndim == 1:
        y = y.reshape(-1)[: len(x)]
        return x[: len(y)] @ y
    return x @ y if y.ndim == 2 and x.shape[-1] == len(y) else x.flatten(1) @ x.flatten(1).T


OPS: tuple[Op, ...] = (
    *(smooth, smooth, jump, pair, pair, total, running, moved, chosen, written, joined, product),
)


def random_program(seed: int) -> Callable[[Tensor], Tensor]:
    """u [SIZE] -> a scalar, of a dozen operations."""

    def program(u: Tensor) -> Tensor:
        r = random.Random(seed)
        start = (r.choice(SIZES), r.choice(SIZES))
        places = torch.tensor([r.randrange(SIZE) for _ in range(start[0] * start[1])])
        pool = [u, u[2:6], u[places].reshape(start)]
        for _ in range(12):
            x = r.choice(pool[-4:])
            if x.ndim == 0:
                x = x[None]
            y = r.choice(OPS)(r, x, pool)
            if 0 < y.numel() <= 300 and y.ndim <= 4:
                pool.append(y)
        total = u.new_zeros(())
        for x in pool[3:]:
            weights = torch.cos(torch.arange(x.numel(), dtype=x.dtype)).reshape(x.shape)
            total = total + (weights * x.tanh()).sum()
        return total

    return program
