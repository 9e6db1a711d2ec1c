"""Scheduling: statements gathered under common loops, and buffers shrunk to what one turn needs.

Two statements may share a loop if, whatever turn one of them makes, what it has from the other was
written in the same turn.  So passes over data, forward and backward, become one loop without
buffers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from .indices import Index, Var, number, of_atom
from .statements import (
    Apply,
    Assign,
    Buffer,
    Expr,
    Item,
    Load,
    Loop,
    Number,
    Statement,
    Turns,
    reindexed,
    replaced,
)

Accesses = dict[Buffer, list[Index | None]]


def scheduled(statements: Iterable[Statement]) -> list[Item]:
    """The statements under as few loops as their order allows."""
    return [item for group in _grouped(statements) for item in group.items()]


@dataclass(eq=False)
class _Group:
    """Statements in order; if ``over`` is a variable, under a loop over it."""

    over: Var | None
    statements: list[Statement] = field(default_factory=list)

    def items(self) -> list[Item]:
        if self.over is None:
            return [_turned(each) for each in self.statements]
        return [Loop(self.over, scheduled(self.statements))]


def _turned(statement: Statement) -> Item:
    if not isinstance(statement, Turns):
        return statement
    return Loop(statement.over, scheduled(statement.body), statement.own, ordered=True)


@dataclass(eq=False)
class _Placed:
    """An access to a buffer by a placed statement, under its group's variable."""

    group: _Group
    at: Index | None
    writes: bool
    how: str


def _grouped(statements: Iterable[Statement]) -> list[_Group]:
    """Each statement in the first group that its predecessors allow, or in a new one.

    Groups run in their order.  Straight code that must follow a group goes right behind it, so that
    loops after it may use it, and so does what reads nothing; another new loop goes to the end.
    """
    groups: list[_Group] = []
    position: dict[_Group, int] = {}
    placed: dict[Buffer, list[_Placed]] = defaultdict(list)
    for statement in statements:
        over = statement.space[0] if statement.space else None
        least = 0
        for earlier, own in _conflicts(statement, placed):
            together = _together(earlier, own, over)
            least = max(least, position[earlier.group] + (not together))
        later = (groups[i] for i in range(least, len(groups)))
        group = next((g for g in later if _same_kind(g.over, over)), None)
        if group is None:
            group = _Group(over)
            place = least if over is None or not statement.reads else len(groups)
            groups.insert(place, group)
            position.update((g, i) for i, g in enumerate(groups[place:], place))
        inner = _under(statement, group.over)
        group.statements.append(inner)
        for buffer, at, writes, how in _accesses(inner):
            placed[buffer].append(_Placed(group, at, writes, how))
    return groups


def _same_kind(one: Var | None, other: Var | None) -> bool:
    if one is None or other is None:
        return one is other
    return one.size == other.size


def _under(statement: Statement, over: Var | None) -> Statement:
    """The statement within a loop over ``over``, in place of its own first variable."""
    if not isinstance(statement, Assign) or over is None:
        return statement
    own, *rest = statement.space
    by = {own: of_atom(over)}
    return replace(
        statement,
        space=tuple(rest),
        at=statement.at.replace(by),
        value=replaced(statement.value, by),
    )


def _accesses(statement: Statement) -> Iterator[tuple[Buffer, Index | None, bool, str]]:
    """Buffer, place, whether it is written, and how."""
    how = statement.how if isinstance(statement, Assign) else "="
    for buffer, at in statement.reads:
        yield buffer, at, False, ""
    for buffer, at in statement.writes:
        yield buffer, at, True, how


def _conflicts(
    statement: Statement, placed: dict[Buffer, list[_Placed]]
) -> Iterator[tuple[_Placed, _Placed]]:
    """Pairs of an earlier access and one of this statement, whose order matters."""
    over = statement.space[0] if statement.space else None
    for buffer, at, writes, how in _accesses(statement):
        own = _Placed(_Group(over), at, writes, how)
        for earlier in placed[buffer]:
            if not (earlier.writes or writes):
                continue
            if earlier.writes and writes and how == earlier.how and (how != "=" or buffer.pieces):
                continue
            if buffer.running and earlier.how != "=" and not writes:
                yield earlier, replace(own, how="running")
            else:
                yield earlier, own


