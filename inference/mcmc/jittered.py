"""Transitions of many chains at once: trajectories of one random length, then Metropolis.

Each transition draws anew how many leapfrogs all chains make together, so that one call of the
potential moves them all, and no length is in step with a period of the posterior (Mackenzie 1989;
Neal, arXiv 1206.1901, section 3.2; Hoffman, Radul and Sountsov, AISTATS 2021).

The mean trajectory is the unit of time: it has about 1 / step_size leapfrogs, and the inverse
metric is that of the posterior times the square of the mean length.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor

from ...ppl import draw
from ...ppl.compile.potential import by_columns
from .ensemble import Trajectory, sample_ensemble
from .hamiltonian import (
    DIVERGENCE,
    Kernel,
    Parameters,
    Phase,
    Potential,
    State,
    coin,
    init,
    refresh,
    select,
)
from .hmc import acceptance, propose

MOST = 1000  # leapfrogs in a transition


class Dynamics(NamedTuple):
    """How chains move: from where with which momentum, and where to in so many leapfrogs.

    ``propose`` ends with a flip of the momentum, as an involution that, with the weights of its
    phase points, preserves exp(log_weight).
    """

    refresh: Callable[[State], Phase]
    propose: Callable[[Phase, Potential, Tensor, int], Phase]


class JitteredInfo(NamedTuple):
    """What one transition did, each [chains]; ``n_steps`` leapfrogs, the same for all."""

    acceptance_rate: Tensor
    accepted: Tensor
    diverging: Tensor
    n_steps: Tensor


def leapfrogs(share: float, step_size: Tensor, most: int) -> int:
    """How many in this share, from 0 to 1, of twice the mean length; from 1 to most."""
    return min(max(math.ceil(2.0 * share / float(step_size.max())), 1), most)


def transition(
    state: State,
    potential: Potential,
    parameters: Parameters,
    share: float,
    most: int,
    *,
    dynamics: Dynamics,
) -> tuple[State, JitteredInfo, Trajectory]:
    """New momenta, a proposal of a length that is given, Metropolis acceptance of each chain."""
    before = dynamics.refresh(state)
    before = before._replace(momentum=by_columns(before.momentum))
    n = leapfrogs(share, parameters.step_size, most)
    after = dynamics.propose(before, potential, parameters.scale, n)
    probability = acceptance(before, after)
    accepted = coin(probability)
    diverging = after.log_weight < before.log_weight - DIVERGENCE
    info = JitteredInfo(
        probability, accepted, diverging, torch.full_like(accepted, n, dtype=torch.int64)
    )
    trajectory = Trajectory(before, after, probability, n * parameters.step_size)
    return select(accepted, after.state, state), info, trajectory


def step(
    state: State, potential: Potential, parameters: Parameters, *, dynamics: Dynamics, most: int
) -> tuple[State, JitteredInfo]:
    """The Markov kernel: a transition of a length that is uniform on (0, 2]."""
    zero, one = parameters.step_size.new_zeros(()), parameters.step_size.new_ones(())
    share = float(draw(dist.Uniform(zero, one, validate_args=False), label="length"))
    return transition(state, potential, parameters, share, most, dynamics=dynamics)[:2]


def jittered(
    name: str, dynamics: Dynamics, length: float | None, most: int, target: float
) -> Kernel:
    """The kernel of these dynamics, whose warm-up learns the mean length unless it is given."""
    if length is not None and not 0.0 < length < math.inf:
        raise ValueError(f"{name}: the mean length must be positive and finite, not {length}")
    if most < 1:
        raise ValueError(f"{name}: most must be at least 1, not {most}")
    move = partial(transition, dynamics=dynamics)
    sampler = partial(sample_ensemble, transition=move, length=length, most=most)
    move_once = partial(step, dynamics=dynamics, most=most)
    return Kernel(init, move_once, name, sample=sampler, target=target)


HAMILTONIAN = Dynamics(refresh, propose)


def jittered_hmc(length: float = 1.5, most: int = MOST) -> Kernel:
    """Hamiltonian Monte Carlo with trajectories of random lengths, for many chains.

    Args:
        length: of the mean trajectory, in standard deviations of the coordinates; those drawn are
            uniform up to twice as much.
        most: leapfrogs in a transition.
    """
    return jittered("jittered HMC", HAMILTONIAN, length, most, 0.8)


def chees(most: int = MOST) -> Kernel:
    """The same with the mean length learnt in warm-up by the ChEES criterion.

    Hoffman, Radul and Sountsov, "An adaptive-MCMC scheme for setting trajectory lengths in
    Hamiltonian Monte Carlo", AISTATS 2021.

    Args:
        most: leapfrogs in a transition.
    """
    return jittered("ChEES", HAMILTONIAN, None, most, 0.8)
