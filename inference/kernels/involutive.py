"""Involutive Metropolis-Hastings: a deterministic map of choices and auxiliary choices.

Neklyudov, Welling, Egorov and Vetrov, arXiv 2006.16653; Cusumano-Towner, Lew and Mansinghka,
arXiv 2007.09871.  Reversible-jump moves (Green 1995) are among them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...ppl.errors import ProgramError, located
from ...ppl.language.effects import Message, is_latent
from ...ppl.language.handlers import Proposing, Sampling, Untracing, Weighing
from ...ppl.language.program import Callback, program_name
from ...ppl.types import space_of
from .kernel import Acceptance, Moved, TraceKernel, decide, metropolis
from .traces import Traced, fresh, traced

Choices = dict[str, Tensor]
Involution = Callable[[Choices, Choices], tuple[Choices, Choices]]

TOLERANCE = 1e-6  # of the round trip, relative to one plus the value


def involutive(
    auxiliary: Callback, involution: Involution, accept: Acceptance = metropolis
) -> TraceKernel:
    """Draw auxiliary choices, map (choices, auxiliary choices) by an involution, and accept.

    ``auxiliary(choices, *args)`` is a program of latents; ``involution`` maps two dictionaries to
    two, and is its own inverse, which is checked at every step.  It may change which choices there
    are.  The Jacobian is taken of the real coordinates, by automatic differentiation.

    Errors:
        ProgramError: the round trip does not return, the results are not the choices of a run, or
            the number of real coordinates changes.
    """
    name = program_name(involution)

    def step(run: Traced, p: Callback, *args: Any) -> Moved:
        with Untracing(), _Auxiliary() as there, Sampling():
            auxiliary(run.choices, *args)
        choices, others = involution(dict(run.choices), dict(there.choices))
        _require_return(name, involution(dict(choices), dict(others)), (run.choices, there.choices))
        proposed = traced(p, choices, {}, *args, draws=fresh(run))
        if proposed is None:
            return decide(run, None, torch.zeros(()), accept, name)
        if proposed.choices.keys() != choices.keys() or proposed.drawn:
            wrong = sorted((proposed.choices.keys() ^ choices.keys()) | proposed.drawn)
            what = f"{name} leads to no run: {wrong} are not the choices of one"
            raise ProgramError(located(what, hint="map to all the choices of a run"))
        with Untracing(), Weighing(given=others) as back, Proposing() as extra, Sampling():
            auxiliary(proposed.choices, *args)
        if extra.choices.keys() - others.keys() or others.keys() - back.used:
            what = f"{name} leads to auxiliary choices that {program_name(auxiliary)} cannot make"
            raise ProgramError(located(what, hint="map to all of them"))
        ratio = (
            proposed.log_density
            - run.log_density
            + torch.as_tensor(back.log_weight)
            - torch.as_tensor(there.log_density)
            + _log_volume(name, involution, run, there)
        )
        return decide(run, proposed, ratio, accept, name)

    return TraceKernel(step, f"involutive({name})")


def _require_return(name: str, found: Any, wanted: tuple[Choices, Choices]) -> None:
    for ours, theirs in zip(found, wanted, strict=True):
        if ours.keys() == theirs.keys() and all(_near(ours[n], theirs[n]) for n in theirs):
            continue
        what = f"{name} is no involution: twice applied it does not return"
        raise ProgramError(located(what, hint="swap or negate what tells the two directions apart"))


def _near(a: Tensor, b: Tensor) -> bool:
    a, b = torch.as_tensor(a), torch.as_tensor(b)
    return a.shape == b.shape and bool(((a - b).abs() <= TOLERANCE * (1 + b.abs())).all())


def _is_bound(law: Any) -> bool:
    """Whether an event has fewer degrees of freedom than coordinates, as in a simplex."""
    space = space_of(law)
    return space.smooth and space.constraint.event_dim > 0


class _Auxiliary(Proposing):
    """Auxiliary choices, and which of them are real coordinates, free or bound."""

    def __enter__(self) -> Any:
        self.real, self.bound = frozenset[str](), frozenset[str]()
        return super().__enter__()

    def state(self) -> Any:
        return super().state(), sorted(self.real), sorted(self.bound)

    def restore(self, state: Any) -> None:
        super().restore(state[0])
        self.real, self.bound = frozenset(state[1]), frozenset(state[2])

    def _process_message(self, msg: Message) -> None:
        super()._process_message(msg)
        if msg["type"] == "sample" and is_latent(msg):
            self.real |= {msg["name"]} if space_of(msg["fn"]).smooth else set()
            self.bound |= {msg["name"]} if _is_bound(msg["fn"]) else set()


def _log_volume(name: str, involution: Involution, run: Traced, there: _Auxiliary) -> Tensor:
    """log |det| of the derivative of the real coordinates, there, in the real ones, here."""
    others = there.choices
    bound = [n for n, law in run.laws.items() if _is_bound(law)] + sorted(there.bound)
    if bound:
        what = f"{name} moves {bound}, whose coordinates are not free"
        raise ProgramError(located(what, hint="use sites of Real, Positive or intervals"))
    free = {n for n, law in run.laws.items() if space_of(law).smooth}, there.real
    inputs = [(part, n) for part, names in enumerate(free) for n in sorted(names)]
    if not inputs:
        return torch.zeros(())

    def flat(*values: Tensor) -> Tensor:
        given = (dict(run.choices), dict(others))
        for (part, n), value in zip(inputs, values, strict=True):
            given[part][n] = value
        outcome = involution(*given)
        moved = [v for c in outcome for v in c.values() if v.requires_grad]
        return torch.cat([v.reshape(-1) for v in moved]) if moved else torch.zeros(0)

    values = tuple((run.choices, others)[part][n].detach() for part, n in inputs)
    with torch.enable_grad():
        rows = torch.autograd.functional.jacobian(flat, values)
    jacobian = torch.cat([row.reshape(len(row), -1) for row in rows], 1)
    if jacobian.shape[0] != jacobian.shape[1]:
        what = f"{name} maps {jacobian.shape[1]} real coordinates to {jacobian.shape[0]}"
        raise ProgramError(located(what, hint="draw as many auxiliary ones as are missing"))
    log_volume: Tensor = torch.linalg.slogdet(jacobian.double()).logabsdet
    return log_volume
