"""The posterior of the parameters of an episode, by algebra from a quadratic loss and the prior."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ...ppl.distributions.inverse_wishart import NormalInverseWishart, multidigamma
from ...ppl.errors import located
from .curvature import Quadratic

Rule = Literal["mode", "student", "plugin"]
SWEEPS = 50  # of the mean-field scale of a Student prior


def local_posterior(
    m0: Tensor, v0: Tensor, n0: Tensor | float, mbar: Tensor, abar: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean [..., d] and covariance [..., d, d] of the normal law nearest to the posterior.

    V = (abar + n0 v0^-1)^-1, m = V (abar mbar + n0 v0^-1 m0): the normal that minimises the
    expected quadratic loss and ``NormalInverseWishart.expected_kl`` together.

    Args:
        m0: [d]; v0: [d, d], positive definite; n0: above d - 1; mbar: [..., d]; abar: [..., d, d].
    """
    law = NormalInverseWishart(m0, v0, n0)
    weight = torch.as_tensor(law.df) * torch.cholesky_inverse(torch.linalg.cholesky(v0))
    return merged(Quadratic(mbar, abar), m0, weight, full=True)


def merged(loss: Quadratic, m0: Tensor, weight: Tensor, full: bool) -> tuple[Tensor, Tensor]:
    """Mean and (co)variance of the sum of a quadratic loss and (theta - m0)^T weight (...) / 2.

    ``full``: weight and covariance are [..., d, d], else diagonals [..., d].
    """
    precision = loss.precision
    if not full:
        total = precision + weight
        return (precision * loss.centre + weight * m0) / total, 1 / total
    if precision.ndim == loss.centre.ndim:
        precision = precision.diag_embed()
    factor = torch.linalg.cholesky(precision + weight)
    pulls = (precision @ loss.centre[..., None]) + (weight @ m0[:, None])
    mean: Tensor = torch.cholesky_solve(pulls, factor)[..., 0]
    return mean, torch.cholesky_inverse(factor)


class Global(torch.nn.Module):
    """The law of (mu, Sigma) that all episodes share: q(phi), with count infinite.

    Full: NormalInverseWishart(m0, scale, df) of all parameters.  Diagonal: one such law of one
    number for each parameter, with one df.
    """

    def __init__(self, m0: Tensor, spread: float, df: float, full: bool) -> None:
        super().__init__()
        d, self.full = len(m0), full
        self.least = float(d + 1) if full else 2.0
        if not df > self.least:
            raise ValueError(located(f"n0 is above {self.least:g}, not {df}"))
        self.m0 = torch.nn.Parameter(m0.detach().clone())
        self.log_df = torch.nn.Parameter(torch.log(m0.new_tensor(df - self.least)))
        scale = df * spread**2  # so that the prior of an episode has this deviation
        self.log_diagonal = torch.nn.Parameter(m0.new_full((d,), scale).log() / (2 if full else 1))
        self.below = torch.nn.Parameter(m0.new_zeros(d, d)) if full else None

    @property
    def df(self) -> Tensor:
        return self.least + self.log_df.exp()

    @property
    def scale(self) -> Tensor:
        """V0: [d, d], or its diagonal [d]."""
        diagonal = self.log_diagonal.exp()
        if self.below is None:
            return diagonal
        factor = self.below.tril(-1) + diagonal.diag_embed()
        return factor @ factor.mT

    @property
    def law(self) -> NormalInverseWishart:
        """As a law of the language; of the diagonal, a batch [d] of laws of one number."""
        if self.full:
            return NormalInverseWishart(self.m0, self.scale, self.df)
        return NormalInverseWishart(self.m0[:, None], self.scale[:, None, None], self.df)

    def inverse(self) -> Tensor:
        """V0^-1: [d, d], or its diagonal [d]."""
        if not self.full:
            return 1 / self.scale
        return torch.cholesky_inverse(torch.linalg.cholesky(self.scale))

    def expected_kl(self, mean: Tensor, variance: Tensor) -> Tensor:
        """Expected divergences [E] of normal laws of episodes from N(mu, Sigma)."""
        if self.full:
            return self.law.expected_kl(mean, variance)
        scale, n = self.scale, self.df
        weighed = n * (variance + (mean - self.m0).square()) / scale
        logs = scale.log() - variance.log() - torch.log(n.new_tensor(2.0))
        return (weighed - 1 + logs - multidigamma(n / 2, 1)).sum(-1) / 2

    def weight(self, rule: Rule) -> Tensor:
        """The precision of the normal prior of a new episode: [d, d] or [d]."""
        size = len(self.m0) if self.full else 1
        if rule == "plugin":
            return self.df * self.inverse()
        if rule == "mode":
            return (self.df + size + 2) * self.inverse()
        return (self.df - size + 1) * self.inverse()  # of the Student law's scale

    def posterior(self, loss: Quadratic, rule: Rule = "plugin") -> tuple[Tensor, Tensor]:
        """Means [E, d] and (co)variances of episodes.

        "plugin" is the rule of training, "mode" takes the mode of (mu, Sigma); "student" keeps
        their uncertainty: theta has a Student prior, a normal with a gamma scale, whose mean-field
        fit is iterated.
        """
        if rule not in ("mode", "student", "plugin"):
            hint = "take 'mode', 'student' or 'plugin'"
            raise ValueError(located(f"there is no rule {rule!r}", hint=hint))
        weight = self.weight(rule)
        mean, variance = merged(loss, self.m0, weight, self.full)
        for _ in range(SWEEPS if rule == "student" else 0):
            scaled = self._scale(mean, variance, weight) * weight
            mean, variance = merged(loss, self.m0, scaled, self.full)
        return mean, variance

    def _scale(self, mean: Tensor, variance: Tensor, weight: Tensor) -> Tensor:
        """The mean of the gamma scale of a Student prior, (nu + size) / (nu + E quadratic form)."""
        apart = mean - self.m0
        if not self.full:
            return (self.df + 1) / (self.df + weight * (variance + apart.square()))
        moment = variance + apart[..., :, None] * apart[..., None, :]
        form = (weight * moment).sum((-2, -1))[..., None, None]
        freedom = self.df - len(self.m0) + 1
        return (self.df + 1) / (freedom + form)
