"""Hamiltonian dynamics on a flat unconstrained space: phase points, momenta, leapfrog.

The metric is the identity in our coordinates of momentum: with inverse metric S^2 (diagonal) we
keep w = S p ~ Normal(0, I) in place of the momentum p, so that dz = S w dt and dw = S grad log pi
dt.  Kinetic energy and U-turns are then plain inner products, and S only scales the steps.  A
metric of low rank besides is the same with S A in place of S, and A S of the gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import pyro.distributions as dist
import torch
from torch import Tensor

from ...ppl import draw

Potential = Callable[[Tensor], tuple[Tensor, Tensor]]
"""positions [chains, d] -> (log densities [chains], gradients [chains, d])"""

# An energy error of this much is a divergence.
DIVERGENCE = 1000.0

# Stands for the log weight -inf, and for none at all: exp is zero, and sums with it stay finite.
IMPOSSIBLE = -1e30

Stretch = Callable[[Tensor], Tensor]

Fields = TypeVar("Fields", bound=tuple[Any, ...])


class State(NamedTuple):
    """Where the chains are: position [chains, d], log_density [chains], gradient [chains, d]."""

    position: Tensor
    log_density: Tensor
    gradient: Tensor


class Parameters(NamedTuple):
    """Of a kernel: step_size, scalar or [chains], and the inverse metric.

    That is S A^2 S, with S^2 = diag(inverse_mass) [d] and A = I + U' diag(stretch) U, where the
    rows of U = directions [k, d] are orthonormal and ``stretch`` [k] is above -1; else A = I.
    """

    step_size: Tensor
    inverse_mass: Tensor
    directions: Tensor | None = None
    stretch: Tensor | None = None

    @property
    def scale(self) -> Tensor:
        """The step along each coordinate for unit momentum: [d] or [chains, d]."""
        return self.step_size[..., None] * self.inverse_mass.sqrt()

    def stretched(self, x: Tensor) -> Tensor:
        """A x, for vectors [..., d]."""
        if self.directions is None or self.stretch is None:
            return x
        return x + (x @ self.directions.mT * self.stretch) @ self.directions


class Phase(NamedTuple):
    """Points of phase space; log_weight [chains] is log pi(z) - |w|^2 / 2, minus the energy."""

    position: Tensor
    momentum: Tensor
    gradient: Tensor
    log_density: Tensor
    log_weight: Tensor

    @property
    def state(self) -> State:
        """The phase point without its momentum."""
        return State(self.position, self.log_density, self.gradient)


class Kernel(NamedTuple):
    """A Markov kernel: init(position, potential) and step(state, potential, parameters).

    ``step`` returns (state, info); info is a named tuple of tensors [chains] under ArviZ's names,
    ``acceptance_rate`` and ``diverging`` among them.  ``max_depth`` and ``jitter``, of NUTS alone:
    what ``nuts`` was given, with which the engine of ``lanes`` makes the same transitions.
    ``sample``: the function that warms the kernel up and draws, where it is not the one of
    ``adaptation``.  ``target``: the mean acceptance that its warm-up aims at unless told.
    ``gibbs``: finite latents are drawn besides, see ``with_gibbs``.  ``own_steps``: each chain
    learns and keeps a step size of its own.
    """

    init: Callable[[Tensor, Potential], State]
    step: Callable[[State, Potential, Parameters], tuple[State, Any]]
    name: str = "kernel"
    max_depth: int | None = None
    jitter: float = 0.0
    sample: Callable[..., Any] | None = None
    target: float = 0.85
    gibbs: bool = False
    own_steps: bool = False


def init(position: Tensor, potential: Potential) -> State:
    """The state of chains at ``position`` [chains, d]."""
    return State(position, *potential(position))


def energy_weight(log_density: Tensor, momentum: Tensor) -> Tensor:
    """log pi(z) - |w|^2 / 2; NaN and infinities, which no density may have, are ``IMPOSSIBLE``."""
    log_weight = torch.add(log_density, (momentum * momentum).sum(-1), alpha=-0.5)
    return log_weight.nan_to_num(IMPOSSIBLE, IMPOSSIBLE, IMPOSSIBLE)


def with_momentum(state: State, momentum: Tensor) -> Phase:
    """The phase point of a state and a momentum [chains, d]."""
    position, log_density, gradient = state
    log_weight = energy_weight(log_density, momentum)
    return Phase(position, momentum, gradient, log_density, log_weight)


def refresh(state: State) -> Phase:
    """The state with a new momentum, standard normal in our coordinates."""
    zero, one = state.position.new_zeros(()), state.position.new_ones(())
    momentum = draw(dist.Normal(zero, one, validate_args=False), state.position.shape)
    return with_momentum(state, momentum)


def leapfrog(
    phase: Phase, potential: Potential, scale: Tensor, stretched: Stretch | None = None
) -> Phase:
    """One leapfrog: half a kick, a drift, half a kick.

    It preserves volume, and flipping the momentum conjugates it with its inverse, which is the step
    of ``-scale``.  ``stretched`` applies A, of a metric that is not diagonal.
    """
    momentum = kicked(phase.momentum, phase.gradient, scale, stretched)
    drift = momentum if stretched is None else stretched(momentum)
    position = torch.addcmul(phase.position, scale, drift)
    log_density, gradient = potential(position)
    momentum = kicked(momentum, gradient, scale, stretched)
    log_weight = energy_weight(log_density, momentum)
    return Phase(position, momentum, gradient, log_density, log_weight)


def kicked(momentum: Tensor, gradient: Tensor, scale: Tensor, stretched: Stretch | None) -> Tensor:
    """The momentum after half a step in this gradient."""
    if stretched is None:
        return torch.addcmul(momentum, scale, gradient, value=0.5)
    return momentum + 0.5 * stretched(scale * gradient)


def coin(probability: Tensor) -> Tensor:
    """Independent booleans of the given probabilities."""
    return draw(dist.Bernoulli(probability, validate_args=False)) == 1


def select(mask: Tensor, yes: Fields, no: Fields) -> Fields:
    """Per chain, ``yes`` where the mask [chains] holds and ``no`` elsewhere; tuples of tensors."""
    column = mask.unsqueeze(-1)
    pairs = zip(yes, no, strict=True)
    return type(yes)(*(torch.where(mask if a.ndim == 1 else column, a, b) for a, b in pairs))
