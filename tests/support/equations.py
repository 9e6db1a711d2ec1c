"""Equations between programs with random parts: what the tests of laws share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from fractions import Fraction as F
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from pushforward.ppl.calculus import syntax as s
from pushforward.ppl.calculus.check import check
from pushforward.ppl.calculus.parse import parse
from pushforward.ppl.calculus.types import BOOL, Type
from support.terms import Scope, measure, value

EXAMPLES = 30
Part = st.SearchStrategy[s.Term]


def run_on(
    strategy: st.SearchStrategy[Any],
    test: Callable[[Any], None],
    count: int = EXAMPLES,
    shrink: bool = True,
) -> None:
    """Run a test on ``count`` examples, the same ones each time."""
    phases = (Phase.generate, Phase.shrink) if shrink else (Phase.generate,)

    @seed(11)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=phases,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def run(example: Any) -> None:
        test(example)

    run()


def filled(source: str, parts: dict[str, s.Term]) -> s.Term:
    """The term of a source with its letters replaced; what binds around a letter binds inside."""

    def fill(node: Any) -> Any:
        if isinstance(node, s.Var) and node.name in parts:
            return parts[node.name]
        if isinstance(node, tuple):
            return tuple(map(fill, node))
        if isinstance(node, s.Node):
            changed = {f.name: fill(getattr(node, f.name)) for f in fields(node) if f.init}
            return replace(node, **changed)
        return node

    return fill(parse(source))  # type: ignore[no-any-return]


def scope(**variables: Type) -> Scope:
    return Scope(tuple(variables.items()))


def m(of: Type = BOOL, fuel: int = 3, **variables: Type) -> Part:
    """A measure, which may use the given variables."""
    return measure(of, scope(**variables), fuel)  # type: ignore[no-any-return]


def v(of: Type = BOOL, fuel: int = 2, **variables: Type) -> Part:
    """A pure term."""
    return value(of, scope(**variables), fuel).map(lambda t: s.Annotated(t, of))  # type: ignore[no-any-return]


def p(of: Type = BOOL, fuel: int = 3) -> Part:
    """A probability measure."""
    return m(of, fuel).filter(lambda t: check(t).type.kind in "DP")  # type: ignore[union-attr]


def scores() -> Part:
    """A positive weight."""
    return st.sampled_from([F(1, 4), F(1, 2), F(3, 4), F(2)]).map(s.Num)
