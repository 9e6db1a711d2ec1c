"""What knows an operation registers here, and what it asks of a node of the graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch.fx import Node

from .translation import Shape, Translation, Unsupported, Value, apply

# (translation, node, *its arguments) -> its value, or its values
HANDLERS: dict[str, Callable[..., Any]] = {}

Handler = TypeVar("Handler", bound=Callable[..., Any])


def on(*names: str) -> Callable[[Handler], Handler]:
    """Register what these operations do."""

    def registered(handler: Handler) -> Handler:
        HANDLERS.update(dict.fromkeys(names, handler))
        return handler

    return registered


def name_of(node: Node) -> str:
    """The operation's, whatever its overload."""
    target: Any = node.target
    packet = getattr(target, "overloadpacket", target)
    return str(packet.__name__)


def shape_of(node: Node) -> Shape:
    return tuple(int(n) for n in node.meta["val"].shape)


def dtype_of(node: Node) -> torch.dtype:
    dtype: torch.dtype = node.meta["val"].dtype
    return dtype


def is_whole(t: Translation, dtype: torch.dtype) -> bool:
    """Whether whole numbers of this kind are exact as reals; narrower ones wrap around."""
    return dtype == torch.int64 and t.dtype == torch.float64


def mapped(t: Translation, shape: Shape, template: str, *args: Value, mask: bool = False) -> Value:
    """A function of the entries of some values, broadcast to a shape."""
    wide = [x.expanded(shape) for x in args]
    return Value(shape, lambda i: apply(template, *(x.at(i) for x in wide), mask=mask), mask)


def require_real(t: Translation, node: Node) -> None:
    if dtype_of(node) != t.dtype and not is_whole(t, dtype_of(node)):
        raise Unsupported(f"{node.target} in {dtype_of(node)} beside {t.dtype}")
