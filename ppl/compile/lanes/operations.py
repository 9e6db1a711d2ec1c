"""The operations of a graph as values and statements; any other is refused by its name."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.fx import GraphModule, Node

from .indices import Index, Var, flat, number, restart_numbers, strides, unflat
from .matrices import MATRICES
from .pointwise import POWERS, QUESTIONS, REALS, TRUTHS
from .statements import Apply, Buffer, Load, Shared, variables
from .translation import (
    At,
    Scatter,
    Shape,
    Translation,
    Unsupported,
    Value,
    apply,
    at_axes,
    axes,
    constant,
)

Handler = Callable[..., Any]

HANDLERS: dict[str, Handler] = {}


def translate(graph: GraphModule, dtype: torch.dtype) -> Translation:
    """The statements of ``u [d], *rest -> results``, and the tables that they read.

    They read the vector as the buffer ``u`` and the k-th further tensor as ``rest{k}``, which all
    lanes share, and write the k-th result to the buffer ``out{k}``.

    Errors:
        Unsupported: an operation, or a form of one, that lane code does not know.
    """
    restart_numbers()
    t = Translation(dtype)
    for node in graph.graph.nodes:
        if node.op == "placeholder":
            t.values[node] = _input(node, t.inputs)
            t.inputs += 1
        elif node.op == "get_attr":
            t.values[node] = t.table(getattr(graph, str(node.target)))
        elif node.op == "output":
            for k, result in enumerate(node.args[0]):
                t.output(t.value(result), k)
        else:
            t.values[node] = _called(t, node)
    return t


def _input(node: Node, k: int) -> Value:
    shape = _shape(node)
    if k == 0:
        u = Buffer("u", math.prod(shape), whole=True)
        return Value(shape, lambda i: Load(u, flat(i, shape)))
    return Value(shape, lambda i: Shared(f"rest{k}", flat(i, shape)))


def _called(t: Translation, node: Node) -> Any:
    name = _name(node)
    if name == "getitem":
        return t.values[node.args[0]][node.args[1]]  # type: ignore[index]
    handler = HANDLERS.get(name) or MATRICES.get(name)
    if handler is not None:
        return handler(t, node, *node.args, **node.kwargs)
    return _pointwise(t, node, name)


def _name(node: Node) -> str:
    target: Any = node.target
    packet = getattr(target, "overloadpacket", target)
    return str(packet.__name__)


def _shape(node: Node) -> Shape:
    meta = node.meta.get("val")
    if meta is None:
        meta = node.meta["tensor_meta"]
    return tuple(int(n) for n in meta.shape)


def _dtype(node: Node) -> torch.dtype:
    return node.meta["val"].dtype  # type: ignore[no-any-return]


def on(*names: str) -> Callable[[Handler], Handler]:
    """Register what these operations do."""

    def registered(handler: Handler) -> Handler:
        HANDLERS.update(dict.fromkeys(names, handler))
        return handler

    return registered


# ---------------------------------------------------------------------------------- single numbers


def _pointwise(t: Translation, node: Node, name: str) -> Value:
    if node.kwargs.keys() - {"alpha", "dtype"} or name not in {**REALS, **QUESTIONS, **TRUTHS}:
        raise Unsupported(str(node.target))
    args = [t.value(x) for x in node.args]
    if "alpha" in node.kwargs:
        args[1] = _mapped(
            t, args[1].shape, "{0} * {1}", args[1].real, t.value(node.kwargs["alpha"])
        )
    shape = _shape(node)
    if name in TRUTHS and (name.startswith("logical") or all(x.mask for x in args)):
        return t.stored(_mapped(t, shape, TRUTHS[name], *(x.truth for x in args), mask=True))
    if _dtype(node) == torch.bool and name in _OF_TRUTHS:
        template = TRUTHS[_OF_TRUTHS[name]]
        return t.stored(_mapped(t, shape, template, *(x.truth for x in args), mask=True))
    if name in QUESTIONS:
        return t.stored(_mapped(t, shape, QUESTIONS[name], *(x.real for x in args), mask=True))
    if name not in REALS or not _is_real(t, node, name):
        raise Unsupported(f"{node.target} of whole numbers")
    return t.stored(_mapped(t, shape, REALS[name], *(x.real for x in args)))


# What these are of truth values alone; all others are refused.
_OF_TRUTHS = {"add": "logical_or", "mul": "logical_and", "maximum": "logical_or",
              "minimum": "logical_and"}  # fmt: skip
_EXACT = ("add", "sub", "mul", "neg", "abs", "maximum", "minimum", "sign")


def _is_real(t: Translation, node: Node, name: str) -> bool:
    """Whether the machine's reals do what is asked: of whole numbers, with what is exact."""
    dtype = _dtype(node)
    return dtype == t.dtype or (_is_whole(t, dtype) and name in _EXACT)


