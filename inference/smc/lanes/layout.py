"""How the tensors of a tree lie in one vector of numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ....ppl.compile.lanes.translation import Unsupported
from ....ppl.tensors.forms import Form, as_tensors, taken_apart


@dataclass(frozen=True)
class Layout:
    """The form of a tree, and the types and shapes of its tensors."""

    form: Form
    kinds: tuple[tuple[torch.dtype, torch.Size], ...]

    @staticmethod
    def of(tree: Any) -> Layout:
        tensors, form = taken_apart(as_tensors(tree))
        return Layout(form, tuple((x.dtype, x.shape) for x in tensors))

    @property
    def sizes(self) -> list[int]:
        return [shape.numel() for _, shape in self.kinds]

    @property
    def size(self) -> int:
        return sum(self.sizes)

    def vector(self, tree: Any, dtype: torch.dtype) -> Tensor:
        """The numbers of a tree of this layout.

        Errors:
            Unsupported: it has another.
        """
        tensors, _ = taken_apart(as_tensors(tree))
        if Layout.of(tree) != self:
            raise Unsupported("a carry that changes its structure, shape or type")
        parts = [x.reshape(-1).to(dtype) for x in tensors]
        return torch.cat(parts) if parts else torch.zeros(0, dtype=dtype)

    def tree(self, vector: Tensor) -> Any:
        """The tree of the numbers [size], or of those of many particles [size, n]: [n, ...]."""
        tensors, first = [], 0
        for size, (dtype, shape) in zip(self.sizes, self.kinds, strict=True):
            part = vector[first : first + size]
            part = part.reshape(shape) if vector.ndim == 1 else part.t().reshape(-1, *shape)
            tensors.append(part.to(dtype))
            first += size
        return self.form.tree(tensors)
