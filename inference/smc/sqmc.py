"""Sequential quasi-Monte Carlo: a particle filter whose particles move by points of scrambled nets.

Gerber and Chopin 2015, "Sequential quasi Monte Carlo".
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from ...ppl import scan
from ...ppl.distributions.nets import MOST
from ...ppl.language.program import Callback, Program, signature
from ...ppl.tensors.hidden import is_hidden
from ...ppl.tensors.keys import Bookkeeping
from .by_nets import ByNets
from .filtering import ancestry
from .lanes.nets import quick_nets
from .population import Population


def sqmc(
    model: Callback, particles: int, proposal: Callback | None = None, digits: int = MOST
) -> Program:
    """A particle filter by quasi-random points, for a program with a ``scan``.

    It returns a ``Population``.  Before each step as many points are drawn as there are particles,
    a scrambled Sobol' net.  Particles stand in the order of what they carry, along a Hilbert curve
    if that is several numbers; the first coordinate of a point chooses an ancestor in that order,
    and the others make the choices of the step by the quantiles of their laws.  So neighbours go on
    by points that are spread evenly, and errors fall faster than by independent ones.

    Invariant: E[sum_i w_i delta_{x_i}] is the model's measure, for every number of particles, since
    each point is uniform by itself, and those of one step are independent of those before.

    Laws without a quantile here (gamma, beta, Student's, Poisson and others) are drawn as ever,
    which keeps the measure and loses the gain.  The number of particles is best a power of two.

    Args:
        particles: how many.
        proposal: as of ``particle_filter``.
        digits: binary digits of a coordinate.  With two or three the law of the points is small
            enough for exact checks, of a model whose chances are multiples of 2^-digits.

    Errors:
        As of ``particle_filter``.
    """
    if particles < 1:
        raise ValueError("sqmc needs at least one particle")
    if not 1 <= digits <= MOST:
        raise ValueError(f"points have 1 to {MOST} digits, not {digits}")
    filtering = ByNets(model, particles, proposal=proposal, digits=digits)
    checked = Bookkeeping()

    def step(state: tuple[Population, bool, int, Any], t: Tensor) -> tuple[Any, Any]:
        population, recording, numbers, args = state
        population, output, ancestors = filtering.moved(population, t, numbers, *args)
        recording = output is not None
        return (population, recording, numbers, args), (output, ancestors) if recording else None

    def run(*args: Any) -> Population:
        if not any(map(is_hidden, tree_leaves(args))) and (key := signature(args)) not in checked:
            filtering.check(*args)
            checked.add(key)
        before, numbers = filtering.asked(*args)
        population, length = filtering.begun(before, *args)
        carry = population, False, numbers, args
        (population, *_), history = scan(step)(carry, torch.arange(length))
        outputs = None if history is None else ancestry(*history)
        return filtering.end(population, outputs, *args).require_weights()

    run.__name__ = run.__qualname__ = f"sqmc({particles})"
    run.quick = partial(quick_nets, filtering)  # type: ignore[attr-defined]
    return Program(run)