def _is_whole(t: Translation, dtype: torch.dtype) -> bool:
    """Whether whole numbers of this kind are exact as reals; narrower ones wrap around."""
    return dtype == torch.int64 and t.dtype == torch.float64


def _mapped(t: Translation, shape: Shape, template: str, *args: Value, mask: bool = False) -> Value:
    """A function of the entries of some values, broadcast to a shape."""
    wide = [x.expanded(shape) for x in args]
    return Value(shape, lambda i: apply(template, *(x.at(i) for x in wide), mask=mask), mask)


@on("add", "add_")
def _add(t: Translation, node: Node, x: Any, y: Any, alpha: float = 1) -> Value | Scatter:
    """A sum; of tensors that are mostly zero, one of all their parts."""
    found = [t.values.get(arg) if isinstance(arg, Node) else None for arg in (x, y)]
    if alpha == 1 and _dtype(node) == t.dtype and any(isinstance(each, Scatter) for each in found):
        parts = [_parts(t, arg, _shape(node)) for arg in (x, y)]
        return Scatter(_shape(node), tuple(part for each in parts for part in each))
    return _pointwise(t, node, "add")


def _parts(t: Translation, arg: Any, shape: Shape) -> tuple[Any, ...]:
    """What is added where, for one argument of a sum of this shape."""
    found = t.values.get(arg) if isinstance(arg, Node) else None
    if isinstance(found, Scatter) and found.shape == shape and len(arg.users) == 1:
        return found.parts
    return ((t.value(arg).real.expanded(shape), lambda i: i),)


@on("div")
def _div(t: Translation, node: Node, x: Any, y: Any, rounding_mode: str | None = None) -> Value:
    """By what is the same in many entries, as a product with its reciprocal."""
    if rounding_mode is not None:
        raise Unsupported(f"{node.target} that rounds")
    _real(t, node)
    shape = _shape(node)
    above, below = t.value(x).real, t.value(y).real
    at = at_axes(axes(shape))
    varies = variables(above.expanded(shape).at(at)) - variables(below.expanded(shape).at(at))
    if varies and isinstance(y, Node):
        once = t.stored(_mapped(t, below.shape, "splat(1) / {0}", below))
        return t.stored(_mapped(t, shape, "{0} * {1}", above, once))
    return t.stored(_mapped(t, shape, "{0} / {1}", above, below))


@on("rsub")
def _rsub(t: Translation, node: Node, x: Any, y: Any, alpha: float = 1) -> Value:
    args = t.value(y).real, t.value(x).real, t.value(alpha)
    template = "{0} - {1}" if alpha == 1 else "{0} - {2} * {1}"
    return t.stored(_mapped(t, _shape(node), template, *args))


@on("pow")
def _pow(t: Translation, node: Node, x: Any, y: Any) -> Value:
    _real(t, node)
    known = POWERS.get(float(y)) if isinstance(y, int | float) else None
    args = (t.value(x).real,) if known else (t.value(x).real, t.value(y).real)
    return t.stored(_mapped(t, _shape(node), known or "each(OF(std::pow), {0}, {1})", *args))


