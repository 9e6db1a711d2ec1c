"""The loop of f-DPG: draw, score, estimate Z, follow the gradient.

Source: Go et al. (arXiv 2302.08215); defaults for small models are choices.
"""

from __future__ import annotations

import copy
import math
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ...inference.vi.divergences import Divergence
from .gradient import loss_of, pseudo_reward, surrogate
from .policies import Autoregressive
from .targets import EBM

LOST = 100  # batches without a sequence in the support of the target
CHANGE = 16  # steps between comparisons of proposal and policy


class Row(NamedTuple):
    """Estimates at a step: Z of all steps; divergences of policy and target, KL(p, pi), the usual
    Jensen-Shannon and total variation; the entropy of the policy, and KL(pi, base)."""

    z: float
    kl: float
    js: float
    tv: float
    entropy: float
    kl_to_base: float


class FDPG:
    """Fits a policy to a target by the policy gradient of an f-divergence.

    Z is the mean of P / q over all sequences drawn; those of a step count in it before they are
    used, a bias of order 1 / n of all of them, which vanishes.

    Args:
        policy: an :class:`Autoregressive`, changed in place.
        target: of sequences of the same tokens and length.
        loss: "kl" (KL(p, pi)), "rkl", "js", "tv", "chi2", "rchi2", "hellinger", or a divergence
            D(pi, p) of ``inference.vi``.
        proposal: the law that sequences are drawn from until the policy is nearer to the target by
            its estimated KL(p, .); then it is a copy of the policy.  The policy unless given.
        baseline: of so many last rewards the mean is taken from rewards; 0 for none.
        n_samples: sequences of a step.
        max_z: an upper bound of Z, if one is known.

    Errors:
        ValueError: a size does not fit or a setting is out of range.
    """

    def __init__(
        self,
        policy: Autoregressive,
        target: EBM,
        loss: str | Divergence = "js",
        proposal: Autoregressive | None = None,
        baseline: int = 1024,
        n_samples: int = 256,
        lr: float = 3e-3,
        max_z: float | None = None,
    ) -> None:
        for name, law in {"target": target.base, "proposal": proposal}.items():
            if law is not None and (law.vocab, law.length) != (policy.vocab, policy.length):
                what = f"{name} has {law.vocab} tokens and length {law.length}"
                raise ValueError(f"{what}, and the policy {policy.vocab} and {policy.length}")
        if n_samples < 1 or baseline < 0 or not lr > 0:
            raise ValueError("n_samples and lr are positive, and baseline is not negative")
        self.policy, self.target, self.loss = policy, target, loss_of(loss)
        self.proposal, self.n_samples, self.max_z = proposal, n_samples, max_z
        self.optimizer = torch.optim.Adam(policy.parameters(), lr)
        self.rewards: deque[float] = deque(maxlen=max(1, math.ceil(baseline / n_samples)))
        self.baseline, self.log_sum, self.steps, self.lost = baseline, -math.inf, 0, 0
        self.history: list[Row] = []

    @property
    def log_z(self) -> float:
        """The logarithm of the estimate of Z."""
        found = self.log_sum - math.log(max(1, self.steps * self.n_samples))
        return found if self.max_z is None else min(found, math.log(self.max_z))

    def fit(self, n_steps: int, seen: Callable[[int, Row], None] | None = None) -> list[Row]:
        """Go n steps further; all rows since the start, without steps before Z was positive.

        Args:
            seen: is told the number and the row of each step.

        Errors:
            RuntimeError: no sequence of 100 batches lies in the support of the target.
        """
        for _ in range(n_steps):
            row = self._step()
            if row is not None:
                self.history.append(row)
                if seen is not None:
                    seen(self.steps, row)
        return self.history

    def _step(self) -> Row | None:
        source = self.policy if self.proposal is None else self.proposal
        x = source.sample(self.n_samples)
        log_pi = self.policy.log_prob(x)
        with torch.no_grad():
            log_q = log_pi.detach() if source is self.policy else source.log_prob(x)
        log_a, log_p = (each.to(log_pi.dtype) for each in self.target.beside_base(x))
        self.steps += 1
        self.log_sum = float(torch.logaddexp(torch.tensor(self.log_sum), mass(log_p - log_q)))
        if self.log_sum == -math.inf:
            self.lost += 1
            if self.lost >= LOST:
                raise RuntimeError(
                    f"no sequence of {LOST} batches has mass: the target is unreachable from the"
                    " proposal; take a proposal that covers it"
                )
            return None
        mean = sum(self.rewards) / len(self.rewards) if self.baseline and self.rewards else 0.0
        loss = surrogate(self.loss, log_pi, log_p, self.log_z, log_q, mean)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            log_t = (log_pi - log_p + self.log_z)[log_pi > -math.inf]
            if len(log_t):
                self.rewards.append(float(pseudo_reward(self.loss, log_t).mean()))
            row = self._estimates(log_a, log_pi.detach(), log_p, log_q)
            if self.proposal is not None and self.steps % CHANGE == 0:
                self._compare(log_pi.detach(), log_p, log_q)
        return row

    def _estimates(self, log_a: Tensor, log_pi: Tensor, log_p: Tensor, log_q: Tensor) -> Row:
        """By the weights pi / q and p / q of sequences that were drawn from q."""
        v, w = (log_pi - log_q).exp(), (log_p - self.log_z - log_q).exp()
        some = torch.where(v + w > 0, (v + w) / 2, 1.0)
        kl = torch.where(w > 0, w * (log_p - self.log_z - log_pi), 0.0).mean()
        sides = torch.special.xlogy(v, v / some) + torch.special.xlogy(w, w / some)
        entropy = -torch.where(v > 0, v * log_pi, 0.0).mean()
        base = torch.where(v > 0, v * (log_pi - log_a), 0.0).mean()
        means = [kl, sides.mean() / 2, (v - w).abs().mean() / 2, entropy, base]
        return Row(math.exp(self.log_z), *torch.stack(means).tolist())

    def _compare(self, log_pi: Tensor, log_p: Tensor, log_q: Tensor) -> None:
        """Draw from the policy if it has the lesser KL(p, .); w (log q - log pi) tells."""
        w = (log_p - self.log_z - log_q).exp()
        there = w > 0
        if float((w * (log_q - log_pi))[there].sum()) < 0:
            self.proposal = copy.deepcopy(self.policy).requires_grad_(False)


def mass(log_weights: Tensor) -> Tensor:
    """The logarithm of the sum of weights [n], in double precision."""
    return log_weights.double().logsumexp(0)
