"""Functional maps C [k2, k1]: from and to maps of vertices, by descriptors, refined."""

from __future__ import annotations

import torch
from torch import Tensor

from .mesh import Basis


def from_pointmap(source: Basis, target: Basis, pointmap: Tensor) -> Tensor:
    """C = U2^T A2 U1[T], for a map T [n2] of the target's vertices to the source's."""
    return target.evecs.mT @ (target.mass[:, None] * source.evecs[pointmap])


def to_pointmap(C: Tensor, source: Basis, target: Basis) -> Tensor:
    """T [n2]: for each row of U2 the nearest row of U1 C^T, by as many columns as C has."""
    rows, columns = C.shape
    return torch.cdist(target.evecs[:, :rows], source.evecs[:, :columns] @ C.mT).argmin(1)


def solve(a: Tensor, b: Tensor, mask: Tensor | None = None, mu: float = 0.0) -> Tensor:
    """The C with the least |C a - b|^2 + mu sum(mask * C^2), for descriptors a [k1, q], b [k2, q].

    Errors:
        ValueError: shapes do not fit each other.
        torch.linalg.LinAlgError: there are fewer descriptors than functions, and no mask.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        shapes = f"{list(a.shape)} and {list(b.shape)}"
        raise ValueError(f"descriptors are [k1, q] and [k2, q]; their shapes are {shapes}")
    k1, q = a.shape
    if mask is not None and mask.shape != (len(b), k1):
        raise ValueError(f"the mask has shape {list(mask.shape)}, and C has {[len(b), k1]}")
    if (mask is None or mu == 0) and q < k1:
        what = f"{q} descriptors do not determine a map of {k1} functions"
        advice = f"{what}: give more of them, or a mask and mu > 0"
        raise torch.linalg.LinAlgError(advice)  # type: ignore[attr-defined]
    gram = a @ a.mT
    if mask is None or mu == 0:
        return torch.cholesky_solve(a @ b.mT, torch.linalg.cholesky(gram)).mT
    factor = torch.linalg.cholesky(gram + mu * torch.diag_embed(mask) + 1e-9 * torch.eye(k1).to(a))
    return torch.cholesky_solve((b @ a.mT)[..., None], factor)[..., 0]


def zoomout(C: Tensor, source: Basis, target: Basis, k: int) -> Tensor:
    """C [n, n], extended to [k, k] by one function at a time, through maps of vertices.

    Errors:
        ValueError: C is not square, or k is larger than a basis.
    """
    if C.ndim != 2 or C.shape[0] != C.shape[1]:
        raise ValueError(f"C has shape {list(C.shape)}: it must be square")
    most = min(source.evecs.shape[1], target.evecs.shape[1])
    if not len(C) <= k <= most:
        raise ValueError(f"k is {k}; it must be from {len(C)}, the size of C, to {most}")
    for n in range(len(C), k + 1):
        pointmap, m = to_pointmap(C, source, target), min(n + 1, k)
        first, second = (Basis(x.evals[:m], x.evecs[:, :m], x.mass) for x in (source, target))
        C = from_pointmap(first, second, pointmap)
    return C
