"""Samplers and resampling schemes of BlackJAX, as programs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...inference.smc import Population
from ...ppl.language.program import program_name
from .jax_code import as_effects, with_jax
from .particles_code import END, ordered
from .replacing import held_in

PACKAGE = "blackjax"
SPACINGS = "_sorted_uniforms"


def blackjax_kernel(make: Callable[[], Any]) -> Callable[..., Any]:
    """One transition of a sampler on a state, a tree of tensors, started anew at each.

    Args:
        make: makes the sampler, of arrays of JAX:
            ``lambda: blackjax.additive_step_random_walk(log_density, step)``.
    """

    def transition(state: Any, key: Any) -> Any:
        sampler = make()
        return sampler.step(key, sampler.init(state))[0].position

    transition.__module__ = make.__module__
    transition.__name__ = transition.__qualname__ = program_name(make)
    return with_jax(transition, [PACKAGE])


def blackjax_scheme(scheme: Callable[..., Any], taken: int | None = None) -> Callable[..., Any]:
    """A scheme of ``blackjax.smc.resampling``, as ``particles_scheme`` takes those of others.

    Uniform numbers of a whole array, as of ``stratified``, need nodes.
    """

    def run(weights: Tensor) -> Population:
        size = len(weights) if taken is None else taken
        more = held_in(PACKAGE, _spacings)
        with as_effects({PACKAGE, scheme.__module__}, more) as key:
            import jax.numpy

            indices = scheme(key, jax.numpy.asarray(weights.double().numpy()), size)
            ancestors = torch.as_tensor(indices.tolist())
        return Population(ancestors, -torch.full((size,), float(size)).double().log())

    run.__name__ = run.__qualname__ = program_name(scheme)
    return run


def _spacings(value: Any) -> Any:
    is_one = getattr(value, "__name__", "") == SPACINGS and callable(value)
    return (lambda key, count: ordered(count, END)) if is_one else None
