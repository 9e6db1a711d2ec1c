"""Softmax-free attention: a Gaussian kernel of the tokens, through landmarks.

The kernel S of all tokens with themselves is taken as P A^+ P^T, with P the kernel of tokens and
landmarks, and A that of landmarks; no matrix of tokens by tokens is formed.  The same pieces make a
Gaussian process with inducing points.

Sources: Lu et al., SOFT: Softmax-free Transformer with Linear Complexity (arXiv 2110.11945), and
Softmax-free Linear Transformers (arXiv 2207.03341).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ...kernels import Backend, uses_triton
from ...kernels.precision import as_given, widened
from ...kernels.soft import gaussian, newton_inverse

Norm = Literal["landmark", "token"]
LEAST_ROW = 1e-3  # of S, where it is normalised by rows


def gaussian_scores(q: Tensor, k: Tensor, scale: float = 1.0) -> Tensor:
    """exp(-|q_i - k_j|^2 scale^2 / 2) [..., n, m] of tokens [..., n, d] and [..., m, d].

    Errors:
        ValueError: the widths differ.
        TypeError: the tokens are integers.
    """
    if q.shape[-1] != k.shape[-1]:
        raise ValueError(f"tokens {list(q.shape)} and {list(k.shape)} differ in width")
    _require_floats(q, k)
    return gaussian(scale * widened(q), scale * widened(k)).to(q.dtype)


def newton_pinv(
    a: Tensor,
    max_iter: int = 20,
    alpha_scale: float = 1.8,
    ridge: float = 0.0,
    tol: float | None = None,
) -> Tensor:
    """The inverse of A + ridge I [..., m, m], by matrix products only.

    A matrix of condition kappa needs about log2(kappa^2 / alpha_scale) + 5 steps.  The first matrix
    is alpha_scale A^T / (|A|_1 |A|_inf): at alpha_scale = 2, which the paper names, a matrix with
    equal row sums would never be inverted.  The derivative is that of an inverse, whatever the
    steps: for a singular A it lacks two terms.  An A that is not finite gives NaN.

    Args:
        max_iter: steps.
        alpha_scale: in (0, 2).
        ridge: added to the diagonal; it changes the result.
        tol: stop once no entry of A X - I exceeds it (reads the numbers: not on a GPU's graphs).

    Errors:
        ValueError: A is not square, or a setting is out of range.
        TypeError: A holds integers.
    """
    if a.ndim < 2 or a.shape[-1] != a.shape[-2]:
        raise ValueError(f"a square matrix is inverted, not {list(a.shape)}")
    _require_floats(a)
    _require_newton(max_iter, alpha_scale, ridge)
    if 0 in a.shape:
        return a.clone()
    return _inverse(widened(a), max_iter, alpha_scale, ridge, tol, fused=False).to(a.dtype)


def _inverse(
    a: Tensor, steps: int, scale: float, ridge: float, tol: float | None, fused: bool
) -> Tensor:
    if ridge:
        a = a + ridge * torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
    return newton_inverse(a, steps, scale, tol, fused)


class Attended(NamedTuple):
    """The output [b, h, n, e], and how many rows of S were too small to normalise by."""

    out: Tensor
    clamped: Tensor


def soft_attention(
    q: Tensor,
    v: Tensor,
    landmarks: Tensor,
    *,
    norm: Norm | None = None,
    max_iter: int = 20,
    ridge: float = 0.0,
    alpha_scale: float = 1.8,
    scale: float | None = None,
    kept: Tensor | None = None,
    landmarks_kept: Tensor | None = None,
    backend: Backend = "auto",
) -> Tensor:
    """S v [b, h, n, e] for tokens q [b, h, n, d], values v [b, h, n, e], landmarks [b, h, m, d].

    The cost is O(n m (d + e) + max_iter m^3) per head; half precision is computed in float32.

    Args:
        norm: "landmark" divides A^+ by the roots of the row sums of A on both sides, as the public
            code does: it shrinks the spectral norm of S, which still grows with n.  "token" divides
            S by the roots of its own row sums: the spectral norm is one while these are positive.
        max_iter, ridge, alpha_scale: of :func:`newton_pinv`.
        scale: of q, d^(-1/4) unless given; the landmarks are taken as they are.
        kept: [b, n] is true for tokens that count; the others get zero.
        landmarks_kept: [b, m], the same for landmarks.

    Errors:
        ValueError: shapes do not fit, there are more landmarks than tokens, a setting is off.
        TypeError: q, v or the landmarks hold integers.
    """
    return attended(
        q, v, landmarks, norm, max_iter, ridge, alpha_scale, scale, kept, landmarks_kept, backend
    ).out


def attended(
    q: Tensor,
    v: Tensor,
    landmarks: Tensor,
    norm: Norm | None,
    max_iter: int,
    ridge: float,
    alpha_scale: float,
    scale: float | None,
    kept: Tensor | None,
    landmarks_kept: Tensor | None,
    backend: Backend,
) -> Attended:
    """:func:`soft_attention` with the count of rows that were too small."""
    _require_fitting(q, v, landmarks, norm)
    _require_newton(max_iter, alpha_scale, ridge)
    tokens = widened(q) * (q.shape[-1] ** -0.25 if scale is None else scale)
    marks, values = widened(landmarks), widened(v)
    if kept is not None:  # what does not count may be anything, also no number
        there = kept[:, None, :, None]
        tokens, values = torch.where(there, tokens, 0.0), torch.where(there, values, 0.0)
    if landmarks_kept is not None:
        marks = torch.where(landmarks_kept[:, None, :, None], marks, 0.0)
    if 0 in tokens.shape or 0 in marks.shape:
        return Attended(torch.zeros_like(v), torch.zeros((), dtype=torch.long, device=q.device))
    a = gaussian(marks, marks)
    if landmarks_kept is not None:
        both = landmarks_kept[:, None, :, None] & landmarks_kept[:, None, None, :]
        a = torch.where(both, a, torch.eye(a.shape[-1], dtype=a.dtype, device=a.device))
    on_triton = uses_triton(backend, q, v, landmarks) and tokens.dtype != torch.float64
    small_enough = on_triton and a.shape[-1] <= 128
    inverse = _inverse(a, max_iter, alpha_scale, ridge, None, small_enough)
    if norm == "landmark":
        root = a.sum(-1).rsqrt()
        inverse = root[..., :, None] * inverse * root[..., None, :]
    clamped = torch.zeros((), dtype=torch.long, device=q.device)
    if on_triton and kept is None and landmarks_kept is None and norm != "token":
        from ...kernels.gpu.soft import fused_soft

        read: Tensor = fused_soft(tokens, marks, inverse, values)
        return Attended(read.to(v.dtype), clamped)
    p = gaussian(tokens, marks)
    if kept is not None:
        p = p * kept[:, None, :, None]
    if landmarks_kept is not None:
        p = p * landmarks_kept[:, None, None, :]
    if norm == "token":
        rows = _through(p, inverse, torch.ones_like(values[..., :1]))
        small = rows < LEAST_ROW
        counted = small if kept is None else small & kept[:, None, :, None]
        root = rows.clamp(min=LEAST_ROW).rsqrt()
        out = root * _through(p, inverse, root * values)
        return Attended(out.to(v.dtype), counted.sum())
    return Attended(_through(p, inverse, values).to(v.dtype), clamped)


def _through(p: Tensor, inverse: Tensor, x: Tensor) -> Tensor:
    """P A^+ P^T x."""
    with as_given(p.device):
        return p @ (inverse @ (p.transpose(-2, -1) @ x))


def _require_floats(*tensors: Tensor) -> None:
    for x in tensors:
        if not x.is_floating_point():
            raise TypeError(f"floating point tensors are expected, not {x.dtype}")


def _require_newton(max_iter: int, alpha_scale: float, ridge: float) -> None:
    if not 0 < alpha_scale < 2:
        raise ValueError(
            f"Newton needs 0 < alpha < 2 / |A|^2: alpha_scale in (0, 2), {alpha_scale}"
        )
    if max_iter < 1:
        raise ValueError(f"Newton needs at least one step, not {max_iter}")
    if ridge < 0:
        raise ValueError(f"a ridge is not negative: {ridge}")


def _require_fitting(q: Tensor, v: Tensor, landmarks: Tensor, norm: str | None) -> None:
    shapes = f"tokens {list(q.shape)}, values {list(v.shape)}, landmarks {list(landmarks.shape)}"
    _require_floats(q, v, landmarks)
    if not q.ndim == v.ndim == landmarks.ndim == 4:
        raise ValueError(f"[batch, heads, tokens, width] is expected: {shapes}")
    if not (q.shape[:3] == v.shape[:3] and q.shape[:2] == landmarks.shape[:2]):
        raise ValueError(f"batches, heads or numbers of tokens differ: {shapes}")
    if q.shape[-1] != landmarks.shape[-1]:
        raise ValueError(f"tokens and landmarks differ in width: {shapes}")
    if landmarks.shape[2] > q.shape[2]:
        raise ValueError(f"there are more landmarks than tokens: {shapes}")
    if norm not in (None, "landmark", "token"):
        raise ValueError(f"the norm is None, 'landmark' or 'token', not {norm!r}")