def _together(earlier: _Placed, own: _Placed, over: Var | None) -> bool:
    """Whether the two may be in one group: both in straight code, or in step."""
    if over is None or earlier.group.over is None:
        return over is None and earlier.group.over is None
    if not _same_kind(earlier.group.over, over):
        return False
    if own.how == "running":
        return True
    if earlier.at is None or own.at is None:
        return False
    same = Index(tuple(set(earlier.at.terms) & set(own.at.terms)))  # of the loops around both
    return _in_step(earlier.at - same, earlier.group.over, own.at - same, over)


def _in_step(one: Index, v: Var, other: Index, w: Var) -> bool:
    """Whether turn i of both touches a stretch of the buffer that no other turn touches."""
    step = one.coefficient(v)
    if not step or step != other.coefficient(w):
        return False
    ends = [*_rest(one, v).bounds, *_rest(other, w).bounds]
    return max(ends) - min(ends) < abs(step)


def _rest(at: Index, v: Var) -> Index:
    """The index without a variable that is one of its terms."""
    return at.replace({v: number(0)})


# ---------------------------------------------------------------------------- shrinking of buffers


def shrink(items: list[Item], kept: set[Buffer]) -> None:
    """Let loops own the buffers that only they touch, each turn a part of its own.

    ``kept`` are buffers that are read elsewhere.  Of nested loops the innermost owns a buffer.
    """
    parts = [touched(item) for item in items]
    for k, item in enumerate(items):
        if not isinstance(item, Loop):
            continue
        elsewhere = {b for j, found in enumerate(parts) if j != k for b in found} | kept
        if item.ordered:
            shrink(item.body, (elsewhere | parts[k].keys()) - set(item.own))
            deeper = set(_owned(item.body))
            item.own = [buffer for buffer in item.own if buffer not in deeper]
            continue
        owned = {}
        for buffer, places in parts[k].items():
            low_size = _part(places, item.over)
            if buffer not in elsewhere and low_size is not None:
                low, size = low_size
                owned[buffer] = low
                buffer.size = size
        _without(item.body, item.over, owned)
        shrink(item.body, elsewhere | (parts[k].keys() - owned.keys()))
        deeper = set(_owned(item.body))
        item.own = [buffer for buffer in owned if buffer not in deeper]


def _owned(items: list[Item]) -> Iterator[Buffer]:
    for item in items:
        if isinstance(item, Loop):
            yield from item.own
            yield from _owned(item.body)


def touched(item: Item) -> Accesses:
    """The buffers that a statement or loop reads or writes, and where."""
    found: Accesses = {}
    if isinstance(item, Loop):
        for inner in item.body:
            for buffer, places in touched(inner).items():
                found.setdefault(buffer, []).extend(places)
    else:
        for buffer, at, _, _ in _accesses(item):
            found.setdefault(buffer, []).append(at)
    return found


def _part(places: list[Index | None], over: Var) -> tuple[int, int] | None:
    """The least place that turn 0 touches and how many, if each turn has a part of its own."""
    known = [at for at in places if at is not None]
    if len(known) < len(places) or not all(_in_step(known[0], over, at, over) for at in known):
        return None
    ends = [end for at in known for end in _rest(at, over).bounds]
    low, high = min(ends), max(ends)
    step = known[0].coefficient(over)
    if step is None or high - low >= abs(step):
        return None
    return low, high - low + 1


def _without(items: list[Item], over: Var, owned: dict[Buffer, int]) -> None:
    """Let accesses to owned buffers start from the first place of their turn."""

    def own_place(part: Expr) -> Index:
        assert not isinstance(part, Number | Apply)
        if isinstance(part, Load) and part.buffer in owned:
            return _rest(part.at, over) + -owned[part.buffer]
        return part.at

    for item in items:
        if isinstance(item, Loop):
            _without(item.body, over, owned)
        elif isinstance(item, Assign):
            item.value = reindexed(item.value, own_place)
            if item.target in owned:
                item.at = _rest(item.at, over) + -owned[item.target]
