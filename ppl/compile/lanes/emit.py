"""Emission: scheduled statements as C++ text."""

from __future__ import annotations

import math
from collections.abc import Iterator

from .schedule import scheduled, shrink, touched
from .statements import (
    JOINS,
    Apply,
    Assign,
    Block,
    Buffer,
    Counted,
    Expr,
    Load,
    Loop,
    Number,
    Shared,
    Statement,
)
from .translation import Translation

SIGNATURE = (
    'extern "C" void lanes(long count, const REAL *vectors, const void *const *tables,'
    " REAL *const *results, V *work)"
)


def source(t: Translation, size: int, sizes: list[int]) -> tuple[str, int]:
    """The code of a translation, for a vector of ``size`` and results of ``sizes``, without header.

    Also how many vectors its ``work`` must hold.  ``vectors`` and ``results`` hold the numbers of
    all lanes for each coordinate in turn; lanes beyond ``count`` repeat the last.
    """
    body = scheduled(t.statements)
    results = {f"out{k}" for k in range(len(sizes))}
    outside = {b for item in body for b in touched(item) if b.name == "u" or b.name in results}
    shrink(body, outside)
    lines, used = ["static void one(const V *u, const void *const *tables, V *out, V *work) {"], 0
    for k, (name, table) in enumerate(_typed(t)):
        lines.append(f"    auto {name} = (const {table} *) tables[{k}];")
    place = 0
    for k, n in enumerate(sizes):
        lines.append(f"    V *out{k} = out + {place};")
        place += n
    for buffer in _unowned(body, outside):
        if buffer.size <= NEAR and not buffer.whole:
            lines.append(f"    {_declared(buffer)}")
            continue
        kind = "M" if buffer.mask else "V"
        lines.append(f"    auto {buffer} = ({kind} *) (work + {used});")
        used += buffer.size
    lines += [f"    {line}" for item in body for line in _text(item)]
    lines += ["}", "", _all_lanes(size, sizes)]
    return "\n".join(lines) + "\n", used


def table_names(t: Translation) -> list[str]:
    """The tables in the order of the argument ``tables``, after the further inputs."""
    return list(t.tables)


def _typed(t: Translation) -> Iterator[tuple[str, str]]:
    for k in range(t.inputs - 1):
        yield f"rest{k + 1}", "REAL"
    for name, table in t.tables.items():
        yield name, "REAL" if table.is_floating_point() else _WHOLE[str(table.dtype)]


_WHOLE = {"torch.bool": "bool", "torch.int64": "int64_t"}


def _unowned(body: list[Statement | Loop], outside: set[Buffer]) -> list[Buffer]:
    """The buffers that no loop owns."""
    owned = set(outside)

    def visit(items: list[Statement | Loop]) -> None:
        for item in items:
            if isinstance(item, Loop):
                owned.update(item.own)
                visit(item.body)

    visit(body)
    every = dict.fromkeys(b for item in body for b in touched(item))
    return [b for b in every if b not in owned]


def _declared(buffer: Buffer) -> str:
    kind = "M" if buffer.mask else "V"
    return f"{kind} {buffer};" if buffer.single else f"{kind} {buffer}[{buffer.size}];"


def _text(item: Statement | Loop) -> list[str]:
    match item:
        case Loop(over, body, own):
            head = f"for (long {over} = 0; {over} < {over.size}; {over}++) {{"
            small = over.size <= UNROLLED and over.size * sum(map(_cost, body)) <= UNROLLED_COST
            unroll = [f"#pragma GCC unroll {over.size}"] if small else []
            inner = [_declared(b) for b in own] + [line for i in body for line in _text(i)]
            return [*unroll, head, *(f"    {line}" for line in inner), "}"]
        case Block(text):
            return [text]
        case Assign(target=target, at=at, how=how):
            entry = _entry(target, str(at))
            text = f"{entry} = {JOINS[how].format(entry, f'({_expr(item.value)})')};"
            for v in reversed(item.space):
                text = f"for (long {v} = 0; {v} < {v.size}; {v}++) {text}"
            return [text]


NEAR = 64  # so many vectors of a buffer may lie on the stack
UNROLLED = 8  # loops of so few turns are unrolled, if they have no more
UNROLLED_COST = 100  # statements than this, unrolled


def _cost(item: Statement | Loop) -> int:
    """The statements of an unrolled loop, those that call functions for ten."""
    if isinstance(item, Loop):
        return item.over.size * sum(map(_cost, item.body))
    return 10 if isinstance(item, Block) or "(" in _function(item.value) else 1


def _function(value: Expr) -> str:
    return value.template.replace("splat(", "") if isinstance(value, Apply) else ""


def _entry(buffer: Buffer, at: str) -> str:
    return str(buffer) if buffer.single else f"{buffer}[{at}]"


def _expr(value: Expr) -> str:
    match value:
        case Number(x, mask):
            return f"truth({int(x)})" if mask else f"splat({_number(x)})"
        case Shared(table, at, mask):
            return f"{'truth' if mask else 'splat'}({table}[{at}])"
        case Counted(at):
            return f"splat((REAL) ({at}))"
        case Load(buffer, at):
            return _entry(buffer, str(at))
        case _:
            return value.template.format(*(f"({_expr(arg)})" for arg in value.args))


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
            f"            std::memcpy(results[{k}] + i * count + first, &out[{place} + i],"
            " some * sizeof(REAL));"
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
