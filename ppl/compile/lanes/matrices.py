"""Decompositions of matrices and solutions by triangles, each as a block of C++ from the header."""

from __future__ import annotations

import math
from typing import Any

from torch.fx import Node

from .registry import on
from .translation import Shape, Translation, Unsupported, Value


def _batches(shape: Shape) -> int:
    return math.prod(shape[:-2])


def _block(t: Translation, function: str, value: Value, *, more: str = "") -> tuple[Value, Value]:
    """A square matrix from each square matrix, and 1 where there is none."""
    n = value.shape[-1]
    source = t.whole(value)
    result, failed = t.buffer(math.prod(value.shape)), t.buffer(_batches(value.shape))
    t.block(
        f"for (long k = 0; k < {_batches(value.shape)}; k++) "
        f"{failed}[k] = {function}<{n}>({source} + k * {n * n}, {result} + k * {n * n}{more});",
        [source],
        [result, failed],
    )
    return t.from_buffer(result, value.shape), t.from_buffer(failed, value.shape[:-2])


@on("linalg_cholesky_ex")
def _cholesky(
    t: Translation, node: Node, a: Any, upper: bool = False, check_errors: bool = False
) -> tuple[Value, Value]:
    value = t.value(a)
    factor, failed = _block(t, "cholesky", value)
    return (_transposed(factor) if upper else factor), failed


@on("linalg_inv_ex")
def _inverse(t: Translation, node: Node, a: Any, check_errors: bool = False) -> tuple[Value, Value]:
    return _block(t, "inverse", t.value(a))


@on("cholesky_inverse")
def _cholesky_inverse(t: Translation, node: Node, a: Any, upper: bool = False) -> Value:
    value = t.value(a)
    return _block(t, "inverse_of_product", _transposed(value) if upper else value)[0]


def _transposed(value: Value) -> Value:
    shape = (*value.shape[:-2], value.shape[-1], value.shape[-2])
    return value.viewed(shape, lambda i: (*i[:-2], i[-1], i[-2]))


@on("linalg_solve_triangular")
def _solve(
    t: Translation, node: Node, a: Any, b: Any, *, upper: bool, left: bool = True,
    unitriangular: bool = False,
) -> Value:  # fmt: skip
    """X with A X = B, or X A = B unless ``left``: the same with all transposed."""
    matrix, right = t.value(a), t.value(b)
    if not left:
        matrix, right, upper = _transposed(matrix), _transposed(right), not upper
    lead = right.shape[:-2]
    if len(matrix.shape[:-2]) > len(lead) or len(right.shape) < 2:
        raise Unsupported(f"{node.target} of these shapes")
    matrix = matrix.expanded((*lead, *matrix.shape[-2:]))
    n, columns = right.shape[-2:]
    source, sides = t.whole(matrix), t.whole(right)
    result = t.buffer(math.prod(right.shape))
    t.block(
        f"for (long k = 0; k < {math.prod(lead)}; k++) solve_{'upper' if upper else 'lower'}"
        f"<{n}, {columns}, {'true' if unitriangular else 'false'}>"
        f"({source} + k * {n * n}, {sides} + k * {n * columns}, {result} + k * {n * columns});",
        [source, sides],
        [result],
    )
    solution = t.from_buffer(result, right.shape)
    return solution if left else _transposed(solution)
