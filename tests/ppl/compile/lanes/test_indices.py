"""Sums of loop variables, quotients and remainders: simplified, they are what they were."""

from __future__ import annotations

import itertools
import math

from hypothesis import given
from hypothesis import strategies as st

from pushforward.ppl.compile.lanes.indices import (
    Entry,
    Index,
    Quotient,
    Remainder,
    Var,
    flat,
    number,
    of_atom,
    unflat,
)

TABLE = [3, 0, 7, 2, 5]


def value(at: Index, where: dict[Var, int]) -> int:
    """The index at a turn of the loops."""
    total = at.constant
    for atom, k in at.terms:
        if isinstance(atom, Quotient | Remainder):
            assert value(atom.of, where) >= 0  # C divides towards zero
        match atom:
            case Var():
                total += k * where[atom]
            case Quotient(of, by):
                total += k * (value(of, where) // by)
            case Remainder(of, by):
                total += k * (value(of, where) % by)
            case Entry(_, place, _):
                total += k * TABLE[value(place, where)]
    return total


@st.composite
def shapes(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Two shapes of as many entries."""
    factors = draw(st.lists(st.sampled_from([1, 2, 2, 3, 5]), min_size=1, max_size=5))

    def grouped() -> tuple[int, ...]:
        order = draw(st.permutations(factors))
        cuts = sorted(draw(st.sets(st.integers(0, len(order)), max_size=4)))
        pieces = [order[a:b] for a, b in itertools.pairwise([0, *cuts, len(order)])]
        return tuple(math.prod(piece) for piece in pieces)

    return grouped(), grouped()


@given(shapes())
def test_a_view_is_the_same_entries_in_order(both: tuple[tuple[int, ...], ...]) -> None:
    one, other = both
    vs = tuple(map(Var, one))
    place = flat(map(of_atom, vs), one)
    back = unflat(place, other)
    assert flat(back, other).bounds[0] == 0
    for k, turn in enumerate(itertools.product(*map(range, one))):
        where = dict(zip(vs, turn, strict=True))
        assert value(place, where) == k
        assert value(flat(back, other), where) == k
        for at, n in zip(back, other, strict=True):
            assert 0 <= value(at, where) < n
            assert at.bounds[0] <= value(at, where) <= at.bounds[1]


@given(st.data())
def test_sums_products_and_replacements(data: st.DataObject) -> None:
    vs = [Var(4), Var(3), Var(5)]
    entry = Entry("t", of_atom(vs[2]), (0, 7))
    atoms = [*vs, entry]
    ks = data.draw(st.lists(st.integers(-6, 6), min_size=4, max_size=4))
    by, more = data.draw(st.integers(1, 7)), data.draw(st.integers(-9, 9))
    at = number(more)
    for atom, k in zip(atoms, ks, strict=True):
        at = at + of_atom(atom) * k
    for turn in itertools.product(range(4), range(3), range(5)):
        where = dict(zip(vs, turn, strict=True))
        exact = value(at, where)
        assert value(at // by, where) == exact // by
        assert value(at % by, where) == exact % by
        assert value((at // by) % 3, where) == exact // by % 3
        moved = (at % by).replace({vs[0]: of_atom(vs[1]) + 1})
        assert value(moved, where) == value(at % by, {**where, vs[0]: turn[1] + 1})
    assert at - at == number(0)
