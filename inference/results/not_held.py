"""Finite latents that a fit does not hold, given those that it holds and the data."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from ...ppl import do
from ...ppl.errors import ProgramError, PushforwardError, ZeroMassError, located
from ...ppl.interpretations.abstract_run import AbstractRun
from ...ppl.interpretations.factors import FiniteLatents
from ...ppl.language.program import Callback, program_name
from ...ppl.tensors.abstract_tensor import concrete
from .fit import CHUNK

Values = dict[str, Tensor]
PRIOR = "predict(..., discrete='prior') draws finite latents from their law without the data"


def not_held(
    p: Callback,
    args: tuple[Any, ...],
    run: AbstractRun,
    draws: Values,
    held: Collection[str],
    n: int,
    *,
    most_probable: bool,
) -> Values:
    """The finite latents of ``p(*args)`` beside those held, for each of n draws, [n, *shape].

    Jointly from their posterior given the draws and the data, by elimination and back; or the most
    probable joint value.  None are returned where no data depend on them: a run of the program
    draws them from that law.

    Args:
        run: the abstract run of the program.
        draws: the latents that are given, [n, *shape].
        held: the latents that are none of those to be found.

    Errors:
        ProgramError: they, or data that depend on them, depend on a latent that is not given; or
            they cannot be summed out.
        BudgetError: too many of them depend on each other.
        ZeroMassError: the data are impossible under a draw.
    """
    latents = {name: site for name, site in run.sites.items() if not site.observed}
    known = {*draws, *held}
    wanted = {name for name, s in latents.items() if s.space.finite and name not in known}
    looking = {name for name in run.parents if run.parents[name] & wanted}
    scoring = looking & (run.scores.keys() | draws.keys())
    if not wanted or not (scoring or most_probable):
        return {}
    anew = latents.keys() - wanted - draws.keys()
    for name in sorted(scoring | wanted):
        if unknown := run.parents[name] & anew:
            what = f"finite latents of {program_name(p)} are not given, {sorted(wanted)}, and this"
            what += f" site depends on {sorted(unknown)} too, which is not given either"
            line = run.lines.get(name)
            raise ProgramError(located(what, site=name, line=line, hint=PRIOR))
    try:
        program = do(p, {name: concrete(run.values[name]) for name in anew}) if anew else p
        found, log_mass = _solved(program, args, draws, n, most_probable)
    except PushforwardError as error:
        error.add_note(PRIOR)
        raise
    if not anew and bool((log_mass.isneginf() | log_mass.isnan()).any()):
        what = f"under a draw of the fit the data of {program_name(p)} are impossible"
        raise ZeroMassError(located(what, hint="predict for the data that were fitted"))
    return found


def _solved(
    p: Callback, args: tuple[Any, ...], draws: Values, n: int, most_probable: bool
) -> tuple[Values, Tensor]:
    """The finite latents [n, *shape] given the others, and the log mass of the data [n]."""
    model = FiniteLatents(p, args, frozenset(draws))

    def one(values: Values) -> tuple[Values, Tensor]:
        solved = model.solved(values)
        if most_probable:
            return solved.most_probable(), solved.log_mass
        return {name: x[0] for name, x in solved.draw(1).items()}, solved.log_mass

    if not draws:  # they are alike
        solved = model.solved({})
        if most_probable:
            found = {m: x.expand(n, *x.shape) for m, x in solved.most_probable().items()}
            return found, solved.log_mass
        return solved.draw(n), solved.log_mass
    drawn: tuple[Values, Tensor]
    drawn = torch.func.vmap(one, randomness="different", chunk_size=CHUNK)(draws)
    return drawn
