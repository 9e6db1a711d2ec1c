"""Unnormalised models, fitted by maximum likelihood without a Markov chain.

For p = e^(-E) / Z, log Z = log E_q[e^(-E) / q] is a function of an expectation under a noise law q.
That expectation is followed by a moving average u, and a gradient step divides by u: one batch of
noise a step is enough, and its bias vanishes as u averages.

Source: Jiang, Qin, Wu, Chen, Yang, Zhang, Learning Unnormalized Statistical Models via
Compositional Optimization (arXiv 2306.07485).  The body of the paper was not available; the
algorithm is rebuilt from its abstract and its family, and the guard by effective sample size is a
choice of this library: noise far from the model makes the iteration run away.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any, Literal

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn import functional as F

from ..ppl import Program, factor, program, sample

Energy = Callable[[Tensor], Tensor]
Refit = Literal["moments"] | Callable[[Tensor], Distribution] | None
INFLATED = 1.5  # standard deviation of refitted noise over that of the data
MANY_REFITS = 5
EXTRA = ("poor", "refits", "seen", "moments", "taken")


class UnnormalizedModel(nn.Module):
    """The density e^(-E(x)) / Z, with a noise law q whose support covers it.

    Args:
        energy: [n, *event] to [n]; a module, or a function of tensors.
        noise: a distribution of the event, with ``sample`` and ``log_prob``; in a program it is the
            law that x is drawn from.  Its tails should not be lighter than those of the model.

    Errors:
        ValueError: the noise has batch dimensions, or no density.
    """

    def __init__(self, energy: Energy, noise: Distribution) -> None:
        super().__init__()
        if not hasattr(noise, "log_prob") or not hasattr(noise, "sample"):
            raise ValueError(f"noise needs sample and log_prob, which {noise!r} lacks")
        if noise.batch_shape:
            raise ValueError(f"noise is one law of an event: use to_event, {noise!r} is a batch")
        self.energy, self.noise = energy, noise

    def log_unnormalized(self, x: Tensor) -> Tensor:
        """-E(x) [n].

        Errors:
            ValueError: the energy is no number, or not [n].
            FloatingPointError: the energy is minus infinity.
        """
        energy = self.energy(x)
        if energy.shape != x.shape[: x.ndim - len(self.noise.event_shape)]:
            raise ValueError(f"an energy for each datum is expected, not {list(energy.shape)}")
        least = float(energy.detach().min()) if len(energy) else 0.0
        if math.isnan(least):
            raise ValueError("the energy is not a number")
        if least == -math.inf:
            raise FloatingPointError("the energy is minus infinity: the model has no density")
        return -energy

    def log_ratio(self, z: Tensor) -> Tensor:
        """-E(z) - log q(z) [n], whose exponential has the mean Z under the noise."""
        return self.log_unnormalized(z) - self.noise.log_prob(z)

    @torch.no_grad()
    def estimate_log_z(self, draws: int) -> tuple[Tensor, Tensor]:
        """log Z from draws of the noise, and its standard error by the delta method."""
        if draws < 2:
            raise ValueError(f"a standard error needs two draws, not {draws}")
        a = self.log_ratio(self.noise.sample((draws,)))
        log_mean = a.logsumexp(0) - math.log(draws)
        return log_mean, (a - log_mean).exp().std() / math.sqrt(draws)

    def log_prob(self, x: Tensor, log_z: Tensor | float) -> Tensor:
        """The log density [n] of data [n, *event], given log Z."""
        return self.log_unnormalized(x) - log_z

    def program(self, name: str = "x") -> Program:
        """The program that draws x and scores it, so that its measure is e^(-E): of mass Z."""

        @program
        def unnormalized() -> Tensor:
            x: Tensor = sample(name, self.noise)
            factor("energy", -self.energy(x) - self.noise.log_prob(x))
            return x

        return unnormalized


class CompositionalLikelihood(nn.Module):
    """A loss whose gradient is followed to the maximum of the likelihood; any optimiser takes it.

    The paper's momentum is ``torch.optim.SGD(..., momentum=1 - b, dampening=1 - b)``.  The value of
    the loss means nothing; ``log_u`` is near log Z once gamma is small.

    Args:
        model: whose energy is fitted.  The guard may replace its noise.
        gamma: the share of a new batch in u; constant, it should be some hundredths at the end.
            With gamma 1 the gradient has the bias of a log of a mean.
        ess_floor: the effective sample size, over the size of the batch of noise, below which a
            step counts as poor.
        patience: poor steps in a row before the noise is replaced.
        refit: "moments" for a normal law about the data, 1.5 times as wide; a function of the data
            of the step that returns a law; or None, to raise an error.

    Errors:
        ValueError: a setting is out of range.
        RuntimeError: the noise is too narrow, and there is nothing to replace it by.
    """

    log_u: Tensor
    ess: Tensor

    def __init__(
        self,
        model: UnnormalizedModel,
        gamma: float = 0.1,
        ess_floor: float = 0.2,
        patience: int = 10,
        refit: Refit = "moments",
    ) -> None:
        super().__init__()
        if not 0 < gamma <= 1:
            raise ValueError(f"gamma is in (0, 1], not {gamma}")
        if not 0 <= ess_floor < 1 or patience < 1:
            raise ValueError(f"ess_floor is in [0, 1), patience positive: {ess_floor}, {patience}")
        self.model, self.gamma, self.refit = model, gamma, refit
        self.ess_floor, self.patience = ess_floor, patience
        self.poor, self.refits, self.seen = 0, 0, 0
        self.register_buffer("log_u", torch.tensor(math.nan))
        self.register_buffer("ess", torch.tensor(math.nan))
        self.moments: tuple[Tensor, Tensor] | None = None  # running mean and variance of data
        self.taken: tuple[Tensor, Tensor] | None = None  # mean and deviation of the noise

    def forward(self, x: Tensor, noise: Tensor | int | None = None) -> Tensor:
        """The loss of data [n, *event], with draws of noise, or their number (n unless given).

        Errors:
            ValueError: there are no data, or the noise or the model has no mass where they are, or
                the model none where the noise is.
        """
        if len(x) == 0:
            raise ValueError("there are no data in the batch")
        data = self.model.log_unnormalized(x)
        if bool((data == -math.inf).any()):
            raise ValueError("the model has no mass at data: their energy is infinite")
        self._follow(x)
        with torch.no_grad():
            covered = self.model.noise.log_prob(x) > -math.inf
        if not bool(covered.all()):
            raise ValueError("the noise has no mass at data: take a law with a wider support")
        drawn = noise if isinstance(noise, Tensor) else self._draws(noise or len(x))
        log_p, a = self._ratios(drawn)
        if self._is_poor(a):
            self._replace(x)
            log_p, a = self._ratios(self._draws(len(drawn)))
        log_mean = a.logsumexp(0) - math.log(len(a))
        with torch.no_grad():
            self.log_u.copy_(self._averaged(log_mean))
        if float(self.log_u) == -math.inf:
            raise ValueError("no draw of the noise has mass under the model")
        weights = (a - self.log_u).exp()
        counts = weights > 0
        return (weights[counts] * log_p[counts]).sum() / len(a) - data.mean()

    def _draws(self, count: int) -> Tensor:
        drawn: Tensor = self.model.noise.sample((count,))
        return drawn

    def _ratios(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """-E(z), and -E(z) - log q(z) without its gradient."""
        log_p = self.model.log_unnormalized(z)
        return log_p, (log_p - self.model.noise.log_prob(z)).detach()

    def _averaged(self, log_mean: Tensor) -> Tensor:
        """log of (1 - gamma) u + gamma mean; the first mean itself."""
        if bool(self.log_u.isnan()) or self.gamma == 1:
            return log_mean
        old, new = math.log1p(-self.gamma), math.log(self.gamma)
        return torch.logaddexp(self.log_u + old, log_mean.to(self.log_u) + new)

    def _is_poor(self, a: Tensor) -> bool:
        """Whether too few draws have carried all weight for too many steps in a row."""
        size = (2 * a.logsumexp(0) - (2 * a).logsumexp(0)).exp() / len(a)
        self.ess.copy_(size.nan_to_num(0.0))
        self.poor = self.poor + 1 if float(self.ess) < self.ess_floor else 0
        return self.poor >= self.patience

    def _follow(self, x: Tensor) -> None:
        """Running moments of the data; batches count alike until there are a hundred."""
        self.seen += 1
        keep = 1 - 1 / min(self.seen, 100)
        wide = x.detach().to(self.log_u.dtype)
        new = wide.mean(0), wide.var(0, correction=0)
        old = new if self.moments is None else self.moments
        mean = torch.lerp(new[0], old[0], keep)
        spreads = [v + (m - mean).square() for m, v in (new, old)]
        self.moments = mean, torch.lerp(spreads[0], spreads[1], keep)

    def _replace(self, x: Tensor) -> None:
        self.refits += 1
        self.poor = 0
        if self.refit is None:
            raise RuntimeError(
                f"for {self.patience} steps, fewer than {self.ess_floor:.0%} of the noise carried"
                " all weight: take wider noise, or let it be refitted"
            )
        if self.refits > MANY_REFITS:
            what = f"the noise was replaced {self.refits} times: it does not cover the model"
            warnings.warn(what, RuntimeWarning, stacklevel=3)
        if self.refit == "moments":
            assert self.moments is not None
            mean, variance = self.moments
            self._take(mean, INFLATED * variance.clamp(min=1e-12).sqrt())
        else:
            self.model.noise = self.refit(x)
        self.log_u.fill_(math.nan)

    def _take(self, mean: Tensor, sd: Tensor) -> None:
        self.taken = mean, sd
        normal: Any = dist.Normal(mean, sd)
        self.model.noise = normal.to_event(mean.ndim)

    def get_extra_state(self) -> dict[str, Any]:
        """What buffers do not hold: counts, moments, and the noise that was taken by moments."""
        return {name: getattr(self, name) for name in EXTRA}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Go on from there; a law that a ``refit`` of one's own gave must be given again."""
        for name in EXTRA:
            setattr(self, name, state[name])
        if self.taken is not None:
            self._take(*self.taken)


class NoiseContrastive(nn.Module):
    """Noise-contrastive estimation with a free log Z: tells data from noise by logistic regression.

    Far from the noise its landscape is flat; it is here to compare.

    Args:
        model: whose energy is fitted.
        log_z: where the parameter of that name begins.

    Source: Gutmann, Hyvarinen, Noise-contrastive estimation (AISTATS 2010).
    """

    def __init__(self, model: UnnormalizedModel, log_z: float = 0.0) -> None:
        super().__init__()
        self.model = model
        self.log_z = nn.Parameter(torch.tensor(log_z))

    def forward(self, x: Tensor, noise: Tensor | int | None = None) -> Tensor:
        """The loss of data [n, *event], with draws of noise, or their number (n unless given)."""
        if len(x) == 0:
            raise ValueError("there are no data in the batch")
        count = len(x) if noise is None else noise
        drawn = count if isinstance(count, Tensor) else self.model.noise.sample((count,))
        more = math.log(len(drawn) / len(x))
        on_data = self.model.log_ratio(x) - self.log_z - more
        on_noise = self.model.log_ratio(drawn) - self.log_z - more
        return F.softplus(-on_data).mean() + len(drawn) / len(x) * F.softplus(on_noise).mean()
