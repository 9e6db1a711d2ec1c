"""Importance sampling: a guide proposes, the model scores."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..ppl import vmap
from ..ppl.errors import DataError, located
from ..ppl.handlers import Proposing, Untracing, Weighing
from ..ppl.program import Callback, Program
from .population import Population


def importance(model: Callback, particles: int, guide: Callback | None = None) -> Program:
    """Importance sampling as a program; it returns a ``Population`` of the model's results.

    Invariant: E[sum_i w_i delta_{x_i}] is the model's measure if the guide covers its support.

    Args:
        model: the program whose results are weighted.
        guide: a program of the same arguments that proposes some or all latents of the model.
            The others, or all of them without a guide, are proposed from the model itself.
    """

    if particles < 1:
        raise ValueError("importance needs at least one particle")

    def particle(*args: Any) -> tuple[Any, Tensor]:
        with Untracing():
            with Proposing() as proposal:
                if guide is not None:
                    guide(*args)
            with Weighing(given=proposal.choices) as target:
                value = model(*args)
        unused = proposal.choices.keys() - target.used
        if unused:
            raise DataError(
                located(
                    f"the guide proposes {sorted(unused)}, which the model does not sample",
                    hint="rename the sites of the guide",
                )
            )
        return value, torch.as_tensor(target.log_weight) - torch.as_tensor(proposal.log_density)

    def run(*args: Any) -> Population:
        values, log_weights = vmap(particle, (None,) * len(args), particles)(*args)
        return Population(values, log_weights - math.log(particles)).require_weights()

    run.__name__ = run.__qualname__ = f"importance({particles})"
    return Program(run)
