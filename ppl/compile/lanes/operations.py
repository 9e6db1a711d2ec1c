"""The operations of a graph as values and statements; any other is refused by its name."""

from __future__ import annotations

import math

import torch
from torch.fx import GraphModule, Node

from . import (  # noqa: F401  # they register what they know
    matrices,
    selecting,
    solving,
    spectra,
    sums,
    turning,
    views,
    writing,
)
from .graphs import placeholders, results_of
from .indices import flat, restart_numbers
from .registry import dtype_of, shape_of
from .statements import Buffer, Load, Shared
from .translation import Translation, Value, known_places


def translate(graph: GraphModule, dtype: torch.dtype, places: int = 0) -> Translation:
    """The statements of ``u [d], *rest -> results``, and the tables that they read.

    They read the vector as the buffer ``u`` and the k-th further tensor as ``rest{k}``, which all
    lanes share, and write the k-th result to the buffer ``out{k}``.  A further tensor that is a
    whole number is a place below ``places``.

    Errors:
        Unsupported: an operation, or a form of one, that lane code does not know.
    """
    restart_numbers()
    t = Translation(dtype)
    inputs = [_input(node, k, places) for k, node in enumerate(placeholders(graph))]
    t.inputs = [dtype_of(node) for node in placeholders(graph)]
    for k, result in enumerate(results_of(t, graph, inputs)):
        t.output(t.value(result), k)
    return t


def _input(node: Node, k: int, places: int) -> Value:
    shape = shape_of(node)
    if k == 0:
        u = Buffer("u", math.prod(shape), whole=True)
        return Value(shape, lambda i: Load(u, flat(i, shape)))
    if not dtype_of(node).is_floating_point:
        return known_places(f"rest{k}", shape, (0, places - 1))
    return Value(shape, lambda i: Shared(f"rest{k}", flat(i, shape)))
