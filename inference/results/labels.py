"""Names of sites and dimensions in tables and files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ...ppl.errors import DataError, located
from .arviz import SAMPLES

Shapes = Mapping[str, Sequence[int]]


def portable(names: Collection[str]) -> dict[str, str]:
    """A name for each that files can hold: without ``/``, and no two alike.

    One that is ``chain`` or ``draw``, as the dimensions of draws are, has ``_`` behind it.
    """
    found: dict[str, str] = {}
    plain = {name for name in names if "/" not in name and name not in SAMPLES}
    for mark in (".", ":", "__", "___"):
        found = {
            name: name.replace("/", mark) if "/" in name else name + "_" * len(mark)
            for name in names
            if name not in plain
        }
        if not plain & set(found.values()) and max(Counter(found.values()).values(), default=1) < 2:
            break
    return {name: name for name in plain} | found


def named_dimensions(
    shapes: Shapes, plates: Mapping[str, Sequence[str]], given: Mapping[str, Sequence[str]]
) -> dict[str, list[str]]:
    """A name for every dimension of every site: given, of its plate, or a number.

    A plate that has another size elsewhere is told from it by its size, as in ``row_5``.

    Errors:
        DataError: names are given for no site, not as many as it has dimensions, one of them
            twice, or for dimensions of different sizes.
    """
    for name, each in given.items():
        if name not in shapes:
            what = f"dims: there is no site '{name}'"
            raise DataError(located(what, hint=f"the sites are {', '.join(shapes)}"))
        if len(each) != len(shapes[name]):
            what = f"dims: {len(each)} names for the {len(shapes[name])} dimensions of '{name}'"
            raise DataError(located(what, site=name, hint="give one name for each dimension"))
        if len(set(each)) < len(each):
            what = f"dims: two dimensions of '{name}' have one name"
            raise DataError(located(what, site=name, hint="give each a name of its own"))
    sizes: dict[str, int] = {}
    found: dict[str, list[str]] = {}
    for name in sorted(shapes, key=lambda name: name not in given):
        shape, known = shapes[name], given.get(name) or plates.get(name, ())
        known = known if len(known) == len(shape) else [""] * len(shape)
        dims = [_free(d or f"{name}_dim_{i}", shapes) for i, d in enumerate(known)]
        for i, (dim, size) in enumerate(zip(dims, shape, strict=True)):
            if sizes.setdefault(dim, size) != size:
                if name in given:
                    what = f"dims: '{dim}' has {sizes[dim]} entries, and {size} at '{name}'"
                    hint = "give dimensions of different sizes different names"
                    raise DataError(located(what, site=name, hint=hint))
                dims[i] = _free(f"{dim}_{size}", shapes)
                sizes[dims[i]] = size
        found[name] = dims
    return found


def _free(dim: str, shapes: Shapes) -> str:
    """A name for a dimension that is not that of a site, which tables would take it for."""
    return f"{dim}_dim" if dim in shapes or dim in SAMPLES else dim


def labelled(
    coords: Mapping[str, Sequence[Any]],
    shapes: Shapes,
    named: Mapping[str, Sequence[str]],
    *,
    anew: bool = False,
) -> dict[str, Sequence[Any]]:
    """Labels by the names that dimensions have.

    Args:
        anew: leave out those that do not fit.

    Errors:
        DataError: labels are of no dimension, or not one for each of its entries.
    """
    sizes = {
        dim: size
        for name, shape in shapes.items()
        for dim, size in zip(named[name], shape, strict=True)
    }
    found = {}
    for given, labels in coords.items():
        dim = _free(given, shapes)
        if anew and sizes.get(dim) != len(labels):
            continue
        if dim not in sizes:
            what = f"coords: no site has a dimension '{given}'"
            hint = f"the dimensions are {', '.join(sizes) or 'none'}"
            raise DataError(located(what, hint=hint))
        if len(labels) != sizes[dim]:
            what = f"coords: {len(labels)} labels for '{given}', which has {sizes[dim]} entries"
            raise DataError(located(what, hint="give one label for each entry"))
        found[dim] = labels
    return found
