"""Small networks: dilated convolutions that estimate normals, and frozen random features."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate, silu

DILATIONS = (1, 2, 4, 2, 1)
WAVES = 8  # of the time


class DilatedNet(nn.Module):
    """x_0 [B, 3, H, W] of x_t [B, 3, H, W], times t [B], images [B, C, H, W] and descriptors.

    Five residual blocks of one dilated convolution each; the time shifts their channels.  Ours: the
    source has a pretrained network on latents.

    Args:
        channels: C, of images.
        semantics: K, of descriptors [B, K, h, w] of any size; 0 for none.
        width: channels within, a multiple of 4.
        T: the number of times.
    """

    def __init__(self, channels: int, semantics: int = 0, width: int = 24, T: int = 1000) -> None:
        super().__init__()
        self.T = T
        self.enter = nn.Conv2d(3 + channels + semantics, width, 3, padding=1)
        self.norms = nn.ModuleList(nn.GroupNorm(4, width) for _ in DILATIONS)
        self.convs = nn.ModuleList(
            nn.Conv2d(width, width, 3, padding=d, dilation=d) for d in DILATIONS
        )
        self.times = nn.ModuleList(nn.Linear(2 * WAVES, width) for _ in DILATIONS)
        self.leave = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor, images: Tensor, semantics: Tensor | None) -> Tensor:
        parts = [x, images]
        if semantics is not None:
            parts.append(interpolate(semantics, x.shape[-2:], mode="bilinear", align_corners=False))
        h = self.enter(torch.cat(parts, 1))
        phase = (t / self.T)[:, None] * math.pi * torch.arange(1, WAVES + 1).to(x)
        waves = torch.cat([phase.sin(), phase.cos()], 1)
        for norm, conv, time in zip(self.norms, self.convs, self.times, strict=True):
            h = h + conv(silu(norm(h) + time(waves)[:, :, None, None]))
        found: Tensor = self.leave(silu(h))
        return found


class Pyramid(nn.Module):
    """Descriptors [B, width, grid, grid] of images: random convolutions, which are not trained.

    They stand for the features of a pretrained network, which the paper has.
    """

    def __init__(self, channels: int, width: int = 8, grid: int = 4, seed: int = 0) -> None:
        super().__init__()
        self.grid = grid
        rng = torch.Generator().manual_seed(seed)
        shapes = [(width, channels, 3, 3), (width, width, 3, 3)]
        self.weights = nn.ParameterList(
            nn.Parameter(torch.randn(s, generator=rng) / math.sqrt(9 * s[1]), requires_grad=False)
            for s in shapes
        )

    def forward(self, images: Tensor) -> Tensor:
        h = images
        for weight in self.weights:
            h = torch.conv2d(h, weight.to(h), stride=2, padding=1).relu()
        return adaptive_avg_pool2d(h, self.grid)
