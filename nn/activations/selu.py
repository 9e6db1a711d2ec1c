"""Self-normalising layers: scaled exponential linear units, alpha dropout, initialisation.

The theory is about fully connected layers; convolutions and residual sums are outside it.

Source: Klambauer, Unterthiner, Mayr, Hochreiter, Self-Normalizing Neural Networks (arXiv
1706.02515).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from .moments import ALPHA, SCALE, moment_map, selu_parameters

OMEGA_BOX = {"mean": (-0.1, 0.1), "omega": (-0.1, 0.1), "var": (0.8, 1.5), "tau": (0.95, 1.1)}


def selu(x: Tensor, alpha: float = ALPHA, scale: float = SCALE) -> Tensor:
    """scale * x where x > 0, scale * alpha * (exp(x) - 1) elsewhere; of the shape of x.

    Errors:
        TypeError: x holds integers.
    """
    _require_floating(x, "selu")
    negative = (alpha * scale) * torch.expm1(x.clamp(max=0))
    return torch.where(x > 0, scale * x, negative)


def alpha_dropout(
    x: Tensor,
    p: float = 0.5,
    training: bool = True,
    *,
    mean: float = 0.0,
    var: float = 1.0,
    features: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Set entries to the limit of ``selu`` at minus infinity, and restore mean and variance.

    Args:
        p: the chance of each entry to be dropped.
        training: the identity if not.
        mean, var: the moments that x has, and keeps.
        features: drop whole channels [n, c] of x [n, c, ...] together.
        generator: of the mask; torch's own unless given.

    Errors:
        ValueError: p is outside [0, 1): nothing restores a variance if all is dropped.
        TypeError: x holds integers.
    """
    _require_floating(x, "alpha_dropout")
    _require_chance(p)
    if not training or p == 0:
        return x
    alpha, scale = selu_parameters(mean, var)
    a, b, low = dropout_map(p, mean, var, alpha, scale)
    shape = (*x.shape[:2], *(1 for _ in x.shape[2:])) if features else x.shape
    kept = torch.rand(shape, generator=generator, device=x.device) >= p
    return a * torch.where(kept, x, torch.full_like(x, low)) + b


def dropout_map(
    p: float, mean: float = 0.0, var: float = 1.0, alpha: float = ALPHA, scale: float = SCALE
) -> tuple[float, float, float]:
    """a, b and the dropped value for which a x + b keeps mean and variance (section 4)."""
    q, low = 1.0 - p, -scale * alpha
    a = math.sqrt(var / (q * ((1 - q) * (low - mean) ** 2 + var)))
    return a, mean - a * (q * mean + (1 - q) * low), low


def selu_dropout(
    x: Tensor, p: float, training: bool = True, generator: torch.Generator | None = None
) -> Tensor:
    """Alpha dropout of ``selu(x)``."""
    return alpha_dropout(selu(x), p, training, generator=generator)


def _require_floating(x: Tensor, name: str) -> None:
    if not x.is_floating_point():
        raise TypeError(f"{name} takes floating point tensors, not {x.dtype}")


def _require_chance(p: float) -> None:
    if not 0.0 <= p < 1.0:
        raise ValueError(f"a dropout probability lies in [0, 1), which {p} does not")


class SELU(nn.Module):
    """Scaled exponential linear units, whose fixed point is any mean and variance.

    Args:
        inplace: write the result into the input, as torch's does.
        mean, var: of the activations that stay as they are; the default is torch.nn.SELU.

    Shape:
        any to the same.
    """

    def __init__(self, inplace: bool = False, mean: float = 0.0, var: float = 1.0) -> None:
        super().__init__()
        self.inplace, self.mean, self.var = inplace, mean, var
        self.alpha, self.scale = selu_parameters(mean, var)

    def forward(self, x: Tensor) -> Tensor:
        _require_floating(x, "SELU")
        if (self.alpha, self.scale) == (ALPHA, SCALE):
            return nn.functional.selu(x, self.inplace)
        found = selu(x, self.alpha, self.scale)
        return x.copy_(found) if self.inplace else found

    def extra_repr(self) -> str:
        shown = [] if (self.mean, self.var) == (0.0, 1.0) else [f"mean={self.mean}, var={self.var}"]
        return ", ".join([*shown, *(["inplace=True"] if self.inplace else [])])


