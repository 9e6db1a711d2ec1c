"""Which areas are neighbours, as pairs with weights, and what laws on them need of that once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from ...errors import ProgramError, located

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Areas 0 to n - 1, and pairs of them with positive weights.

    Args:
        count: n.
        first, second: [E], the areas of each pair, first < second.
        weights: [E], positive.

    All are arrays of numpy, which no trace or lane of a program sees.
    """

    count: int
    first: Array
    second: Array
    weights: Array

    @staticmethod
    def of(adjacency: Any) -> Neighbours:
        """The pairs of a matrix [n, n], dense or of scipy.sparse, symmetric with a zero diagonal.

        Errors:
            ProgramError: it is not such a matrix, a weight is negative, or an area is alone.
        """
        given = adjacency if sparse.issparse(adjacency) else np.asarray(adjacency, dtype=float)
        matrix = sparse.coo_matrix(given)
        rows, columns = matrix.shape
        if rows != columns or abs(matrix - matrix.T).max() > 0 or matrix.diagonal().any():
            what = (
                f"neighbours are a symmetric matrix [n, n], zero on its diagonal: {rows, columns}"
            )
            raise ProgramError(located(what))
        if not np.all(matrix.data > 0):
            raise ProgramError(located("weights of neighbours are positive"))
        alone = np.flatnonzero(np.asarray(matrix.sum(1)).ravel() == 0)
        if len(alone):
            what = f"areas {alone[:5].tolist()} have no neighbours"
            raise ProgramError(located(what, hint="give them an independent effect"))
        upper = sparse.triu(matrix).tocoo()
        return Neighbours(rows, upper.row, upper.col, upper.data)

    @staticmethod
    def of_pairs(pairs: Any, count: int | None = None) -> Neighbours:
        """The same of pairs [E, 2] in any order, each with weight one."""
        edges = np.asarray(pairs, dtype=np.int64)
        n = int(edges.max()) + 1 if count is None else count
        matrix = np.zeros((n, n))
        matrix[edges[:, 0], edges[:, 1]] = matrix[edges[:, 1], edges[:, 0]] = 1.0
        return Neighbours.of(matrix)

    @cached_property
    def matrix(self) -> Array:
        """The weights [n, n]."""
        found = np.zeros((self.count, self.count))
        found[self.first, self.second] = self.weights
        return found + found.T

    @cached_property
    def degrees(self) -> Array:
        """The sum of the weights of each area [n]."""
        found: Array = self.matrix.sum(1)
        return found

    @cached_property
    def spectrum(self) -> Array:
        """The eigenvalues [n] of D^(-1/2) W D^(-1/2), ascending: the last is one."""
        root = self.degrees**-0.5
        return np.linalg.eigvalsh(root[:, None] * self.matrix * root)

    @cached_property
    def modes(self) -> tuple[Array, Array]:
        """Eigenvalues [n - 1] and vectors [n, n - 1] of D - W, without the constant one."""
        values, vectors = np.linalg.eigh(np.diag(self.degrees) - self.matrix)
        return values[1:], vectors[:, 1:]

    @cached_property
    def log_degrees(self) -> float:
        return float(np.log(self.degrees).sum())

    @cached_property
    def log_modes(self) -> float:
        return float(np.log(self.modes[0]).sum())

    @cached_property
    def parts(self) -> int:
        """How many groups of areas have no neighbours outside."""
        return int(connected_components(sparse.csr_matrix(self.matrix), directed=False)[0])

    def differences(self, x: Tensor) -> Tensor:
        """The sum over pairs of w (x_i - x_j)^2 [*batch], of x [*batch, n]."""
        first, second = (torch.as_tensor(i, dtype=torch.int64) for i in (self.first, self.second))
        apart = x[..., first] - x[..., second]
        return (self.tensor(self.weights, x) * apart.square()).sum(-1)

    @staticmethod
    def tensor(array: Array, like: Tensor) -> Tensor:
        """An array in the precision and on the device of a tensor."""
        return torch.as_tensor(array, dtype=like.dtype, device=like.device)
