"""Norm-aware linear attention as a function and a step of decoding.

Source: Meng et al., NaLaFormer: Norm-Aware Linear Attention for Transformer Models
(arXiv 2506.21137).  The sign form is that of the public code.  The angular map of the paper was not
available: the angle form here is a choice that keeps all features from being negative.
"""

from __future__ import annotations

import warnings
from typing import Any, Literal, overload

import torch
from torch import Tensor

from ...kernels import Backend, uses_triton
from ...kernels.nala import Direction, NaLaState, attend, attend_causally, feature_maps
from ...kernels.precision import as_given, widened


def nala_feature_maps(
    q: Tensor, k: Tensor, *, lam: float = 3.0, tau: float = 0.5, direction: Direction = "sign"
) -> tuple[Tensor, Tensor]:
    """Features [..., 2 d] of queries and keys [..., d]; none is negative.

    The norm n of a query sets the power lam (tau + tanh n) of the coordinates of its direction: the
    longer the query, the sharper its row.  Coordinates of opposite signs do not meet.

    Args:
        lam: the power for keys, and the scale of that for queries; positive.
        tau: the least power for queries, over lam; positive.
        direction: "sign": a coordinate goes to one of two features by its sign; "angle": to both,
            by the cosine and sine of pi / 4 (1 - d).

    Errors:
        ValueError: lam or tau is not positive, the direction unknown, or the last sizes differ.
        TypeError: q or k holds integers.
    """
    _require_maps(q, k, lam, tau, direction)
    return feature_maps(widened(q), widened(k), lam, tau, direction)


@overload
def nala_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    is_causal: bool = ...,
    lam: float = ...,
    tau: float = ...,
    direction: Direction = ...,
    rope: tuple[int, int] | None = ...,
    eps: float = ...,
    initial_state: NaLaState | None = ...,
    output_final_state: Literal[False] = ...,
    attn_mask: Tensor | None = ...,
    backend: Backend = ...,
) -> Tensor: ...


@overload
def nala_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    is_causal: bool = ...,
    lam: float = ...,
    tau: float = ...,
    direction: Direction = ...,
    rope: tuple[int, int] | None = ...,
    eps: float = ...,
    initial_state: NaLaState | None = ...,
    output_final_state: Literal[True],
    attn_mask: Tensor | None = ...,
    backend: Backend = ...,
) -> tuple[Tensor, NaLaState]: ...


def nala_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    is_causal: bool = False,
    lam: float = 3.0,
    tau: float = 0.5,
    direction: Direction = "sign",
    rope: tuple[int, int] | None = None,
    eps: float = 1e-6,
    initial_state: NaLaState | None = None,
    output_final_state: bool = False,
    attn_mask: Tensor | None = None,
    backend: Backend = "auto",
) -> Tensor | tuple[Tensor, NaLaState]:
    """Attention [b, h, n, e] of queries [b, h, n, d] to keys [b, h, m, d] with values [b, h, m, e].

    Row t is sum_i w_ti v_i with w_ti = phi(q_t) phi(k_i) / (phi(q_t) sum_j phi(k_j) + eps m), at a
    cost of O((n + m) d e) per head.  Features and sums are in float32 at least.  A row whose query
    shares no sign with any key is zero, which softmax attention never gives.

    Args:
        is_causal: whether query t sees keys up to t only.
        lam, tau, direction: of :func:`nala_feature_maps`.
        rope: rows and columns of a grid of n tokens, whose features are turned by their place, in
            the numerator only; weights may then be negative and need not sum to one.
        eps: added to the mean weight.
        initial_state: sums over keys that came before.
        output_final_state: whether the sums over all keys are returned too.
        attn_mask: a padding mask [b, 1, 1, m], true for keys that count.

    Errors:
        ValueError: shapes or settings do not fit each other.
        NotImplementedError: any other mask.
    """
    _require_maps(q, k, lam, tau, direction)
    _require_shapes(q, k, v, is_causal, initial_state)
    _require_rope(q, k, rope, is_causal, initial_state)
    kept = None if attn_mask is None else _kept(attn_mask, k)
    if kept is not None:  # what does not count may be anything, also no number
        k, v = (torch.where(kept[..., None], x, 0.0) for x in (k, v))
    plain = kept is None and rope is None and initial_state is None and not output_final_state
    fusible = plain and direction == "sign" and 0 not in (q.numel(), k.numel(), v.numel())
    if uses_triton(backend, q, k, v) and fusible and q.dtype != torch.float64:
        from ...kernels.gpu.nala import fused_attention

        fused: Tensor = fused_attention(q, k, v, lam, tau, eps, is_causal)
        return fused
    phi_q, phi_k = feature_maps(widened(q), widened(k), lam, tau, direction)
    with as_given(v.device):
        if is_causal:
            out, state = attend_causally(phi_q, phi_k, widened(v), eps, kept, initial_state)
        else:
            out, state = attend(phi_q, phi_k, widened(v), eps, kept, initial_state, rope)
    out = out.to(v.dtype)
    return (out, state) if output_final_state else out


