"""The evidence lower bound with the finite choices of the guide summed out by elimination.

A chain of T choices with k values costs T k^2, where enumerating whole traces costs k^T.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ...ppl.distributions.data import as_arguments
from ...ppl.distributions.strategies import Enum, strategy_of
from ...ppl.errors import ObjectiveError, located
from ...ppl.interpretations.elimination import Factor, expected, order_of
from ...ppl.interpretations.factors import FiniteLatents, Structures
from ...ppl.language.effects import Message, is_draw, is_latent, scaled_log_prob
from ...ppl.language.handlers import Handler, Sealed
from ...ppl.language.program import Callback, program_name
from .gradients.estimators import choose
from .gradients.replay import current
from .objective import objective

# Structures by guide and model (or the objects that they are methods of); no result depends on it.
KNOWN: WeakKeyDictionary[Any, WeakKeyDictionary[Any, Structures]] = WeakKeyDictionary()


@objective
def summed_elbo(model: Callback, guide: Callback, *args: Any) -> Tensor:
    """E[log w], the choices that the guide enumerates summed out; the others by their strategies.

    Value and derivative have the mean of those of ``elbo``, and no noise of these choices.  The
    other choices must not depend on them, in the guide or in the model.

    Errors:
        ObjectiveError: no choice is enumerated.
        ProgramError: another choice depends on one that is; or a site looks at several elements.
        BranchError: Python looks at a choice.
    """
    args, run = as_arguments(args), current()
    others = _Others(lambda msg: choose(run, msg["name"], msg["fn"]))
    with Sealed(), others:
        guide(*args)
    if not others.summed:
        what = f"{program_name(guide)} enumerates no choice"
        raise ObjectiveError(located(what, hint="use elbo, or put enum(...) on finite choices"))
    given = others.values
    prior = _Others(lambda msg: given[msg["name"]], others.summed)
    with Sealed(), prior:
        model(*args)
    q, p = _structures(model, guide, args, given)
    weights, scores = q.tables(given), p.tables(given)
    ours, theirs = q.looks(), p.looks()
    alike = q.alike(weights, ours) and p.alike(scores, theirs) and q.shapes == p.shapes
    factors, _ = q.factors(weights, ours, alike)
    costs, constant = p.factors(scores, theirs, alike)
    own = [Factor(factor.variables, -factor.table) for factor in factors]
    mean = expected(factors, [*costs, *own], order_of([*factors, *costs])).sum()
    return mean + constant + prior.log_density - others.log_density


def _structures(
    model: Callback, guide: Callback, args: tuple[Any, ...], given: dict[str, Tensor]
) -> tuple[FiniteLatents, FiniteLatents]:
    """The finite latents of guide and model; found once for arguments of a kind."""
    owners = [getattr(p, "__self__", p) for p in (guide, model)]
    methods = [getattr(p, "__func__", None) for p in (guide, model)]
    known = KNOWN.setdefault(owners[0], WeakKeyDictionary()).setdefault(owners[1], Structures())

    def find() -> list[FiniteLatents]:
        with torch.no_grad():
            made = [FiniteLatents(p, args, frozenset(given)) for p in (guide, model)]
        return [each.alone() for each in made]  # else it would keep its own key alive

    found = known.of(tuple(methods), args, find)
    q, p = (each.on(args, program) for each, program in zip(found, (guide, model), strict=True))
    return q, p


class _Others(Handler):
    """The choices that are not summed out, with their log density; the others are stood in for.

    Args:
        value: of a choice that is not summed out.
        summed: the names of those that are; those with the strategy enum unless given.
    """

    lane_wise = False

    def __init__(self, value: Callable[[Message], Any], summed: set[str] | None = None) -> None:
        super().__init__()
        self.value, self.fixed = value, summed
        self.summed: set[str] = summed or set()
        self.values: dict[str, Tensor] = {}
        self.log_density: Tensor | float = 0.0

    def _process_message(self, msg: Message) -> None:
        if msg["type"] != "sample" or is_draw(msg) or not is_latent(msg):
            return
        listed = isinstance(strategy_of(msg["fn"]), Enum)
        if listed if self.fixed is None else msg["name"] in self.fixed:
            self.summed.add(msg["name"])
            msg["value"] = msg["fn"].enumerate_support(expand=True)[0]
        else:
            msg["value"] = self.value(msg)
            self.mark(msg, "chosen")
        msg["done"] = True

    def _postprocess_message(self, msg: Message) -> None:
        if self.marked(msg) == "chosen":
            self.values[msg["name"]] = msg["value"]
            self.log_density = self.log_density + scaled_log_prob(msg)
