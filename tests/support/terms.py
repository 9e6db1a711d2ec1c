"""Random well-typed terms of the calculus, for property tests.

Terms are built from their type downwards, so that every one is well-typed.  Numbers that are
computed with are multiples of 1/8, exact in binary; thirds occur only as parameters of laws.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from hypothesis import strategies as st

from pushforward.ppl.calculus import syntax as s
from pushforward.ppl.calculus.types import (
    BOOL,
    NAT,
    PROB,
    REAL,
    UNIT,
    Base,
    Fin,
    Function,
    ListOf,
    Measure,
    Product,
    Sum,
    Type,
    subtype,
)

SMALL = (BOOL, Fin(2), Fin(3), UNIT, PROB, REAL)
COMPOUND = (Product((BOOL, Fin(2))), Sum(UNIT, BOOL), ListOf(BOOL), Product((REAL, BOOL)))
CHANCES = tuple(Fraction(*p) for p in ((1, 2), (1, 3), (2, 3), (1, 4), (3, 4), (0, 1), (1, 1)))
SCORES = tuple(Fraction(*p) for p in ((1, 2), (1, 4), (1, 1), (1, 2), (3, 4), (1, 1), (0, 1)))


@dataclass(frozen=True)
class Scope:
    """The variables in scope with their types, and whether only lane-wise constructions are used.

    ``static``: no lists, sums, recursion or queries that a random value could reshape.
    """

    variables: tuple[tuple[str, Type], ...] = ()
    static: bool = False

    def bind(self, name: str, type_: Type) -> Scope:
        return Scope((*self.variables, (name, type_)), self.static)

    def fresh(self) -> str:
        return f"v{len(self.variables)}"

    def of(self, type_: Type) -> list[str]:
        latest = dict(self.variables)
        return [name for name, found in latest.items() if subtype(found, type_)]


def num(value: Fraction) -> s.Num:
    return s.Num(value)


@st.composite
def value(draw: st.DrawFn, goal: Type, scope: Scope, fuel: int) -> s.Term:
    """A pure term of the type."""
    options = ["literal"]
    if names := scope.of(goal):
        options += ["variable"] * 8
    if fuel > 0:
        options += ["if", "let", "apply", "annotated"]
        if goal == BOOL:
            options += ["not", "logic", "compare", "equal"]
        if goal in (PROB, REAL) or (isinstance(goal, Fin) and goal.size == 3):
            options += ["arithmetic"]
        options += ["if", "if"] if scope.static else ["fold", "fold", "case"]
    match draw(st.sampled_from(options)):
        case "variable":
            return s.Var(draw(st.sampled_from(names)))
        case "if":
            parts = [draw(value(t, scope, fuel - 1)) for t in (BOOL, goal, goal)]
            return s.If(*parts)
        case "let":
            name, type_ = scope.fresh(), draw(st.sampled_from(SMALL))
            return s.Let(
                s.Name(name),
                draw(annotated(type_, scope, fuel - 1)),
                draw(value(goal, scope.bind(name, type_), fuel - 1)),
            )
        case "apply":
            name, type_ = scope.fresh(), draw(st.sampled_from(SMALL))
            body = draw(value(goal, scope.bind(name, type_), fuel - 1))
            return s.App(s.Fun(s.Name(name), type_, body), draw(value(type_, scope, fuel - 1)))
        case "annotated":
            return draw(annotated(goal, scope, fuel - 1))
        case "not":
            return s.Op("not", (draw(value(BOOL, scope, fuel - 1)),))
        case "logic":
            parts = [draw(value(BOOL, scope, fuel - 1)) for _ in range(2)]
            return s.Op(draw(st.sampled_from(("and", "or"))), tuple(parts))
        case "compare":
            parts = [draw(value(REAL, scope, fuel - 1)) for _ in range(2)]
            return s.Op(draw(st.sampled_from(("<", "<="))), tuple(parts))
        case "equal":
            pool = SMALL if scope.static else SMALL + 2 * COMPOUND
            type_ = draw(st.sampled_from(pool))
            parts = [draw(annotated(type_, scope, fuel - 1)) for _ in range(2)]
            return s.Op("==", tuple(parts))
        case "arithmetic":
            return draw(arithmetic(goal, scope, fuel))
        case "fold":
            item = draw(st.sampled_from((BOOL, Fin(2))))
            x, acc = scope.fresh(), scope.bind("", UNIT).fresh()
            items = draw(literal(ListOf(item), scope, 0))
            inner = scope.bind(x, item).bind(acc, goal)
            start = draw(annotated(goal, scope, fuel - 1))
            return s.Fold(
                s.Name(x),
                s.Annotated(items, ListOf(item)),
                s.Name(acc),
                start,
                s.Annotated(draw(value(goal, inner, fuel - 1)), goal),
            )
        case "case":
            left, right = (draw(st.sampled_from(SMALL)) for _ in range(2))
            x = scope.fresh()
            return s.Case(
                draw(annotated(Sum(left, right), scope, fuel - 1)),
                s.Name(x),
                draw(value(goal, scope.bind(x, left), fuel - 1)),
                s.Name(x),
                draw(value(goal, scope.bind(x, right), fuel - 1)),
            )
    return draw(literal(goal, scope, fuel))


@st.composite
def annotated(draw: st.DrawFn, goal: Type, scope: Scope, fuel: int) -> s.Term:
    return s.Annotated(draw(value(goal, scope, fuel)), goal)


@st.composite
def arithmetic(draw: st.DrawFn, goal: Type, scope: Scope, fuel: int) -> s.Term:
    """A number computed from smaller ones, still a multiple of a small power of two."""
    if isinstance(goal, Fin):
        if draw(st.booleans()):
            return s.Op("pred", (draw(annotated(goal, scope, fuel - 1)),))
        sides = [draw(value(Fin(2), scope, fuel - 1)) for _ in range(2)]
        total = s.Op("+", tuple(s.Annotated(side, Fin(2)) for side in sides))
        kind = draw(st.sampled_from(("plain", "modulo")))
        return total if kind == "plain" else s.Op("%", (total, num(Fraction(goal.size))))
    if goal == PROB:
        inner = draw(annotated(PROB, scope, fuel - 1))
        if draw(st.booleans()):
            return s.Op("-", (num(Fraction(1)), inner))
        return s.Op("*", (inner, num(Fraction(1, 2))))
    sides = [draw(value(REAL, scope, fuel - 1)) for _ in range(2)]
    match draw(st.sampled_from(("+", "-", "min", "max", "neg", "abs", "half", "/"))):
        case ("neg" | "abs") as name:
            return s.Op(name, (sides[0],))
        case "half":
            return s.Op("*", (sides[0], num(Fraction(1, 2))))
        case "/":
            return s.Op("/", (sides[0], num(Fraction(2))))
        case name:
            return s.Op(name, tuple(sides))


@st.composite
def literal(draw: st.DrawFn, goal: Type, scope: Scope, fuel: int) -> s.Term:
    match goal:
        case Base("Unit"):
            return s.Tuple(())
        case Base("Bool"):
            return s.Bool(draw(st.booleans()))
        case Fin(size):
            return num(Fraction(draw(st.integers(0, size - 1))))
        case Base("Nat"):
            return num(Fraction(draw(st.integers(0, 2))))
        case Base("Prob"):
            return num(Fraction(draw(st.sampled_from((0, 2, 4, 6, 8))), 8))
        case Base():
            size = num(Fraction(draw(st.integers(0, 12)), 4))
            return s.Op("neg", (size,)) if draw(st.booleans()) and goal == REAL else size
        case Product(parts):
            return s.Tuple(tuple(draw(value(part, scope, fuel - 1)) for part in parts))
        case Sum(left, right):
            if draw(st.booleans()):
                return s.Inl(draw(value(left, scope, fuel - 1)))
            return s.Inr(draw(value(right, scope, fuel - 1)))
        case ListOf(item):
            count = draw(st.integers(0, 3))
            items = tuple(draw(value(item, scope, fuel - 1)) for _ in range(count))
            if items and draw(st.booleans()):
                return s.Cons(items[0], s.List(items[1:]))
            return s.List(items)
    raise AssertionError(f"no literal of {goal}")


@st.composite
def law(draw: st.DrawFn, goal: Type, scope: Scope, fuel: int) -> s.Law:
    """A primitive distribution on a small type."""
    if goal == BOOL:
        if draw(st.booleans()):
            return s.Law("flip", (num(draw(st.sampled_from(CHANCES))),))
        return s.Law("flip", (draw(value(PROB, scope, fuel - 1)),))
    assert isinstance(goal, Fin)
    match draw(st.sampled_from(("categorical", "discrete", "binomial"))):
        case "discrete":
            return s.Law("discrete", (num(Fraction(goal.size)),))
        case "binomial":
            chance = num(draw(st.sampled_from(CHANCES)))
            return s.Law("binomial", (num(Fraction(goal.size - 1)), chance))
    weights = [draw(st.integers(0, 3)) for _ in range(goal.size)]
    weights[draw(st.integers(0, goal.size - 1))] += 1
    return s.Law("categorical", tuple(num(Fraction(w)) for w in weights))


@st.composite
def measure(draw: st.DrawFn, goal: Type, scope: Scope, fuel: int) -> s.Term:
    """A term of type M goal."""
    is_drawn = goal == BOOL or isinstance(goal, Fin)
    options = ["return"] * (3 if scope.of(goal) else 1) if fuel < 3 else []
    if is_drawn and fuel < 3:
        options += ["law"] * 6
    if fuel > 0:
        options += ["bind"] * 5 + ["score", "observe", "arms", "arms", "arms", "let", "twice"]
        if not scope.static:
            options += ["loop", "memo", "normalize", "recursion", "pattern", "fold", "case"]
    match draw(st.sampled_from(options)):
        case "law":
            return draw(law(goal, scope, fuel))
        case "bind":
            name, type_ = scope.fresh(), draw(st.sampled_from((BOOL, BOOL, Fin(2), Fin(3), REAL)))
            return s.Bind(
                s.Name(name),
                draw(measure(type_, scope, fuel - 1)),
                draw(measure(goal, scope.bind(name, type_), fuel - 1)),
            )
        case "pattern":
            x, y = scope.fresh(), scope.bind("", UNIT).fresh()
            pair = Product((BOOL, Fin(2)))
            return s.Bind(
                s.Parts((s.Name(x), s.Name(y))),
                draw(measure(pair, scope, fuel - 1)),
                draw(measure(goal, scope.bind(x, BOOL).bind(y, Fin(2)), fuel - 1)),
            )
        case "score":
            return s.Bind(
                s.Name("_"), draw(score(scope, fuel)), draw(measure(goal, scope, fuel - 1))
            )
        case "observe":
            of = draw(st.sampled_from((BOOL, Fin(3))))
            seen = s.Observe(draw(value(of, scope, 1)), draw(law(of, scope, fuel)))
            return s.Bind(s.Name("_"), seen, draw(measure(goal, scope, fuel - 1)))
        case "arms":  # the arms differ in their numbers of draws and scores
            test = draw(value(BOOL, scope, 1))
            return s.If(
                test, draw(measure(goal, scope, fuel - 1)), draw(measure(goal, scope, fuel - 2))
            )
        case "let":
            name, type_ = scope.fresh(), draw(st.sampled_from(SMALL))
            return s.Let(
                s.Name(name),
                draw(annotated(type_, scope, 1)),
                draw(measure(goal, scope.bind(name, type_), fuel - 1)),
            )
        case "twice":
            return draw(twice(goal, scope, fuel))
        case "loop":
            x, state = scope.fresh(), scope.bind("", UNIT).fresh()
            inner = scope.bind(x, BOOL).bind(state, goal)
            return s.Loop(
                s.Name(x),
                s.Annotated(draw(literal(ListOf(BOOL), scope, 1)), ListOf(BOOL)),
                s.Name(state),
                draw(annotated(goal, scope, 1)),
                draw(measure(goal, inner, fuel - 1)),
            )
        case "memo":
            f, x, inner = scope.fresh(), scope.bind("", UNIT).fresh(), scope.bind("", UNIT)
            of = draw(st.sampled_from((BOOL, Fin(2))))
            body = draw(law(of, inner.bind(x, BOOL), 1))
            known = scope.bind(f, Function(BOOL, of))
            y = known.fresh()
            asked = s.App(s.Var(f), draw(value(BOOL, known, 1)))
            again = s.Op("==", (asked, s.App(s.Var(f), draw(value(BOOL, known, 1)))))
            return s.Bind(
                s.Name(f),
                s.Memo(s.Fun(s.Name(x), BOOL, body)),
                s.Let(s.Name(y), again, draw(measure(goal, known.bind(y, BOOL), fuel - 1))),
            )
        case "normalize":
            type_ = draw(st.sampled_from((BOOL, Fin(2))))
            x, y = scope.fresh(), scope.bind("", UNIT).fresh()
            found = scope.bind(x, Measure("P", type_))
            return s.Case(
                s.Normalize(draw(measure(type_, scope, fuel - 1))),
                s.Name(x),
                draw(measure(goal, scope, 0)),
                s.Name(x),
                s.Bind(s.Name(y), s.Var(x), draw(measure(goal, found.bind(y, type_), fuel - 1))),
            )
        case "recursion":
            f, n = scope.fresh(), scope.bind("", UNIT).fresh()
            inner = scope.bind(f, UNIT).bind(n, NAT)
            again = s.App(s.Var(f), s.Op("pred", (s.Var(n),)))
            body = s.If(
                s.Op("==", (s.Var(n), num(Fraction(0)))),
                draw(measure(goal, inner_without(inner, f), fuel - 2)),
                s.Bind(s.Name("_"), draw(measure(BOOL, inner_without(inner, f), fuel - 2)), again),
            )
            whole = s.Fix(s.Name(f), s.Name(n), NAT, Measure("M", goal), body)
            return s.App(whole, num(Fraction(draw(st.integers(0, 2)))))
        case "fold":
            x, acc = scope.fresh(), scope.bind("", UNIT).fresh()
            inner = scope.bind(x, BOOL).bind(acc, Measure("M", goal))
            y = inner.fresh()
            step = s.Bind(s.Name(y), s.Var(acc), draw(measure(goal, inner.bind(y, goal), fuel - 2)))
            kind = Measure("M", goal)
            return s.Fold(
                s.Name(x),
                s.Annotated(draw(literal(ListOf(BOOL), scope, 1)), ListOf(BOOL)),
                s.Name(acc),
                s.Annotated(draw(measure(goal, scope, fuel - 2)), kind),
                s.Annotated(step, kind),
            )
        case "case":
            x = scope.fresh()
            return s.Case(
                draw(annotated(Sum(BOOL, Fin(2)), scope, 1)),
                s.Name(x),
                draw(measure(goal, scope.bind(x, BOOL), fuel - 1)),
                s.Name(x),
                draw(measure(goal, scope.bind(x, Fin(2)), fuel - 1)),
            )
    return s.Return(draw(value(goal, scope, min(fuel, 2))))


def inner_without(scope: Scope, name: str) -> Scope:
    """The scope in which a name is taken but of no use."""
    return Scope(
        tuple((n, Measure("P", UNIT) if n == name else t) for n, t in scope.variables), scope.static
    )


@st.composite
def score(draw: st.DrawFn, scope: Scope, fuel: int) -> s.Term:
    if draw(st.booleans()):
        return s.Score(num(draw(st.sampled_from((*SCORES, Fraction(2))))))
    return s.Score(
        s.If(
            draw(value(BOOL, scope, 1)),
            num(draw(st.sampled_from(SCORES))),
            draw(value(PROB, scope, 1)),
        )
    )


@st.composite
def twice(draw: st.DrawFn, goal: Type, scope: Scope, fuel: int) -> s.Term:
    """A local function that is run twice, or a measure that is."""
    f, x = scope.fresh(), scope.bind("", UNIT).fresh()
    inner = scope.bind(f, UNIT).bind(x, BOOL)
    body = draw(measure(BOOL, inner_without(inner, f), fuel - 2))
    known = scope.bind(f, Function(BOOL, Measure("M", BOOL)))
    y, z = known.fresh(), known.bind("", UNIT).fresh()
    first = s.App(s.Var(f), draw(value(BOOL, scope, 1)))
    second = s.App(s.Var(f), s.Var(y))
    after = known.bind(y, BOOL).bind(z, BOOL)
    return s.Let(
        s.Name(f),
        s.Fun(s.Name(x), BOOL, body),
        s.Bind(s.Name(y), first, s.Bind(s.Name(z), second, draw(measure(goal, after, fuel - 2)))),
    )


GOALS = (BOOL, BOOL, BOOL, Fin(3), Fin(3), Fin(2), REAL, PROB, Product((BOOL, Fin(2))))


def terms(static: bool = False, fuel: int | None = None) -> st.SearchStrategy[s.Term]:
    """Closed terms of type M A for small A, most of them with a handful of paths."""
    goals = GOALS if static else GOALS + COMPOUND
    sizes = st.sampled_from((4, 3, 5, 4, 5)) if fuel is None else st.just(fuel)
    return st.tuples(st.sampled_from(goals), sizes).flatmap(
        lambda chosen: measure(chosen[0], Scope(static=static), chosen[1])
    )