def nala_weights(
    q: Tensor,
    k: Tensor,
    *,
    is_causal: bool = False,
    lam: float = 3.0,
    tau: float = 0.5,
    direction: Direction = "sign",
    eps: float = 1e-6,
    attn_mask: Tensor | None = None,
) -> Tensor:
    """The weights [b, h, n, m] of :func:`nala_attention`, at quadratic cost: to look at."""
    _require_maps(q, k, lam, tau, direction)
    kept = None if attn_mask is None else _kept(attn_mask, k)
    if kept is not None:
        k = torch.where(kept[..., None], k, 0.0)
    phi_q, phi_k = feature_maps(widened(q), widened(k), lam, tau, direction)
    with as_given(q.device):
        scores = phi_q @ phi_k.transpose(-2, -1)
    seen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device)
    seen = seen.tril() if is_causal else seen
    if kept is not None:
        seen = seen & kept[..., None, :]
    scores = scores * seen
    count = seen.sum(-1, keepdim=True).to(scores.dtype)
    weight = scores.sum(-1, keepdim=True) + eps * count
    return scores / weight.clamp(min=torch.finfo(scores.dtype).tiny)


def nala_step(
    q: Tensor, k: Tensor, v: Tensor, state: NaLaState | None = None, **settings: Any
) -> tuple[Tensor, NaLaState]:
    """One token [b, h, d] (values [b, h, e]) behind those of a state: its output, and the state."""
    out, state = nala_attention(
        q[:, :, None],
        k[:, :, None],
        v[:, :, None],
        is_causal=True,
        initial_state=state,
        output_final_state=True,
        **settings,
    )
    return out[:, :, 0], state


def _require_maps(q: Tensor, k: Tensor, lam: float, tau: float, direction: str) -> None:
    if not (q.is_floating_point() and k.is_floating_point()):
        raise TypeError(f"queries and keys are floating point numbers, not {q.dtype}, {k.dtype}")
    if q.shape[-1] != k.shape[-1]:
        raise ValueError(f"queries {list(q.shape)} and keys {list(k.shape)} differ in width")
    if lam <= 0 or tau <= 0:
        raise ValueError(f"lam and tau are positive, which {lam} and {tau} are not")
    if lam * tau < 1 or lam < 1:
        what = f"powers below one (lam {lam}, lam tau {lam * tau}) have no derivative at zero"
        warnings.warn(what, stacklevel=3)
    if direction not in ("sign", "angle"):
        raise ValueError(f"the direction is 'sign' or 'angle', not {direction!r}")


def _require_shapes(
    q: Tensor, k: Tensor, v: Tensor, is_causal: bool, state: NaLaState | None
) -> None:
    shapes = f"queries {list(q.shape)}, keys {list(k.shape)}, values {list(v.shape)}"
    if not q.ndim == k.ndim == v.ndim == 4:
        raise ValueError(f"[batch, heads, tokens, width] is expected: {shapes}")
    if not q.shape[:2] == k.shape[:2] == v.shape[:2]:
        raise ValueError(f"batches or heads differ: {shapes}")
    if k.shape[2] != v.shape[2]:
        raise ValueError(f"there are not as many keys as values: {shapes}")
    if is_causal and q.shape[2] != k.shape[2]:
        raise ValueError(f"causal attention needs as many queries as keys: {shapes}")
    if state is not None:
        expected = (*q.shape[:2], 2 * q.shape[3], v.shape[3])
        if state.kv.shape != expected:
            raise ValueError(f"a state of {list(expected)} is expected, not {list(state.kv.shape)}")


def _require_rope(
    q: Tensor,
    k: Tensor,
    rope: tuple[int, int] | None,
    is_causal: bool,
    state: NaLaState | None,
) -> None:
    if rope is None:
        return
    if q.shape[-1] % 4:
        raise ValueError(f"places on a grid need a width divisible by 4, not {q.shape[-1]}")
    if is_causal or state is not None:
        raise ValueError("tokens of a grid have no causal order: rope needs is_causal=False")
    if not q.shape[-2] == k.shape[-2] == rope[0] * rope[1]:
        shapes = f"{q.shape[-2]} queries and {k.shape[-2]} keys"
        raise ValueError(f"a grid of {rope[0]} x {rope[1]} tokens does not fit {shapes}")


def _kept(attn_mask: Tensor, k: Tensor) -> Tensor:
    """[b, 1, m] of a key-padding mask [b, 1, 1, m]."""
    b, _, m, _ = k.shape
    if attn_mask.dtype != torch.bool or attn_mask.shape not in ((b, 1, 1, m), (1, 1, 1, m)):
        what = (
            "linear attention cannot apply an arbitrary mask: a boolean padding mask"
            f" {[b, 1, 1, m]} is expected, not {attn_mask.dtype} {list(attn_mask.shape)}"
        )
        raise NotImplementedError(what)
    return attn_mask[:, :, 0].expand(b, 1, m)
