"""Emission: scheduled statements as C++ text."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from .header import widened
from .indices import Index, Var, of_atom
from .logarithms import with_products
from .schedule import scheduled, shrink, touched
from .statements import (
    JOINS,
    Apply,
    Assign,
    Block,
    Buffer,
    Counted,
    Expr,
    Item,
    Load,
    Loop,
    Number,
    Shared,
    loads,
)
from .translation import NEUTRAL, Translation

SIGNATURE = (
    'extern "C" void lanes(long count, const REAL *vectors, const void *const *tables,'
    " REAL *const *results, V *work)"
)


def source(t: Translation, size: int, sizes: list[int], *, wide: bool) -> tuple[str, int]:
    """The code of a translation, for a vector of ``size`` and results of ``sizes``, without header.

    ``wide``: the machine has vectors for all lanes at two places, which long loops use.

    Also how many vectors its ``work`` must hold.  ``vectors`` and ``results`` hold the numbers of
    all lanes for each coordinate in turn; lanes beyond ``count`` repeat the last.
    """
    body = scheduled(with_products(t) if t.dtype == torch.float64 else t.statements)
    results = {f"out{k}" for k in range(len(sizes))}
    outside = {b for item in body for b in touched(item) if b.name == "u" or b.name in results}
    shrink(body, outside)
    parts = _parts(body)
    homes = _homes(parts, outside)
    used = sum(buffer.size for buffer, far in homes.items() if far)
    starts, place = {}, 0
    for buffer in (buffer for buffer, far in homes.items() if far):
        starts[buffer], place = place, place + buffer.size
    known = _known(t, sizes)
    functions = [_function(k, part, known, homes, starts, wide) for k, part in enumerate(parts)]
    calls = " ".join(f"part{k}(u, tables, out, work);" for k in range(len(parts)))
    one = f"static void one({ARGUMENTS}) {{ {calls} }}"
    return "\n".join([*functions, one, "", _all_lanes(size, sizes)]) + "\n", used


ARGUMENTS = "const V *u, const void *const *tables, V *out, V *work"
PART = 400  # the cost of a function, beyond which compilers need more than their share of time


def _parts(body: list[Item]) -> list[list[Item]]:
    """The statements in functions of no more than so much, in order."""
    parts: list[list[Item]] = [[]]
    cost = 0
    for item in body:
        more = sum(1 for _ in _statements([item]))
        if parts[-1] and cost + more > PART:
            parts.append([])
            cost = 0
        parts[-1].append(item)
        cost += more
    return parts


def _homes(parts: list[list[Item]], outside: set[Buffer]) -> dict[Buffer, bool]:
    """The buffers that no loop owns, and whether they live in ``work``: the others on a stack."""
    seen: dict[Buffer, int] = {}
    far: dict[Buffer, bool] = {}
    for k, part in enumerate(parts):
        for buffer in _unowned(part, outside):
            elsewhere = seen.setdefault(buffer, k) != k
            far[buffer] = far.get(buffer, False) or elsewhere or buffer.size > NEAR or buffer.whole
    return far


def _known(t: Translation, sizes: list[int]) -> dict[str, str]:
    """What a function may name: tables and results, each with its declaration."""
    found, place = {}, 0
    for k, (name, table) in enumerate(_typed(t)):
        found[name] = f"auto {name} = (const {table} *) tables[{k}];"
    for k, n in enumerate(sizes):
        found[f"out{k}"] = f"V *out{k} = out + {place};"
        place += n
    return found


def _function(
    k: int,
    part: list[Item],
    known: dict[str, str],
    homes: dict[Buffer, bool],
    starts: dict[Buffer, int],
    wide: bool,
) -> str:
    """One part of the code."""
    code: list[str] = []
    for item in part:
        pair = _paired(item) if wide and isinstance(item, Loop) else None
        code += _pairwise(item, pair) if pair and isinstance(item, Loop) else _text(item)
    named = set(re.findall(r"\b(?:k|rest|out)\d+\b", "\n".join(code)))
    lines = [line for name, line in known.items() if name in named]
    for buffer in dict.fromkeys(b for item in part for b in touched(item) if b in homes):
        kind = "M" if buffer.mask else "V"
        if not homes[buffer]:
            lines.append(_declared(buffer))
        elif buffer.single:
            lines.append(f"{kind} &{buffer} = *({kind} *) (work + {starts[buffer]});")
        else:
            lines.append(f"auto {buffer} = ({kind} *) (work + {starts[buffer]});")
    inside = "\n".join(f"    {line}" for line in (*lines, *code))
    return f"__attribute__((noinline)) static void part{k}({ARGUMENTS}) {{\n{inside}\n}}\n"


def _typed(t: Translation) -> Iterator[tuple[str, str]]:
    for k, dtype in enumerate(t.inputs[1:]):
        yield f"rest{k + 1}", "REAL" if dtype.is_floating_point else _WHOLE[str(dtype)]
    for name, table in t.tables.items():
        yield name, "REAL" if table.is_floating_point() else _WHOLE[str(table.dtype)]


_WHOLE = {"torch.bool": "bool", "torch.int64": "int64_t"}


def _unowned(body: list[Item], outside: set[Buffer]) -> list[Buffer]:
    """The buffers that no loop owns."""
    owned = set(outside)

    def visit(items: list[Item]) -> None:
        for item in items:
            if isinstance(item, Loop):
                owned.update(item.own)
                visit(item.body)

    visit(body)
    every = dict.fromkeys(b for item in body for b in touched(item))
    return [b for b in every if b not in owned]


@dataclass(frozen=True)
class _Pair:
    """Code for two turns of a loop at once, in wide vectors: of ``over`` and the one after it.

    ``own`` are the buffers of the loop; ``sums`` are others that its turns add to, by how.
    """

    over: Var
    own: frozenset[Buffer]
    sums: dict[Buffer, str]

    def next(self, at: Index) -> Index:
        return at.replace({self.over: of_atom(self.over) + 1})


def _declared(buffer: Buffer, pair: _Pair | None = None) -> str:
    kind = "M" if buffer.mask else "V"
    kind = widened(kind) if pair else kind
    return f"{kind} {buffer};" if buffer.single else f"{kind} {buffer}[{buffer.size}];"


def _text(item: Item, pair: _Pair | None = None) -> list[str]:
    match item:
        case Loop(over, body, own):
            head = f"for (long {over} = 0; {over} < {over.size}; {over}++) {{"
            small = over.size <= UNROLLED and over.size * sum(map(_cost, body)) <= UNROLLED_COST
            unroll = [f"#pragma GCC unroll {over.size}"] if small else []
            return [*unroll, head, *_body(body, own, pair), "}"]
        case Block(text):
            return [text]
        case Assign():
            text = _assignment(item, pair)
            for v in reversed(item.space):
                text = f"for (long {v} = 0; {v} < {v.size}; {v}++) {text}"
            return [text]


def _body(items: list[Item], own: list[Buffer], pair: _Pair | None) -> list[str]:
    lines = [_declared(b, pair) for b in own] + [line for i in items for line in _text(i, pair)]
    return [f"    {line}" for line in lines]


def _assignment(item: Assign, pair: _Pair | None) -> str:
    target, at, how = item.target, item.at, item.how
    value = f"({_expr(item.value, pair)})"
    if pair is None or target in pair.own:
        return _joined(_entry(target, at), how, value)
    if target in pair.sums:
        return _joined(f"w{target}[{0 if target.single else at}]", how, value)
    kind = "M" if target.mask else "V"
    places = _entry(target, at), _entry(target, pair.next(at))
    halves = (f"part<{half}, {kind}>(both)" for half in (0, 1))
    stores = [_joined(p, how, h) for p, h in zip(places, halves, strict=True)]
    return f"{{ {widened(kind)} both = {value}; {' '.join(stores)} }}"


def _joined(entry: str, how: str, value: str) -> str:
    if how == "log":
        return f"multiply(&{entry}, {value});"
    return f"{entry} = {JOINS[how].format(entry, value)};"


# ----------------------------------------------------------------------------------- pairs of turns


LONG = 8  # loops of so many turns make two at once


def _paired(loop: Loop) -> _Pair | None:
    """How a loop may make two turns at once, if it may.

    Its turns must have nothing from each other but sums.
    """
    own = frozenset(loop.own) | frozenset(_owned(loop.body))
    sums: dict[Buffer, str] = {}
    read: set[Buffer] = set()
    for each in _statements(loop.body):
        if isinstance(each, Block):
            return None
        read.update(load.buffer for load in loads(each.value))
        if each.target in own or loop.over in each.at.variables:
            continue
        if each.how == "=" or sums.setdefault(each.target, each.how) != each.how:
            return None
    small = all(buffer.size <= NEAR for buffer in sums)
    if loop.ordered or loop.over.size < LONG or not small or read & sums.keys():
        return None
    return _Pair(loop.over, own, sums)


def _statements(items: list[Item]) -> Iterator[Assign | Block]:
    for item in items:
        if isinstance(item, Loop):
            yield from _statements(item.body)
        else:
            yield item


def _owned(items: list[Item]) -> Iterator[Buffer]:
    for item in items:
        if isinstance(item, Loop):
            yield from item.own
            yield from _owned(item.body)


def _pairwise(loop: Loop, pair: _Pair) -> list[str]:
    """The loop by two turns, its sums in wide vectors, and a last turn alone if there is one."""
    v, n = loop.over, loop.over.size
    lines, after = [], []
    for buffer, how in pair.sums.items():
        if how == "log":
            lines += [f"W w{buffer}[{buffer.size}];", _ONES.format(buffer.size, buffer)]
            after += [_PRODUCTS.format(buffer.size, buffer, half) for half in (0, 1)]
            continue
        kind, neutral = ("M", "truth") if buffer.mask else ("V", "splat")
        start = _number(NEUTRAL[how]) if neutral == "splat" else str(int(NEUTRAL[how]))
        lines.append(f"{widened(kind)} w{buffer}[{buffer.size}];")
        lines.append(f"for (auto &x : w{buffer}) x = wide_{neutral}({start});")
        for half in (0, 1):
            join = JOINS[how].format("x[k]", f"part<{half}, {kind}>(w{buffer}[k])")
            place = f"&{buffer}" if buffer.single else f"&{buffer}[0]"
            after.append(
                f"{{ auto x = {place}; for (long k = 0; k < {buffer.size}; k++) x[k] = {join}; }}"
            )
    lines.append(f"for (long {v} = 0; {v} + 1 < {n}; {v} += 2) {{")
    lines += [*_body(loop.body, loop.own, pair), "}"]
    if n % 2:
        last = f"for (long {v} = {n - 1}; {v} < {n}; {v}++) {{"
        after += [last, *_body(loop.body, loop.own, None), "}"]
    return [*lines, *after]


# Products as they start, and those of one half of the turns joined with others
_ONES = "for (long k = 0; k < {0}; k++) w{1}[k] = wide_splat(k % 2 == 0);"
_PRODUCTS = (
    "for (long k = 0; k < {0}; k += 2) {{ multiply(&{1}[k], part<{2}, V>(w{1}[k]));"
    " {1}[k + 1] = {1}[k + 1] + part<{2}, V>(w{1}[k + 1]); }}"
)

NEAR = 64  # so many vectors of a buffer may lie on the stack
UNROLLED = 8  # loops of so few turns are unrolled, if they have no more
UNROLLED_COST = 100  # statements than this, unrolled


def _cost(item: Item) -> int:
    """The statements of an unrolled loop, those that call functions for ten."""
    if isinstance(item, Loop):
        return item.over.size * sum(map(_cost, item.body))
    return 10 if isinstance(item, Block) or "(" in _called(item.value) else 1


def _called(value: Expr) -> str:
    return value.template.replace("splat(", "") if isinstance(value, Apply) else ""


def _entry(buffer: Buffer, at: Index) -> str:
    return str(buffer) if buffer.single else f"{buffer}[{at}]"


def _expr(value: Expr, pair: _Pair | None) -> str:
    if isinstance(value, Apply):
        template = widened(value.template) if pair else value.template
        return template.format(*(f"({_expr(arg, pair)})" for arg in value.args))
    if isinstance(value, Load) and pair and value.buffer in pair.own:
        return _entry(value.buffer, value.at)
    if pair is None:
        return _leaf(value)
    if isinstance(value, Number):
        return widened(_leaf(value))
    if isinstance(value, Shared | Counted) and pair.over not in value.at.variables:
        return widened(_leaf(value))
    kind = "MW" if value.mask else "W"
    return f"joined<{kind}>({_leaf(value)}, {_leaf(replace(value, at=pair.next(value.at)))})"


def _leaf(value: Expr) -> str:
    match value:
        case Number(x, mask):
            return f"truth({int(x)})" if mask else f"splat({_number(x)})"
        case Shared(table, at, mask):
            return f"{'truth' if mask else 'splat'}({table}[{at}])"
        case Counted(at):
            return f"splat((REAL) ({at}))"
        case Load(buffer, at):
            return _entry(buffer, at)
        case _:
            raise AssertionError(value)


def _number(x: float) -> str:
    if math.isnan(x):
        return "NAN"
    if math.isinf(x):
        return "INFINITY" if x > 0 else "-INFINITY"
    return x.hex()


def _all_lanes(size: int, sizes: list[int]) -> str:
    """The function that takes all lanes, vector by vector."""
    total = sum(sizes)
    stores, place = [], 0
    for k, n in enumerate(sizes):
        stores.append(
            f"        for (long i = 0; i < {n}; i++)\n"
            f"            stored(results[{k}] + i * count + first, out[{place} + i], some);"
        )
        place += n
    return f"""{SIGNATURE} {{
    V *u = work, *out = work + {size}, *rest = work + {size + total};
    for (long first = 0; first < count; first += LANES) {{
        long some = count - first < LANES ? count - first : LANES;
        for (long i = 0; i < {size}; i++) {{
            const REAL *from = vectors + i * count + first;
            if (some == LANES) std::memcpy(&u[i], from, sizeof(V));
            else for (long l = 0; l < LANES; l++) u[i][l] = from[l < some ? l : some - 1];
        }}
        one(u, tables, out, rest);
{chr(10).join(stores)}
    }}
}}
"""
