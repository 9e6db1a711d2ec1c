"""Spectra: eigenvalues of symmetric matrices and singular values, with their vectors.

A vector may have the opposite sign of torch's, and where values coincide be another of their space;
only what does not depend on this is as with torch.
"""

from __future__ import annotations

from typing import Any

from torch.fx import Node

from .matrices import for_each, square, transposed
from .registry import on
from .translation import Translation, Unsupported, Value


@on("_linalg_eigh")
def _eigh(
    t: Translation, node: Node, a: Any, triangle: str = "L", compute_v: bool = True
) -> tuple[Value, Value]:
    value = t.value(a) if triangle in "Ll" else transposed(t.value(a))
    lead, n = square(node, value)
    values, vectors = for_each(t, f"spectrum<{n}>", lead, [value], [(n,), (n, n)])
    return values, vectors


@on("_linalg_svd")
def _svd(
    t: Translation, node: Node, a: Any, full_matrices: bool = False, compute_uv: bool = True, *,
    driver: str | None = None,
) -> tuple[Value, Value, Value]:  # fmt: skip
    """U, the singular values, and V^T."""
    value = t.value(a)
    *lead, rows, columns = value.shape
    if full_matrices and rows != columns:
        raise Unsupported(f"{node.target} with all vectors of a matrix that is not square")
    tall = value if rows >= columns else transposed(value)
    m, n = tall.shape[-2:]
    results = [(m, n), (n,), (n, n)]
    u, values, v = for_each(t, f"singular_values<{m}, {n}>", tuple(lead), [tall], results)
    return (u, values, transposed(v)) if rows >= columns else (v, values, transposed(u))
