"""Latents that a fit does not hold, given those that it holds and the data: finite, and real."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from ...ppl import do, marginal
from ...ppl.errors import (
    InfiniteMassError,
    ProgramError,
    PushforwardError,
    ZeroMassError,
    located,
)
from ...ppl.interpretations.abstract_run import AbstractRun
from ...ppl.interpretations.factors import FiniteLatents
from ...ppl.interpretations.quadratic import QuadraticLatents
from ...ppl.language.program import Callback, program_name
from ...ppl.tensors.abstract_tensor import concrete
from .fit import CHUNK

Values = dict[str, Tensor]
PRIOR = "predict(..., discrete='prior') draws finite latents from their law without the data"
REAL_PRIOR = "predict(..., real='prior') draws real latents from their law without the data"


def integrated_out(
    p: Callback,
    args: tuple[Any, ...],
    run: AbstractRun,
    draws: Values,
    held: Collection[str],
    n: int,
) -> Values:
    """The latents of ``p(*args)`` beside those held that are not finite, for each of n draws.

    Jointly from their posterior given the draws and the data, which is a normal law, [n, *shape];
    finite latents that are not held are summed out.  Those are left out of which neither data nor
    the draws tell anything: a run of the program draws them from that law.

    Args:
        run: the abstract run of the program.
        draws: the latents that are given, [n, *shape].
        held: the latents that are none of those to be found.

    Errors:
        ProgramError: they are not real, or the density is not quadratic in them; or they, or data
            that depend on them, depend on a latent that is not given.
        InfiniteMassError: under a draw they have no posterior.
    """
    latents = {name: site for name, site in run.sites.items() if not site.observed}
    out = latents.keys() - draws.keys() - set(held)
    behind = _behind(run, run.scores.keys() | draws.keys(), out)
    finite = {name for name in behind if latents[name].space.finite}
    wanted = behind - finite
    if not wanted:
        return {}
    fixed = latents.keys() - behind - draws.keys()
    looking = {name for name in run.scores.keys() | draws.keys() if run.parents[name] & behind}
    _require_given(p, run, wanted, looking | behind, fixed, hint=REAL_PRIOR)
    try:
        program = do(p, {name: concrete(run.values[name]) for name in fixed}) if fixed else p
        if finite:
            program = marginal(program, keep=[*draws, *wanted], exact=True)
        model = QuadraticLatents(program, args, draws.keys(), observed=True)
    except PushforwardError as error:
        error.add_note(REAL_PRIOR)
        raise
    each = draws or {"": torch.zeros(n)}  # they are alike
    one = model.draw if draws else lambda _: model.draw({})
    found: Values = torch.func.vmap(one, randomness="different", chunk_size=CHUNK)(each)
    if not all(bool(x.isfinite().all()) for x in found.values()):
        what = f"under a draw of the fit {sorted(wanted)} have no posterior of finite mass"
        raise InfiniteMassError(located(what, hint=REAL_PRIOR))
    return found


def _behind(run: AbstractRun, ends: Collection[str], through: Collection[str]) -> set[str]:
    """Those of ``through`` that a site of ``ends`` depends on, directly or by way of others."""
    found: set[str] = set()
    pending = list(ends)
    while pending:
        more = (run.parents.get(pending.pop(), frozenset()) & set(through)) - found
        found |= more
        pending += more
    return found


def _require_given(
    p: Callback,
    run: AbstractRun,
    wanted: Collection[str],
    sites: Collection[str],
    anew: Collection[str],
    *,
    hint: str,
) -> None:
    """Raise if a site that tells of the wanted latents depends on one that is not given."""
    for name in sorted(sites):
        if unknown := run.parents[name] & set(anew):
            what = f"latents of {program_name(p)} are not given, {sorted(wanted)}, and this site"
            what += f" depends on {sorted(unknown)} too, which is not given either"
            line = run.lines.get(name)
            raise ProgramError(located(what, site=name, line=line, hint=hint))


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
    _require_given(p, run, wanted, scoring | wanted, anew, hint=PRIOR)
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
