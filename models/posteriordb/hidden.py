"""Hidden Markov models of two states, whose path is summed out by the forward recursion.

The first state is uniform, and theta1 and theta2 are the rows of the transition matrix.
(``marginal(..., exact=True)`` would sum out a path that is sampled, and takes longer to compile.)

Sources: the user's guide of Stan; github.com/imadmali/bball-hmm.
"""

from __future__ import annotations

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

from ...ppl import factor, program, sample, scan
from .files import Built, data

TWO_IN_ORDER = dist.ImproperUniform(constraints.positive_ordered_vector, (), (2,))


def forward(transition: Tensor, emission: Tensor) -> Tensor:
    """The log likelihood, from transition [from, to] and log densities of emissions [time, 2]."""
    log_transition = transition.log()

    def step(before: Tensor, emitted: Tensor) -> tuple[Tensor, None]:
        return torch.logsumexp(before[:, None] + log_transition, 0) + emitted, None

    last: Tensor = scan(step)(emission[0], emission[1:])[0]
    return last.logsumexp(0)


@program
def normal_states(y: Tensor) -> None:
    """y_t ~ Normal(mu of the state, 1); y is [n]."""
    mu = sample("mu", TWO_IN_ORDER)
    factor("prior of mu", dist.Normal(torch.tensor([3.0, 10.0]), 1.0).log_prob(mu).sum())
    rows = [sample(f"theta{k}", dist.Dirichlet(torch.ones(2))) for k in (1, 2)]
    factor("y", forward(torch.stack(rows), dist.Normal(mu, 1.0).log_prob(y[:, None])))


@program
def exponential_states(u: Tensor, v: Tensor, alpha: Tensor) -> None:
    """u_t and v_t [n] are exponential, of rates phi and lambda of the state; alpha is [2, 2]."""
    phi, rate = sample("phi", TWO_IN_ORDER), sample("lambda", TWO_IN_ORDER)
    prior = dist.Normal(torch.tensor([0.0, 3.0]), 1.0)
    factor("prior of phi", prior.log_prob(phi).sum())
    factor("prior of lambda", prior.log_prob(rate).sum())
    rows = [sample(f"theta{k + 1}", dist.Dirichlet(alpha[k])) for k in (0, 1)]
    of_u = dist.Exponential(phi).log_prob(u[:, None])
    of_v = dist.Exponential(rate).log_prob(v[:, None])
    factor("u and v", forward(torch.stack(rows), of_u + of_v))


def hmm_example() -> Built:
    """A hundred synthetic values."""
    return normal_states, (data("hmm_example-hmm_example")["y"],)


def hmm_drive_0() -> Built:
    """Distances and speeds of a basketball player, at 416 times."""
    d = data("bball_drive_event_0-hmm_drive_0")
    return exponential_states, (d["u"], d["v"], d["alpha"])
