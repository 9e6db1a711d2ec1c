"""A diffusion model of |C|: denoiser, training, samples, and the law that has a score only."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, Literal

import torch
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor

MEAN, SPREAD = -1.2, 1.2  # of log s in training


def preconditioning(s: Tensor, sigma: float) -> tuple[Tensor, Tensor, Tensor]:
    """c_skip, c_out, c_in of D(x; s) = c_skip x + c_out F(c_in x, log(s) / 4)."""
    total = s**2 + sigma**2
    return sigma**2 / total, s * sigma / total.sqrt(), total.rsqrt()


def weight(s: Tensor, sigma: float) -> Tensor:
    """(s^2 + sigma^2) / (s sigma)^2, which is 1 / c_out^2."""
    return (s**2 + sigma**2) / (s * sigma) ** 2


def vp_level(t: Tensor) -> Tensor:
    """The noise at time t in [0, 1] of the variance-preserving schedule."""
    return torch.expm1(9.95 * t**2 + 0.1 * t).sqrt()


def heun(denoise: Callable[[Tensor, Tensor], Tensor], x: Tensor, levels: Tensor) -> Tensor:
    """The flow dx/ds = (x - D(x; s)) / s along falling levels, of which the last is 0."""
    for s, t in itertools.pairwise(levels):
        slope = (x - denoise(x, s)) / s
        ahead = x + (t - s) * slope
        if t > 0:
            slope = (slope + (ahead - denoise(ahead, t)) / t) / 2
        x = x + (t - s) * slope
    return x


class SpectralDiffusion:
    """A diffusion model of absolute values of functional maps [k, k].

    The network is a perceptron on the entries; the paper's is a transformer on patches.

    Args:
        sigma_data: of the preconditioning; the data's standard deviation unless given (the
            published configuration has 0.5 for all data).
        noise: levels of training, "edm" or "vp", each with its weights.
        hidden: width of the two hidden layers.
        seed: of the network and its training.

    Errors:
        ValueError: a setting is wrong.
    """

    def __init__(
        self,
        k: int,
        sigma_data: float | None = None,
        noise: Literal["edm", "vp"] = "edm",
        hidden: int = 256,
        seed: int = 0,
    ) -> None:
        if noise not in ("edm", "vp") or k < 1 or (sigma_data is not None and sigma_data <= 0):
            raise ValueError("noise is 'edm' or 'vp', k and sigma_data are positive")
        self.k, self.sigma, self.noise, self.seed = k, sigma_data or 0.5, noise, seed
        self._given = sigma_data is not None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.net = torch.nn.Sequential(
                torch.nn.Linear(k * k + 1, hidden),
                torch.nn.SiLU(),
                torch.nn.Linear(hidden, hidden),
                torch.nn.SiLU(),
                torch.nn.Linear(hidden, k * k),
            ).double()

    def fits(self, x: Tensor) -> None:
        """Raise a ValueError unless x [..., k, k] has the size of this prior's maps."""
        if x.ndim < 2 or x.shape[-2:] != (self.k, self.k):
            what = f"the prior is for maps of {self.k} x {self.k}"
            raise ValueError(f"{what}, and this one has shape {list(x.shape)}")

    def denoise(self, x: Tensor, s: Tensor | float) -> Tensor:
        """D(x; s): the mean of what x [..., k, k] was before noise of level s [...] was added."""
        self.fits(x)
        level = torch.as_tensor(s, dtype=x.dtype, device=x.device)
        level = level.expand(x.shape[:-2])[..., None]
        skip, out, scale = preconditioning(level, self.sigma)
        flat = x.flatten(-2)
        moved = self.net(torch.cat([scale * flat, level.log() / 4], -1))
        found: Tensor = skip * flat + out * moved
        return found.reshape(x.shape)

    def score(self, x: Tensor, s: Tensor | float) -> Tensor:
        """The gradient of the log density of what has noise of level s: (D(x; s) - x) / s^2."""
        level = torch.as_tensor(s, dtype=x.dtype, device=x.device)[..., None, None]
        return (self.denoise(x, s) - x) / level**2

    def loss(self, x: Tensor, s: Tensor, noise: Tensor) -> Tensor:
        """The mean of weight * |D(x + s noise; s) - x|^2 over maps x [n, k, k]."""
        scale = weight(s, self.sigma) if self.noise == "edm" else s**-2
        error = self.denoise(x + s[:, None, None] * noise, s) - x
        return (scale * error.square().mean((1, 2))).mean()

    def fit(self, C_abs: Tensor, n_iter: int = 2500, batch: int = 64, lr: float = 1e-3) -> Any:
        """Train on absolute values [n, k, k]; the rate falls to zero. Returns the model.

        Errors:
            ValueError: maps are of another size, negative or not finite.
        """
        self.fits(C_abs)
        if C_abs.ndim != 3 or not bool(((C_abs >= 0) & C_abs.isfinite()).all()):
            raise ValueError("training maps are [n, k, k], finite and absolute values")
        if not self._given:
            self.sigma = float(C_abs.std())
        rng = torch.Generator().manual_seed(self.seed)
        adam = torch.optim.Adam(self.net.parameters(), lr)
        schedule = torch.optim.lr_scheduler.LinearLR(adam, 1.0, 1e-2, n_iter)
        for _ in range(n_iter):
            x = C_abs[torch.randint(len(C_abs), (batch,), generator=rng)]
            noise = torch.randn(x.shape, generator=rng, dtype=x.dtype)
            if self.noise == "edm":
                s = (MEAN + SPREAD * torch.randn(batch, generator=rng, dtype=x.dtype)).exp()
            else:
                s = vp_level(1e-3 + 0.999 * torch.rand(batch, generator=rng, dtype=x.dtype))
            adam.zero_grad()
            self.loss(x, s, noise).backward()  # type: ignore[no-untyped-call]
            adam.step()
            schedule.step()
        return self

    @torch.no_grad()
    def sample(self, n: int, steps: int = 40, most: float = 20.0, seed: int = 0) -> Tensor:
        """n maps [n, k, k], by Heun's method on EDM's levels (rho 7, from ``most`` to 0.002)."""
        rng = torch.Generator().manual_seed(seed)
        share = torch.linspace(0, 1, steps, dtype=torch.float64)
        levels = (most ** (1 / 7) + share * (0.002 ** (1 / 7) - most ** (1 / 7))) ** 7
        x = most * torch.randn(n, self.k, self.k, generator=rng, dtype=torch.float64)
        return heun(self.denoise, x, torch.cat([levels, levels.new_zeros(1)]))


class ScoreOnly(TorchDistribution):
    """The law of samples of a diffusion model: its score is known, its density is not."""

    arg_constraints: dict[str, Any] = {}
    support = constraints.independent(constraints.real, 2)

    def __init__(self, model: SpectralDiffusion) -> None:
        self.model = model
        super().__init__(event_shape=torch.Size([model.k, model.k]), validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        """Itself, as one map."""
        if torch.Size(batch_shape) != torch.Size():
            raise NotImplementedError("a plate of maps: sample them by vmap")
        return self

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        """Maps [..., k, k], by the model's sampler, from torch's own generator."""
        shape = torch.Size(sample_shape)
        drawn = self.model.sample(max(shape.numel(), 1), seed=int(torch.randint(2**31, ())))
        return drawn.reshape(shape + self.event_shape)

    def score(self, x: Tensor, s: Tensor | float) -> Tensor:
        """The gradient of the log density, smoothed by noise of level s."""
        return self.model.score(x, s)

    def log_prob(self, value: Tensor) -> Tensor:
        """Refused.

        Errors:
            NotImplementedError: always.
        """
        what = "a diffusion model has a score, and its density is not known"
        raise NotImplementedError(f"{what}: use its score, or distilled() in a loss")
