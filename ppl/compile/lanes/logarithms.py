"""Sums of many logarithms as logarithms of products.

sum_i log(x_i) = log(prod_i x_i), and a product costs a third of a logarithm.  It is kept as a
number within [1/2, 1) and an exponent, so that it leaves no range.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from .indices import Index, Var, of_atom
from .statements import Apply, Assign, Buffer, Expr, Load, Statement, loads, replaced
from .translation import ONE, ZERO, Translation, apply

MANY = 16  # terms of a sum from which it pays
FEW = 32  # sums of a statement up to which it does


def with_products(t: Translation) -> list[Statement]:
    """The statements, their sums of logarithms by products."""
    found = _Terms(t.statements)
    after: list[Statement] = []
    for each in t.statements:
        term = found.logarithm_in(each) if isinstance(each, Assign) else None
        if term is None:
            after.append(each)
            continue
        assert isinstance(each, Assign)
        found.gone.update(term.inlined)
        after += _by_product(t, each, term)
    return [each for each in after if each not in found.gone]


@dataclass(frozen=True)
class _Term:
    """``rest + sign * log(factor)``, and the statements whose values stand in it."""

    rest: Expr
    factor: Expr
    sign: int = 1
    inlined: tuple[Assign, ...] = ()


@dataclass(eq=False)
class _Terms:
    """Looks for logarithms among terms of sums, also where a term has a statement of its own."""

    statements: Sequence[Statement]
    gone: set[Statement] = field(default_factory=set)
    writers: dict[Buffer, list[Statement]] = field(init=False)
    readers: Counter[Buffer] = field(init=False)

    def __post_init__(self) -> None:
        self.writers, self.readers = {}, Counter()
        for each in self.statements:
            self.readers.update(buffer for buffer, _ in each.reads)
            for buffer, _ in each.writes:
                self.writers.setdefault(buffer, []).append(each)

    def logarithm_in(self, added: Assign) -> _Term | None:
        """What is added for each turn, if it has a logarithm, and there are many turns."""
        summed = [v.size for v in added.space if v not in added.at.variables]
        target = added.target
        if added.how != "+" or target.running or target.mask or target.size > FEW:
            return None
        return self._of(added.value) if math.prod(summed) >= MANY else None

    def _of(self, value: Expr) -> _Term | None:
        if isinstance(value, Load):
            return self._inlined(value)
        if not isinstance(value, Apply):
            return None
        match value.template, value.args:
            case "logarithm({0})", (x,):
                return _Term(ZERO, x)
            case "logarithm_of_more({0})", (x,):
                return _Term(ZERO, apply("{0} + {1}", ONE, x))
            case "-{0}", (x,):
                return _with(self._of(x), lambda rest: apply("-{0}", rest), sign=-1)
            case "{0} + {1}" | "{0} - {1}", (x, y):
                one = _with(self._of(x), lambda rest: replace(value, args=(rest, y)))
                sign = -1 if "-" in value.template else 1
                return one or _with(
                    self._of(y), lambda rest: replace(value, args=(x, rest)), sign=sign
                )
            case "pick({0}, {1}, {2})", (truth, x, y):
                one = _with(
                    self._of(x),
                    lambda rest: replace(value, args=(truth, rest, y)),
                    lambda factor: apply(value.template, truth, factor, ONE),
                )
                return one or _with(
                    self._of(y),
                    lambda rest: replace(value, args=(truth, x, rest)),
                    lambda factor: apply(value.template, truth, ONE, factor),
                )
        return None

    def _inlined(self, load: Load) -> _Term | None:
        """Of a value that one statement makes, and no other but this needs."""
        writers = self.writers.get(load.buffer, [])
        if len(writers) != 1 or self.readers[load.buffer] != 1:
            return None
        made = writers[0]
        if not isinstance(made, Assign) or made.how != "=" or load.buffer.name.startswith("out"):
            return None
        by = _places(made, load.at)
        if by is None or any(each.buffer.running for each in loads(made.value)):
            return None
        found = self._of(replaced(made.value, by))
        return found and replace(found, inlined=(*found.inlined, made))


def _with(
    found: _Term | None,
    rest: Callable[[Expr], Expr],
    factor: Callable[[Expr], Expr] = lambda x: x,
    sign: int = 1,
) -> _Term | None:
    """The term within an expression that has it."""
    if found is None:
        return None
    changed = replace(found, rest=rest(found.rest), factor=factor(found.factor))
    return replace(changed, sign=sign * found.sign)


def _places(made: Assign, at: Index) -> dict[Var, Index] | None:
    """At which of its variables a statement makes the entry at an index, if that is plain."""
    own = {k: atom for atom, k in made.at.terms}
    asked = {k: atom for atom, k in at.terms}
    if len(own) < len(made.at.terms) or len(asked) < len(at.terms):
        return None
    if own.keys() != asked.keys() or made.at.constant != at.constant:
        return None
    by: dict[Var, Index] = {}
    for k, atom in own.items():
        other = asked[k]
        if not isinstance(atom, Var) or not isinstance(other, Var) or atom.size != other.size:
            return None
        by[atom] = of_atom(other)
    return by if by.keys() == set(made.space) else None


def _by_product(t: Translation, added: Assign, term: _Term) -> list[Statement]:
    """The sum of the rests, and the logarithm of the product of the factors."""
    target = added.target
    product = t.buffer(2 * target.size)

    def entries() -> tuple[tuple[Var, ...], Index]:
        v = Var(target.size)
        return ((v,), of_atom(v)) if target.size > 1 else ((), Index())

    fills: list[Statement] = []
    for place, start in ((0, ONE), (1, ZERO)):
        space, at = entries()
        fills.append(Assign(space, product, at * 2 + place, start))
    by = {v: of_atom(Var(v.size)) for v in added.space}
    space = tuple(v for index in by.values() for v in index.variables)
    factors = Assign(space, product, added.at.replace(by) * 2, replaced(term.factor, by), "log")
    result, at = entries()
    parts = Load(product, at * 2), Load(product, at * 2 + 1)
    whole: Expr = apply("logarithm_of_product({0}, {1})", *parts)
    if term.sign < 0:
        whole = apply("-{0}", whole)
    rest = [] if term.rest == ZERO else [replace(added, value=term.rest)]
    return [*fills, *rest, factors, Assign(result, target, at, whole, "+")]
