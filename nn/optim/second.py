"""Whether a loss can be differentiated twice, or autograd would leave parts of it out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.autograd.function import once_differentiable

ONCE = once_differentiable(lambda ctx: None).__code__  # that of every backward so marked


def require_second(loss: Tensor, slope: Tensor, remedy: str) -> None:
    """Raise if a function with one derivative only is in the graph of a loss or its gradient.

    Its part would be missing from second derivatives without a word: the gradient is a constant
    there, or ends in a node that raises an error when it is run, and is not, since no parameter
    lies behind it.

    Errors:
        RuntimeError: there is such a function; ``remedy`` says what to do.
    """
    for node in _nodes(loss):
        backward = getattr(getattr(node, "_forward_cls", None), "backward", None)
        if getattr(backward, "__code__", None) is ONCE:
            raise RuntimeError(f"{node.name()} has no second derivatives: {remedy}")
    for node in _nodes(slope):
        if node.name().split("::")[-1] in ("Error", "NotImplemented"):
            raise RuntimeError(f"a part of the loss has no second derivatives: {remedy}")


def _nodes(tensor: Tensor) -> Iterator[Any]:
    seen, waiting = set(), [tensor.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            waiting += [following for following, _ in node.next_functions]
