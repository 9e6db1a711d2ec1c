"""A diffusion model of positive data, whose noise multiplies.

Forward, dX = mu X dt + sigma X dW, so that log X is a Brownian motion with a drift; backward, steps
use h(x, t) = x d log p_t(x) / dx, which a network learns by denoising.  The "dls" steps multiply by
exponentials, and never leave the positive numbers; the "ums" steps are those of Euler in x.

Source: Shetty, Prasath, Seelamantula, Dale meets Langevin: A Multiplicative Denoising Diffusion
Model (arXiv 2510.02730).  The heuristics of the public code's samplers are left out.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributions import LogNormal

Score = Callable[[Tensor, Tensor], Tensor]


class GeometricBrownianMotion:
    """The law of X_t given X_0: log-normal about log x_0 + (mu - sigma^2 / 2) t.

    Errors:
        ValueError: sigma is not positive.
    """

    def __init__(self, mu: float, sigma: float) -> None:
        if not sigma > 0:
            raise ValueError(f"sigma is positive, which {sigma} is not")
        self.mu, self.sigma = mu, sigma

    def law(self, x0: Tensor, t: Tensor | float) -> LogNormal:
        """The distribution of x_t, elementwise.

        Errors:
            ValueError: x_0 or t is not positive.
        """
        time = torch.as_tensor(t, dtype=x0.dtype, device=x0.device)
        _require_positive(x0, time)
        drift = (self.mu - self.sigma**2 / 2) * time
        return LogNormal(x0.log() + drift, self.sigma * time.sqrt())

    def rsample(self, x0: Tensor, t: Tensor | float) -> Tensor:
        """x_t, differentiable in x_0."""
        drawn: Tensor = self.law(x0, t).rsample()
        return drawn

    def log_prob(self, x: Tensor, x0: Tensor, t: Tensor | float) -> Tensor:
        """The log density of x_t given x_0."""
        found: Tensor = self.law(x0, t).log_prob(x)
        return found


def _require_positive(x: Tensor, t: Tensor) -> None:
    if not bool((x > 0).all()):
        raise ValueError(f"data are positive; the least is {float(x.min()):.3g}: give an offset")
    if not bool((t > 0).all()):
        raise ValueError("times are positive")


def conditional_score(x: Tensor, x0: Tensor, t: Tensor, mu: float, sigma: float) -> Tensor:
    """x d log p(x_t | x_0) / dx."""
    away = (x / x0).log() - (mu - sigma**2 / 2) * t
    return -1 - away / (sigma**2 * t)


def mdsm_loss(h: Tensor, x: Tensor, x0: Tensor, t: Tensor, mu: float, sigma: float) -> Tensor:
    """|sigma^2 t (h - conditional score)|^2 [b]: summed over all but the first dimension.

    Its minimiser over functions h(x, t) is x d log p_t(x) / dx.

    Args:
        h, x, x0: [b, ...]; t: broadcastable to them.

    Errors:
        ValueError: sigma or a time is not positive, or a datum.
    """
    if not sigma > 0:
        raise ValueError(f"sigma is positive, which {sigma} is not")
    _require_positive(x0, t)
    away = sigma**2 * t * (h - conditional_score(x, x0, t, mu, sigma))
    return away.square().flatten(1).sum(1)


def dls_step(x: Tensor, h: Tensor, z: Tensor, delta: float, mu: float, sigma: float) -> Tensor:
    """A step back in time by delta that multiplies: Euler's for log x."""
    exponent = delta * (sigma**2 * h - mu + 1.5 * sigma**2) + sigma * math.sqrt(delta) * z
    return x * exponent.exp()


def ums_step(x: Tensor, h: Tensor, z: Tensor, delta: float, mu: float, sigma: float) -> Tensor:
    """A step back in time by delta, Euler's for x: great steps may leave the positive numbers."""
    factor = 1 + delta * (sigma**2 * h - mu + 2 * sigma**2) + sigma * math.sqrt(delta) * z
    return x * factor


class GBMDiffusion(nn.Module):
    """A multiplicative diffusion model.

    Args:
        net: h(x, t) [b, ...] of x [b, ...] and times t [b].
        mu, sigma: of the motion; mu is sigma^2 / 2 unless given, so that log x has no drift.
        T, N: the time, and the number of noise levels in it.
        offset: added to data, which then are positive.

    Errors:
        ValueError: a setting or a datum is not positive.
    """

    def __init__(
        self,
        net: nn.Module | Score,
        mu: float | None = None,
        sigma: float = 0.8,
        T: float = 1.0,
        N: int = 1000,
        offset: float = 1.0,
    ) -> None:
        super().__init__()
        if not (sigma > 0 and T > 0 and N > 1):
            raise ValueError(f"sigma and T are positive, and N > 1: {sigma}, {T}, {N}")
        self.net, self.sigma, self.T, self.N, self.offset = net, sigma, T, N, offset
        self.mu = sigma**2 / 2 if mu is None else mu
        self.motion = GeometricBrownianMotion(self.mu, sigma)

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        """h of shifted data x [b, ...] at times t [b]."""
        h: Tensor = self.net(x, t)
        return h

    def loss(self, x0: Tensor) -> Tensor:
        """The mean denoising loss of data [b, ...], at random times and noises."""
        x0 = x0 + self.offset
        levels = torch.randint(1, self.N, (len(x0),), device=x0.device)
        t = levels.to(x0.dtype) * (self.T / self.N)
        wide = t.reshape(-1, *(1 for _ in x0.shape[1:]))
        x = self.motion.rsample(x0, wide)
        return mdsm_loss(self.score(x, t), x, x0, wide, self.mu, self.sigma).mean()

    @torch.no_grad()
    def sample(
        self,
        start: Tensor,
        sampler: Literal["dls", "ums"] = "dls",
        steps: int | None = None,
        denoise: bool = False,
    ) -> Tensor:
        """Data [b, ...] from noise.

        Args:
            start: draws of x_T, shifted: of noised data, or of a law fitted to them.
            sampler: by exponentials, or in x; negative numbers of the latter are reflected.
            steps: N unless given.
            denoise: take the last step without noise.

        Errors:
            ValueError: there is no such sampler.
            RuntimeError: the score is not a number; the message says at which step.
        """
        if sampler not in ("dls", "ums"):
            raise ValueError(f"the sampler is 'dls' or 'ums', not {sampler!r}")
        count = self.N if steps is None else steps
        delta, x, reflected = self.T / count, start, False
        step = dls_step if sampler == "dls" else ums_step
        for k in range(count, 0, -1):
            h = self.score(x, torch.full((len(x),), k * delta, dtype=x.dtype, device=x.device))
            if bool(h.isnan().any()):
                raise RuntimeError(f"the score is not a number at step {count - k}")
            last = denoise and k == 1
            z = torch.zeros_like(x) if last else torch.randn_like(x)
            x = step(x, h, z, delta, self.mu, self.sigma)
            if sampler == "ums" and bool((x <= 0).any()):
                if not reflected:
                    warnings.warn(
                        "a step left the positive numbers, and was reflected", stacklevel=2
                    )
                reflected, x = True, x.abs().clamp(min=torch.finfo(x.dtype).tiny)
        return x - self.offset
