"""Names of sites and dimensions in tables and files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ...ppl.errors import DataError, located

Shapes = Mapping[str, Sequence[int]]


def as_they_are(names: Collection[str]) -> dict[str, str]:
    """Each name for itself."""
    return {name: name for name in names}


def portable(names: Collection[str]) -> dict[str, str]:
    """A name for each that files can hold: without ``/``, and no two alike."""
    found: dict[str, str] = {}
    plain = {name for name in names if "/" not in name}
    for mark in (".", ":", "__", "___"):
        found = {name: name.replace("/", mark) for name in names if name not in plain}
        if not plain & set(found.values()) and max(Counter(found.values()).values(), default=1) < 2:
            break
    return as_they_are(plain) | found


def named_dimensions(
    shapes: Shapes, plates: Mapping[str, Sequence[str]], given: Mapping[str, Sequence[str]]
) -> dict[str, list[str]]:
    """A name for every dimension of the sites that have one: given, of its plate, or a number.

    Errors:
        DataError: names are given for no site, or not as many as it has dimensions.
    """
    for name, each in given.items():
        if name not in shapes:
            what = f"dims: there is no site '{name}'"
            raise DataError(located(what, hint=f"the sites are {', '.join(shapes)}"))
        if len(each) != len(shapes[name]):
            what = f"dims: {len(each)} names for the {len(shapes[name])} dimensions of '{name}'"
            raise DataError(located(what, site=name, hint="give one name for each dimension"))
    found = {}
    for name, shape in shapes.items():
        each = given.get(name, plates.get(name, ()))
        if any(each) and len(each) == len(shape):
            found[name] = [_free(dim, shapes) or f"{name}_dim_{i}" for i, dim in enumerate(each)]
    return found


def _free(dim: str, shapes: Shapes) -> str:
    """A name for a dimension that is not that of a site, which tables would take it for."""
    return f"{dim}_dim" if dim in shapes else dim


def labelled(
    coords: Mapping[str, Sequence[Any]], shapes: Shapes, named: Mapping[str, Sequence[str]]
) -> dict[str, Sequence[Any]]:
    """Labels by the names that dimensions have.

    Errors:
        DataError: labels are of no dimension, or not one for each of its entries.
    """
    sizes = {
        dim: size
        for name, shape in shapes.items()
        for i, size in enumerate(shape)
        for dim in [named[name][i] if name in named else f"{name}_dim_{i}"]
    }
    found = {}
    for given, labels in coords.items():
        dim = _free(given, shapes)
        if dim not in sizes:
            what = f"coords: no site has a dimension '{given}'"
            hint = f"the dimensions are {', '.join(sizes) or 'none'}"
            raise DataError(located(what, hint=hint))
        if len(labels) != sizes[dim]:
            what = f"coords: {len(labels)} labels for '{given}', which has {sizes[dim]} entries"
            raise DataError(located(what, hint="give one label for each entry"))
        found[dim] = labels
    return found
