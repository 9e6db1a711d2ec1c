"""Decompositions of matrices and solutions by triangles, each as a block of C++ from the header."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import broadcast_shapes
from torch.fx import Node

from .registry import dtype_of, mapped, name_of, on
from .translation import Shape, Translation, Unsupported, Value


def for_each(
    t: Translation, function: str, lead: Shape, inputs: Sequence[Value], results: Sequence[Shape]
) -> list[Value]:
    """What a function of the header makes of each entry of a batch.

    Each input has the shape ``lead`` and then that of what the function takes; ``results`` are the
    shapes of what it makes.
    """
    many = math.prod(lead)
    sources = [t.whole(x) for x in inputs]
    targets = [t.buffer(many * math.prod(shape)) for shape in results]
    shapes = [*(x.shape[len(lead) :] for x in inputs), *results]
    places = (
        f"{buffer} + k * {math.prod(shape)}"
        for buffer, shape in zip([*sources, *targets], shapes, strict=True)
    )
    call = f"{function}({', '.join(places)});"
    t.block(f"for (long k = 0; k < {many}; k++) {call}", sources, targets)
    made = zip(targets, results, strict=True)
    return [t.from_buffer(target, (*lead, *shape)) for target, shape in made]


def square(node: Node, value: Value) -> tuple[Shape, int]:
    """The shape of a batch of square matrices, and their size."""
    *lead, rows, n = value.shape
    if rows != n:
        raise Unsupported(f"{node.target} of {rows} by {n} matrices")
    return tuple(lead), n


def transposed(value: Value) -> Value:
    shape = (*value.shape[:-2], value.shape[-1], value.shape[-2])
    return value.viewed(shape, lambda i: (*i[:-2], i[-1], i[-2]))


def together(*values: Value) -> tuple[Shape, list[Value]]:
    """The shape of the common batch of some matrices, and all of them broadcast to it."""
    lead = tuple(broadcast_shapes(*(x.shape[:-2] for x in values)))
    return lead, [x.expanded((*lead, *x.shape[-2:])) for x in values]


@on("linalg_cholesky_ex")
def _cholesky(
    t: Translation, node: Node, a: Any, upper: bool = False, check_errors: bool = False
) -> tuple[Value, Value]:
    value = t.value(a)
    lead, n = square(node, value)
    factor, failed = for_each(t, f"cholesky<{n}>", lead, [value], [(n, n), ()])
    return (transposed(factor) if upper else factor), failed


@on("linalg_inv_ex")
def _inverse(t: Translation, node: Node, a: Any, check_errors: bool = False) -> tuple[Value, Value]:
    value = t.value(a)
    lead, n = square(node, value)
    inverse, failed = for_each(t, f"inverse<{n}>", lead, [value], [(n, n), ()])
    return inverse, failed


@on("_linalg_check_errors")
def _checked(t: Translation, node: Node, failed: Any, name: str, *, is_matrix: bool) -> None:
    """Where torch raises, what the decomposition gave is NaN in the lanes where it failed."""
    if name_of(failed) != "getitem":
        raise Unsupported(f"{node.target} of {failed}")
    source = failed.args[0]
    if name_of(source) == "_linalg_solve_ex":  # whose solution is NaN anyway
        return
    for part in source.users:
        if dtype_of(part).is_floating_point:
            t.values[part] = without(t, t.value(failed), t.value(part))


def without(t: Translation, failed: Value, matrices: Value) -> Value:
    """Matrices, in place of those that failed NaN."""
    each = failed.viewed((*failed.shape, 1, 1), lambda i: i[:-2])
    kept = "pick({0} == splat(0), {1}, splat(NAN))"
    return t.stored(mapped(t, matrices.shape, kept, each, matrices))


# -------------------------------------------------------------------------------------- triangles


@on("linalg_solve_triangular")
def _triangular(
    t: Translation, node: Node, a: Any, b: Any, *, upper: bool, left: bool = True,
    unitriangular: bool = False,
) -> Value:  # fmt: skip
    """X with A X = B, or X A = B unless ``left``: the same with all transposed."""
    matrix, right = t.value(a), t.value(b)
    if left:
        return by_triangle(t, matrix, right, upper=upper, unit=unitriangular)
    found = by_triangle(
        t, transposed(matrix), transposed(right), upper=not upper, unit=unitriangular
    )
    return transposed(found)


def by_triangle(
    t: Translation, matrix: Value, right: Value, *, upper: bool, unit: bool = False
) -> Value:
    """X with A X = B, by one triangle of A, with ones on its diagonal if it is ``unit``."""
    lead, both = together(matrix, right)
    n, columns = right.shape[-2:]
    side, ones = "upper" if upper else "lower", "true" if unit else "false"
    function = f"solve_{side}<{n}, {columns}, {ones}>"
    return for_each(t, function, lead, both, [(n, columns)])[0]


@on("triangular_solve")
def _old_triangular(
    t: Translation, node: Node, b: Any, a: Any, upper: bool = True, transpose: bool = False,
    unitriangular: bool = False,
) -> tuple[Value, Value]:  # fmt: skip
    matrix, right = t.value(a), t.value(b)
    turned = transposed(matrix) if transpose else matrix
    found = by_triangle(t, turned, right, upper=upper != transpose, unit=unitriangular)
    return found, matrix


@on("cholesky_solve")
def _cholesky_solve(t: Translation, node: Node, b: Any, a: Any, upper: bool = False) -> Value:
    """X with L L^T X = B."""
    factor = transposed(t.value(a)) if upper else t.value(a)
    inner = by_triangle(t, factor, t.value(b), upper=False)
    return by_triangle(t, transposed(factor), inner, upper=True)


@on("cholesky_inverse")
def _cholesky_inverse(t: Translation, node: Node, a: Any, upper: bool = False) -> Value:
    value = transposed(t.value(a)) if upper else t.value(a)
    lead, n = square(node, value)
    return for_each(t, f"inverse_of_product<{n}>", lead, [value], [(n, n)])[0]