@on("where")
def _where(t: Translation, node: Node, condition: Any, x: Any, y: Any) -> Value:
    a, b = t.value(x), t.value(y)
    mask = a.mask and b.mask
    args = (t.value(condition).truth, a if mask else a.real, b if mask else b.real)
    template = "({0} & {1}) | (~{0} & {2})" if mask else "pick({0}, {1}, {2})"
    return t.stored(_mapped(t, _shape(node), template, *args, mask=mask))


@on("masked_fill")
def _masked_fill(t: Translation, node: Node, x: Any, mask: Any, by: Any) -> Value:
    return _where(t, node, mask, by, x)  # type: ignore[no-any-return]


@on("clamp", "clamp_min", "clamp_max")
def _clamp(t: Translation, node: Node, x: Any, min: Any = None, max: Any = None) -> Value:
    """NaN stays."""
    if _name(node) == "clamp_max":
        min, max = None, min
    value = t.value(x).real
    for bound, how in ((min, "largest"), (max, "least")):
        if bound is not None:
            value = _mapped(t, _shape(node), f"{how}({{0}}, {{1}})", value, t.value(bound).real)
    return t.stored(value)


@on("_to_copy", "to")
def _to_copy(t: Translation, node: Node, x: Any, **about: Any) -> Value:
    value, dtype = t.value(x), _dtype(node)
    if dtype == torch.bool:
        return t.stored(value.truth)
    if value.place is not None:
        return value
    if _is_whole(t, dtype):
        whole = value.mask or not _dtype(x).is_floating_point
        template = "{0}" if whole else "each(OF(std::trunc), {0})"
        return t.stored(_mapped(t, _shape(node), template, value.real))
    if dtype != t.dtype:
        raise Unsupported(f"a tensor of {dtype} beside {t.dtype}")
    return t.stored(value.real)


@on("alias", "clone", "detach", "lift_fresh_copy", "lift_fresh", "contiguous")
def _same(t: Translation, node: Node, x: Any, **about: Any) -> Value | Scatter:
    return t.value(x)


@on("copy")
def _copy(t: Translation, node: Node, x: Any, source: Any, *_: Any) -> Value:
    return t.value(source).real.expanded(_shape(node))


@on("full", "full_like", "new_full", "zeros", "zeros_like", "new_zeros", "ones", "ones_like",
    "new_ones", "scalar_tensor", "empty", "empty_like", "new_empty", "new_empty_strided",
    "empty_strided")  # fmt: skip
def _full(t: Translation, node: Node, *args: Any, **about: Any) -> Value:
    """A tensor of equal numbers; of an empty one, which is to be overwritten, zeros."""
    name = _name(node)
    by: Any = 0.0
    if "full" in name:
        by = about.get("fill_value", args[-1])
    elif name == "scalar_tensor":
        by = args[0]
    elif "ones" in name:
        by = 1.0
    if isinstance(by, Node):
        return t.value(by).expanded(_shape(node))
    return constant(bool(by) if _dtype(node) == torch.bool else by, _shape(node))


# ------------------------------------------------------------------------------------------- views


@on("view", "_unsafe_view", "reshape", "flatten", "_reshape_alias")
def _view(t: Translation, node: Node, x: Any, *_: Any) -> Value:
    value, shape = t.value(x), _shape(node)
    if value.shape == shape:
        return value
    return value.viewed(shape, lambda i: unflat(flat(i, shape), value.shape))


@on("expand")
def _expand(t: Translation, node: Node, x: Any, *_: Any, **about: Any) -> Value:
    return t.value(x).expanded(_shape(node))


@on("permute")
def _permute(t: Translation, node: Node, x: Any, order: Sequence[int]) -> Value:
    value, rank = t.value(x), len(order)

    def back(i: At) -> At:
        where = {source % rank: k for source, k in zip(order, i, strict=True)}
        return tuple(where[k] for k in range(rank))

    return value.viewed(_shape(node), back)


@on("t", "transpose")
def _transpose(t: Translation, node: Node, x: Any, a: int = 0, b: int = 1) -> Value:
    value = t.value(x)
    rank = len(value.shape)
    if rank < 2:
        return value
    order = list(range(rank))
    order[a], order[b] = order[b], order[a]
    return _permute(t, node, x, order)  # type: ignore[no-any-return]


