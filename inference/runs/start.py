"""Starting points of chains and guides, drawn through the effects."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor

from ...ppl import draw
from ...ppl.interpretations.log_density import LogDensity
from ...ppl.interpretations.starts import initial


def starting_points(density: LogDensity, chains: int, radius: float = 2.0) -> Tensor:
    """Points [chains, d] of finite log density and gradient, uniform in a box about the origin."""
    dtype = density.layout.dtype
    bound = torch.tensor(radius, dtype=dtype)

    def draw_uniform(shape: tuple[int, ...]) -> Tensor:
        return draw(dist.Uniform(-bound, bound), shape, label="start").to(dtype)

    return initial(density.layout, density, chains, draw_uniform, radius, blame=density.blame)
