"""Which entry of an input each entry of a result looks at, by what every operation does to places.

A tensor has a map for each input that it depends on: whole numbers of its own shape, 0 where an
entry looks at none of the input, 1 + i where it looks at entry i only, ``SEVERAL`` where at more.
Operations that move entries move their maps; elementwise ones, reductions and products merge them;
whatever is not known merges everything.  So a map never says less than there is.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._C import _functorch as functorch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from .capture import is_traced

SEVERAL = 2**40
Look = Callable[[Tensor], Tensor | None]  # the map of a tensor for one input
Maps = dict[str, Tensor]  # of one tensor, by input


# Operations that move entries: on maps they do what they do on values (zero is "none").
_MOVES = {
    *("view", "_unsafe_view", "reshape", "permute", "transpose", "t", "unsqueeze", "squeeze"),
    *("expand", "slice", "select", "alias", "detach", "clone", "diagonal", "flip", "roll"),
    *("repeat", "unfold", "split", "split_with_sizes", "chunk", "unbind", "narrow", "movedim"),
    *("cat", "stack", "diag_embed", "tril", "triu", "unsafe_split", "expand_copy", "view_copy"),
    *("index_select", "gather", "index", "take", "constant_pad_nd", "select_scatter"),
    *("slice_scatter", "_reshape_alias", "lift_fresh", "lift", "contiguous"),
}
_RESHAPES = {"view", "_unsafe_view", "view_copy", "reshape", "_reshape_alias"}
_SHAPED = {"squeeze_", "unsqueeze_", "t_", "transpose_"}
_REDUCES = {
    *("sum", "mean", "amax", "amin", "prod", "logsumexp", "any", "all", "var", "std", "max", "min"),
    *("argmax", "argmin", "norm", "linalg_vector_norm"),
}
_ALONG = {"_softmax", "_log_softmax", "cumsum", "cumprod", "logcumsumexp", "sort", "cummax"}
# Elementwise, though torch does not say so.
_SINGLE = {"_to_copy", "copy", "where", "log_sigmoid_forward", "masked_fill"}
# Operations that take from a tensor its shape only.
_MAKES = {f"{kind}_like" for kind in ("zeros", "ones", "full", "empty", "rand", "randn")}
_MAKES |= {f"new_{kind}" for kind in ("zeros", "ones", "full", "empty", "empty_strided")}
# On the matrices of a batch: cholesky_solve, ...
_MATRICES = {
    *("linalg_solve_triangular", "cholesky_solve", "cholesky_inverse", "linalg_cholesky_ex"),
    *("linalg_inv_ex", "_linalg_det", "_linalg_slogdet", "_linalg_eigh", "_linalg_svd"),
}
_COLUMNS = {"linalg_solve_triangular": 1, "cholesky_solve": 0}  # whose columns are solved alone
_PRODUCTS = {"mm", "bmm", "mv", "dot", "addmm", "baddbmm"}


class Origins(TorchDispatchMode):
    """Follows some inputs, tensors of whole entries, through all that is computed within."""

    def __init__(self) -> None:
        super().__init__()
        self._maps: dict[int, Maps] = {}
        self._alive: list[Tensor] = []  # an address names one tensor as long as that is alive
        self._written: dict[int, Maps] = {}  # by storage: what was written there in place

    def follow(self, name: str, value: Tensor, entries: int) -> Tensor:
        """An input whose first dimensions, of so many entries, are told apart."""
        value = value.clone()
        width = value.numel() // max(entries, 1)
        places = torch.arange(1, entries + 1).repeat_interleave(width).reshape(value.shape)
        self._note(plain(value), {name: plain(places)})
        return value

    def of(self, value: Tensor) -> Maps:
        """The maps of a result; those of lanes are merged."""
        while functorch.is_functorch_wrapped_tensor(value):
            inner = functorch.get_unwrapped(value)
            if functorch.is_batchedtensor(value):
                dim = functorch.maybe_get_bdim(value)
                of_all = self.of(inner).items()
                return {n: plain(_merged(told, [dim], False)) for n, told in of_all}
            value = inner
        found = self._maps.get(id(value), {})
        for name, all_of_it in self._written.get(_storage(value), {}).items():
            told = _view(all_of_it, value).clone()
            found = {**found, name: _merge(found.get(name, told), told)}
        return found

    def _look(self, name: str) -> Look:
        return lambda x: self.of(x).get(name)

    def _note(self, value: Any, maps: Maps) -> None:
        if isinstance(value, Tensor) and maps:
            self._alive.append(value)
            self._maps[id(value)] = maps

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        inputs = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        names = sorted({name for x in inputs for name in self.of(x)})
        if not names:
            return result
        if (shaped := func.overloadpacket.__name__) in _SHAPED:  # in place, but nothing is written
            before = self.of(args[0]).items()
            self._note(args[0], {n: getattr(m.clone(), shaped)(*args[1:]) for n, m in before})
            return result
        if func._schema.is_mutable:
            self._write(func, args, kwargs, names)
            return result
        rule = _rule(func)
        outputs = [x for x in tree_leaves(result) if isinstance(x, Tensor)]
        maps: list[Maps] = [{} for _ in outputs]
        for name in names:
            told = rule(func, args, kwargs, self._look(name), outputs)
            for each, place in zip(maps, told, strict=True):
                if bool(place.any()):
                    each[name] = place
        for output, each in zip(outputs, maps, strict=True):
            self._note(output, each)
        return result

    def _write(self, func: Any, args: Any, kwargs: Any, names: list[str]) -> None:
        """What is written in place is known of a storage, place by place, for all that views it."""
        target: Tensor = args[0]
        own = func.overloadpacket.__name__.removesuffix("_")
        single = torch.Tag.pointwise in func.tags or own in _SINGLE
        rule = _elementwise if single else _unknown
        told = {name: rule(func, args, kwargs, self._look(name), [target])[0] for name in names}
        kept = self._written.setdefault(_storage(target), {})
        size = target.untyped_storage().nbytes() // target.element_size()
        for name, places in told.items():
            whole = kept.setdefault(name, torch.zeros(size, dtype=torch.int64))
            if single:
                part = _view(whole, target)
                part.copy_(_merge(part, places))
            else:
                whole.copy_(_merge(whole, _all(places)))
        self._alive.append(target)


def plain(x: Tensor) -> Tensor:
    """A tensor of whole numbers without what functions around it wrap it in; lanes stay lanes."""
    while functorch.is_gradtrackingtensor(x):
        x = functorch.get_unwrapped(x)
    return x


Rule = Callable[[Any, tuple[Any, ...], dict[str, Any], Look, list[Tensor]], Sequence[Tensor]]


def _rule(func: Any) -> Rule:
    """What an operation does to maps."""
    name = func.overloadpacket.__name__
    if name in _MOVES:
        return _moved
    if name in _MAKES:
        return _made
    if torch.Tag.pointwise in func.tags or name in _SINGLE:
        return _elementwise
    if name in _REDUCES:
        return _reduced
    if name in _ALONG:
        return _along
    if name in _PRODUCTS:
        return _multiplied
    if name in _MATRICES:
        return _by_matrix
    return _unknown


def _moved(func: Any, args: Any, kwargs: Any, look: Look, outputs: list[Tensor]) -> list[Tensor]:
    """The same move of the map; places that are not known merge all that they may take from."""
    sources, places = (args[:1], args[1:])
    asked = [x for x in tree_leaves(places) if isinstance(x, Tensor)]
    values = func.overloadpacket.__name__ in ("select_scatter", "slice_scatter")
    chosen = [] if values else [look(x) for x in asked]
    maps = tree_map(lambda x: _map_of(x, look), sources)
    if any(m is not None for m in chosen) or any(is_traced(x) for x in asked if not values):
        whole = functools.reduce(_merge, (_all(m) for m in tree_leaves(maps)))
        joined = _merge(whole, _picked(func, args, look, outputs[0]))
        return [joined.expand(output.shape).clone() for output in outputs]
    if values:
        places = (_map_of(places[0], look), *places[1:])
    if func.overloadpacket.__name__ == "constant_pad_nd":
        return [func(*maps, *places[:1], 0)]
    if func.overloadpacket.__name__ in _RESHAPES:  # maps may lie in memory otherwise than values
        return [maps[0].reshape(outputs[0].shape)]
    moved = func(*maps, *places, **{k: v for k, v in kwargs.items() if k != "memory_format"})
    return [x for x in tree_leaves(moved) if isinstance(x, Tensor)]


def _picked(func: Any, args: Any, look: Look, output: Tensor) -> Tensor:
    """The map of the places by which a result was picked, where they are in the result."""
    name = func.overloadpacket.__name__
    asked = [x for x in tree_leaves(args[1:]) if isinstance(x, Tensor)]
    told = [_map_of(x, look) for x in asked]
    if name == "index_select":
        dim = args[1] % max(output.ndim, 1)
        columns: Tensor = told[0].reshape(-1, *(1,) * (output.ndim - 1 - dim))
        return columns
    if name in ("gather", "take"):  # a place for each entry of the result
        places: Tensor = told[0].reshape(output.shape)
        return places
    if name == "index" and all(x.dtype is not torch.bool for x in asked):
        joined = functools.reduce(_merge, told)
        first = next(dim for dim, x in enumerate(args[1]) if x is not None)
        last = max(dim for dim, x in enumerate(args[1]) if x is not None)
        apart = any(x is None for x in args[1][first:last])  # then their dimensions are the first
        after = output.ndim - (0 if apart else first) - joined.ndim
        spread: Tensor = joined.reshape(*joined.shape, *(1,) * after)
        return spread
    return functools.reduce(_merge, map(_all, told))


def _map_of(x: Any, look: Look) -> Any:
    if not isinstance(x, Tensor):
        return x
    told = look(x)
    return torch.zeros(x.shape, dtype=torch.int64) if told is None else told


def _made(func: Any, args: Any, kwargs: Any, look: Look, outputs: list[Tensor]) -> list[Tensor]:
    return [torch.zeros(output.shape, dtype=torch.int64) for output in outputs]


def _elementwise(
    func: Any, args: Any, kwargs: Any, look: Look, outputs: list[Tensor]
) -> list[Tensor]:
    told = [look(x) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    merged = functools.reduce(_merge, [m for m in told if m is not None])
    return [merged.expand(output.shape).clone() for output in outputs]


def _given(func: Any, args: Any, kwargs: Any, name: str, default: Any) -> Any:
    """An argument of an operation by its name."""
    names = [argument.name for argument in func._schema.arguments]
    place = names.index(name) if name in names else len(args)
    return kwargs.get(name, args[place] if place < len(args) else default)


def _dims(func: Any, args: Any, kwargs: Any, rank: int) -> tuple[list[int], bool]:
    """The dimensions of a reduction, and whether they are kept."""
    dims = _given(func, args, kwargs, "dim", None)
    listed = [dims] if isinstance(dims, int) else list(dims or range(rank))
    keep = _given(func, args, kwargs, "keepdim", False)
    return [d % max(rank, 1) for d in listed], bool(keep)


def _reduced(func: Any, args: Any, kwargs: Any, look: Look, outputs: list[Tensor]) -> list[Tensor]:
    source = args[0]
    if any(look(x) is not None for x in tree_leaves(args[1:]) if isinstance(x, Tensor)):
        return _unknown(func, args, kwargs, look, outputs)
    if any(isinstance(x, Tensor) for x in tree_leaves((args[1:], kwargs))):
        return _unknown(func, args, kwargs, look, outputs)
    dims, keep = _dims(func, args, kwargs, source.ndim)
    told = _merged(_map_of(source, look), dims, keep)
    if any(told.shape != output.shape for output in outputs):
        return _unknown(func, args, kwargs, look, outputs)
    return [told.clone() for _ in outputs]


def _along(func: Any, args: Any, kwargs: Any, look: Look, outputs: list[Tensor]) -> list[Tensor]:
    source, dim = args[0], _given(func, args, kwargs, "dim", -1)
    told = _merged(_map_of(source, look), [dim % max(source.ndim, 1)], True)
    return [told.expand(output.shape).clone() for output in outputs]


def _multiplied(
    func: Any, args: Any, kwargs: Any, look: Look, outputs: list[Tensor]
) -> list[Tensor]:
    *added, left, right = (_map_of(x, look) for x in args if isinstance(x, Tensor))
    rows = _merged(left, [left.ndim - 1], right.ndim > 1)
    inner = right.ndim - (2 if right.ndim > 1 else 1)
    columns = _merged(right, [inner], left.ndim > 1 and right.ndim > 1)
    told = functools.reduce(_merge, [rows, columns, *added])
    return [told.expand(output.shape).clone() for output in outputs]


def _by_matrix(
    func: Any, args: Any, kwargs: Any, look: Look, outputs: list[Tensor]
) -> list[Tensor]:
    """Each matrix of a result looks at all of those in its place, but at columns one by one."""
    matrices = [x for x in args if isinstance(x, Tensor)]
    if any(x.ndim < 2 or not x.is_floating_point() for x in matrices):
        return _unknown(func, args, kwargs, look, outputs)
    whole = [_merged(_map_of(x, look), [x.ndim - 2, x.ndim - 1], True) for x in matrices]
    told = functools.reduce(_merge, whole)
    if (place := _COLUMNS.get(func.overloadpacket.__name__)) is not None:
        sides = matrices[place]
        dim = sides.ndim - (2 if _given(func, args, kwargs, "left", True) else 1)
        rest = [m for i, m in enumerate(whole) if i != place]
        by_column = functools.reduce(_merge, [_merged(_map_of(sides, look), [dim], True), *rest])
        return [by_column.expand(outputs[0].shape).clone()]
    parts = (told.reshape(told.shape[: x.ndim]) for x in outputs)
    return [part.expand(x.shape).clone() for part, x in zip(parts, outputs, strict=True)]


def _unknown(func: Any, args: Any, kwargs: Any, look: Look, outputs: list[Tensor]) -> list[Tensor]:
    told = [look(x) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    merged = functools.reduce(_merge, [_all(m) for m in told if m is not None])
    return [merged.expand(output.shape).clone() for output in outputs]


def _merge(a: Tensor, b: Tensor) -> Tensor:
    """What looks at both: at one entry if it is the same, or if one of them is none."""
    several = torch.full((), SEVERAL)
    return torch.where(a == 0, b, torch.where((b == 0) | (a == b), a, several))


def _merged(told: Tensor, dims: Sequence[int], keep: bool) -> Tensor:
    """What looks at all entries along some dimensions."""
    if told.ndim == 0 or not dims:
        return told
    if not told.numel():
        shape = [1 if i in dims else n for i, n in enumerate(told.shape) if keep or i not in dims]
        return torch.zeros(shape, dtype=torch.int64)
    most = told.amax(list(dims), keepdim=keep)
    least = torch.where(told == 0, SEVERAL, told).amin(list(dims), keepdim=keep)
    return torch.where((most == 0) | (most == least), most, SEVERAL)


def _view(whole: Tensor, value: Tensor) -> Tensor:
    """The part of a storage's map that a tensor views."""
    if whole.numel() != value.untyped_storage().nbytes() // value.element_size():
        return _all(whole).expand(value.shape)  # its numbers have another size
    return whole.as_strided(value.size(), value.stride(), value.storage_offset())


def _all(told: Tensor) -> Tensor:
    return _merged(told, list(range(told.ndim)), False)


def _storage(value: Tensor) -> int:
    try:
        return int(value.untyped_storage().data_ptr())
    except (RuntimeError, NotImplementedError):
        return 0