@on("unsqueeze")
def _unsqueeze(t: Translation, node: Node, x: Any, dim: int) -> Value:
    k = dim % (len(t.value(x).shape) + 1)
    return t.value(x).viewed(_shape(node), lambda i: i[:k] + i[k + 1 :])


@on("squeeze")
def _squeeze(t: Translation, node: Node, x: Any, *_: Any) -> Value:
    return _view(t, node, x)  # type: ignore[no-any-return]


@on("select")
def _select(t: Translation, node: Node, x: Any, dim: int, at: int) -> Value:
    value = t.value(x)
    k = dim % len(value.shape)
    fixed = (number(at % value.shape[k]),)
    return value.viewed(_shape(node), lambda i: i[:k] + fixed + i[k:])


@on("slice")
def _slice(
    t: Translation, node: Node, x: Any, dim: int = 0, start: Any = None, end: Any = None,
    step: int = 1,
) -> Value:  # fmt: skip
    value = t.value(x)
    k = dim % len(value.shape)
    first = _start(start, value.shape[k])
    return value.viewed(_shape(node), lambda i: (*i[:k], i[k] * step + first, *i[k + 1 :]))


def _start(start: Any, size: int) -> int:
    first: int = 0 if start is None else int(start)
    return min(max(first + size if first < 0 else first, 0), size)


@on("diagonal")
def _diagonal(
    t: Translation, node: Node, x: Any, offset: int = 0, dim1: int = 0, dim2: int = 1
) -> Value:
    value = t.value(x)
    place = _on_diagonal(len(value.shape), offset, dim1, dim2)
    return value.viewed(_shape(node), place)


def _on_diagonal(rank: int, offset: int, dim1: int, dim2: int) -> Callable[[At], At]:
    """Where in a tensor of this rank an entry of its diagonal is."""
    a, b = dim1 % rank, dim2 % rank
    others = [k for k in range(rank) if k not in (a, b)]

    def back(i: At) -> At:
        where = dict(zip(others, i[:-1], strict=True))
        where[a], where[b] = i[-1] + max(-offset, 0), i[-1] + max(offset, 0)
        return tuple(where[k] for k in range(rank))

    return back


@on("unfold")
def _unfold(t: Translation, node: Node, x: Any, dim: int, size: int, step: int) -> Value:
    value = t.value(x)
    k = dim % max(len(value.shape), 1)
    return value.viewed(_shape(node), lambda i: (*i[:k], i[k] * step + i[-1], *i[k + 1 : -1]))


@on("flip")
def _flip(t: Translation, node: Node, x: Any, dims: Sequence[int]) -> Value:
    value = t.value(x)
    turned = {k % len(value.shape) for k in dims}

    def back(i: At) -> At:
        ends = enumerate(zip(i, value.shape, strict=True))
        return tuple(number(n - 1) - j if k in turned else j for k, (j, n) in ends)

    return value.viewed(_shape(node), back)


@on("as_strided")
def _as_strided(
    t: Translation, node: Node, x: Any, size: Any, stride: Sequence[int], offset: int = 0
) -> Value:
    """Of a tensor that is laid out contiguously, which those of a functional graph are."""
    value = t.value(x)
    _require_contiguous(x, value.shape)
    place = _strided(stride, offset or 0)
    return value.viewed(_shape(node), lambda i: unflat(place(i), value.shape))


def _strided(stride: Sequence[int], offset: int) -> Callable[[At], Index]:
    def place(i: At) -> Index:
        total = number(offset)
        for k, step in zip(i, stride, strict=True):
            total = total + k * step
        return total

    return place


def _require_contiguous(x: Node, shape: Shape) -> None:
    meta = x.meta["val"]
    if tuple(meta.stride()) != strides(shape) or meta.storage_offset():
        raise Unsupported("as_strided of a view")


# -------------------------------------------------------------------------------- entries by index


