"""Hamiltonian Monte Carlo with a fixed number of leapfrogs.

Duane, Kennedy, Pendleton and Roweth 1987; Neal, arXiv 1206.1901.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from .hamiltonian import (
    DIVERGENCE,
    Kernel,
    Parameters,
    Phase,
    Potential,
    State,
    Stretch,
    coin,
    init,
    leapfrog,
    refresh,
    select,
)


class HMCInfo(NamedTuple):
    """What one transition did, each [chains]."""

    acceptance_rate: Tensor
    accepted: Tensor
    diverging: Tensor
    energy: Tensor


def propose(
    phase: Phase,
    potential: Potential,
    scale: Tensor,
    leapfrogs: int,
    stretched: Stretch | None = None,
) -> Phase:
    """Leapfrogs, then a flip of the momentum: an involution that preserves volume."""
    for _ in range(leapfrogs):
        phase = leapfrog(phase, potential, scale, stretched)
    return phase._replace(momentum=-phase.momentum)


def acceptance(before: Phase, after: Phase) -> Tensor:
    """The Metropolis probability min(1, exp(H(before) - H(after))), [chains]."""
    return (after.log_weight - before.log_weight).clamp(max=0.0).exp()


def step(
    state: State, potential: Potential, parameters: Parameters, *, leapfrogs: int
) -> tuple[State, HMCInfo]:
    """One transition: new momentum, proposal, Metropolis acceptance."""
    before = refresh(state)
    stretched = None if parameters.directions is None else parameters.stretched
    after = propose(before, potential, parameters.scale, leapfrogs, stretched)
    probability = acceptance(before, after)
    accepted = coin(probability)
    energy = -torch.where(accepted, after.log_weight, before.log_weight)
    diverging = after.log_weight < before.log_weight - DIVERGENCE
    return (
        select(accepted, after.state, state),
        HMCInfo(probability, accepted, diverging, energy),
    )


def hmc(leapfrogs: int = 16) -> Kernel:
    """The HMC kernel with this many leapfrogs in each transition."""
    if leapfrogs < 1:
        raise ValueError(f"hmc: leapfrogs must be at least 1, not {leapfrogs}")
    return Kernel(init, partial(step, leapfrogs=leapfrogs), "HMC")


def mala() -> Kernel:
    """The Metropolis-adjusted Langevin algorithm: HMC with one leapfrog.

    Besag 1994; Roberts and Tweedie 1996.
    """
    return hmc(1)._replace(name="MALA")
