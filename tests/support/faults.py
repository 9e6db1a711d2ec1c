"""Faults to plant: places of the library, and a wrong line for each."""

from __future__ import annotations

import importlib
import inspect
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Fault:
    """In the function at ``where`` (module:name) the text ``old`` is replaced by ``new``."""

    what: str
    where: str
    old: str
    new: str

    def __str__(self) -> str:
        return self.what


FAULTS = [
    # ---------------------------------------------------------------------------- exact evaluator
    Fault(
        "merging keeps the larger of two weights",
        "semantics.evaluation.paths:Explorer._explore",
        "Outcome(outcome.value, outcome.states, logsumexp(logs))",
        "Outcome(outcome.value, outcome.states, max(logs))",
    ),
    Fault(
        "only two outcomes of a choice are followed",
        "semantics.evaluation.paths:Explorer._choose",
        "reversed(options[1:])",
        "reversed(options[1:2])",
    ),
    Fault(
        "the weight of a path is its last factor",
        "semantics.evaluation.paths:Explorer._choose",
        "path.log_weight += outcome.log_weight",
        "path.log_weight = outcome.log_weight",
    ),
    Fault(
        "the values of random functions leak from path to path",
        "semantics.evaluation.paths:Store.restore",
        "self.tables = dict(state)",
        "self.tables = {**dict(state), **self.tables}",
    ),
    Fault(
        "scores count twice",
        "semantics.evaluation.exact:Evaluator._score",
        "log_weight = float(log_prob)",
        "log_weight = 2 * float(log_prob)",
    ),
    Fault(
        "a part is computed once whatever its arguments are",
        "semantics.evaluation.exact:Evaluator._submeasure",
        "key = (identity, self._key(arguments), self._key(states))",
        "key = (identity[:1], self._key(arguments) and None, self._key(states))",
    ),
    Fault(
        "a part is computed once whatever the states of the handlers are",
        "semantics.evaluation.exact:Evaluator._submeasure",
        "key = (identity, self._key(arguments), self._key(states))",
        "key = (identity, self._key(arguments), None)",
    ),
    Fault(
        "a loop forgets the weight of its earlier steps",
        "semantics.evaluation.exact:Evaluator._loop_outcomes",
        "Outcome(value, step.states, at.log_weight + step.log_weight)",
        "Outcome(value, step.states, step.log_weight)",
    ),
    Fault(
        "a loop that is done is advanced all the same",
        "semantics.evaluation.exact:Evaluator._loop_outcomes",
        "if _holds(ended):",
        "if ended is not None and bool(ended) and t > 1:",
    ),
    Fault(
        "recursion at another depth is taken for the same",
        "semantics.evaluation.exact:Evaluator._recursion",
        '("fix", left, self._key(',
        '("fix", self._key(',
    ),
    Fault(
        "what is cut counts for nothing",
        "semantics.evaluation.exact:Evaluator._recursion",
        "lambda: [Outcome(CUT, (), 0.0)]",
        "lambda: []",
    ),
    Fault(
        "the tail of an infinite support is dropped",
        "semantics.evaluation.exact:Evaluator._enumerate",
        "if beyond else []",
        "if beyond > 1 else []",
    ),
    Fault(
        "a query is computed once whatever its arguments are",
        "semantics.evaluation.exact:Evaluator._query",
        "key = self._key((query, args, self.store.state()))",
        "key = self._key(type(query))",
    ),
    Fault(
        "every lane has the arguments of the first",
        "semantics.evaluation.exact:Evaluator._lane_outcomes",
        "arguments = lanes.arguments(args, i)",
        "arguments = lanes.arguments(args, 0)",
    ),
    Fault(
        "a quadrature without its weights",
        "semantics.evaluation.exact:Evaluator._enumerate",
        "values, log_probs = (x.detach() for x in quadrature_rule(fn, self.quadrature))",
        "values, _ = quadrature_rule(fn, self.quadrature); "
        "log_probs = torch.zeros(len(values)) - math.log(len(values))",
    ),
    # ---------------------------------------------------------------- density, capture, vmap rule
    Fault(
        "the density leaves observations out",
        "ppl.interpretations.recorder:Recorder._postprocess_message",
        "self.log_density = self.log_density + ",
        "self.log_density = self.log_density + (not msg['is_observed']) * ",
    ),
    Fault(
        "masks are ignored",
        "ppl.language.effects:masked_log_prob",
        "if mask is None or mask is True:",
        "if True:",
    ),
    Fault(
        "scales are ignored",
        "ppl.language.effects:scaled_log_prob",
        "log_prob = log_prob * scale",
        "log_prob = log_prob * 1.0",
    ),
    Fault(
        "branches that are not taken score",
        "ppl.language.handlers:Taken._process_message",
        'msg["mask"] = self.pred if',
        'msg["mask"] = True if',
    ),
    Fault(
        "the other branch is selected",
        "ppl.language.branching:Branches.run_all",
        "_select(index == i, results[i], chosen)",
        "_select(index != i, results[i], chosen)",
    ),
    Fault(
        "a batched site has the parameters of the first lane",
        "ppl.language.batching:Boundary._cross",
        "fn = batch(spec, list(params), list(dims), self.size)",
        "fn = batch(spec, [p if d is None else p.narrow(d, 0, 1).expand_as(p)"
        " for p, d in zip(params, dims)], list(dims), self.size)",
    ),
    Fault(
        "lanes share one draw",
        "ppl.language.batching:Boundary._cross",
        "return value.expand((self.size, *value.shape[1:])), 0",
        "return value[:1].expand((self.size, *value.shape[1:])), 0",
    ),
    # --------------------------------------------------------------------------------- combinators
    Fault(
        "data of a step go to its neighbour",
        "ppl.language.handlers:_given",
        "value = value[i]",
        "value = value[(i + 1) % len(value)]",
    ),
    Fault(
        "an intervention scores",
        "ppl.language.handlers:Intervening._process_message",
        'msg["type"], msg["infer"]["absorber"] = "absorbed", self',
        'msg["is_observed"] = True',
    ),
    Fault(
        "weighted keeps the last score only",
        "ppl.language.handlers:Weighing._postprocess_message",
        "self.log_weight = self.log_weight + scaled_log_prob(plated(msg))",
        "self.log_weight = scaled_log_prob(plated(msg))",
    ),
    Fault(
        "a random function gives its first value to every argument",
        "ppl.language.recursion:RandomFunction.__call__",
        "if known == key:",
        "if known is not None:",
    ),
    Fault(
        "a mixture draws its components evenly",
        "ppl.language.branching:mixture",
        "probs = torch.as_tensor(weights)",
        "probs = torch.as_tensor(weights) * 0 + 1.0",
    ),
    # --------------------------------------------------------------------------------- elaboration
    Fault(
        "flips are turned over",
        "ppl.calculus.elaborate:LawOf.draw",
        "value == 1",
        "value == 0",
    ),
    Fault(
        "scores enter without their logarithm",
        "ppl.calculus.elaborate:Meaning.perform",
        "self.value(weight, env).log()",
        "self.value(weight, env) - 1",
    ),
    Fault(
        "a fold runs from the front",
        "ppl.calculus.elaborate:Meaning.value",
        "range(len(items) - 1, -1, -1)",
        "range(len(items))",
    ),
    Fault(
        "lanes select the wrong value",
        "ppl.calculus.elaborate:select",
        "torch.where(test, yes, no)",
        "torch.where(test, no, yes)",
    ),
    Fault(
        "lists of other lengths may be equal",
        "ppl.calculus.elaborate:equal",
        "if len(a) != len(b):\n                return torch.tensor(False)\n"
        "            parts = [equal(x, y) for x, y in zip(a, b, strict=True)]",
        "parts = [equal(x, y) for x, y in zip(a, b, strict=False)]",
    ),
    Fault(
        "the predecessor of zero is negative",
        "ppl.calculus.elaborate:operate",
        "return _OPERATIONS[name](*args)",
        'return args[0] - 1 if name == "pred" else _OPERATIONS[name](*args)',
    ),
    Fault(
        "weights of a categorical are logits",
        "ppl.calculus.elaborate:law_of",
        "dist.Categorical(torch.stack(args))",
        "dist.Categorical(logits=torch.stack(args))",
    ),
    # ------------------------------------------------------------------------------ the reference
    Fault(
        "the reference forgets the first weight of a bind",
        "semantics.reference.measure:Finite.bind",
        "((y, w * v) for w, piece in pieces for y, v in piece)",
        "((y, v) for w, piece in pieces for y, v in piece)",
    ),
    Fault(
        "cells of Omega lose an outcome",
        "semantics.reference.tree:_Cell.draw",
        "for v, m in pairs[1:]",
        "for v, m in pairs[2:]",
    ),
    # -------------------------------------------------------------------------------------- types
    Fault(
        "a bind has the kind of its last part",
        "ppl.calculus.check:_after",
        "combined(first.kind, rest.kind)",
        "rest.kind",
    ),
]


@contextmanager
def planted(fault: Fault) -> Iterator[None]:
    """Within, the library has the fault."""
    module_name, path = fault.where.split(":")
    module = importlib.import_module(f"pushforward.{module_name}")
    *owners, name = path.split(".")
    owner = getattr(module, owners[0]) if owners else module
    original: Any = vars(owner)[name]
    source = textwrap.dedent(inspect.getsource(original))
    assert source.count(fault.old) == 1, f"{fault.where} has no single {fault.old!r}"
    namespace: dict[str, Any] = {}
    code = "from __future__ import annotations\n" + source.replace(fault.old, fault.new)
    exec(compile(code, f"<fault in {fault.where}>", "exec"), vars(module), namespace)
    holders = [owner] if owners else _holders(name, original)
    try:
        for holder in holders:
            setattr(holder, name, namespace[name])
        yield
    finally:
        for holder in holders:
            setattr(holder, name, original)


def _holders(name: str, function: Any) -> list[Any]:
    """The modules that have a function under its name."""
    modules = [m for m in sys.modules.values() if hasattr(m, "__dict__")]
    return [m for m in modules if vars(m).get(name) is function]
