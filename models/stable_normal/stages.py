"""The two stages: a guess in one call, whose scatter is penalised, and a denoiser that refines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pyro import distributions as dist
from torch import Tensor, nn

from ...ppl import draw
from .schedule import NormalSchedule


class YOSO(nn.Module):
    """Normals from an image and noise, by one call of a network at one time.

    The source says that a regulariser shrinks the law of the output to a point; its form was not
    found, nor training code.  Ours is the squared difference of outputs for two noises.

    Args:
        net: x_0 of (x, t [B], images, descriptors or None).
        t_start: the time, of which the network is told; 0 in the source's faster variant.
        shrink: weight of the regulariser.
        T: the number of times.

    Errors:
        ValueError: t_start is not in [0, T), or shrink is negative.
    """

    def __init__(
        self, net: nn.Module, t_start: int = 401, shrink: float = 0.5, T: int = 1000
    ) -> None:
        super().__init__()
        if not 0 <= t_start < T or not shrink >= 0:
            raise ValueError(f"t_start is in [0, {T}) and shrink >= 0: {t_start}, {shrink}")
        self.net, self.t_start, self.shrink = net, t_start, shrink

    def forward(self, images: Tensor, noise: Tensor) -> Tensor:
        """x_0 [B, 3, H, W] of images [B, C, H, W] and noise [B, 3, H, W]."""
        t = torch.full((len(images),), self.t_start, device=images.device)
        found: Tensor = self.net(noise, t, images, None)
        return found

    def loss(self, images: Tensor, normals: Tensor) -> Tensor:
        """mean |N_0 - N|^2 + shrink |N_0 - N_0'|^2, a program whose draws are the two noises.

        The mean of the second term is shrink times twice the variance of the output.
        """
        e, other = draw(dist.Normal(torch.zeros_like(normals), 1.0), (2,))
        found = self(images, e)
        apart: Tensor = (found - self(images, other)).square().mean()
        away: Tensor = (found - normals).square().mean()
        return away + self.shrink * apart


class SGRefiner(nn.Module):
    """A denoiser of normals given an image and descriptors of what is seen.

    In the source descriptors are those of a pretrained network and enter once, by a branch of their
    own; here the network has them as an input, and any map of low resolution will do.

    Args:
        net: x_0 of (x, t [B], images, descriptors or None).
        schedule: of the noise.
        semantic: descriptors [B, K, h, w] of images; unless given, they are arguments where the
            refiner was trained with them.
    """

    def __init__(
        self,
        net: nn.Module,
        schedule: NormalSchedule | None = None,
        semantic: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.net, self.schedule, self.semantic = net, schedule or NormalSchedule(), semantic

    def descriptors(self, images: Tensor, semantics: Tensor | None) -> Tensor | None:
        """Those that are given, or of the images."""
        if semantics is not None or self.semantic is None:
            return semantics
        return self.semantic(images)

    def forward(self, x: Tensor, t: Tensor, images: Tensor, semantics: Tensor | None) -> Tensor:
        """x_0 [B, 3, H, W] of x_t, one time [] or times [B], images, and descriptors."""
        found: Tensor = self.net(x, t.expand(len(x)), images, semantics)
        return found

    def loss(self, images: Tensor, normals: Tensor, semantics: Tensor | None) -> Tensor:
        """mean |R - N|^2 at uniform times: a program whose draws are times and noises."""
        t = draw(dist.Categorical(torch.ones(self.schedule.T)), (len(images),)).to(images.device)
        e = draw(dist.Normal(torch.zeros_like(normals), 1.0))
        x = self.schedule.noised(normals, t, e)
        error: Tensor = self(x, t, images, semantics) - normals
        return error.square().mean()


def descend(
    module: nn.Module,
    loss: Callable[[Tensor], Tensor],
    n: int,
    n_iter: int,
    batch: int,
    lr: float,
) -> list[float]:
    """Steps of Adam on losses of random rows [batch] out of n; the rate falls to zero.

    Parameters end as a moving average over steps, of decay 0.98.  Returns the losses.  The source
    does not say how it trains.
    """
    free = [p for p in module.parameters() if p.requires_grad]
    mean = [p.detach().clone() for p in free]
    adam = torch.optim.Adam(free, lr)
    falling: Any = torch.optim.lr_scheduler.LinearLR(adam, 1.0, 1e-2, n_iter)
    losses = []
    for i in range(n_iter):
        adam.zero_grad()
        value = loss(torch.randint(n, (batch,)))
        value.backward()  # type: ignore[no-untyped-call]
        adam.step()
        falling.step()
        losses.append(float(value.detach()))
        with torch.no_grad():
            for m, p in zip(mean, free, strict=True):
                m.lerp_(p, max(0.02, 1 / (i + 1)))
    with torch.no_grad():
        for m, p in zip(mean, free, strict=True):
            p.copy_(m)
    return losses