@on("index", "_unsafe_index")
def _index(t: Translation, node: Node, x: Any, indices: Sequence[Any]) -> Value:
    value = t.value(x)
    return value.viewed(_shape(node), _indexed(t, value.shape, indices))


def _indexed(t: Translation, shape: Shape, indices: Sequence[Any]) -> Callable[[At], At]:
    """Where in a tensor of this shape an entry of what ``indices`` select is."""
    known = {k: t.places(i, shape[k]) for k, i in enumerate(indices) if i is not None}
    common = tuple(torch.broadcast_shapes(*(v.shape for v in known.values())))
    wide = {k: v.expanded(common) for k, v in known.items()}
    dims, rank = sorted(known), len(common)
    first = dims[0] if dims == list(range(dims[0], dims[0] + len(dims))) else 0

    def back(i: At) -> At:
        selecting, others = i[first : first + rank], iter(i[:first] + i[first + rank :])
        return tuple(_place(wide[k], selecting) if k in wide else next(others)
                     for k in range(len(shape)))  # fmt: skip

    return back


def _place(value: Value, at: At) -> Index:
    assert value.place is not None
    return value.place(at)


@on("index_select")
def _index_select(t: Translation, node: Node, x: Any, dim: int, index: Any) -> Value:
    value = t.value(x)
    k = dim % max(len(value.shape), 1)
    return _index(t, node, x, [None] * k + [index])  # type: ignore[no-any-return]


@on("gather")
def _gather(t: Translation, node: Node, x: Any, dim: int, index: Any, **about: Any) -> Value:
    value = t.value(x)
    return value.viewed(_shape(node), _along(t, value.shape, dim, index))


def _along(t: Translation, shape: Shape, dim: int, index: Any) -> Callable[[At], At]:
    """Where in a tensor of this shape an entry is that an index selects along a dimension."""
    k = dim % max(len(shape), 1)
    chosen = t.places(index, shape[k])
    return lambda i: (*i[:k], _place(chosen, i), *i[k + 1 :])


# ---------------------------------------------------------------------------- writing into tensors


def _scattered(
    t: Translation, node: Node, base: Any, part: Value, to: Callable[[At], At], add: bool
) -> Value | Scatter:
    """``base`` with ``part`` written, or added, to some of its places."""
    shape = _shape(node)
    if _is_zero(t, base):
        if add or part.shape == () or _different(part.shape, lambda i: flat(to(i), shape)):
            return Scatter(shape, ((part.real, to),))
    elif add:
        parts = _parts(t, base, shape)
        return Scatter(shape, (*parts, (part.real, to)))
    return t.overwritten(t.value(base).expanded(shape), part, to)


def _is_zero(t: Translation, base: Any) -> bool:
    found = t.values[base]
    if not isinstance(found, Value) or found.mask:
        return False
    entry = found.at(tuple(number(0) for _ in found.shape))
    return not isinstance(entry, Apply | Load) and getattr(entry, "value", None) == 0.0


def _different(shape: Shape, to: Callable[[At], Index]) -> bool:
    """Whether the entries of a part go to different places, as those of a slice do."""
    at = to(at_axes(axes(shape)))
    left = 1
    for k, n in sorted((abs(k), a.size) for a, k in at.terms if isinstance(a, Var)):
        if k < left:
            return False
        left = k * n
    return all(isinstance(atom, Var) for atom, _ in at.terms)


@on("slice_scatter")
def _slice_scatter(
    t: Translation, node: Node, base: Any, part: Any, dim: int = 0, start: Any = None,
    end: Any = None, step: int = 1,
) -> Value | Scatter:  # fmt: skip
    shape, value = _shape(node), t.value(part)
    k = dim % len(shape)
    first = _start(start, shape[k])

    def to(i: At) -> At:
        return (*i[:k], i[k] * step + first, *i[k + 1 :])

    narrow = tuple(value.shape[k] if j == k else n for j, n in enumerate(shape))
    return _scattered(t, node, base, value.expanded(narrow), to, add=False)


