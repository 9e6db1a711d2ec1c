"""Natural gradients: steps in the geometry of a guide's laws, not of its parameters.

A guide of normal laws N(m, S) and of finite tables is an exponential family.  In its natural
parameters a step of rate r goes along the gradient by its mean parameters, which is the natural
gradient (Khan, Rue, arXiv 2107.04562):

    S_new^-1 = S^-1 - 2 r dE/dS,    m_new = m + r S_new dE/dm,    logits_new = logits + r dE/dp.

With S = L L' and H = 2 L' (dE/dS) L the first is S_new^-1 = L'^-1 (I - r H) L^-1.  The lower part
of dE/dL gives that of H = L' dE/dL, which is symmetric.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...ppl.errors import GuideError, ProgramError, located
from .guides import FullRank, Guide, MeanField, key_of


class NaturalGradient(torch.optim.Optimizer):
    """Natural gradient steps for a ``MeanField`` or ``FullRank`` guide; an optimiser for ``SVI``.

    How the guide's laws are written down does not matter: scales of a thousand and of a thousandth
    are the same to it.  At rate 1 a posterior in the guide's family, with exact gradients, is
    reached in one step (without ``retraction``); with noisy ones the rate is what a step forgets of
    those before, and 0.1 or a schedule that falls is a good start.  Finite tables step with the
    rest.  A step of ``FullRank`` takes a time of d^3.

    Source: Khan, Rue, The Bayesian learning rule (arXiv 2107.04562); Lin, Schmidt, Khan (arXiv
    2002.10060) for the retraction.

    Args:
        guide: whose parameters move so.
        lr: the rate r of the steps.
        retraction: I - r H + (r H)^2 / 2 in place of I - r H, which is the same to first order and
            always positive definite: a step at most doubles a variance.
        rest: an optimiser of other parameters, those of the model, which steps with this one.

    Errors:
        GuideError: the guide is of another kind.
        ValueError: the rate is not above zero.
        ProgramError: without a retraction, a step leaves the positive definite matrices.
    """

    def __init__(
        self,
        guide: Guide,
        lr: float = 0.1,
        retraction: bool = True,
        rest: torch.optim.Optimizer | None = None,
    ) -> None:
        if not isinstance(guide, MeanField | FullRank):
            what = f"{type(guide).__name__} is no guide of normal laws with natural parameters"
            raise GuideError(located(what, hint="use MeanField or FullRank, or another optimiser"))
        if not lr > 0:
            raise ValueError(f"NaturalGradient: lr is above 0, not {lr}")
        super().__init__(guide.parameters(), {"lr": lr})
        self.guide: MeanField | FullRank = guide
        self.retraction, self.rest = retraction, rest
        for group in [] if rest is None else rest.param_groups:
            self.add_param_group(group)  # the same objects: a schedule moves the rates of both

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Move the guide by the gradients of a loss that its parameters hold."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        rate, guide = self.param_groups[0]["lr"], self.guide
        if guide.layout.size:
            if isinstance(guide, FullRank):
                self._full(guide, rate)
            else:
                self._independent(guide, rate)
        for name, site in guide.tables.items():
            logits = guide.logits[key_of(name)]
            logits.sub_(rate * _by_mean(logits, _slope(logits), site.space.kind != "Bool"))
        if self.rest is not None:
            self.rest.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """That of both optimisers."""
        own = super().state_dict()
        return own if self.rest is None else {**own, "rest": self.rest.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what ``state_dict`` gave."""
        super().load_state_dict({name: x for name, x in state_dict.items() if name != "rest"})
        if self.rest is not None:
            self.rest.load_state_dict(state_dict["rest"])
            self.param_groups[1:] = self.rest.param_groups

    def _independent(self, guide: MeanField, rate: float) -> None:
        """S_new^-1 = S^-1 (1 + x), x the rate times the slope of the loss by log s."""
        loc, log_scale = guide.loc, guide.log_scale
        x = rate * _slope(log_scale)
        factor = 1.0 + x + (0.5 * x.square() if self.retraction else 0.0)
        if not bool((factor > 0).all()):
            raise _left()
        log_scale.sub_(0.5 * factor.log())
        loc.sub_(rate * (2.0 * log_scale).exp() * _slope(loc))

    def _full(self, guide: FullRank, rate: float) -> None:
        """S_new^-1 = L'^-1 (I + X) L^-1 = L'^-1 U U' L^-1, whose factor is L_new = L U'^-1."""
        loc, log_scale, below = guide.loc, guide.log_scale, guide.below
        scale, unit = log_scale.exp(), below.tril(-1)
        one = torch.eye(len(loc), dtype=loc.dtype, device=loc.device)
        factor = scale[:, None] * (one + unit)
        by_unit = _slope(below).tril(-1)
        by_scale = _slope(log_scale) - (by_unit * unit).sum(1)
        by_factor = (by_unit + by_scale.diag()) / scale[:, None]
        lower = rate * (factor.T @ by_factor).tril()
        x = lower + lower.tril(-1).T
        matrix = one + x + (0.5 * x @ x if self.retraction else 0.0)
        flipped, failed = torch.linalg.cholesky_ex(matrix.flip(0, 1))
        if bool(failed):
            raise _left()
        upper = flipped.flip(0, 1)
        moved = torch.linalg.solve_triangular(upper.T, factor, upper=False, left=False)
        log_scale.copy_(moved.diagonal().log())
        below.copy_((moved / moved.diagonal()[:, None]).tril(-1))
        loc.sub_(rate * moved @ (moved.T @ _slope(loc)))


def _slope(parameter: Tensor) -> Tensor:
    """The derivative of the loss; zero where it does not depend on a parameter."""
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _by_mean(logits: Tensor, slope: Tensor, several: bool) -> Tensor:
    """The derivative of the loss by the mean parameters of a finite law, up to a constant."""
    p = logits.softmax(-1) if several else logits.sigmoid()
    fisher = p if several else p * (1 - p)
    return slope / fisher.clamp_min(torch.finfo(p.dtype).tiny)


def _left() -> ProgramError:
    what = "a natural step leads to a matrix that is not positive definite"
    return ProgramError(located(what, hint="lower the rate, or take retraction=True"))
