"""The particle filter: any program with a ``scan``, run with resampling between its steps."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from ...ppl import scan
from ...ppl.language.program import Callback, Program, signature
from ...ppl.tensors.hidden import is_hidden
from ...ppl.tensors.keys import Bookkeeping
from .filtering import Filtering, ancestry
from .lanes.quick import quick
from .population import Population
from .resampling import Scheme, systematic


def particle_filter(
    model: Callback,
    particles: int,
    scheme: Scheme = systematic,
    ess: float = 1.0,
    proposal: Callback | None = None,
    ahead: Callback | None = None,
    move: Callback | None = None,
) -> Program:
    """Sequential Monte Carlo for a program with a ``scan``; it returns a ``Population``.

    Invariant: E[sum_i w_i delta_{x_i}] is the model's measure, for every number of particles.

    Args:
        model: a program; its first scan is run with resampling before each step but the first.
        particles: how many.
        scheme: ``multinomial``, ``systematic``, ``stratified``, or a user's own.
        ess: resample when the effective sample size falls below this fraction (1: always); where
            one looks ahead, that of the weights with its factors.
        proposal: ``proposal(carry, row, *args)`` draws some choices of a step, by the names that
            the step uses (``"x"``, not ``"x[3]"``), in place of the model's law (a guided filter).
            Its support must cover the model's: this is checked at the first step before the first
            run, unless it or the step branches in Python on a random value.
        ahead: ``ahead(carry, next_row, *args)``, a finite log factor by which a particle is
            preferred when resampling before the step of that row, and by which its weight is then
            divided (an auxiliary particle filter; Pitt and Shephard 1999).  Any is valid; a good
            one guesses the score to come.
        move: ``move(choices, carry, *args)`` returns new values for some of the choices before the
            scan, such as unknown parameters, before each step.  It must leave the law of these
            choices invariant, given all that the particle did since: a Gibbs step by statistics
            that the steps carry (Storvik 2002), or Metropolis steps.  ``check.valid`` tells.

    Errors:
        DataError: the move gives values for no choices before the scan, or of other shapes.
        GuideError: the proposal does not fit the step.
        ProgramError: the program has no scan; a factor is not finite, or no number.
    """

    if particles < 1:
        raise ValueError("particle_filter needs at least one particle")
    filtering = Filtering(model, particles, scheme, ess, proposal, ahead, move)
    checked = Bookkeeping()

    def step(state: tuple[Population, bool, Any], t: Tensor) -> tuple[Any, Any]:
        population, recording, args = state
        population, output, ancestors = filtering.step(population, t, recording, *args)
        recording = output is not None
        return (population, recording, args), (output, ancestors) if recording else None

    def run(*args: Any) -> Population:
        if not any(map(is_hidden, tree_leaves(args))) and (key := signature(args)) not in checked:
            filtering.check(*args)
            checked.add(key)
        population, length = filtering.begin(*args)
        carry = population, False, args
        (population, _, _), history = scan(step)(carry, torch.arange(length))
        outputs = None if history is None else ancestry(*history)
        return filtering.end(population, outputs, *args).require_weights()

    run.__name__ = run.__qualname__ = f"particle_filter({particles})"
    run.quick = partial(quick, filtering)  # type: ignore[attr-defined]
    return Program(run)
