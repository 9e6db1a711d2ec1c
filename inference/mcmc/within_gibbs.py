"""A kernel on the continuous latents and Gibbs sampling of the finite ones, as one kernel.

Vectors are those of ``MixedDensity``: [d + m], of which the last m are whole numbers.  A transition
moves the first d, given the others, and then draws each of the others from its conditional.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .hamiltonian import IMPOSSIBLE, Kernel, Parameters, Potential, State, coin
from .nuts import nuts


def with_gibbs(kernel: Kernel | None = None) -> Kernel:
    """For programs with finite latents: NUTS, or this kernel, and Gibbs sampling in turn.

    Each finite latent, and each entry of one in a plate, is drawn given all else once after every
    trajectory, at the price of one evaluation of the density for each of its other values.  Where
    finite latents are tied to each other chains may move slowly between their joint values; where
    they can be summed out (``MCMC(rewrite="auto")``), that mixes better.

    Args:
        kernel: ``nuts()``, ``hmc(...)`` or ``mala()``; NUTS unless given.

    Errors:
        ValueError: the kernel has a warm-up of its own, as ``chees()`` has.
    """
    kernel = kernel or nuts()
    if kernel.sample is not None:
        raise ValueError(f"with_gibbs takes nuts(), hmc(...) or mala(), not {kernel.name}")
    return kernel._replace(name=f"{kernel.name} with Gibbs", gibbs=True)


def of_sizes(kernel: Kernel, sizes: Sequence[int]) -> Kernel:
    """The kernel on vectors whose last numbers have so many values each."""
    moved = partial(step, kernel=kernel, sizes=tuple(sizes))
    return kernel._replace(step=moved)


def first_parameters(position: Tensor, sizes: Sequence[int]) -> Parameters:
    """Where adaptation starts at positions [chains, d + m]: numbers that stay have no mass."""
    inverse_mass = position.new_ones(position.shape[1])
    inverse_mass[len(inverse_mass) - len(sizes) :] = 0.0
    return Parameters(position.new_ones(()), inverse_mass)


def step(
    state: State,
    potential: Potential,
    parameters: Parameters,
    *,
    kernel: Kernel,
    sizes: tuple[int, ...],
) -> tuple[State, Any]:
    """A transition of the kernel given the whole numbers, and then a sweep over these."""
    d = state.position.shape[1] - len(sizes)
    numbers = state.position[:, d:]

    def given(u: Tensor) -> tuple[Tensor, Tensor]:
        log_density, gradient = potential(torch.cat([u, numbers], 1))
        return log_density, gradient[:, :d]

    start = State(state.position[:, :d], state.log_density, state.gradient[:, :d])
    own = parameters._replace(inverse_mass=parameters.inverse_mass[:d])
    after, info = kernel.step(start, given, own)
    position = torch.cat([after.position, numbers], 1)
    position = swept(position, potential, sizes)
    return State(position, *potential(position)), info


def swept(position: Tensor, potential: Potential, sizes: tuple[int, ...]) -> Tensor:
    """Positions [chains, d + m] whose last m numbers are drawn in turn, each given all else."""

    def at(k: int, value: int | Tensor) -> Tensor:
        row = position.clone()
        row[:, k] = value
        return row

    for k, size in enumerate(sizes, position.shape[1] - len(sizes)):
        weights = torch.stack([potential(at(k, value))[0] for value in range(size)])
        position = at(k, chosen_of(weights).to(position.dtype))
    return position


def chosen_of(weights: Tensor) -> Tensor:
    """Which of the values [chains] is drawn, for log weights [values, chains].

    A coin for each value but the last, until all chains have shown heads.
    """
    weights = weights.nan_to_num(IMPOSSIBLE, IMPOSSIBLE, IMPOSSIBLE)
    left = weights.flip(0).logcumsumexp(0).flip(0)
    chosen = torch.full_like(weights[0], len(weights) - 1, dtype=torch.int64)
    open_ = torch.ones_like(weights[0], dtype=torch.bool)
    for value in range(len(weights) - 1):
        heads = open_ & coin((weights[value] - left[value]).exp())
        chosen, open_ = torch.where(heads, value, chosen), open_ & ~heads
        if not bool(open_.any()):
            break
    return chosen
