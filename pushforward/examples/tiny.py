"""Exact checks of the inference algorithms on models small enough to enumerate."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import dist, draw, factor, observe, program, sample, scan, vmap
from ..inference import importance, multinomial, particle_filter, tempered
from ..inference.mcmc.hamiltonian import Phase, State, init, leapfrog, with_momentum
from ..inference.mcmc.hmc import acceptance, propose
from ..inference.mcmc.nuts import trajectory
from ..inference.smc.population import Population
from ..inference.vi.mean_field import elbo
from ..semantics import Report, check
from ..semantics.checks.orbit import Orbit


def f64(x: Any) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


# ------------------------------------------------------------------------------------------- models


@program
def coins() -> Tensor:
    """Two coins, scored 1 if both are heads, 1/4 if one is, and 1/16 if none."""
    x = sample("x", dist.Bernoulli(f64(1 / 3)))
    y = sample("y", dist.Bernoulli(f64(1 / 2)))
    value = torch.stack([x, y])
    factor("score", log_likelihood(value))
    return value


def log_likelihood(value: Tensor) -> Tensor:
    scores: Tensor = f64([1 / 16, 1 / 4, 1.0]).log()
    return scores[value.sum(-1).long()]


@program
def weather(wet: Tensor) -> Tensor:
    """A two-state hidden Markov model; returns its last state."""

    def step(rain: Tensor, y: Tensor) -> tuple[Tensor, None]:
        rain = sample("rain", dist.Bernoulli(0.2 + 0.5 * rain))
        observe("wet", dist.Bernoulli(0.1 + 0.7 * rain), y)
        return rain, None

    last: Tensor = scan(step)(f64(0.0), wet)[0]
    return last


WET = f64([1.0, 0.0, 1.0])


def skewed(z: Tensor) -> Tensor:
    """A skewed and correlated log density of points [..., 2]."""
    x, y = z[..., 0], z[..., 1]
    return -0.5 * (x**2 + (y - 0.5 * x**2) ** 2) - 0.1 * torch.exp(-x)


def potential(z: Tensor) -> tuple[Tensor, Tensor]:
    """The skewed log density [n] of points [n, 2], and its gradient."""
    gradient, value = torch.func.vmap(torch.func.grad_and_value(skewed))(z)
    return value, gradient


# ----------------------------------------------------------------------------------- check by check


def flip_one(values: Tensor, beta: Tensor) -> Tensor:
    """Metropolis at power beta: redraw one of the two coins, chosen at random, from its prior."""

    def one(value: Tensor) -> Tensor:
        site = draw(dist.Bernoulli(f64(0.5)))
        fresh = draw(dist.Bernoulli(torch.where(site == 1, f64(1 / 2), f64(1 / 3))))
        proposal = torch.where(torch.arange(2) == site, fresh, value)
        ratio = torch.exp(beta * (log_likelihood(proposal) - log_likelihood(value)))
        accept = draw(dist.Bernoulli(ratio.clamp(max=1.0)))
        return torch.where(accept == 1, proposal, value)

    moved: Tensor = vmap(one)(values)
    return moved


def tempered_smc() -> Report:
    """The algorithm of the SMC driver, with Metropolis moves on two coins."""
    prior = vmap(
        lambda: torch.stack([draw(dist.Bernoulli(f64(1 / 3))), draw(dist.Bernoulli(f64(1 / 2)))]),
        size=2,
    )
    algorithm = tempered(prior, log_likelihood, flip_one, [0.5, 1.0], 2, multinomial)
    return check.valid(algorithm, coins)


def importance_sampling() -> Report:
    return check.valid(importance(coins, 2), coins)


def filtering() -> Report:
    return check.valid(particle_filter(weather, 3), weather, WET)


def hamiltonian() -> Report:
    """The HMC proposal and its acceptance, at a thousand points of phase space."""
    scale = f64([0.2, 0.3])

    def phase(rows: Tensor) -> Phase:
        return with_momentum(init(rows[:, :2], potential), rows[:, 2:])

    def moved(rows: Tensor) -> Tensor:
        after = propose(phase(rows), potential, scale, 5)
        return torch.cat([after.position, after.momentum], 1)

    def accepted(rows: Tensor) -> Tensor:
        before = phase(rows)
        return acceptance(before, propose(before, potential, scale, 5))

    def log_density(rows: Tensor) -> Tensor:
        return skewed(rows[:, :2]) - 0.5 * rows[:, 2:].square().sum(1)

    grid = torch.linspace(-1.5, 1.5, 1000, dtype=torch.float64)
    points = torch.stack([grid, torch.sin(7 * grid), torch.cos(5 * grid), torch.sin(11 * grid)], 1)
    moved.__qualname__ = "HMC"
    return check.involution(moved, accepted, log_density, points)


def no_u_turn(depth: int = 3) -> Report:
    """The random trajectories of NUTS, all of them, on one orbit of leapfrogs."""
    scale = f64([0.5, 0.6])

    def move(point: Phase, sign: Tensor) -> Phase:
        return leapfrog(point, potential, sign[:, None] * scale)

    state: State = init(f64([[0.3, -0.4]]), potential)
    reach = 2**depth - 1
    orbit = Orbit.through(with_momentum(state, f64([[0.9, 0.5]])), move, 2 * reach, 2 * reach + 1)

    def nuts(start: Any, step: Callable[[Any, Tensor], Any]) -> Any:
        return trajectory(start, step, depth).proposal

    nuts.__qualname__ = f"NUTS (depth {depth})"
    return check.orbit(nuts, orbit, reach)


def variational() -> Report:
    """The gradient of the bound for a normal target, whose bound is known in closed form."""

    def normal(u: Tensor) -> tuple[Tensor, Tensor]:
        return -0.5 * ((u - 1.0) ** 2).sum(-1) / 4.0, -(u - 1.0) / 4.0

    def bound(parameters: Tensor) -> Tensor:
        loc, log_scale = parameters
        scale = log_scale.exp()
        expected = -0.5 * ((loc - 1.0) ** 2 + scale**2) / 4.0
        total: Tensor = expected + log_scale + 0.5 * (1.0 + math.log(2.0 * math.pi))
        return total

    def gradient(parameters: Tensor) -> Tensor:
        estimate = elbo(parameters[:1], parameters[1:], normal, 2)
        return torch.cat([estimate.loc, estimate.log_scale])

    gradient.__qualname__ = "the gradient of ADVI"
    return check.unbiased(gradient, bound, f64([0.4, -0.3]), quadrature=16)


CHECKS: dict[str, Callable[[], Report]] = {
    "NUTS": no_u_turn,
    "HMC": hamiltonian,
    "SMC (tempered)": tempered_smc,
    "ADVI": variational,
    "importance": importance_sampling,
    "particle filter": filtering,
}


# -------------------------------------------------------------------------------- and a broken one


def forgetful(particles: int) -> Callable[[Tensor], Population]:
    """A particle filter that resets its weights at each resampling: the evidence gets lost."""

    def forgetful_filter(wet: Tensor) -> Population:
        def step(population: Population, y: Tensor) -> tuple[Population, None]:
            chosen = draw(dist.Categorical(logits=population.log_weights), (particles,))
            before = population.values[chosen]
            rain = vmap(lambda r: draw(dist.Bernoulli(0.2 + 0.5 * r)))(before)
            likelihood = dist.Bernoulli(0.1 + 0.7 * rain).log_prob(y)
            return Population(rain, likelihood - math.log(particles)), None

        start = Population(torch.zeros(particles).double(), torch.zeros(particles).double())
        last: Population = scan(step)(start, wet)[0]
        return last

    forgetful_filter.__qualname__ = f"forgetful_filter({particles})"
    return program(forgetful_filter)


def broken() -> Report:
    """The check of a filter that forgets its total weight; it fails."""
    return check.valid(forgetful(2), weather, WET)