class AlphaDropout(nn.Module):
    """Dropout that keeps mean and variance of self-normalised activations.

    Args:
        p: the chance of each entry to be dropped; .05 to .1 is usual.
        mean, var: of the activations.

    Shape:
        any to the same.
    """

    features = False

    def __init__(self, p: float = 0.5, mean: float = 0.0, var: float = 1.0) -> None:
        super().__init__()
        _require_chance(p)
        selu_parameters(mean, var)
        self.p, self.mean, self.var = p, mean, var

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        about = {"mean": self.mean, "var": self.var}
        return alpha_dropout(
            x, self.p, self.training, features=self.features, generator=generator, **about
        )

    def extra_repr(self) -> str:
        return f"p={self.p}, mean={self.mean}, var={self.var}"


class FeatureAlphaDropout(AlphaDropout):
    """The same for whole channels: [n, c, ...] to the same."""

    features = True


# -------------------------------------------------------------------------------- initialisation


def lecun_normal_(
    weight: Tensor,
    fan: Literal["in", "out"] = "in",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Fill a weight [out, in, ...] in place with normals of variance one over its fan.

    This is what the theory asks for; ``nonlinearity="selu"`` of torch's initialisers is not.
    """
    with torch.no_grad():
        return weight.normal_(0.0, _fan(weight, fan) ** -0.5, generator=generator)


def lecun_uniform_(
    weight: Tensor,
    fan: Literal["in", "out"] = "in",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Fill a weight [out, in, ...] in place uniformly, of variance one over its fan."""
    bound = (3.0 / _fan(weight, fan)) ** 0.5
    with torch.no_grad():
        return weight.uniform_(-bound, bound, generator=generator)


def _fan(weight: Tensor, fan: str) -> int:
    if fan not in ("in", "out"):
        raise ValueError(f"the fan is 'in' or 'out', not {fan!r}")
    if weight.ndim < 2 or weight.numel() == 0:
        raise ValueError(f"a weight has outputs and inputs, which {list(weight.shape)} has not")
    size = weight[0].numel() if fan == "in" else weight[:, 0].numel()
    return int(size)


class SNN(nn.Sequential):
    """A self-normalising network: ``depth`` hidden layers with ``selu`` and LeCun's weights.

    Standardise its inputs.

    Args:
        dropout: of alpha dropout after each hidden layer.

    Shape:
        [..., in_features] to [..., out_features].

    Errors:
        ValueError: there is no hidden layer, or ``dropout`` is no probability.
    """

    def __init__(
        self,
        in_features: int,
        hidden: int,
        out_features: int,
        depth: int,
        dropout: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        if depth < 1:
            raise ValueError(f"a network needs at least one hidden layer, not {depth}")
        layers: list[nn.Module] = []
        for i in range(depth):
            layers += [nn.Linear(in_features if i == 0 else hidden, hidden), SELU()]
            layers += [AlphaDropout(dropout)] if dropout else []
        super().__init__(*layers, nn.Linear(hidden, out_features))
        for layer in self:
            if isinstance(layer, nn.Linear):
                lecun_normal_(layer.weight, generator=generator)
                nn.init.zeros_(layer.bias)


# -------------------------------------------------------------------------------------- diagnosis


@dataclass(frozen=True)
class LayerMoments:
    """A linear layer: sums of the weights of its units and of their squares (the extremes), and the
    moments of its activations, predicted from its inputs and measured."""

    name: str
    omega: tuple[float, float]
    tau: tuple[float, float]
    inside: bool
    predicted: tuple[float, float]
    measured: tuple[float, float]


def check_self_normalizing(module: nn.Module, x: Tensor) -> list[LayerMoments]:
    """What the theory says of each linear layer that ``module(x)`` passes, and what is.

    ``inside``: whether all units and the moments of the inputs lie in the box where the paper's
    theorem 1 proves contraction.
    """
    found: list[LayerMoments] = []

    def look(name: str, layer: nn.Linear, given: Tensor, out: Tensor) -> None:
        weight = layer.weight.detach().double()
        omega, tau = weight.sum(1), (weight**2).sum(1)
        mean, var = float(given.double().mean()), float(given.double().var(correction=0))
        new_mean, new_var = moment_map(mean, var, omega, tau)
        values = {"mean": [mean], "var": [var], "omega": omega.tolist(), "tau": tau.tolist()}
        after = selu(out.double())
        found.append(
            LayerMoments(
                name,
                (float(omega.min()), float(omega.max())),
                (float(tau.min()), float(tau.max())),
                all(low <= v <= high for k, (low, high) in OMEGA_BOX.items() for v in values[k]),
                (float(new_mean.mean()), float(new_var.mean() + new_mean.var(correction=0))),
                (float(after.mean()), float(after.var(correction=0))),
            )
        )

    hooks = [
        layer.register_forward_hook(
            lambda m, args, out, name=name: look(name, m, args[0].detach(), out.detach())
        )
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear)
    ]
    try:
        with torch.no_grad():
            module(x)
    finally:
        for hook in hooks:
            hook.remove()
    return found
