"""Tensors of a fit or a prediction, in groups, as ArviZ takes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .arviz import dataset
from .labels import labelled, named_dimensions, portable

Tensors = Mapping[str, Tensor]
Coords = Mapping[str, Sequence[Any]]
Dims = Mapping[str, Sequence[str]]


def as_arrays(tensors: Tensors) -> dict[str, Any]:
    """Arrays of numpy, which has no bfloat16."""
    found = {name: x.detach().cpu() for name, x in tensors.items()}
    return {
        name: (x.float() if x.dtype is torch.bfloat16 else x).numpy() for name, x in found.items()
    }


def datasets(
    groups: Mapping[str, Tensors],
    plates: Dims,
    coords: Coords,
    dims: Dims,
    attrs: Mapping[str, Any],
    *,
    anew: bool = False,
) -> dict[str, Any]:
    """Each group that is not empty, its dimensions named and labelled.

    Args:
        groups: [chains, draws, *shape] by group and site, and [*shape] in groups of data.
        plates: of each dimension of a site, "" where it has none.
        coords: labels by dimension.
        dims: names for the dimensions of sites, in place of those of their plates.
        anew: the sites may have other dimensions than coords and dims tell of, and lack some.

    Errors:
        DataError: coords or dims are of no dimension or site, or do not fit it.
    """
    shapes: dict[str, Sequence[int]] = {}
    for group, tensors in groups.items():
        lead = 0 if group.endswith("_data") else 2
        for name, x in tensors.items():  # a log density lacks the dimensions of an event
            shapes[name] = max(shapes.get(name, ()), x.shape[lead:], key=len)
    if anew:
        dims = {n: d for n, d in dims.items() if n in shapes and len(d) == len(shapes[n])}
    named = named_dimensions(shapes, plates, dims)
    labels = labelled(coords, shapes, named, anew=anew)
    names = portable({*shapes, *(dim for each in named.values() for dim in each)})
    return {
        group: dataset(
            {names[name]: x for name, x in as_arrays(tensors).items()},
            {names[name]: [names[dim] for dim in each] for name, each in named.items()},
            {names[dim]: each for dim, each in labels.items()},
            attrs,
            drawn=not group.endswith("_data"),
        )
        for group, tensors in groups.items()
        if tensors
    }
