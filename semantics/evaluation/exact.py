"""The exact evaluator: a program's measure by enumeration of its choices, states merged on the way.

Calls, lanes and loop steps are denoted on their own: their outcomes, merged, count as one choice of
the program around them.  The handlers that stand between such an effect and the evaluator take part
in its state: an outcome is (value, their states), and a handler that cannot tell its state switches
merging off there.  Recursion is cut at a depth, and what is missing is a choice too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable
from typing import Any, cast

import pyro.poutine as poutine
import torch
from pyro.distributions import Delta, Uniform
from pyro.poutine.indep_messenger import IndepMessenger
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.utils._pytree import tree_map

from ...ppl.distributions.densities import log_density
from ...ppl.distributions.masks import core
from ...ppl.distributions.support import finite_support, first_values, lists_values, quadrature_rule
from ...ppl.distributions.validate import check_parameters, check_values
from ...ppl.errors import (
    BudgetError,
    ConvergenceError,
    DuplicateNameError,
    ProgramError,
    UnsupportedDistributionError,
    ZeroMassError,
    located,
)
from ...ppl.language.combinators import Lanes, Loop, stack_outputs
from ...ppl.language.coverage import Coverage
from ...ppl.language.effects import (
    Message,
    is_draw,
    is_subsample,
    law_of,
    scaled_log_prob,
    stack,
    whole_indices,
)
from ...ppl.language.handlers import (
    Handler,
    Lane,
    Scoping,
    Sealed,
    Step,
    Taken,
    Untracing,
    is_one,
    require_meaning,
)
from ...ppl.language.queries import Ideal
from ...ppl.language.recursion import Activation
from ...ppl.types.supports import support_of
from .compared import Compared, Interval, is_uniform
from .fronts import Weighted, advanced
from .lanes import LANES, is_lane_wise
from .measure import EPSILON, Measure, logsumexp
from .paths import CUT, Explorer, Outcome, Store, restore, states_of

_PURE = (
    Lane,
    Step,
    Taken,
    IndepMessenger,
    poutine.scale_messenger.ScaleMessenger,
    poutine.mask_messenger.MaskMessenger,
)
# handlers that rename or relabel only: the measure on results does not depend on them
_TRANSPARENT = (Lane, Step, Scoping, Untracing, Store)


MANY = 64  # states of a loop that are tried at once
REFUSALS = 3  # after which they are not tried again

Solve = Callable[[Callable[..., Any], tuple[Any, ...], "Evaluator"], Measure]


class Evaluator(Explorer):
    """The outermost handler of an exact evaluation.

    Args:
        budget: the most paths that may be run.
        quadrature: nodes for each continuous choice, or None to refuse them.
        merge: False enumerates every path of the whole program (the test oracle).
        depth: nested calls of a recursive program; the next one is cut.
        terms: how many values of an infinite support are listed, or None to refuse them.
        solve: the measure of a query with continuous choices, with its error.
        again: how many runs, at least, are made again and compared.
    """

    def __init__(
        self,
        *,
        budget: int,
        quadrature: int | None,
        merge: bool,
        depth: int,
        terms: int | None = None,
        solve: Solve | None = None,
        again: int = 0,
    ) -> None:
        super().__init__(budget, again)
        self.quadrature, self.merge, self.depth, self.terms = quadrature, merge, depth, terms
        self.approximate, self.resolution = False, EPSILON
        self.solve, self.log_query_error = solve, -math.inf  # the largest share of a query's mass
        self.notes: dict[str, None] = {}
        self._memo: dict[Hashable, list[Outcome]] = {}
        self._queries: dict[Hashable, Ideal] = {}
        self._valid: set[Hashable] = set()
        self._refused = 0  # how often the states of a loop could not be advanced together
        self.coverage = Coverage()

    # ------------------------------------------------------------------------------------ messages

    def _process_message(self, msg: Message) -> None:
        if msg["type"] == "sample":
            self._sample(msg)
        elif msg["type"] == "call" and self.merge:
            self._call(msg)
        elif msg["type"] == "loop" and self.merge:
            self._loop(msg, msg["infer"]["loop"])
        elif msg["type"] == "vmap":
            self._lanes(msg, msg["infer"]["lanes"])
        elif msg["type"] == "fix":
            self._recursion(msg)
        elif msg["type"] == "memo":
            msg["value"], msg["done"] = self.store.place(), True
        elif msg["type"] == "normalize":
            self._query(msg)
        msg["stop"] = True

    def _sample(self, msg: Message) -> None:
        if is_subsample(msg) and msg["value"] is None:
            msg["value"] = whole_indices(msg)
        if is_subsample(msg) and msg["value"] is not None:
            msg["done"] = True
            return
        require_meaning(self)
        fn, name = law_of(msg), msg["name"]
        path = self._current[-1]
        if not is_draw(msg) and not is_subsample(msg):
            if name in path.names:
                raise DuplicateNameError(
                    located("the name is used twice on one path", site=name, hint="rename a site")
                )
            path.names.add(name)
        identity = (msg["is_observed"], name, self._key(fn))
        if identity not in self._valid:
            check_parameters(name, fn)
            self._valid.add(identity)
        if msg["is_observed"] or msg["value"] is not None:
            self._score(msg, identity)
        elif is_draw(msg) and is_uniform(fn):
            self._see(fn.low)
            msg["value"] = Compared.of(_Undecided(fn, self), fn.low.dtype)
        else:
            outcome = self._choose(identity, lambda: self._enumerate(msg))
            msg["value"] = _followed(fn, outcome.value)
        msg["done"] = True

    def _score(self, msg: Message, identity: Hashable) -> None:
        if msg["infer"].get("_deterministic"):
            return
        if not msg["infer"].get("is_auxiliary"):
            check_values(msg["name"], msg["fn"], msg["value"], mask=msg["mask"])
        log_prob = scaled_log_prob(msg).detach()
        self._see(log_prob)
        log_weight = float(log_prob)
        if math.isnan(log_weight):
            raise ProgramError(located("the log density is NaN", site=msg["name"]))
        if log_weight == math.inf:
            raise ProgramError(located("the log density is infinite", site=msg["name"]))
        identity = (identity, self._key(log_weight))
        self._choose(
            identity, lambda: [Outcome(None, (), log_weight)] if log_weight > -math.inf else []
        )

    def _see(self, log_prob: Tensor) -> None:
        if log_prob.is_floating_point():
            self.resolution = max(self.resolution, torch.finfo(log_prob.dtype).eps)

    def _enumerate(self, msg: Message) -> list[Outcome]:
        """The outcomes of a choice; a latent in a scaled context stands for density ** scale."""
        fn, beyond = law_of(msg), 0.0
        continuous = not (is_subsample(msg) or lists_values(fn) or support_of(fn).is_discrete)
        if self.quadrature is not None and continuous:
            values, log_probs = (x.detach() for x in quadrature_rule(fn, self.quadrature))
            self.approximate = True
        elif self.terms is not None and (listed := first_values(fn, self.terms)) is not None:
            values, log_probs = listed
            beyond = -math.expm1(min(0.0, logsumexp(log_probs.tolist())))
        else:
            values, log_probs = finite_support(fn, limit=self.budget)
            if not is_subsample(msg):
                log_probs = log_density(fn, values)
            if is_draw(msg) and isinstance(core(fn), Delta):
                log_probs = torch.zeros_like(log_probs)  # drawn whatever its own log density is
        self._see(log_probs)
        flat = log_probs.reshape(len(values), math.prod(log_probs.shape[1:])).sum(1)
        if not is_draw(msg) and not is_subsample(msg) and not is_one(msg["scale"]):
            power = {**msg, "scale": msg["scale"] - 1.0}
            densities = log_density(fn, values)
            flat = flat + torch.stack([scaled_log_prob(power, each) for each in densities])
            if bool((torch.as_tensor(power["scale"]) < 0).any()) and beyond:
                beyond = math.inf  # a root of small masses is larger
        outcomes = [
            Outcome(value, (), log_weight)
            for value, log_weight in zip(values, flat.tolist(), strict=True)
            if log_weight > -math.inf
        ]
        return outcomes + ([Outcome(CUT, (), math.log(beyond))] if beyond else [])

    # ---------------------------------------------------------------------- calls, loops and lanes

    def _between(self) -> list[Messenger]:
        handlers = stack()
        return handlers[handlers.index(self) + 1 :]

    def _mergeable(self, what: str) -> list[Messenger] | None:
        """The handlers between the effect and here if all can tell their state, else None."""
        handlers = self._between()
        for handler in handlers:
            if not isinstance(handler, (Handler, *_PURE)):
                self.notes[f"{what} not merged: {type(handler).__name__} has no state()"] = None
                return None
        return [*handlers, self.store]

    def _submeasure(
        self,
        identity: Hashable,
        fn: Callable[[], Any],
        arguments: Any,
        handlers: list[Messenger],
        states: tuple[Any, ...],
    ) -> list[Outcome]:
        """The outcomes of a part of the program, computed once for each distinct input."""
        alone = all(_is_transparent(handler) for handler in handlers)
        key = (identity, self._key(arguments), self._key(states))
        if alone and key in self._memo:
            return self._memo[key]
        outcomes = self._explore(fn, handlers, states)
        if self._key(arguments) != key[1]:
            raise self._impure("it changed its argument in place")
        if alone:
            self._memo[key] = outcomes
        return outcomes

    def _take(
        self,
        msg: Message,
        identity: Hashable,
        handlers: list[Messenger],
        outcomes: Callable[[], list[Outcome]],
    ) -> None:
        outcome = self._choose(identity, outcomes)
        restore(handlers, outcome.states)
        msg["value"], msg["done"] = outcome.value, True

    def _call(self, msg: Message) -> None:
        if (handlers := self._mergeable("call")) is None:
            return
        fn, args = msg["fn"], msg["args"]
        states = states_of(handlers)
        identity = ("call", self._key((fn, args, states)))
        self._take(
            msg,
            identity,
            handlers,
            lambda: self._submeasure(identity, lambda: fn(*args), args, handlers, states),
        )

    def _recursion(self, msg: Message) -> None:
        """One call of a recursive program: a choice among its outcomes, or a cut."""
        fn, args, left = msg["fn"], msg["args"], self.depth
        if left == 0:
            self._choose("cut", lambda: [Outcome(CUT, (), 0.0)])

        def deeper(*inner: Any) -> Any:
            self.depth = left - 1
            try:
                return fn(*inner)
            finally:
                self.depth = left

        msg["fn"] = deeper
        if not self.merge or (handlers := self._mergeable("recursion")) is None:
            return
        # how many calls the enclosing activations made only names sites
        handlers = [h for h in handlers if not isinstance(h, Activation)]
        states = states_of(handlers)
        identity = ("fix", left, self._key((msg["infer"]["step"], args, states)))
        self._take(
            msg,
            identity,
            handlers,
            lambda: self._submeasure(identity, lambda: deeper(*args), args, handlers, states),
        )

    def _query(self, msg: Message) -> None:
        """The normalised measure of a query: a value, computed by an evaluation of its own."""
        query, args = msg["infer"]["query"], msg["args"]
        key = self._key((query, args, self.store.state()))
        if key not in self._queries:
            self._queries[key] = self.normalized(query, args)
        msg["value"], msg["done"] = self._queries[key], True

    def normalized(self, query: Callable[..., Any], args: tuple[Any, ...]) -> Ideal:
        """The normalised measure of a query."""
        if self.quadrature is not None and self.solve is not None:
            measure = self.solve(lambda *inner: _apart(query, inner), args, self)
            if measure.log_error > -math.inf:
                relative = measure.log_error - measure.log_mass()
                self.approximate = True
                self.log_query_error = max(self.log_query_error, relative)
            return normalized(measure.atoms)
        inner = Evaluator(
            budget=self.budget - self.paths,
            quadrature=self.quadrature,
            merge=self.merge,
            depth=self.depth,
            terms=self.terms,
            again=min(1, self.again),
        )
        with Sealed(), inner:
            outcomes = inner.run(lambda: _apart(query, args))
        self.paths += inner.paths
        self.approximate |= inner.approximate
        self.resolution = max(self.resolution, inner.resolution)
        self.notes |= inner.notes
        if any(outcome.value is CUT for outcome in outcomes):
            raise ConvergenceError(
                located("normalize: a recursion was cut, so the constant is not known")
            )
        return normalized((outcome.value, outcome.log_weight) for outcome in outcomes)

    def _loop(self, msg: Message, loop: Loop) -> None:
        if (handlers := self._mergeable("loop")) is None:
            return
        carry, xs = msg["args"]
        states = states_of(handlers)
        identity = ("loop", self._key((loop, carry, xs, states)))
        self._take(
            msg, identity, handlers, lambda: self._loop_outcomes(loop, carry, xs, handlers, states)
        )

    def _loop_outcomes(
        self, loop: Loop, carry: Any, xs: Any, handlers: list[Messenger], states: tuple[Any, ...]
    ) -> list[Outcome]:
        """Advance every distinct (carry, outputs, handler states) one step at a time."""
        front = [Outcome((carry, []), states, 0.0)]
        cut: list[Outcome] = []
        for t in range(loop.length):
            merged: dict[Hashable, tuple[Outcome, list[float]]] = {}
            done = [loop.done(at.value[0]) for at in front]
            if all(map(_holds, done)):
                break
            if (found := self._together(loop, t, front, any(map(_holds, done)), xs)) is not None:
                front = found
                self._require_few(t, front)
                continue
            for at, ended in zip(front, done, strict=True):
                c, ys = at.value
                if _holds(ended):
                    merged.setdefault(self._key((at.value, at.states)), (at, []))[1].append(
                        at.log_weight
                    )
                    continue
                x = tree_map(lambda leaf: leaf[t], xs) if loop.has_outputs else None  # noqa: B023
                for step in self._submeasure(
                    ("step", self._key(loop.step), t),
                    lambda: loop.advance(t, c, xs),  # noqa: B023
                    (c, x),
                    handlers,
                    at.states,
                ):
                    if step.value is CUT:
                        cut.append(_cut(at.log_weight + step.log_weight))
                        continue
                    after, y = step.value
                    value = (after, ys if y is None else [*ys, y])
                    outcome = Outcome(value, step.states, at.log_weight + step.log_weight)
                    key = self._key((value, step.states))
                    merged.setdefault(key, (outcome, []))[1].append(outcome.log_weight)
            front = [Outcome(o.value, o.states, logsumexp(logs)) for o, logs in merged.values()]
            self._require_few(t, front)
        return [Outcome(loop.result(*o.value), o.states, o.log_weight) for o in front] + cut

    def _require_few(self, t: int, front: list[Outcome]) -> None:
        if len(front) > self.budget:
            raise BudgetError(
                located(
                    f"step {t} of a loop has {len(front)} distinct states, over the budget",
                    hint="carry and return less of the history (equal states merge), "
                    "or raise budget=",
                )
            )

    def _together(
        self, loop: Loop, t: int, front: list[Outcome], some_ended: bool, xs: Any
    ) -> list[Outcome] | None:
        """The front after step t, all its states advanced at once; None if that cannot be.

        Nothing may stand between the loop and here that has a part in its choices.
        """
        if some_ended or len(front) < MANY or self._refused >= REFUSALS:
            return None
        states, key = front[0].states, self._key(front[0].states)
        free = all(map(_is_transparent, self._between()))
        if not free or any(at.states is not states and self._key(at.states) != key for at in front):
            return None

        def step(value: tuple[Any, list[Any]]) -> tuple[Any, list[Any]]:
            after, y = loop.advance(t, value[0], xs)
            return after, value[1] if y is None else [*value[1], y]

        before = [(at.value, at.log_weight) for at in front]

        def alone(value: Any) -> Weighted:
            before = self._key(value)
            outcomes = self._explore(lambda: step(value), [*self._between(), self.store], states)
            if self._key(value) != before:
                raise self._impure("it changed its argument in place")
            return [(outcome.value, outcome.log_weight) for outcome in outcomes]

        if (found := advanced(step, before, alone, self.budget)) is None:
            self._refused += 1
            return None
        after, lanes, resolution = found
        self.paths += lanes // LANES
        self.resolution = max(self.resolution, resolution)
        return [Outcome(value, states, log_weight) for value, log_weight in after]

    def _lanes(self, msg: Message, lanes: Lanes) -> None:
        """A product over lanes; the batched rule where a handler has entries for all lanes."""
        handlers = self._mergeable("vmap")
        if handlers is None or not all(map(is_lane_wise, handlers)):
            return
        if not lanes.size:
            return  # only a run tells the shape of what no lane returns
        args = msg["args"]
        if not self.merge:
            msg["fn"] = lambda *args: stack_outputs(
                [self._lane(lanes, args, i) for i in range(lanes.size)]
            )
            return
        states = states_of(handlers)
        identity = ("vmap", self._key((lanes, args, states)))
        self._take(
            msg, identity, handlers, lambda: self._lane_outcomes(lanes, args, handlers, states)
        )

    def _lane(self, lanes: Lanes, args: tuple[Any, ...], i: int) -> Any:
        with Lane(i):
            names, path = set(self._current[-1].names), self._current[-1]
            value = lanes.fn(*lanes.arguments(args, i))
            path.names = names
        return value

    def _lane_outcomes(
        self,
        lanes: Lanes,
        args: tuple[Any, ...],
        handlers: list[Messenger],
        states: tuple[Any, ...],
    ) -> list[Outcome]:
        front = [Outcome((), states, 0.0)]
        cut: list[Outcome] = []
        fn_key = self._key(lanes.fn)
        for i in range(lanes.size):
            arguments = lanes.arguments(args, i)
            by_state: dict[Hashable, list[Outcome]] = {}
            after = []
            for at in front:
                key = self._key(at.states)
                if key not in by_state:
                    by_state[key] = self._submeasure(
                        ("lane", fn_key),
                        lambda: self._lane(lanes, args, i),  # noqa: B023
                        arguments,
                        handlers,
                        at.states,
                    )
                for o in by_state[key]:
                    log_weight = at.log_weight + o.log_weight
                    if o.value is CUT:
                        cut.append(_cut(log_weight))
                    else:
                        after.append(Outcome((*at.value, o.value), o.states, log_weight))
            if len(after) > self.budget:
                raise BudgetError(
                    located(
                        f"{i + 1} lanes have {len(after)} joint outcomes, over the budget",
                        hint="use fewer lanes or particles, or raise budget=",
                    )
                )
            front = after
        return [Outcome(stack_outputs(list(o.value)), o.states, o.log_weight) for o in front] + cut


class _Undecided(Interval):
    """A uniform number on the path of an evaluator: parts and nodes of it are choices there."""

    def __init__(self, law: Any, evaluator: Evaluator) -> None:
        super().__init__(law.low.detach(), law.high.detach())
        self.evaluator, self.path = evaluator, evaluator._current[-1]
        self.path.undecided = True

    def pick(self, log_shares: Tensor) -> int:
        if bool(log_shares.isnan().any()):
            what = "a uniform number is compared by way of numbers that are NaN or overflow"
            raise ProgramError(located(what, hint="compare it before they do"))
        logs = enumerate(log_shares.tolist())
        return int(self._choose([Outcome(i, (), log) for i, log in logs if log > -math.inf]))

    def node(self) -> Tensor:
        law, nodes = Uniform(self.low, self.high, validate_args=False), self.evaluator.quadrature
        if nodes is None:
            finite_support(law)  # there is none: it raises
        values, logs = quadrature_rule(law, nodes or 1)
        self.evaluator.approximate = True
        options = zip(values, logs.tolist(), strict=True)
        return cast(Tensor, self._choose([Outcome(x, (), log) for x, log in options]))

    def _choose(self, options: list[Outcome]) -> Any:
        if self.evaluator._current[-1] is not self.path:
            what = "a uniform number is used within a call that is not told of it"
            raise ProgramError(located(what, hint="pass it as an argument"))
        identity = ("uniform", self.evaluator._key((self.low, self.high)), len(options))
        return self.evaluator._choose(identity, lambda: options).value


def _holds(ended: Tensor | None) -> bool:
    return ended is not None and bool(ended)


def _cut(log_weight: float) -> Outcome:
    return Outcome(CUT, (), log_weight)


def _apart(query: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """Run a query; its recursive calls are not numbered with those of the program around it."""
    with Activation():
        return query(*args)


def _is_transparent(handler: Messenger) -> bool:
    if isinstance(handler, Untracing):
        return not handler.keep
    return isinstance(handler, _TRANSPARENT)


def normalized(weighted: Iterable[tuple[Any, float]]) -> Ideal:
    """The probability measure proportional to weighted values (value, log weight).

    Errors:
        ZeroMassError: no value has positive weight.
    """
    atoms = list(weighted)
    log_mass = logsumexp([log_weight for _, log_weight in atoms])
    if log_mass == -math.inf:
        raise ZeroMassError(
            located("normalize: the measure is zero", hint="every path of the query scores zero")
        )
    probs = torch.tensor([lw - log_mass for _, lw in atoms], dtype=torch.float64).exp()
    return Ideal(tuple(value for value, _ in atoms), probs / probs.sum())


def _followed(law: Any, value: Any) -> Any:
    """A value that moves with the parameters of its law as a draw does, where these are tracked.

    It keeps its place in the distribution function F, so that dx = -dF(x) / p(x) (Figurnov and
    others 2018).
    """
    if not (torch.is_grad_enabled() and getattr(law, "has_rsample", False)):
        return value
    while isinstance(law, torch.distributions.Independent):
        law = law.base_dist
    log_prob = law.log_prob(value)
    if not log_prob.requires_grad:
        return value
    try:
        place = law.cdf(value)
    except NotImplementedError:
        what = f"values of {type(law).__name__} cannot follow its parameters, as draws do"
        hint = "draw noise that has no parameters and make the value of it, or detach them"
        raise UnsupportedDistributionError(located(what, hint=hint)) from None
    density = log_prob.detach().exp()
    known = density > torch.finfo(density.dtype).tiny
    moved = (place.detach() - place) / torch.where(known, density, torch.inf)
    return value + moved
