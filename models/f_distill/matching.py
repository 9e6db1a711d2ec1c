"""One-step students of diffusion models: the gradient of an f-divergence of noised laws.

For x_t = x + sigma e, p_t the teacher's law and q_t the student's:
dD(p_t, q_t) = -E[h(r) (s_p - s_q) dx_t], r = p_t / q_t at x_t, s the scores.

Source: Xu, Nie, Vahdat (arXiv 2502.15681).  Its public code has data in place of the teacher in r.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from ...inference.vi.divergences import Divergence
from .weights import RatioNormalizer, divergence_of, normalised

Score = Callable[[Tensor, Tensor], Tensor]  # of x_t [n, d] and sigma [n], to [n, d]
LogRatio = Callable[[Tensor, Tensor], Tensor]  # to [n]
LIMIT = 10.0  # of logits of the discriminator


def surrogate(
    x_t: Tensor, teacher: Tensor, student: Tensor, h: Tensor, time_weight: Tensor | float = 1.0
) -> Tensor:
    """A number [] whose derivative, for exact scores [n, d] and weights h [n], has the mean of dD.

    With weights that were normalised it is that of each level of noise times a positive number.
    """
    away = (h * time_weight)[:, None] * (teacher - student)
    return -(away.detach() * x_t).sum(1).mean()


class FDistill:
    """Trains a student to make in one step what a diffusion model makes in many.

    Args:
        student: from latents [n, latent] to data [n, d].
        teacher_score: of the noised teacher.
        fake_score: of the noised student: a module, which is trained on draws of the student, or a
            function that is exact.
        discriminator: from x_t and sigma to logits [n], trained to tell data (``ratio="data"``) or
            draws of the teacher (``ratio="teacher"``) from the student; its logit estimates log r.
            Or, with ``ratio="exact"``, log r itself.  None only for "rkl", which needs none.
        latent: how many normal numbers the student takes.
        sigmas: the least and the greatest noise; its logarithm is uniform between.
        f_div: "rkl", "sf", "js", "sh", "kl", "jf", "neyman", "pearson", or a divergence.
        gan_weight: of the student's own loss against the discriminator.
        student_every: a step of the student after so many less one of the others.
        normalizer: of ratios; None for plain ones, whose gradient is unbiased.
        time_weight: of sigma [n].
        lr: of Adam, for all.

    Errors:
        ValueError: a setting is out of range, or there is nothing to train or to estimate by.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher_score: Score,
        fake_score: Score,
        discriminator: LogRatio | None = None,
        *,
        latent: int,
        sigmas: tuple[float, float] = (0.1, 5.0),
        f_div: str | Divergence = "js",
        ratio: Literal["data", "teacher", "exact"] = "data",
        gan_weight: float = 1e-3,
        student_every: int = 5,
        normalizer: RatioNormalizer | None = None,
        time_weight: Callable[[Tensor], Tensor] = torch.square,
        lr: float = 1e-3,
    ) -> None:
        self.f = divergence_of(f_div)
        if not any(p.requires_grad for p in student.parameters()):
            raise ValueError("the student has no parameter that requires a gradient")
        if ratio not in ("data", "teacher", "exact"):
            raise ValueError(f"the ratio is by 'data', 'teacher' or 'exact', not {ratio!r}")
        if discriminator is None and self.f.name != "reverse_kl":
            raise ValueError(f"{self.f!r} weighs by ratios: give a discriminator")
        learnt = isinstance(discriminator, nn.Module) and ratio != "exact"
        if discriminator is not None and ratio != "exact" and not learnt:
            raise ValueError("a discriminator that is no module is an exact one: ratio='exact'")
        if gan_weight < 0 or student_every < 1 or not 0 < sigmas[0] < sigmas[1] or latent < 1:
            raise ValueError("gan_weight, student_every, sigmas or latent is out of range")
        self.student, self.teacher_score, self.fake_score = student, teacher_score, fake_score
        self.discriminator, self.ratio, self.learnt = discriminator, ratio, learnt
        self.latent, self.sigmas, self.time_weight = latent, sigmas, time_weight
        self.gan_weight, self.student_every = gan_weight, student_every
        self.normalizer, self.made = normalizer, 0
        about: dict[str, Any] = {"lr": lr, "betas": (0.0, 0.99)}
        self.optimizer = torch.optim.Adam(student.parameters(), **about)
        others = [fake_score] if isinstance(fake_score, nn.Module) else []
        others += [discriminator] if learnt else []  # type: ignore[list-item]
        parameters = [p for module in others for p in module.parameters()]
        self.helpers = torch.optim.Adam(parameters, **about) if parameters else None

    def sample(self, n: int) -> Tensor:
        """Draws of the student [n, d]."""
        first = next(self.student.parameters())
        drawn: Tensor = self.student(
            torch.randn(n, self.latent, dtype=first.dtype, device=first.device)
        )
        return drawn

    def _noise(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x_t [n, d], sigma [n], and its level in [0, 1]."""
        level = torch.rand(len(x), dtype=x.dtype, device=x.device)
        low, high = (math.log(sigma) for sigma in self.sigmas)
        sigma = (low + (high - low) * level).exp()
        return x + sigma[:, None] * torch.randn_like(x), sigma, level

    def student_loss(self, n: int) -> tuple[Tensor, dict[str, float]]:
        """The loss [] of the student by n draws, and the least, mean and greatest weight.

        Errors:
            ValueError: a score has another shape than what it is of.
        """
        x = self.sample(n)
        x_t, sigma, level = self._noise(x)
        with torch.no_grad():
            scores = self.teacher_score(x_t, sigma), self.fake_score(x_t, sigma)
            if any(score.shape != x_t.shape for score in scores):
                raise ValueError(f"scores of shape {list(x_t.shape)} are expected")
            h = self._weights(x_t, sigma, level)
            time_weight = self.time_weight(sigma)
        loss = surrogate(x_t, *scores, h, time_weight)
        if self.learnt and self.gan_weight > 0:
            assert self.discriminator is not None
            adversarial = softplus(-self.discriminator(x_t, sigma)).mean()
            loss = loss + self.gan_weight * adversarial
        spread = {"min_h": float(h.min()), "avg_h": float(h.mean()), "max_h": float(h.max())}
        return loss, spread

    def _weights(self, x_t: Tensor, sigma: Tensor, level: Tensor) -> Tensor:
        if self.discriminator is None:
            return torch.ones_like(sigma)
        log_r = self.discriminator(x_t, sigma)
        if self.ratio != "exact":
            log_r = log_r.clamp(-LIMIT, LIMIT)
        if bool(log_r.isnan().any()):
            raise FloatingPointError("the logarithm of a ratio is not a number")
        if self.normalizer is None:
            return self.f.weight(log_r)
        return normalised(self.f.weight(self.normalizer(log_r.exp(), level).log()))

    def _helpers_loss(self, real: Tensor | None, n: int) -> Tensor:
        """Score matching on draws of the student, and telling them from real ones [n, d]."""
        with torch.no_grad():
            x = self.sample(n)
        x_t, sigma, _ = self._noise(x)
        loss = torch.zeros((), dtype=x.dtype, device=x.device)
        if isinstance(self.fake_score, nn.Module):
            error = sigma[:, None] * self.fake_score(x_t, sigma) + (x_t - x) / sigma[:, None]
            loss = loss + error.square().sum(1).mean()
        if self.learnt:
            if real is None or real.ndim != 2 or real.shape[1] != x.shape[1]:
                raise ValueError(f"real data [n, {x.shape[1]}] are needed for the discriminator")
            assert self.discriminator is not None
            real_t, at, _ = self._noise(real)
            loss = loss + softplus(-self.discriminator(real_t, at)).mean()
            loss = loss + softplus(self.discriminator(x_t, sigma)).mean()
        return loss

    def step(self, real: Tensor | None = None, n: int | None = None) -> dict[str, float]:
        """One step, of the student or of the others; losses and weights.

        Args:
            real: data, or draws of the teacher [n, d]; for a discriminator that is trained.
            n: how many draws of the student; as many as real ones, or 256.
        """
        size = n or (256 if real is None else len(real))
        self.made += 1
        turn = self.helpers is None or self.made % self.student_every == 0
        about: dict[str, float] = {}
        if turn:
            optimizer: Any = self.optimizer
            loss, about = self.student_loss(size)
        else:
            optimizer, loss = self.helpers, self._helpers_loss(real, size)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return {"student" if turn else "helpers": float(loss.detach()), **about}

    def fit(self, real: Tensor | None, n_iter: int, n: int = 256) -> list[dict[str, float]]:
        """Steps, with batches of n out of real data."""
        rows = []
        for _ in range(n_iter):
            batch = None if real is None else real[torch.randint(len(real), (n,))]
            rows.append(self.step(batch, n))
        return rows
