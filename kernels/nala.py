"""Norm-aware linear attention in plain torch: feature maps, and the sums over keys.

A query is split into its norm n and its direction d: the features are
[relu(d)^p, relu(-d)^p] with p = lam (tau + tanh n), those of a key [relu(k)^lam, relu(-k)^lam].
Then every output is a ratio of two sums over keys, which are taken once for all queries, or, in the
causal form, once for every chunk of them.

Source: Meng et al., NaLaFormer (arXiv 2506.21137).
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

Direction = Literal["sign", "angle"]
CHUNK = 64
NORM_FLOOR = 1e-6  # a query of norm zero has direction zero


class NaLaState(NamedTuple):
    """Sums over the keys so far: phi(k)^T v ``kv`` [b, h, f, e], phi(k) ``z`` [b, h, f], and how
    many keys, ``keys`` [b, 1, 1]."""

    kv: Tensor
    z: Tensor
    keys: Tensor


def feature_maps(
    q: Tensor, k: Tensor, lam: float = 3.0, tau: float = 0.5, direction: Direction = "sign"
) -> tuple[Tensor, Tensor]:
    """Features [..., 2 d] of queries and of keys [..., d], not negative."""
    norm = torch.linalg.vector_norm(q, dim=-1, keepdim=True)
    unit = q / norm.clamp(min=NORM_FLOOR)
    power = lam * (tau + torch.tanh(norm))
    q_size, k_size = unit.abs() ** power, k.abs() ** lam
    if direction == "sign":
        return _by_sign(unit, q_size), _by_sign(k, k_size)
    k_unit = k / torch.linalg.vector_norm(k, dim=-1, keepdim=True).clamp(min=NORM_FLOOR)
    return _by_angle(unit, q_size), _by_angle(k_unit, k_size)


def _by_sign(x: Tensor, size: Tensor) -> Tensor:
    return torch.cat([size * (x > 0), size * (x < 0)], -1)


def _by_angle(unit: Tensor, size: Tensor) -> Tensor:
    angle = math.pi / 4 * (1 - unit)
    return torch.cat([size * angle.cos(), size * angle.sin()], -1)


def rotated(features: Tensor, rope: tuple[int, int]) -> Tensor:
    """Features [..., n, 2 d] of a grid of n tokens, each half turned by its row and column."""
    d = features.shape[-1] // 2
    rows, columns = rope
    about: Any = {"device": features.device, "dtype": features.dtype}
    rates = 10000.0 ** -torch.linspace(0, 1, d // 4, **about)
    row = torch.arange(rows, **about)[:, None, None].expand(rows, columns, 1)
    column = torch.arange(columns, **about)[None, :, None].expand(rows, columns, 1)
    angle = torch.cat([row * rates, column * rates], -1).reshape(rows * columns, d // 2)
    pairs = features.unflatten(-1, (2, d // 2, 2))
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    a, b = pairs[..., 0], pairs[..., 1]
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-3)


def attend(
    phi_q: Tensor,
    phi_k: Tensor,
    v: Tensor,
    eps: float,
    kept: Tensor | None = None,
    state: NaLaState | None = None,
    rope: tuple[int, int] | None = None,
) -> tuple[Tensor, NaLaState]:
    """Every query sees every key; ``kept`` [b, 1, n] is true for keys that count."""
    if kept is not None:
        phi_k = phi_k * kept[..., None]
    count = _count(phi_k, kept)
    z = phi_k.sum(-2)
    read, write = (phi_q, phi_k) if rope is None else (rotated(phi_q, rope), rotated(phi_k, rope))
    kv = write.transpose(-2, -1) @ v
    if state is not None:
        kv, z, count = kv + state.kv, z + state.z, count + state.keys
    weight = (phi_q @ z[..., None]) + eps * count[..., None]
    return (read @ kv) / weight.clamp(min=torch.finfo(v.dtype).tiny), NaLaState(kv, z, count)


def _count(phi_k: Tensor, kept: Tensor | None) -> Tensor:
    """How many keys count [b, 1, 1]."""
    if kept is None:
        full = phi_k.new_full((), float(phi_k.shape[-2]))
        return full.expand(phi_k.shape[0], 1, 1)
    return kept.sum(-1).to(phi_k.dtype)[..., None]


def attend_causally(
    phi_q: Tensor,
    phi_k: Tensor,
    v: Tensor,
    eps: float,
    kept: Tensor | None = None,
    state: NaLaState | None = None,
) -> tuple[Tensor, NaLaState]:
    """Every query sees the keys up to its own: within its chunk one by one, before it as a sum."""
    if kept is not None:
        phi_k = phi_k * kept[..., None]
    n = phi_q.shape[-2]
    missing = -n % CHUNK
    q, k, values = (
        torch.nn.functional.pad(x, (0, 0, 0, missing)).unflatten(2, (-1, CHUNK))
        for x in (phi_q, phi_k, v)
    )
    sums = k.transpose(-2, -1) @ values  # [b, h, chunks, 2 d, e]
    z_sums = k.sum(-2)
    before = _nothing(phi_k, v) if state is None else state
    sums = torch.cat([before.kv[:, :, None], sums], 2).cumsum(2)
    z_sums = torch.cat([before.z[:, :, None], z_sums], 2).cumsum(2)
    last = NaLaState(sums[:, :, -1], z_sums[:, :, -1], before.keys + _count(phi_k, kept))
    sums, z_sums = sums[:, :, :-1], z_sums[:, :, :-1]
    scores = (q @ k.transpose(-2, -1)).tril()
    total = scores @ values + q @ sums
    weight = scores.sum(-1, keepdim=True) + q @ z_sums[..., None]
    seen = before.keys + _seen(phi_k, kept)
    weight = weight.flatten(2, 3)[:, :, :n] + eps * seen[..., None]
    out = total.flatten(2, 3)[:, :, :n] / weight.clamp(min=torch.finfo(v.dtype).tiny)
    return out, last


def _nothing(phi_k: Tensor, v: Tensor) -> NaLaState:
    """The state before any key."""
    b, h, _, f = phi_k.shape
    kv = phi_k.new_zeros(b, h, f, v.shape[-1])
    return NaLaState(kv, kv.new_zeros(b, h, f), kv.new_zeros(b, 1, 1))


def _seen(phi_k: Tensor, kept: Tensor | None) -> Tensor:
    """How many of these keys each query has seen [b, 1, n]."""
    if kept is not None:
        return kept.cumsum(-1).to(phi_k.dtype)
    n = phi_k.shape[-2]
    return torch.arange(1, n + 1, device=phi_k.device, dtype=phi_k.dtype).expand(1, 1, n)
