"""Policies and targets as programs, whose divergence is an objective of ``inference.vi``.

The exact gradient and that of REINFORCE come from one objective, by the strategy at the tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from pyro import distributions as dist
from torch import Tensor

from ...inference.vi import Divergence, Objective, f_divergence
from ...ppl import Program, factor, program, sample
from .gradient import loss_of
from .policies import Autoregressive
from .targets import EBM

Strategy = Callable[[Any], Any]


def policy_program(policy: Autoregressive, strategy: Strategy | None = None) -> Program:
    """The program that samples tokens x0, x1, ..., and gives the sequence [length]."""

    @program
    def drawn() -> Tensor:
        tokens: list[Tensor] = []
        for i in range(policy.length):
            prefix = torch.stack(tokens)[None] if tokens else torch.zeros(1, 0, dtype=torch.int64)
            law: Any = dist.Categorical(logits=policy.next_logits(prefix.long())[0])
            tokens.append(sample(f"x{i}", law if strategy is None else strategy(law)))
        return torch.stack(tokens)

    return drawn


def target_program(target: EBM, log_z: Tensor | float = 0.0) -> Program:
    """The program whose measure is P / exp(log_z): the base, and its score as a factor."""
    base = policy_program(target.base)

    @program
    def tilted() -> Tensor:
        x: Tensor = base()
        factor("score", target.score(x[None].long())[0] - log_z)
        return x

    return tilted


def divergence_objective(
    target: EBM, policy: Autoregressive, loss: str | Divergence, strategy: Strategy
) -> Objective:
    """-D(pi, p), for a target whose Z is known by enumeration; to be maximised, as by ``SVI``."""
    f = loss_of(loss)

    def dual(log_w: Tensor) -> Tensor:  # w f(1 / w), w = p / pi
        some = log_w > -math.inf
        log_t = -torch.where(some, log_w, 0.0)
        return torch.where(some, f.f(log_t) * (-log_t).exp(), f.at_infinity)

    law = target_program(target, target.log_z())
    return f_divergence(law, policy_program(policy, strategy), dual)
