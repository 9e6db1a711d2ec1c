"""Importance sampling: a guide proposes, the model scores."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from ...ppl import vmap
from ...ppl.errors import (
    BranchError,
    DataError,
    ImpureProgramError,
    UnsupportedDistributionError,
    located,
)
from ...ppl.interpretations.abstract_run import check_program
from ...ppl.interpretations.guides import check_guide
from ...ppl.language.handlers import Proposing, Sampling, Untracing, Weighing
from ...ppl.language.program import Callback, Program, signature
from ...ppl.tensors.keys import Bookkeeping
from .population import Population


def importance(model: Callback, particles: int, guide: Callback | None = None) -> Program:
    """Importance sampling as a program; it returns a ``Population`` of the model's results.

    Invariant: E[sum_i w_i delta_{x_i}] is the model's measure if the guide covers its support.

    Args:
        model: the program whose results are weighted.
        guide: a program of the same arguments that proposes some or all latents of the model.
            The others, or all of them without a guide, are proposed from the model itself.
            Its support must cover the model's: this is checked before the first run, unless one of
            the two has no type because it branches in Python on a random value.  The density of
            its auxiliary choices counts where latents are points, made of them.

    Errors:
        GuideError: the guide does not fit the model.
    """

    if particles < 1:
        raise ValueError("importance needs at least one particle")
    checked, auxiliary = Bookkeeping(), Bookkeeping()

    def particle(*args: Any) -> tuple[Any, Tensor]:
        with Untracing():
            with Proposing() as proposal, Sampling():
                if guide is not None:
                    guide(*args)
            with Weighing(given=proposal.choices) as target:
                value = model(*args)
        unused = proposal.choices.keys() - target.used - auxiliary
        if unused:
            raise DataError(
                located(
                    f"the guide proposes {sorted(unused)}, which the model does not sample",
                    hint="rename the sites of the guide",
                )
            )
        density = proposal.log_density
        if not proposal.has_points:
            density = density - proposal.log_auxiliary
        return value, _tensor(target.log_weight - density)

    def run(*args: Any) -> Population:
        if (key := signature(args)) not in checked:
            if guide is None:
                check_program(model, *args)
            else:
                auxiliary.update(_auxiliary(guide, model, args))
            checked.add(key)
        values, log_weights = vmap(particle, (None,) * len(args), particles)(*args)
        return Population(values, log_weights - math.log(particles)).require_weights()

    run.__name__ = run.__qualname__ = f"importance({particles})"
    return Program(run)


def _tensor(x: Tensor | float) -> Tensor:
    """A log weight; in double precision where nothing was scored, so that no rounding enters."""
    return x if isinstance(x, Tensor) else torch.tensor(x, dtype=torch.float64)


def _auxiliary(guide: Callback, model: Callback, args: tuple[Any, ...]) -> set[str]:
    """The auxiliary sites of a guide, which is checked, if it and the model have types."""
    with suppress(BranchError, ImpureProgramError, UnsupportedDistributionError):
        sites = check_guide(guide, model, *args, direction="inclusive", partial=True).sites
        return {name for name, site in sites.items() if site.auxiliary}
    return set()
