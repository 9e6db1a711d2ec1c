"""The type checker: types go up where a term says what it is, and down where it is told.

``synth`` finds the least type of a term, ``check`` holds it against one that is wanted and returns
the type that it really has.  The first mistake is reported where it was written.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from difflib import get_close_matches
from fractions import Fraction

from ..errors import CalculusError
from ..tensors.nesting import deep
from . import syntax as s
from .types import (
    BOOL,
    NAT,
    PROB,
    REAL,
    UNIT,
    VOID,
    WEIGHT,
    Base,
    Fin,
    Function,
    ListOf,
    Measure,
    Product,
    Sum,
    Type,
    combined,
    is_number,
    join,
    subtype,
)

Context = Mapping[str, Type]


@dataclass
class Typing:
    """A checked term: its type, and the type of each of its subterms by identity."""

    term: s.Term
    type: Type
    types: dict[int, Type] = field(repr=False)

    def of(self, part: s.Term) -> Type:
        """The type of a subterm."""
        return self.types[id(part)]


@deep()
def check(term: s.Term | s.Module, type_: Type | None = None, context: Context = {}) -> Typing:  # noqa: B006
    """The type of a term, held against ``type_`` if one is given.

    Args:
        context: the types of its free variables.

    Errors:
        CalculusError: the term has no type; the message names line and column, what was wanted and
            what was found.
    """
    if isinstance(term, s.Module):
        term = term.term()
    checker = _Checker()
    found = checker.synth(term, context) if type_ is None else checker.check(term, type_, context)
    return Typing(term, found, checker.types)


class _Checker:
    def __init__(self) -> None:
        self.types: dict[int, Type] = {}

    # ------------------------------------------------------------------------------------ downward

    def check(self, term: s.Term, wanted: Type, context: Context) -> Type:
        found = self._check(term, wanted, context)
        if not subtype(found, wanted):
            raise _mismatch(term, wanted, found)
        self.types[id(term)] = found
        return found

    def _check(self, term: s.Term, wanted: Type, context: Context) -> Type:
        match term, wanted:
            case s.If(test, yes, no), _:
                self.check(test, BOOL, context)
                return _known(self.check(yes, wanted, context), self.check(no, wanted, context))
            case s.Let(pattern, value, body), _:
                inner = self.bind(pattern, self.synth(value, context), context)
                return self.check(body, wanted, inner)
            case s.Case(value, x, left, y, right), _:
                on_left, on_right = self.sum(value, context)
                return _known(
                    self.check(left, wanted, self.bind(x, on_left, context)),
                    self.check(right, wanted, self.bind(y, on_right, context)),
                )
            case s.Bind(pattern, measure, body), Measure(kind, _) if kind != "D":
                first = self.measure(measure, context)
                if not subtype(Measure(first.kind, VOID), Measure(kind, VOID)):
                    raise _mismatch(measure, Measure(kind, first.of), first)
                rest = self.check(body, wanted, self.bind(pattern, first.of, context))
                return _after(first, rest)
            case s.Return(value), Measure(kind, of) if kind != "D":
                return Measure("P", self.check(value, of, context))
            case s.Tuple(items), Product(parts) if len(items) == len(parts):
                return Product(
                    tuple(self.check(i, p, context) for i, p in zip(items, parts, strict=True))
                )
            case s.Inl(value), Sum(left, _):
                return Sum(self.check(value, left, context), VOID)
            case s.Inr(value), Sum(_, right):
                return Sum(VOID, self.check(value, right, context))
            case s.List(items), ListOf(of):
                for item in items:
                    self.check(item, of, context)
                return wanted if items else ListOf(VOID)
            case s.Cons(head, tail), ListOf(of):
                self.check(head, of, context)
                self.check(tail, wanted, context)
                return wanted
            case s.Fun(x, argument, body), Function(given, result):
                if not subtype(given, argument):
                    raise _mismatch(term, wanted, Function(argument, result))
                return Function(argument, self.check(body, result, self.bind(x, argument, context)))
            case s.Fold(x, xs, acc, start, body), _:
                with suppress(CalculusError):
                    if subtype(found := self.synth(term, context), wanted):
                        return found
                self.check(start, wanted, context)
                inner = self.bind(acc, wanted, self.bind(x, self.items(xs, context), context))
                self.check(body, wanted, inner)
                return wanted
        return self.synth(term, context)

    # -------------------------------------------------------------------------------------- upward

    def synth(self, term: s.Term, context: Context) -> Type:
        found = self._synth(term, context)
        self.types[id(term)] = found
        return found

    def _synth(self, term: s.Term, context: Context) -> Type:
        match term:
            case s.Var(name):
                if name not in context:
                    close = get_close_matches(name, context, 1)
                    hint = f"did you mean '{close[0]}'?" if close else ""
                    raise CalculusError(f"unknown variable '{name}'", term.at, hint)
                return context[name]
            case s.Num(value):
                if value.denominator == 1:
                    return Fin(int(value) + 1)
                return PROB if value <= 1 else WEIGHT
            case s.Bool():
                return BOOL
            case s.Tuple(items):
                return Product(tuple(self.synth(i, context) for i in items)) if items else UNIT
            case s.Inl(value):
                return Sum(self.synth(value, context), VOID)
            case s.Inr(value):
                return Sum(VOID, self.synth(value, context))
            case s.List(items):
                of: Type = VOID
                for item in items:
                    of = self.joined(item, of, self.synth(item, context), "the items before it are")
                return ListOf(of)
            case s.Cons(head, tail):
                of = self.items(tail, context)
                here = self.synth(head, context)
                return ListOf(self.joined(head, of, here, "the items after it are"))
            case s.Annotated(inner, type_):
                self.check(inner, type_, context)
                return type_
            case s.If(test, yes, no):
                self.check(test, BOOL, context)
                first = self.synth(yes, context)
                return self.joined(no, first, self.synth(no, context), "the other branch is")
            case s.Case(value, x, left, y, right):
                on_left, on_right = self.sum(value, context)
                first = self.synth(left, self.bind(x, on_left, context))
                second = self.synth(right, self.bind(y, on_right, context))
                return self.joined(right, first, second, "the other branch is")
            case s.Let(pattern, value, body):
                scope = self.bind(pattern, self.synth(value, context), context)
                return self.synth(body, scope)
            case s.Fun(x, type_, body):
                return Function(type_, self.synth(body, self.bind(x, type_, context)))
            case s.App(function, argument):
                return self.application(function, argument, context)
            case s.Fold(x, xs, acc, start, body):
                scope = self.bind(x, self.items(xs, context), context)
                return self.iterated(acc, start, body, scope, context, effects=False)
            case s.Loop(x, xs, state, start, body):
                scope = self.bind(x, self.items(xs, context), context)
                return self.iterated(state, start, body, scope, context, effects=True)
            case s.Op():
                return self.operation(term, context)
            case s.Law():
                return self.law(term, context)
            case s.Return(value):
                return Measure("P", self.synth(value, context))
            case s.Bind(pattern, measure, body):
                first_measure = self.measure(measure, context)
                scope = self.bind(pattern, first_measure.of, context)
                return _after(first_measure, self.measure(body, scope))
            case s.Score(weight):
                small = subtype(self.check(weight, WEIGHT, context), PROB)
                return Measure("S" if small else "M", UNIT)
            case s.Observe(value, law):
                return self.observation(value, law, context)
            case s.Fix(f, x, type_, result, body):
                if not isinstance(result, Measure) or result.kind not in "SM":
                    raise CalculusError(
                        f"a recursive function cannot return {result}",
                        term.at,
                        "it may not end, so its result is S (mass at most one) or M (any mass)",
                    )
                whole = Function(type_, result)
                self.check(body, result, self.bind(x, type_, self.bind(f, whole, context)))
                return whole
            case s.Memo(function):
                return self.memo(function, context)
            case s.Normalize(measure):
                return Sum(UNIT, Measure("P", self.measure(measure, context).of))
        raise TypeError(f"not a term: {term!r}")

    # --------------------------------------------------------------------------------------- parts

    def bind(self, pattern: s.Pattern, type_: Type, context: Context) -> Context:
        """The context with the variables of a pattern."""
        names = s.bound(pattern)
        twice = next((n for i, n in enumerate(names) if n in names[:i]), None)
        if twice is not None:
            raise CalculusError(f"'{twice}' is bound twice in one pattern", pattern.at)
        if isinstance(pattern, s.Name):
            return context if pattern.name == "_" else {**context, pattern.name: type_}
        if type_ == VOID:
            type_ = Product((VOID,) * len(pattern.items))
        if not isinstance(type_, Product) or len(type_.parts) != len(pattern.items):
            raise CalculusError(
                f"the pattern has {len(pattern.items)} parts, but the value is {type_}", pattern.at
            )
        for item, part in zip(pattern.items, type_.parts, strict=True):
            context = self.bind(item, part, context)
        return context

    def measure(self, term: s.Term, context: Context) -> Measure:
        found = self.synth(term, context)
        if found == VOID:
            return Measure("P", VOID)
        if not isinstance(found, Measure):
            raise CalculusError(
                f"expected a measure, found {found}", term.at, "write `return` before a plain value"
            )
        return found

    def items(self, term: s.Term, context: Context) -> Type:
        found = self.synth(term, context)
        if found == VOID:
            return VOID
        if not isinstance(found, ListOf):
            raise CalculusError(f"expected a list, found {found}", term.at)
        return found.item

    def sum(self, term: s.Term, context: Context) -> tuple[Type, Type]:
        found = self.synth(term, context)
        if found == VOID:
            return VOID, VOID
        if not isinstance(found, Sum):
            raise CalculusError(f"case needs a sum, found {found}", term.at)
        return found.left, found.right

    def joined(self, term: s.Term, first: Type, second: Type, other: str) -> Type:
        both = join(first, second)
        if both is None:
            raise CalculusError(f"this is {second}, but {other} {first}", term.at)
        return both

    def application(self, function: s.Term, argument: s.Term, context: Context) -> Type:
        found = self.synth(function, context)
        if not isinstance(found, Function):
            raise CalculusError(f"only functions can be applied, not {found}", function.at)
        self.check(argument, found.argument, context)
        return found.result

    def iterated(
        self,
        state: s.Name,
        start: s.Term,
        body: s.Term,
        inner: Context,
        context: Context,
        *,
        effects: bool,
    ) -> Type:
        """The type of a fold or loop: the least state, found in two rounds, that the body keeps."""
        kind, at = "P", self.synth(start, context)
        for widen in (False, True, True):
            scope = self.bind(state, at, inner)
            if effects:
                step = self.measure(body, scope)
                kind, after = combined("P", step.kind), step.of
            else:
                after = self.synth(body, scope)
            if subtype(after, at):
                return Measure(kind, at) if effects else at
            at = self.joined(body, at, after, "the state is")
            if widen:
                at = _widened(at)
        raise CalculusError(
            f"the state starts as {self.types[id(start)]} but the body makes it {after}",
            body.at,
            "annotate the start with a type that every step keeps",
        )

    def observation(self, value: s.Term, law: s.Term, context: Context) -> Type:
        found = self.synth(law, context)
        if not isinstance(found, Measure) or found.kind != "D":
            raise CalculusError(
                f"observe needs a distribution with a density, found {found}",
                law.at,
                "observe from a primitive distribution, or score the weight yourself",
            )
        self.check(value, found.of, context)
        discrete = found.of == BOOL or found.of == NAT or isinstance(found.of, Fin)
        return Measure("S" if discrete else "M", UNIT)

    def memo(self, function: s.Term, context: Context) -> Type:
        found = self.synth(function, context)
        if not isinstance(found, Function) or not isinstance(found.result, Measure):
            raise CalculusError(f"memo needs a function to P, found {found}", function.at)
        if found.result.kind not in "DP":
            raise CalculusError(
                f"memo needs a function to P, found {found}",
                function.at,
                "a value that is never asked for is dropped, so it must have mass one",
            )
        if not has_equality(found.argument):
            raise CalculusError(f"memo cannot compare arguments of {found.argument}", function.at)
        return Measure("P", Function(found.argument, found.result.of))

    # --------------------------------------------------------------------------------- primitives

    def operation(self, term: s.Op, context: Context) -> Type:
        name, args = term.name, term.args
        if name in ("and", "or", "not"):
            for arg in args:
                self.check(arg, BOOL, context)
            return BOOL
        if name == "==":
            first, second = (self.synth(arg, context) for arg in args)
            both = self.joined(args[1], first, second, "the left side is")
            if not has_equality(both):
                raise CalculusError(f"values of {both} cannot be compared", term.at)
            return BOOL
        wanted = {"log": WEIGHT, "sqrt": WEIGHT, "pred": NAT, "range": NAT, "%": NAT}
        found = [self.check(arg, wanted.get(name, REAL), context) for arg in args]
        match name:
            case "<" | "<=":
                return BOOL
            case "exp" | "abs":
                return WEIGHT
            case "log" | "neg":
                return REAL
            case "sqrt" | "pred":
                return found[0]
            case "min" | "max":
                return self.joined(args[1], found[0], found[1], "the other argument is")
            case "range":
                size = _literal(args[0])
                return ListOf(NAT if size is None else Fin(size) if size else VOID)
            case "%":
                size = _literal(args[1])
                if not size:
                    raise CalculusError(
                        "the right side of % must be a whole number, written out, of at least 1",
                        args[1].at,
                    )
                return Fin(size)
        return _arithmetic(name, args, found)

    def law(self, term: s.Law, context: Context) -> Type:
        name, args = term.name, term.args
        wanted = {"flip": PROB, "geometric": PROB, "normal": REAL, "uniform": REAL}
        for i, arg in enumerate(args):
            last = {("normal", 1): WEIGHT, ("binomial", 1): PROB, ("binomial", 0): NAT}
            self.check(arg, last.get((name, i), wanted.get(name, WEIGHT)), context)
        match name:
            case "flip":
                of: Type = BOOL
            case "categorical":
                of = Fin(len(args))
            case "discrete" | "binomial":
                count = _literal(args[0])
                if count is None or (name == "discrete" and count < 1):
                    raise CalculusError(
                        f"the first argument of {name} must be a whole number, written out",
                        args[0].at,
                    )
                of = Fin(count + (name == "binomial"))
            case "poisson" | "geometric":
                of = NAT
            case "uniform":
                low, high = (self.types[id(arg)] for arg in args)
                of = PROB if (low, high) == (Fin(1), Fin(2)) else REAL
            case "normal":
                of = REAL
            case "beta":
                of = PROB
            case _:
                of = WEIGHT
        return Measure("D", of)


def has_equality(type_: Type) -> bool:
    """Whether values can be compared: no functions or measures inside."""
    match type_:
        case Function() | Measure():
            return False
        case Product(parts):
            return all(map(has_equality, parts))
        case Sum(left, right):
            return has_equality(left) and has_equality(right)
        case ListOf(item):
            return has_equality(item)
    return True


def _arithmetic(name: str, args: tuple[s.Term, ...], found: list[Type]) -> Type:
    match name, *found:
        case "+", Fin(m), Fin(n):
            return Fin(m + n - 1)
        case "*", Fin(m), Fin(n):
            return Fin((m - 1) * (n - 1) + 1)
    least = next(n for n in (NAT, PROB, WEIGHT, REAL) if all(subtype(f, n) for f in found))
    match name:
        case "+":
            return WEIGHT if least == PROB else least
        case "*":
            return least
        case "-":
            complement = args[0] == s.Num(_ONE) and subtype(found[1], PROB)
            return PROB if complement else REAL
        case "/":
            return REAL if least == REAL else WEIGHT
    raise TypeError(f"not an operator: {name}")


_ONE = Fraction(1)


def _literal(term: s.Term) -> int | None:
    """The whole number that a term writes out, or None."""
    if isinstance(term, s.Num) and term.value.denominator == 1:
        return int(term.value)
    return None


def _known(first: Type, second: Type) -> Type:
    both = join(first, second)
    assert both is not None, "two types below one have a join"
    return both


def _after(first: Measure, rest: Type) -> Type:
    if not isinstance(rest, Measure):
        return rest
    return Measure(combined(first.kind, rest.kind), rest.of)


def _widened(type_: Type) -> Type:
    """The type with sizes forgotten: what a state that grows at each step can be."""
    match type_:
        case Fin():
            return NAT
        case Base("Prob"):
            return WEIGHT
        case Product(parts):
            return Product(tuple(map(_widened, parts)))
        case Sum(left, right):
            return Sum(_widened(left), _widened(right))
        case ListOf(item):
            return ListOf(_widened(item))
    return type_


def _mismatch(term: s.Term, wanted: Type, found: Type) -> CalculusError:
    hint = ""
    match wanted, found:
        case Measure(k1, _), Measure(k2, _) if k1 != k2:
            hint = {
                "P": "a P must not score or observe",
                "S": "an S may score by a Prob only (at most one)",
                "D": "only a primitive distribution has a density",
            }.get(k1, "")
        case Measure(), _:
            hint = "write `return` before a plain value"
        case _, Measure():
            hint = "bind it with `x <- ...` in a do block"
        case _ if is_number(wanted) and is_number(found):
            hint = f"not every {found} is a {wanted}"
    return CalculusError(f"expected {wanted}, found {found}", term.at, hint)
