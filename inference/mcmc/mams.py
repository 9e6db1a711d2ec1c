"""The Metropolis-adjusted microcanonical sampler: Hamiltonian dynamics at constant speed.

Robnik, Cohn-Gordon and Seljak, "Metropolis adjusted microcanonical Hamiltonian Monte Carlo", arXiv
2503.01707; the kick by Ver Steeg and Galstyan, arXiv 2111.02434.

Momenta w are uniform on the sphere |w| = sqrt(d), near which normal ones lie, so that lengths mean
what they mean elsewhere.  With u = w / sqrt(d), a gradient g turns the momentum by

    du/dt = (1 - u u') g sqrt(d) / (d - 1),

which changes the volume of the sphere by the rate -(d - 1) u . (g sqrt(d) / (d - 1)).  What is lost
counts as kinetic energy: exp(-kinetic) is the Jacobian of a proposal.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .hamiltonian import Kernel, Phase, Potential, State, energy_weight, refresh, with_momentum
from .jittered import MOST, Dynamics, jittered


class Kicked(NamedTuple):
    """A direction u [chains, d], and the kinetic energy gained [chains]."""

    direction: Tensor
    gained: Tensor


def kick(direction: Tensor, gradient: Tensor, time: float) -> Kicked:
    """The direction after so much time in a gradient [chains, d], in closed form.

    With e the direction of the gradient, c = u . e and D = time |g| sqrt(d) / (d - 1) it is

        (u + e (sinh D + c (cosh D - 1))) / (cosh D + c sinh D),

    where (d - 1) log of the denominator is gained; here numerator and denominator are times
    2 exp(-D), and do not overflow.
    """
    d = direction.shape[-1]
    size = gradient.norm(dim=-1, keepdim=True)
    e = gradient / size.clamp(min=torch.finfo(size.dtype).tiny)
    angle = time * size * math.sqrt(d) / (d - 1)
    cosine, shrunk = (direction * e).sum(-1, keepdim=True), (-angle).exp()
    turned = 2.0 * shrunk * direction + e * (1.0 - shrunk) * (
        1.0 + shrunk + cosine * (1.0 - shrunk)
    )
    denominator = 1.0 + cosine + (1.0 - cosine) * shrunk.square()
    gained = (d - 1) * (angle + (denominator / 2.0).log()).squeeze(-1)
    return Kicked(turned / turned.norm(dim=-1, keepdim=True), gained)


def refresh_direction(state: State) -> Phase:
    """The state with a new momentum, uniform on the sphere."""
    return with_momentum(state, on_sphere(refresh(state).momentum))


def on_sphere(momentum: Tensor) -> Tensor:
    """The momentum [chains, d] of length sqrt(d) in the same direction."""
    d = momentum.shape[-1]
    if d < 2:
        raise ValueError("mams: there is no direction to turn to in one dimension; use hmc()")
    found: Tensor = math.sqrt(d) * momentum / momentum.norm(dim=-1, keepdim=True)
    return found


def propose(phase: Phase, potential: Potential, scale: Tensor, leapfrogs: int) -> Phase:
    """Leapfrogs on the sphere, then a flip: an involution, whose Jacobian is in the weight."""
    speed = math.sqrt(phase.momentum.shape[-1])
    position, log_density, gradient = phase.state
    direction, gained = kick(phase.momentum / speed, scale * gradient, 0.5)
    kinetic = gained
    for n in range(1, leapfrogs + 1):
        position = torch.addcmul(position, scale, direction, value=speed)
        log_density, gradient = potential(position)
        direction, gained = kick(direction, scale * gradient, 1.0 if n < leapfrogs else 0.5)
        kinetic = kinetic + gained
    momentum = -speed * direction
    log_weight = energy_weight(log_density - kinetic, momentum)
    return Phase(position, momentum, gradient, log_density, log_weight)


MICROCANONICAL = Dynamics(refresh_direction, propose)


def mams(length: float | None = None, most: int = MOST) -> Kernel:
    """Metropolis-adjusted microcanonical transitions of random lengths, for many chains.

    For posteriors of two dimensions or more.

    Args:
        length: of the mean trajectory, in standard deviations of each coordinate (so that it is
            that of the paper over sqrt(d)); None: learnt in warm-up by the ChEES criterion.
        most: leapfrogs in a transition.
    """
    return jittered("MAMS", MICROCANONICAL, length, most, 0.9)
