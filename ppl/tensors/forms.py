"""Forms: what a tree is without its tensors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten


class Form(NamedTuple):
    """A tree without its tensors: where they stand, and all other leaves."""

    spec: Any
    others: tuple[Any, ...]

    def tree(self, tensors: Iterable[Tensor]) -> Any:
        """The tree with these tensors."""
        each = iter(tensors)
        leaves = [next(each) if other is _TENSOR else other for other in self.others]
        return tree_unflatten(leaves, self.spec)


_TENSOR = type(Tensor)  # stands for a tensor in a form


def taken_apart(tree: Any) -> tuple[list[Tensor], Form]:
    """The tensors of a tree, and its form."""
    leaves, spec = tree_flatten(tree)
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    others = tuple(_TENSOR if isinstance(leaf, Tensor) else leaf for leaf in leaves)
    return tensors, Form(spec, others)


def as_tensors(y: Any) -> Any:
    """A tree with tensors in place of its numbers; None stays."""
    return tree_map(lambda leaf: None if leaf is None else torch.as_tensor(leaf), y)
