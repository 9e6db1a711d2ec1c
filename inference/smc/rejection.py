"""Rejection sampling: runs of a program until one is accepted."""

from __future__ import annotations

from typing import Any

import torch
from pyro import distributions as dist

from ...ppl import draw, fix, untraced, weighted
from ...ppl.errors import ProgramError, located
from ...ppl.language.program import Callback, Program, program_name


def rejection(model: Callback, bound: float) -> Program:
    """Draw from the normalised measure of a program whose weights are at most ``bound``.

    Returns (value, trials).  A run is accepted with probability weight / bound, so the number of
    trials is geometric of mean bound / evidence.  Exactly, trials up to a depth are known.

    Errors:
        ProgramError: a run has a weight beyond the bound.
    """
    if not bound > 0.0:
        raise ProgramError(located(f"rejection needs a positive bound, not {bound}"))
    once = untraced(weighted(model))

    def attempt(again: Any, trial: int, *args: Any) -> Any:
        value, log_weight = once(*args)
        chance = log_weight.exp() / bound
        if not float(chance) <= 1.0 + 1e-12:
            what = f"{program_name(model)} has a run of weight {float(log_weight.exp()):.6g}"
            raise ProgramError(located(f"{what}, beyond the bound {bound:g}", hint="raise bound="))
        if bool(draw(dist.Bernoulli(torch.clamp(chance, max=1.0)), label="accept")):
            return value, trial
        return again(trial + 1, *args)

    sampler = fix(attempt)

    def run(*args: Any) -> Any:
        return sampler(1, *args)

    run.__name__ = run.__qualname__ = f"rejection({program_name(model)})"
    return Program(run)
