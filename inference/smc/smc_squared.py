"""SMC^2: particles of parameters, each with a particle filter of its own, all in lanes.

Chopin, Jacob and Papaspiliopoulos 2013, "SMC^2: an efficient algorithm for sequential analysis of
state space models".
"""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from ...ppl import draw, iterate, vmap
from ...ppl.errors import ProgramError, located
from ...ppl.interpretations.abstract_run import check_program
from ...ppl.language.handlers import Proposing, Sampling, Untracing, Weighing
from ...ppl.language.program import Callback, Program, program_name, signature
from ...ppl.tensors.hidden import is_hidden
from ...ppl.tensors.keys import Bookkeeping
from .filtering import Filtering
from .population import Population, collapse
from .resampling import Scheme, resample, systematic

Choices = dict[str, Tensor]


def smc_squared(
    prior: Callback,
    model: Callback,
    particles: int,
    inner: int,
    proposal: Callback | None = None,
    every: int = 1,
    scheme: Scheme = systematic,
    ess: float = 0.5,
) -> Program:
    """SMC over the parameters of a program with a ``scan``; it returns a ``Population``.

    ``prior(*args)`` draws parameters, and ``model(parameters, *args)`` is the program.  The values
    are (parameters, one result).  Each particle of parameters has a particle filter.  Before a
    step, where the weights are uneven, parameters are resampled with their filters; and every so
    many steps they are moved by particle marginal Metropolis-Hastings on the data so far.

    Invariant: E[sum_i w_i delta_{x_i}] is the measure of prior and model together, for any numbers
    of particles and whenever one resamples.  It would not be if one moved only where the weights
    are uneven: then the particles that are moved would not be a sample of all.

    Args:
        particles: of parameters.
        inner: particles of each filter.
        proposal: from the choices of the prior, and the arguments, to choices of the same names.
            Without one, parameters are resampled and not moved.
        every: steps between two moves.
        scheme: of resampling, within and without.
        ess: resample parameters when their effective sample size is at most this fraction.

    Errors:
        ProgramError: the steps of the scan have outputs, which no filter here keeps.
    """
    if min(particles, inner, every) < 1:
        raise ValueError("smc_squared needs at least one particle of each kind, and step")
    filtering, checked = Filtering(model, inner, scheme), Bookkeeping()

    def chosen(*args: Any) -> tuple[Choices, Tensor]:
        with Untracing(), Weighing() as weight, Proposing() as proposed:
            prior(*args)
        return proposed.choices, torch.as_tensor(weight.log_weight, dtype=torch.float64)

    def at(choices: Choices, *args: Any) -> tuple[Any, Tensor]:
        """The parameters that choices make, and their log density under the prior."""
        with Untracing(), Weighing(given=choices) as weight:
            parameters = prior(*args)
        return parameters, torch.as_tensor(weight.log_weight, dtype=torch.float64)

    def start(choices: Choices, *args: Any) -> tuple[Population, int]:
        return filtering.begin(at(choices, *args)[0], *args)

    def advance(choices: Choices, states: Population, t: Tensor, *args: Any) -> Population:
        states, output, _ = filtering.step(states, t, False, at(choices, *args)[0], *args)
        if output is not None:
            what = f"the steps of the scan in {program_name(model)} have outputs"
            raise ProgramError(located(what, hint="return None for them, and carry what you need"))
        return states

    def finish(choices: Choices, states: Population, *args: Any) -> tuple[Any, Tensor]:
        parameters, _ = at(choices, *args)
        population = filtering.end(states, None, parameters, *args)
        value, _ = collapse(population)
        return (parameters, value), population.log_evidence()

    def proposed(choices: Choices, *args: Any) -> tuple[Choices, Tensor]:
        """Other choices, with the log ratio of prior and proposal."""
        assert proposal is not None
        with Untracing(), Proposing() as there, Sampling():
            proposal(choices, *args)
        with Untracing(), Weighing(given=choices) as back, Sampling():
            proposal(there.choices, *args)
        ratio = at(there.choices, *args)[1] - at(choices, *args)[1]
        return there.choices, ratio + back.log_weight - there.log_density

    def decided(old: Any, new: Any, log_ratio: Tensor) -> Any:
        """The new pair of choices and filter with probability min(1, r)."""
        log_ratio = log_ratio + new[1].log_evidence() - old[1].log_evidence()
        chance = torch.where(torch.isnan(log_ratio), 0.0, log_ratio.clamp(max=0.0).exp())
        accept = draw(dist.Bernoulli(chance), label="accept") > 0
        return tree_map(lambda a, b: torch.where(accept, a, b), new, old)

    def step(choices: Choices, states: Population, t: Tensor, args: tuple[Any, ...]) -> Any:
        """All filters through step t, which is known where it is the first."""
        number = t if is_hidden(t) or int(t) > 0 else 0
        axes = (0, 0, None, *(None for _ in args))
        return vmap(advance, axes)(choices, states, number, *args)

    def onward(state: Any) -> Any:
        choices, states, s, args = state
        return choices, step(choices, states, s, args), s + 1, args

    def restarted(choices: Choices, t: Tensor, args: tuple[Any, ...]) -> Population:
        """New filters on the data before step t."""
        states, _ = vmap(start, (0, *(None for _ in args)))(choices, *args)
        states = step(choices, states, torch.tensor(0), args)
        begun = choices, states, torch.tensor(1), args
        onwards: Population = iterate(onward, int(t) - 1)(begun)[1]
        return onwards

    def moved(pair: Any, t: Tensor, args: tuple[Any, ...]) -> Any:
        """One step of particle marginal Metropolis-Hastings for each particle."""
        choices, states = pair
        others, log_ratio = vmap(proposed, (0, *(None for _ in args)))(choices, *args)
        new = others, restarted(others, t, args)
        return vmap(decided)((choices, states), new, log_ratio)

    def assimilated(population: Population, t: Tensor, args: tuple[Any, ...]) -> Population:
        """Step t of all filters; what it adds to their evidence weighs the parameters."""
        if int(t) > 0 and bool(population.is_uneven(ess)):
            population = Program(resample)(population, scheme)[0]
        if proposal is not None and int(t) > 0 and int(t) % every == 0:
            population = population._replace(values=Program(moved)(population.values, t, args))
        choices, states = population.values
        after = Program(step)(choices, states, t, args)
        return Population((choices, after), population.log_weights + gained(states, after))

    def run(*args: Any) -> Population:
        if (key := signature(args)) not in checked:
            check_program(prior, *args)
            checked.add(key)
        no = (None,) * len(args)
        choices, log_weights = vmap(chosen, no, particles)(*args)
        states, lengths = vmap(start, (0, *no))(choices, *args)
        population = Population(
            (choices, states), log_weights + log_evidences(states, inner) - math.log(particles)
        )
        for t in torch.arange(int(lengths[0])).unbind():
            population = Program(assimilated)(population, t, args)
        choices, states = population.values
        values, found = vmap(finish, (0, 0, *no))(choices, states, *args)
        last = torch.where(torch.isneginf(found), -math.inf, found - log_evidences(states, inner))
        return Population(values, population.log_weights + last).require_weights()

    run.__name__ = run.__qualname__ = f"smc_squared({particles}, {inner})"
    return Program(run)


def log_evidences(populations: Population, n: int) -> Tensor:
    """The log evidence of populations of n particles in lanes, weights n times too heavy."""
    found: Tensor = vmap(lambda population: population.log_evidence())(populations)
    return found - math.log(n)


def gained(before: Population, after: Population) -> Tensor:
    """The log factors by which the evidence of populations in lanes grew; nothing stays nothing."""
    old, new = log_evidences(before, 1), log_evidences(after, 1)
    return torch.where(torch.isneginf(new), -math.inf, new - old)
