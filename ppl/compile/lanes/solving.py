"""Elimination: factors of matrices with row exchanges, and the solutions and determinants by them.

Each lane exchanges rows by pivots of its own.  They are torch's numbers, from 1 on, but no places
that an index could take.
"""

from __future__ import annotations

from typing import Any

from torch.fx import Node

from .indices import number
from .matrices import by_triangle, for_each, square, together, transposed, without
from .registry import mapped, on
from .statements import Counted, Expr
from .translation import ONE, ZERO, At, Shape, Translation, Unsupported, Value, apply


def _factors(t: Translation, node: Node, value: Value) -> tuple[Value, Value, Value]:
    """L and U in one matrix, pivots, and the first pivot that is zero, or 0."""
    lead, n = square(node, value)
    lu, pivots, failed = for_each(t, f"factors<{n}>", lead, [value], [(n, n), (n,), ()])
    return lu, pivots, failed


@on("linalg_lu_factor_ex")
def _lu_factor(
    t: Translation, node: Node, a: Any, *, pivot: bool = True, check_errors: bool = False
) -> tuple[Value, Value, Value]:
    _require_pivots(node, pivot)
    return _factors(t, node, t.value(a))


def _require_pivots(node: Node, pivot: bool) -> None:
    if not pivot:
        raise Unsupported(f"{node.target} without pivots")


@on("linalg_lu")
def _lu(t: Translation, node: Node, a: Any, *, pivot: bool = True) -> tuple[Value, Value, Value]:
    """P, L and U."""
    _require_pivots(node, pivot)
    lu, pivots, _ = _factors(t, node, t.value(a))
    return (_permutation(t, pivots), *_triangles(t, lu))


@on("lu_unpack")
def _lu_unpack(
    t: Translation, node: Node, a: Any, pivots: Any, unpack_data: bool = True,
    unpack_pivots: bool = True,
) -> tuple[Value | None, ...]:  # fmt: skip
    square(node, t.value(a))
    triangles = _triangles(t, t.value(a)) if unpack_data else (None, None)
    return (_permutation(t, t.value(pivots)) if unpack_pivots else None, *triangles)


def _triangles(t: Translation, lu: Value) -> tuple[Value, Value]:
    """L, of unit diagonal, and U."""
    identity = _identity(lu.shape)

    def lower(i: At) -> Expr:
        row, column = map(Counted, i[-2:])
        return apply("pick({0} > {1}, {2}, {3})", row, column, lu.at(i), identity.at(i))

    def upper(i: At) -> Expr:
        row, column = map(Counted, i[-2:])
        return apply("pick({0} > {1}, {2}, {3})", row, column, ZERO, lu.at(i))

    return t.stored(Value(lu.shape, lower)), t.stored(Value(lu.shape, upper))


def _identity(shape: Shape) -> Value:
    def entry(i: At) -> Expr:
        return apply("pick({0} == {1}, {2}, {3})", *map(Counted, i[-2:]), ONE, ZERO)

    return Value(shape, entry)


def _permutation(t: Translation, pivots: Value) -> Value:
    """P with A = P L U."""
    return _exchanged(t, pivots, _identity((*pivots.shape, pivots.shape[-1])), back=True)


def _exchanged(t: Translation, pivots: Value, matrix: Value, *, back: bool = False) -> Value:
    """A matrix with its rows exchanged, or ``back`` from an exchange."""
    numbers = pivots.viewed((*pivots.shape, 1), lambda i: i[:-1])
    lead, both = together(numbers, matrix)
    n, columns = matrix.shape[-2:]
    function = f"exchanged<{n}, {columns}, {'true' if back else 'false'}>"
    return for_each(t, function, lead, both, [(n, columns)])[0]


def _solution(t: Translation, lu: Value, pivots: Value, right: Value) -> Value:
    """X with P L U X = B."""
    inner = by_triangle(t, lu, _exchanged(t, pivots, right), upper=False, unit=True)
    return by_triangle(t, lu, inner, upper=True)


def _transposed_solution(t: Translation, lu: Value, pivots: Value, right: Value) -> Value:
    """X with U^T L^T P^T X = B."""
    inner = by_triangle(t, transposed(lu), right, upper=False)
    outer = by_triangle(t, transposed(lu), inner, upper=True, unit=True)
    return _exchanged(t, pivots, outer, back=True)


@on("linalg_lu_solve")
def _lu_solve(
    t: Translation, node: Node, a: Any, pivots: Any, b: Any, *, left: bool = True,
    adjoint: bool = False,
) -> Value:  # fmt: skip
    """X with A X = B, or X A = B unless ``left``, or with A^T in place of A if ``adjoint``."""
    lu, exchanges, right = t.value(a), t.value(pivots), t.value(b)
    square(node, lu)
    by = _solution if left != adjoint else _transposed_solution
    if left:
        return by(t, lu, exchanges, right)
    return transposed(by(t, lu, exchanges, transposed(right)))


@on("_linalg_solve_ex")
def _solve(
    t: Translation, node: Node, a: Any, b: Any, *, left: bool = True, check_errors: bool = False
) -> tuple[Value, None, None, Value]:
    """The solution, of a singular matrix NaN, and whether it is; factors must not be asked for."""
    _require_unused(node, 1, 2)
    matrix, right = t.value(a), t.value(b)
    lu, pivots, failed = _factors(t, node, matrix)
    rank = len(right.shape)
    is_vector = rank == 1 or (rank < len(matrix.shape) and right.shape == matrix.shape[:-1])
    columns = right.viewed((*right.shape, 1), lambda i: i[:-1]) if is_vector else right
    if left:
        found = _solution(t, lu, pivots, columns)
    else:
        found = transposed(_transposed_solution(t, lu, pivots, transposed(columns)))
    found = without(t, failed, found)
    if is_vector:
        found = found.viewed(found.shape[:-1], lambda i: (*i, number(0)))
    return found, None, None, failed


def _require_unused(node: Node, *results: int) -> None:
    if any(user.args[1] in results and user.users for user in node.users):
        raise Unsupported(f"the factors of {node.target}")


# ------------------------------------------------------------------------------------ determinants


def _diagonal(lu: Value) -> Value:
    return lu.viewed(lu.shape[:-1], lambda i: (*i, i[-1]))


def _parity(t: Translation, pivots: Value) -> Value:
    """-1 to the number of row exchanges."""

    def entry(i: At) -> Expr:
        sign = "pick({0} == {1}, {2}, -{2})"
        return apply(sign, pivots.at(i), Counted(i[-1] + 1), ONE)

    return t.reduced(Value(pivots.shape, entry), [-1], False, "*")


@on("_linalg_det")
def _det(t: Translation, node: Node, a: Any) -> tuple[Value, None, None]:
    _require_unused(node, 1, 2)
    lu, pivots, _ = _factors(t, node, t.value(a))
    product = t.reduced(_diagonal(lu), [-1], False, "*")
    return mapped(t, product.shape, "{0} * {1}", product, _parity(t, pivots)), None, None


@on("_linalg_slogdet")
def _slogdet(t: Translation, node: Node, a: Any) -> tuple[Value, Value, None, None]:
    _require_unused(node, 2, 3)
    lu, pivots, _ = _factors(t, node, t.value(a))
    diagonal = _diagonal(lu)
    signs = t.reduced(mapped(t, diagonal.shape, "sign_of({0})", diagonal), [-1], False, "*")
    logs = mapped(t, diagonal.shape, "logarithm(absolute({0}))", diagonal)
    sign = mapped(t, signs.shape, "{0} * {1}", signs, _parity(t, pivots))
    return sign, t.reduced(logs, [-1], False, "+"), None, None
