"""The distributional policy gradient of any f-divergence, and the same exactly.

For D(pi, p) = E_p f(t), t = pi / p, the derivative is E_pi[f'(t) d log pi]: that of a policy
gradient whose reward -f'(t) moves with the policy.  Adding a constant to it changes no mean.

Source: Go et al., Aligning Language Models with Preferences through f-divergence Minimization
(arXiv 2302.08215); the caps are choices.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...inference.vi.divergences import (
    HELLINGER,
    JENSEN_SHANNON,
    KL,
    NEYMAN,
    PEARSON,
    REVERSE_KL,
    TOTAL_VARIATION,
    Divergence,
)
from .policies import Autoregressive
from .targets import EBM

# by the source's names, of D(pi, p): "kl" is KL(p, pi)
LOSSES: dict[str, Divergence] = {
    "kl": REVERSE_KL,
    "rkl": KL,
    "js": JENSEN_SHANNON,
    "tv": TOTAL_VARIATION,
    "chi2": NEYMAN,
    "rchi2": PEARSON,
    "hellinger": HELLINGER,
}
CAPS = {"kl": 30.0, "pearson": 1e3}  # by the table's names: the worst reward
CAP = 1e3
STEEP = 40.0  # log ratios further from zero than this count as this


def loss_of(loss: str | Divergence) -> Divergence:
    """A divergence D(pi, p), by the source's name.

    Errors:
        ValueError: there is none of that name.
    """
    if isinstance(loss, Divergence):
        return loss
    if loss not in LOSSES:
        raise ValueError(f"the loss is a divergence, or one of {sorted(LOSSES)}, not {loss!r}")
    return LOSSES[loss]


def pseudo_reward(loss: str | Divergence, log_t: Tensor) -> Tensor:
    """-f'(t) [n] of log t = log pi - log p, which is infinite where the target has no mass.

    There it is -f'(infinity); where that is infinite rewards are capped, at -30 for "rkl" and at
    -1000 for others.
    """
    f = loss_of(loss)
    inside = -f.slope(log_t.clamp(-STEEP, STEEP))
    outside = torch.full_like(inside, -f.at_infinity)
    found = torch.where(log_t == math.inf, outside, inside)
    return found if math.isfinite(f.at_infinity) else found.clamp(min=-CAPS.get(f.name, CAP))


def surrogate(
    loss: str | Divergence,
    log_pi: Tensor,
    log_p: Tensor,
    log_z: Tensor | float,
    log_q: Tensor | None = None,
    baseline: Tensor | float = 0.0,
) -> Tensor:
    """A number [] whose derivative has the mean dD(pi, p), for sequences drawn from q.

    Args:
        log_pi: of the policy [n], differentiable.
        log_p: of the target [n], up to ``log_z``.
        log_q: of the law that they were drawn from; the policy itself unless given.
        baseline: taken from rewards; it must not depend on these sequences.
    """
    there = log_pi > -math.inf  # what q alone draws weighs nothing
    log_pi = torch.where(there, log_pi, 0.0)
    with torch.no_grad():
        reward = pseudo_reward(loss, log_pi - log_p + log_z)
        weight = torch.ones_like(log_pi) if log_q is None else (log_pi - log_q).exp()
        factor = torch.where(there, weight * (reward - baseline), 0.0)
    return -(factor * log_pi).mean()


def exact_divergence(policy: Autoregressive, target: EBM, loss: str | Divergence) -> Tensor:
    """D(pi, p) [] by enumeration, differentiable."""
    x = policy.enumerate()
    log_p = target.log_prob(x)
    return loss_of(loss).between(policy.log_prob(x).exp(), (log_p - log_p.logsumexp(0)).exp())