@on("select_scatter")
def _select_scatter(
    t: Translation, node: Node, base: Any, part: Any, dim: int, at: int
) -> Value | Scatter:
    shape, value = _shape(node), t.value(part)
    k = dim % len(shape)
    fixed = (number(at % shape[k]),)
    narrow = shape[:k] + shape[k + 1 :]
    return _scattered(t, node, base, value.expanded(narrow), lambda i: i[:k] + fixed + i[k:], False)


@on("diagonal_scatter")
def _diagonal_scatter(
    t: Translation, node: Node, base: Any, part: Any, offset: int = 0, dim1: int = 0, dim2: int = 1
) -> Value | Scatter:
    shape = _shape(node)
    place = _on_diagonal(len(shape), offset, dim1, dim2)
    return _scattered(t, node, base, t.value(part), place, add=False)


@on("as_strided_scatter")
def _as_strided_scatter(
    t: Translation, node: Node, base: Any, part: Any, size: Any, stride: Sequence[int],
    offset: int = 0,
) -> Value | Scatter:  # fmt: skip
    _require_contiguous(base, _shape(node))
    place = _strided(stride, offset or 0)
    shape = _shape(node)
    return _scattered(t, node, base, t.value(part), lambda i: unflat(place(i), shape), add=False)


@on("constant_pad_nd")
def _pad(
    t: Translation, node: Node, x: Any, pad: Sequence[int], by: float = 0.0
) -> Value | Scatter:
    value, shape = t.value(x), _shape(node)
    rank, before, inner = len(shape), [0] * len(shape), list(value.shape)
    for k in range(len(pad) // 2):
        low, high = pad[2 * k], pad[2 * k + 1]
        dim = rank - 1 - k
        before[dim] = low
        inner[dim] += min(low, 0) + min(high, 0)
    cut = value.viewed(
        tuple(inner), lambda i: tuple(j + max(-b, 0) for j, b in zip(i, before, strict=True))
    )

    def to(i: At) -> At:
        return tuple(j + max(b, 0) for j, b in zip(i, before, strict=True))

    if by == 0.0 and not value.mask:
        return Scatter(shape, ((cut, to),))
    return t.overwritten(constant(bool(by) if value.mask else by, shape), cut, to)


@on("index_put", "index_put_", "_unsafe_index_put")
def _index_put(
    t: Translation, node: Node, base: Any, indices: Sequence[Any], part: Any,
    accumulate: bool = False,
) -> Value | Scatter:  # fmt: skip
    shape = _shape(node)
    place = _indexed(t, shape, indices)
    known = [t.value(i).shape for i in indices if i is not None]
    common = tuple(torch.broadcast_shapes(*known))
    selecting = [k for k, i in enumerate(indices) if i is not None]
    together = selecting == list(range(selecting[0], selecting[0] + len(selecting)))
    others = [n for k, n in enumerate(shape) if k not in selecting]
    first = selecting[0] if together else 0
    narrow = (*others[:first], *common, *others[first:])
    value = t.value(part).expanded(narrow)
    return _scattered(t, node, base, value, place, accumulate)


@on("scatter", "scatter_add")
def _scatter(
    t: Translation, node: Node, base: Any, dim: int, index: Any, part: Any, **about: Any
) -> Value | Scatter:
    if about:
        raise Unsupported(f"{node.target} with {sorted(about)}")
    shape, chosen = _shape(node), t.value(index)
    place = _along(t, shape, dim, index)
    value = t.value(part)
    if value.shape != ():
        size = chosen.shape
        value = value.viewed(size, lambda i: i)
    value = value.expanded(chosen.shape)
    add = _name(node) == "scatter_add"
    return _scattered(t, node, base, value, place, add)


@on("index_add")
def _index_add(
    t: Translation, node: Node, base: Any, dim: int, index: Any, part: Any, alpha: float = 1
) -> Value | Scatter:
    if alpha != 1:
        raise Unsupported("index_add with alpha")
    shape = _shape(node)
    k = dim % len(shape)
    place = _indexed(t, shape, [None] * k + [index])
    return _scattered(t, node, base, t.value(part), place, True)


@on("cat", "concat", "concatenate")
def _cat(t: Translation, node: Node, parts: Sequence[Any], dim: int = 0) -> Value:
    values = [v for v in map(t.value, parts) if v.shape != (0,)]
    return t.joined(values, _shape(node), dim % len(_shape(node)))


@on("stack")
def _stack(t: Translation, node: Node, parts: Sequence[Any], dim: int = 0) -> Value:
    shape = _shape(node)
    k = dim % len(shape)
    one = (*shape[:k], 1, *shape[k + 1 :])
    values = [t.value(p).viewed(one, lambda i: i[:k] + i[k + 1 :]) for p in parts]
    return t.joined(values, shape, k)


# ------------------------------------------------------------------------------- sums and products


def _dims(value: Value, dim: Any) -> list[int]:
    if dim is None or dim == []:
        return list(range(len(value.shape)))
    return [dim] if isinstance(dim, int) else list(dim)


@on("sum", "mean", "prod", "amax", "amin", "any", "all")
def _reduce(
    t: Translation, node: Node, x: Any, dim: Any = None, keepdim: bool = False, **about: Any
) -> Value:
    name, value = _name(node), t.value(x)
    if name not in ("any", "all"):
        _real(t, node)
    value = value.truth if name in ("any", "all") else value.real
    how = {"sum": "+", "mean": "+", "prod": "*", "amax": "max", "amin": "min", "any": "or",
           "all": "and"}[name]  # fmt: skip
    dims = _dims(value, dim)
    found = t.reduced(value, dims, keepdim, how)
    if name != "mean":
        return found
    count = float(math.prod(value.shape[k] for k in dims))
    return t.stored(_mapped(t, found.shape, "{0} / {1}", found, constant(count)))


def _real(t: Translation, node: Node) -> None:
    if _dtype(node) != t.dtype and not _is_whole(t, _dtype(node)):
        raise Unsupported(f"{node.target} in {_dtype(node)} beside {t.dtype}")


@on("max", "min")
def _extremes(
    t: Translation, node: Node, x: Any, dim: Any = None, keepdim: bool = False
) -> Value | tuple[Value, None]:
    """Along a dimension; the place is not known, and must not be asked for."""
    how = _name(node)
    value = t.value(x).real
    if dim is None:
        return t.reduced(value, range(len(value.shape)), False, how)
    if any(user.args[1] == 1 and user.users for user in node.users):
        raise Unsupported(f"the places of {node.target}")
    return t.reduced(value, [dim], keepdim, how), None


@on("cumsum", "cumprod")
def _cumulated(t: Translation, node: Node, x: Any, dim: int, **about: Any) -> Value:
    _real(t, node)
    return t.accumulated(t.value(x).real, dim, "+" if _name(node) == "cumsum" else "*")


@on("mm", "bmm", "mv", "dot", "vdot", "addmm", "addmv", "baddbmm")
def _product(t: Translation, node: Node, *args: Any, beta: float = 1, alpha: float = 1) -> Value:
    """Sums of products over the last dimension of one and the next to last of the other."""
    added = args[0] if _name(node) in ("addmm", "addmv", "baddbmm") else None
    x, y = (t.value(arg) for arg in args[-2:])
    batch, inner = max(len(x.shape) - 2, 0), x.shape[-1]
    rows, columns = x.shape[batch:-1], y.shape[-1:] if len(y.shape) > 1 else ()
    full = (*x.shape[:batch], *rows, *columns, inner)

    def entry(i: At) -> Apply:
        lead, k = i[:batch], i[-1:]
        row, column = i[batch : batch + len(rows)], i[batch + len(rows) : -1]
        return apply("{0} * {1}", x.at((*lead, *row, *k)), y.at((*lead, *k, *column)))

    found = t.reduced(Value(full, entry), [len(full) - 1], False, "+")
    if added is None:
        return found
    terms = (found, t.value(added), t.value(alpha), t.value(beta))
    template = "{0} + {1}" if alpha == beta == 1 else "{2} * {0} + {3} * {1}"
    return t.stored(_mapped(t, _shape(node), template, *terms))
