"""Targets P(x) = a(x) exp(score(x)), known up to Z = sum P, over sequences of a base model a.

Source: Go et al., Aligning Language Models with Preferences through f-divergence Minimization
(arXiv 2302.08215); distributional targets: Khalifa et al. (arXiv 2012.11635).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .policies import Autoregressive

Scorer = Callable[[Tensor], Tensor]


class EBM:
    """The base times what scorers say.

    Args:
        base: a, which stays as it is.
        scorers: functions of sequences [n, length] to log scores [n], or to truth values [n], which
            rule out where they are false.
    """

    def __init__(self, base: Autoregressive, scorers: Sequence[Scorer] = ()) -> None:
        self.base, self.scorers = base, list(scorers)

    def score(self, x: Tensor) -> Tensor:
        """log P(x) - log a(x) [n]."""
        total = torch.zeros(len(x), device=x.device)
        for scorer in self.scorers:
            found = scorer(x)
            if found.shape != (len(x),):
                raise ValueError(f"a score for each sequence is expected, not {list(found.shape)}")
            total = total + (found.double().log() if found.dtype == torch.bool else found)
        return total

    @torch.no_grad()
    def log_prob(self, x: Tensor) -> Tensor:
        """log P(x) [n], minus infinity outside the support.

        Errors:
            ValueError: it is plus infinity or no number.
        """
        return self.beside_base(x)[1]

    @torch.no_grad()
    def beside_base(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """log a(x) and log P(x) [n]; as :meth:`log_prob`."""
        log_a = self.base.log_prob(x)
        found = log_a + self.score(x)
        if bool(found.isnan().any()) or bool((found == math.inf).any()):
            raise ValueError("log P is plus infinity, or not a number")
        return log_a, found

    def log_z(self) -> Tensor:
        """log Z [], by enumeration."""
        return self.log_prob(self.base.enumerate()).logsumexp(0)


class RLHFTarget(EBM):
    """a(x) exp(r(x) / beta): what maximises E r - beta KL(pi, a).

    Errors:
        ValueError: beta is not positive.
    """

    def __init__(self, base: Autoregressive, reward: Scorer, beta: float) -> None:
        if not beta > 0:
            raise ValueError(f"beta is positive, which {beta} is not")
        super().__init__(base, [lambda x: reward(x) / beta])
        self.reward, self.beta = reward, beta


class GDCTarget(EBM):
    """a(x) exp(lambda . phi(x)), with lambda such that E_p phi are given moments.

    Args:
        features: functions of sequences [n, length] to numbers [n].
        moments: one for each.

    Errors:
        ValueError: their numbers differ.
    """

    def __init__(
        self, base: Autoregressive, features: Sequence[Scorer], moments: Sequence[float]
    ) -> None:
        if len(features) != len(moments) or not features:
            raise ValueError(f"{len(features)} features and {len(moments)} moments do not fit")
        self.features, self.moments = list(features), list(moments)
        self.lambda_: Tensor | None = None
        super().__init__(base, [self._tilt])

    def _phi(self, x: Tensor) -> Tensor:
        return torch.stack([feature(x).double() for feature in self.features], -1)

    def _tilt(self, x: Tensor) -> Tensor:
        if self.lambda_ is None:
            raise ValueError("lambda is not known: call fit()")
        return self._phi(x) @ self.lambda_.to(x.device)

    @torch.no_grad()
    def fit(self, samples: int | None = None, rounds: int = 200, tol: float = 1e-10) -> GDCTarget:
        """Find lambda, by Newton's method on the convex log Z(lambda) - lambda . moments.

        Args:
            samples: of the base, by which moments are estimated; all sequences unless given.

        Errors:
            ValueError: no lambda has these moments: they lie outside of what phi can be.
        """
        x = self.base.enumerate() if samples is None else self.base.sample(samples)
        phi = self._phi(x)
        log_a = self.base.log_prob(x).double() if samples is None else torch.zeros_like(phi[:, 0])
        wanted = torch.tensor(self.moments, dtype=phi.dtype, device=phi.device)
        at = torch.zeros_like(wanted)

        def dual(where: Tensor) -> Tensor:
            return (log_a + phi @ where).logsumexp(0) - where @ wanted

        for _ in range(rounds):
            weights = (log_a + phi @ at).softmax(0)
            mean = weights @ phi
            gap = mean - wanted
            if float(gap.abs().max()) < tol:
                self.lambda_ = at
                return self
            away = phi - mean
            spread = away.T @ (weights[:, None] * away)
            step = torch.linalg.lstsq(spread, gap[:, None]).solution[:, 0]
            size = 1.0
            while size > 1e-8 and dual(at - size * step) > dual(at) - size * 1e-4 * (gap @ step):
                size /= 2
            at = at - size * step
        what = f"moments {self.moments} are not reached after {rounds} rounds"
        raise ValueError(f"{what}: do they lie within what the features can be?")
