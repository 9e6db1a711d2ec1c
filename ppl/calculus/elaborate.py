"""From terms to programs: the calculus run by the effects of the language.

Numbers are float64 tensors and booleans are bool tensors; a measure is a ``Run``, or a ``LawOf`` if
it is a primitive distribution.  A draw bound to ``x`` is the site ``x``.  Sites are named by the
binders on the way to them, so that no name is used twice on a path and none depends on what was
drawn.  Each body after a bind is a call of its own, with its free variables as arguments, so that
an exact evaluation computes it once for each distinct environment.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..errors import BranchError, CalculusError, ZeroMassError
from ..language.branching import cond
from ..language.combinators import iterate
from ..language.effects import emit, factor, observe, sample
from ..language.program import Program
from ..language.queries import Ideal, ideal
from ..language.recursion import RandomFunction, fix, memo
from ..tensors.hidden import is_known
from ..tensors.nesting import deep
from . import syntax as s
from .check import Typing, check
from .types import Measure

Env = Mapping[str, Any]


@deep()
def elaborate(term: s.Term | s.Module) -> Program:
    """The program of a closed term: it runs a measure, and returns anything else.

    Errors:
        CalculusError: the term is ill-typed.
    """
    typing = check(term)
    meaning = Meaning(typing)

    @deep()
    def main() -> Any:
        value = meaning.value(typing.term, {})
        return run(value, "", "value") if isinstance(typing.type, Measure) else value

    main.__name__ = main.__qualname__ = "main"
    return Program(main)


# ------------------------------------------------------------------------------------------ values


@dataclass(frozen=True)
class Injection:
    """A value of a sum type; ``side`` is ``inl`` or ``inr``."""

    side: str
    value: Any


pytree.register_pytree_node(
    Injection, lambda i: ([i.value], i.side), lambda values, side: Injection(side, *values)
)


@dataclass(frozen=True)
class LawOf:
    """A primitive distribution; a boolean one is drawn by torch as zero or one."""

    law: Any
    boolean: bool

    def draw(self, name: str) -> Tensor:
        value = sample(name, self.law)
        return value == 1 if self.boolean else value.to(torch.float64)

    def observe(self, name: str, value: Tensor) -> None:
        observe(name, self.law, value.to(torch.float64))


@dataclass(frozen=True)
class Run:
    """A measure that a term makes in an environment.

    ``via`` are the calls that made it.  They become part of the names of its sites where it is the
    last thing that another measure does, since its body may then run twice on one path.
    """

    meaning: Meaning
    node: s.Term
    env: Env
    via: str = ""


@dataclass(frozen=True)
class Either:
    """One of two measures or functions, by a condition that differs by lane."""

    test: Tensor
    yes: Any
    no: Any


@dataclass(frozen=True)
class Closure:
    """A function that a term makes in an environment."""

    meaning: Meaning
    node: s.Fun
    env: Env

    def __call__(self, argument: Any) -> Any:
        return self.meaning.value(self.node.body, bind(self.node.name, argument, self.env))


@dataclass(frozen=True)
class Recursive:
    """A recursive function; a call is run by ``fix``."""

    meaning: Meaning
    node: s.Fix
    env: Env

    def __call__(self, argument: Any) -> Any:
        return Run(self.meaning, self.node, {**self.env, ARGUMENT: argument})


ARGUMENT = "(argument)"  # no variable is called so


@dataclass(frozen=True)
class Recall:
    """The recursive function inside its own body."""

    again: Any

    def __call__(self, argument: Any) -> Any:
        return Recalled(self.again, argument)


@dataclass(frozen=True)
class Recalled:
    """A recursive call that has not been run yet."""

    again: Any
    argument: Any


def bind(pattern: s.Pattern, value: Any, env: Env) -> Env:
    """The environment with the variables of a pattern."""
    if isinstance(pattern, s.Name):
        return env if pattern.name == "_" else {**env, pattern.name: value}
    for item, part in zip(pattern.items, value, strict=True):
        env = bind(item, part, env)
    return env


# ---------------------------------------------------------------------------------------- measures


def run(measure: Any, prefix: str, name: str, *, last: bool = True) -> Any:
    """Draw from a measure under a name; ``last`` if it ends the measure that has this prefix."""
    match measure:
        case LawOf():
            return measure.draw(prefix + name)
        case Either(test, yes, no):
            return cond(
                test,
                lambda: run(yes, prefix, f"{name}.yes", last=False),
                lambda: run(no, prefix, f"{name}.no", last=False),
            )()
        case Ideal(values, probs):
            index = sample(prefix + name, dist.Categorical(probs))
            if not is_known(index):
                return functools.reduce(
                    lambda rest, i: select(index == i, values[i], rest),
                    range(len(values) - 1),
                    values[-1],
                )
            return values[int(index)]
        case Recalled(again, argument):
            return again(argument)
        case Run(meaning, node, env, via):
            if isinstance(node, s.Return | s.Score | s.Observe | s.Memo):
                return meaning.perform(node, env, prefix + name, "")
            if last:
                return meaning.perform(node, env, f"{prefix}{via}/" if via else prefix, name)
            step = functools.partial(_performed, meaning, node)
            return emit("call", step, (env, f"{prefix}{name}/"))
    raise TypeError(f"not a measure: {measure!r}")


def _performed(meaning: Meaning, node: s.Term, env: Env, prefix: str) -> Any:
    return meaning.perform(node, env, prefix, "value")


def _continued(meaning: Meaning, body: s.Term, env: Env, prefix: str, name: str) -> Any:
    return run(meaning.value(body, env), prefix, name)


class Meaning:
    """The recursion over the terms of one program; it is compared by identity."""

    __slots__ = ("free", "labels", "typing")

    def __init__(self, typing: Typing) -> None:
        self.typing = typing
        self.free = s.FreeVariables()
        self.labels: dict[int, str] = {}
        self._label(typing.term, {})

    def _label(self, term: s.Term, used: dict[str, int]) -> None:
        """Give each binder, call and fold of the term a name of its own."""
        match term:
            case s.Bind(pattern, measure, _):
                bare = {s.Score: "score", s.Observe: "observe"}.get(type(measure), "run")
                wanted = "_".join(s.bound(pattern)) or bare
            case s.Loop(state=state) | s.Fold(state=state):
                wanted = state.name
            case s.App(function, _):
                wanted = function.name if isinstance(function, s.Var) else "call"
            case s.Memo():
                wanted = "f"
            case _:
                wanted = ""
        if wanted:
            used[wanted] = used.get(wanted, 0) + 1
            repeated = used[wanted] > 1
            self.labels[id(term)] = f"{wanted}.{used[wanted]}" if repeated else wanted
        for part in s.subterms(term):
            self._label(part, used)

    def perform(self, node: s.Term, env: Env, prefix: str, name: str) -> Any:
        """Run the measure of a term; ``name`` is for the draw that it ends with, if any."""
        match node:
            case s.Return(value):
                return self.value(value, env)
            case s.Score(weight):
                factor(prefix, self.value(weight, env).log())
                return ()
            case s.Observe(value, law):
                self._observe(prefix, self.value(law, env), self.value(value, env))
                return ()
            case s.Bind(pattern, measure, body):
                first = run(self.value(measure, env), prefix, self.labels[id(node)], last=False)
                inner = self.restricted(body, bind(pattern, first, env))
                step = functools.partial(_continued, self, body)
                return emit("call", step, (inner, prefix, name))
            case s.Loop(x, xs, state, start, body):
                items, label = self.value(xs, env), self.labels[id(node)]

                def step_of(carry: tuple[int, Any]) -> tuple[int, Any]:
                    i, before = carry
                    inner = bind(state, before, bind(x, items[i], env))
                    return i + 1, run(self.value(body, inner), prefix, label, last=False)

                return iterate(step_of, len(items))((0, self.value(start, env)))[1]
            case s.Fix(f, x, body=body):

                def activation(again: Any, argument: Any) -> Any:
                    inner = bind(x, argument, bind(f, Recall(again), env))
                    return run(self.value(body, inner), prefix, name)

                return fix(activation)(env[ARGUMENT])
            case s.Memo(function):
                f = self.value(function, env)
                return memo(lambda x: run(f(x), "", "value"), prefix or "f")
        raise TypeError(f"not a measure: {node!r}")

    def _observe(self, name: str, law: Any, value: Any) -> None:
        if isinstance(law, Either):
            cond(
                law.test,
                lambda: self._observe(f"{name}.yes", law.yes, value),
                lambda: self._observe(f"{name}.no", law.no, value),
            )()
        else:
            law.observe(name, value)

    def restricted(self, term: s.Term, env: Env) -> Env:
        """The environment of the free variables of a term only."""
        return {name: env[name] for name in sorted(self.free(term))}

    # -------------------------------------------------------------------------------------- values

    def value(self, term: s.Term, env: Env) -> Any:
        match term:
            case s.Var(name):
                return env[name]
            case s.Num(value):
                return torch.tensor(float(value), dtype=torch.float64)
            case s.Bool(value):
                return torch.tensor(value)
            case s.Tuple(items):
                return tuple(self.value(item, env) for item in items)
            case s.List(items):
                return [self.value(item, env) for item in items]
            case s.Cons(head, tail):
                return [self.value(head, env), *self.value(tail, env)]
            case s.Inl(value):
                return Injection("inl", self.value(value, env))
            case s.Inr(value):
                return Injection("inr", self.value(value, env))
            case s.Annotated(inner, _):
                return self.value(inner, env)
            case s.Op(name, args):
                return operate(name, [self.value(arg, env) for arg in args], term.at)
            case s.If(test, yes, no):
                return self.choose(self.value(test, env), yes, no, env)
            case s.Case(value, x, left, y, right):
                chosen = self.value(value, env)
                bound, arm = (x, left) if chosen.side == "inl" else (y, right)
                return self.value(arm, bind(bound, chosen.value, env))
            case s.Let(pattern, value, body):
                return self.value(body, bind(pattern, self.value(value, env), env))
            case s.Fun():
                return Closure(self, term, self.restricted(term, env))
            case s.App(function, argument):
                called = self.value(function, env)(self.value(argument, env))
                return _called(called, self.labels[id(term)])
            case s.Fold(x, xs, acc, start, body):
                items, state = self.value(xs, env), self.value(start, env)
                for i in range(len(items) - 1, -1, -1):
                    scope = bind(acc, state, bind(x, items[i], env))
                    state = _called(self.value(body, scope), f"{self.labels[id(term)]}({i})")
                return state
            case s.Law(name, args):
                return law_of(name, [self.value(arg, env) for arg in args], term.at)
            case s.Fix():
                return Recursive(self, term, self.restricted(term, env))
            case s.Normalize(measure):
                return self.normalized(self.value(measure, env))
        return Run(self, term, self.restricted(term, env))

    def choose(self, test: Tensor, yes: s.Term, no: s.Term, env: Env) -> Any:
        """The branch that a known condition picks; lane by lane, both are evaluated."""
        if not is_known(test):
            return select(test, self.value(yes, env), self.value(no, env))
        return self.value(yes if bool(test) else no, env)

    def normalized(self, measure: Any) -> Injection:
        """``inr`` of the ideal that an exact interpretation knows, or ``inl ()``."""
        try:
            return Injection("inr", ideal(run, measure, "", "value"))
        except ZeroMassError:
            return Injection("inl", ())


def _called(value: Any, label: str) -> Any:
    """A measure that a call or a step of a fold has made, under the name of that."""
    if isinstance(value, Run):
        via = f"{label}/{value.via}" if value.via else label
        return Run(value.meaning, value.node, value.env, via)
    return value


def select(test: Tensor, yes: Any, no: Any) -> Any:
    """Lane by lane, one of two values of one type.

    Errors:
        BranchError: the values have another structure: summands or lengths that differ by lane.
    """
    match yes, no:
        case Tensor(), Tensor():
            return torch.where(test, yes, no)
        case (list(), list()) | (tuple(), tuple()) if len(yes) == len(no):
            return type(yes)(select(test, a, b) for a, b in zip(yes, no, strict=True))
        case Injection(), Injection() if yes.side == no.side:
            return Injection(yes.side, select(test, yes.value, no.value))
        case (LawOf() | Run() | Either() | Ideal(), LawOf() | Run() | Either() | Ideal()):
            return Either(test, yes, no)
        case (Closure() | RandomFunction() | _Chosen(), Closure() | RandomFunction() | _Chosen()):
            return _Chosen(test, yes, no)
    raise BranchError(
        "the structure of a value (summand, length or recursion) depends on a random choice; "
        "replay interpretations can still run it"
    )


@dataclass(frozen=True)
class _Chosen:
    """One of two functions, by a condition that differs by lane."""

    test: Tensor
    yes: Any
    no: Any

    def __call__(self, argument: Any) -> Any:
        return select(self.test, self.yes(argument), self.no(argument))


# -------------------------------------------------------------------------------------- primitives


def operate(name: str, args: list[Any], at: object) -> Any:
    """The value of a pure primitive; division by zero and log of zero are errors where visible."""
    if name == "range":
        return [torch.tensor(float(i), dtype=torch.float64) for i in range(int(args[0]))]
    if name == "==":
        return equal(*args)
    if name in ("/", "log") and is_known(args[-1]):
        traced = type(args[-1]) is not Tensor
        if not traced and bool(args[-1] == 0):
            what = "division by zero" if name == "/" else "the logarithm of zero"
            raise CalculusError(what, at)
    return _OPERATIONS[name](*args)


_OPERATIONS: dict[str, Any] = {
    "and": torch.logical_and,
    "or": torch.logical_or,
    "not": torch.logical_not,
    "<": torch.lt,
    "<=": torch.le,
    "+": torch.add,
    "-": torch.sub,
    "*": torch.mul,
    "/": torch.div,
    "%": torch.remainder,
    "neg": torch.neg,
    "abs": torch.abs,
    "min": torch.minimum,
    "max": torch.maximum,
    "exp": torch.exp,
    "log": torch.log,
    "sqrt": torch.sqrt,
    "pred": lambda n: torch.clamp(n - 1, min=0),
}


def equal(a: Any, b: Any) -> Tensor:
    """Whether two values of one type are equal, as a bool tensor."""
    match a, b:
        case Tensor(), Tensor():
            return a == b
        case (list(), list()) | (tuple(), tuple()):
            if len(a) != len(b):
                return torch.tensor(False)
            parts = [equal(x, y) for x, y in zip(a, b, strict=True)]
            return functools.reduce(torch.logical_and, parts, torch.tensor(True))
        case Injection(), Injection():
            return equal(a.value, b.value) if a.side == b.side else torch.tensor(False)
    raise TypeError(f"not comparable: {a!r}, {b!r}")


def law_of(name: str, args: list[Tensor], at: object) -> LawOf:
    """The distribution of Pyro that a primitive distribution stands for."""
    match name:
        case "flip":
            return LawOf(dist.Bernoulli(args[0]), True)
        case "categorical":
            return LawOf(dist.Categorical(torch.stack(args)), False)
        case "discrete":
            size = int(args[0])
            return LawOf(dist.Categorical(torch.ones(size, dtype=torch.float64) / size), False)
        case "binomial":
            return LawOf(dist.Binomial(int(args[0]), args[1]), False)
        case "poisson":
            return LawOf(dist.Poisson(args[0]), False)
        case "geometric":
            return LawOf(dist.Geometric(args[0]), False)
        case "uniform":
            return LawOf(dist.Uniform(args[0], args[1]), False)
        case "normal":
            return LawOf(dist.Normal(args[0], args[1]), False)
        case "exponential":
            return LawOf(dist.Exponential(args[0]), False)
        case "gamma":
            return LawOf(dist.Gamma(args[0], args[1]), False)
        case "beta":
            return LawOf(dist.Beta(args[0], args[1]), False)
    raise TypeError(f"not a distribution: {name}")
