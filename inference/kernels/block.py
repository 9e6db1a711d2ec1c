"""Metropolis-Hastings with proposals that are programs.

Hastings 1970; Cusumano-Towner, Saad, Lew and Mansinghka 2019 (Gen), for proposals as programs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...ppl.errors import ProgramError, located
from ...ppl.language.handlers import Proposing, Sampling, Untracing, Weighing
from ...ppl.language.program import Callback, program_name
from .kernel import Acceptance, Moved, TraceKernel, decide, log_ratio, metropolis
from .traces import Traced, fresh, traced


def block(proposal: Callback, accept: Acceptance = metropolis) -> TraceKernel:
    """Propose by a program: its latents, named as sites of the model, are their new values.

    ``proposal(choices, *args)`` sees the choices of the run.  From the new run it must be able to
    propose the old values, at the same sites.  Choices that only the new run makes, or whose space
    changes, are drawn from their laws.

    Errors:
        ProgramError: the proposal names a site that one of the two runs has not, or not the same
            sites on the way back.
    """

    def step(run: Traced, p: Callback, *args: Any) -> Moved:
        with Untracing(), Proposing() as there, Sampling():
            proposal(run.choices, *args)
        names = there.choices.keys()
        _require(names <= run.choices.keys(), proposal, names - run.choices.keys(), "the run")
        kept = {n: law for n, law in run.laws.items() if n not in names}
        proposed = traced(p, {**run.choices, **there.choices}, kept, *args, draws=fresh(run))
        if proposed is None:
            return decide(run, None, torch.zeros(()), accept, program_name(proposal))
        missed = names - (proposed.choices.keys() - proposed.drawn)
        _require(not missed, proposal, missed, "the new run")
        back = _log_density(proposal, {n: run.choices[n] for n in names}, proposed.choices, args)
        ratio = log_ratio(run, proposed) + back - torch.as_tensor(there.log_density)
        return decide(run, proposed, ratio, accept, program_name(proposal))

    return TraceKernel(step, f"block({program_name(proposal)})")


def independence(proposal: Callback, accept: Acceptance = metropolis) -> TraceKernel:
    """Propose by a program ``proposal(*args)`` that does not look at the run."""

    def blind(_: dict[str, Tensor], *args: Any) -> None:
        proposal(*args)

    blind.__name__ = blind.__qualname__ = program_name(proposal)
    return block(blind, accept)._replace(name=f"independence({program_name(proposal)})")


def _log_density(
    proposal: Callback, values: dict[str, Tensor], seen: dict[str, Tensor], args: tuple[Any, ...]
) -> Tensor:
    with Untracing(), Proposing() as drawn, Weighing(given=values) as weighing, Sampling():
        proposal(seen, *args)
    wrong = drawn.choices.keys() | (values.keys() - weighing.used)
    _require(not wrong, proposal, wrong, "the way back")
    return torch.as_tensor(weighing.log_weight)


def _require(fits: bool, proposal: Callback, names: Any, where: str) -> None:
    if not fits:
        raise ProgramError(
            located(
                f"{program_name(proposal)} proposes {sorted(names)}, which {where} has not",
                hint="propose the same sites there and back",
            )
        )
