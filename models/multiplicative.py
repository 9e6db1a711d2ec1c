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
from torch.distributions import Distribution, Independent, LogNormal

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


def _rows(x: Tensor) -> Tensor:
    return x.reshape(len(x), math.prod(x.shape[1:]))


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
    return _rows(away.square()).sum(1)


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

    def end_law(self, x0: Tensor) -> Distribution:
        """The log-normal law of independent numbers with the moments of log x_T for data [b, ...].

        Errors:
            ValueError: there are fewer than two data, or one is not positive.
        """
        x0 = x0 + self.offset
        if len(x0) < 2:
            raise ValueError("a law is fitted to two data at least")
        _require_positive(x0, torch.ones(()))
        drift = (self.mu - self.sigma**2 / 2) * self.T
        scale = (x0.log().var(0) + self.sigma**2 * self.T).sqrt()
        return Independent(LogNormal(x0.log().mean(0) + drift, scale), x0.ndim - 1)

    @torch.no_grad()
    def log_prob(
        self,
        x0: Tensor,
        end: Distribution,
        steps: int = 100,
        start: float | None = None,
        probes: int | None = None,
    ) -> Tensor:
        """The log density [b] of data [b, ...], by the flow that has the same laws at all times.

        In y = log x, dy/dt = mu - sigma^2 / 2 - sigma^2 (h + 1) / 2; steps are those of the fourth
        order of Runge and Kutta, and cost four evaluations of the score and of its trace.

        Args:
            end: the law of shifted x_T, as of :meth:`end_law`.
            start: the time that data are of, the first level T / N unless given: the density is
                that of data with so much noise.
            probes: random directions for the trace of a derivative; the exact trace unless given,
                at the cost of a derivative for each number of a datum.

        Errors:
            ValueError: data are not positive, or a setting is out of range.
        """
        begin = self.T / self.N if start is None else start
        if not 0 <= begin < self.T or steps < 1 or (probes is not None and probes < 1):
            raise ValueError(f"0 <= start < T, steps and probes are positive: {begin}, {steps}")
        x = x0 + self.offset
        _require_positive(x, torch.ones(()))
        state = x.log(), x.new_zeros(len(x))

        def moved(by: float, slopes: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            return state[0] + by * slopes[0], state[1] + by * slopes[1]

        def slopes(s: float, at: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            """By s, where t - start is proportional to its square: the flow is steep at first."""
            pace = 2 * (self.T - begin) * s
            speed, divergence = self._flow(at[0], begin + (self.T - begin) * s**2, probes)
            return pace * speed, pace * divergence

        for k in range(steps):
            s, half = k / steps, 0.5 / steps
            one = slopes(s, state)
            two = slopes(s + half, moved(half, one))
            three = slopes(s + half, moved(half, two))
            four = slopes(s + 2 * half, moved(2 * half, three))
            mean = [
                (a + 2 * b + 2 * c + d) / 6
                for a, b, c, d in zip(one, two, three, four, strict=True)
            ]
            state = moved(2 * half, (mean[0], mean[1]))
        y, volume = state
        in_logarithms = end.log_prob(y.exp()) + _rows(y).sum(1) + volume
        density: Tensor = in_logarithms - _rows(x.log()).sum(1)
        return density

    def _flow(self, y: Tensor, t: float, probes: int | None) -> tuple[Tensor, Tensor]:
        """dy/dt [b, ...], and its divergence [b]."""

        def flow(y: Tensor) -> Tensor:
            times = torch.full((len(y),), t, dtype=y.dtype, device=y.device)
            h = self.score(y.exp(), times)
            return self.mu - self.sigma**2 / 2 * (2 + h)

        if probes is None:
            directions = torch.eye(y[0].numel(), dtype=y.dtype, device=y.device)
            scale = 1.0
        else:
            shape = (probes, y[0].numel())
            directions = torch.randint(0, 2, shape, device=y.device).to(y.dtype) * 2 - 1
            scale = 1 / probes
        trace = torch.zeros(len(y), dtype=y.dtype, device=y.device)
        for direction in directions:
            along = direction.reshape(y.shape[1:]).expand_as(y)
            found = torch.func.jvp(flow, (y,), (along,))
            value, bent = found[0], found[1]
            trace += scale * _rows(bent * along).sum(1)
        return value, trace
