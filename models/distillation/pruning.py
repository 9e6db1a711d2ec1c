"""Masks that take the smallest weights of a module away, stage by stage, for good.

Source: the schedules are choices, after Flouro and Chadwick, Sparse Knowledge Distillation
(arXiv 2601.03195), section on multi-stage compression.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


class Mask(nn.Module):
    """A parametrisation that multiplies a weight by its mask."""

    mask: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", torch.ones_like(weight, dtype=torch.bool))

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask


class MagnitudePruner:
    """Masks of the weights of linear maps and convolutions; what is masked stays masked.

    The weights become parametrised (``torch.nn.utils.parametrize``): the state dict has the full
    weight and the mask.

    Args:
        module: whose ``nn.Linear`` and convolution weights are pruned.
        target: the share of weights that is zero in the end; None for a pattern.
        schedule: the share kept after stage k of n: "geometric" (1 - target)^(k / n), "linear", or
            "cubic", which takes most away early.
        scope: weights are compared over the whole module ("global"), or within each "layer".
        pattern: (n, m) keeps the n greatest of every m neighbours of the last dimension, as the
            sparse units of GPUs need; the stages go from m to n.

    Errors:
        ValueError: the target is not in [0, 1), a choice is unknown, there is nothing to prune, or
            a dimension is no multiple of m.
    """

    def __init__(
        self,
        module: nn.Module,
        target: float | None = None,
        schedule: Literal["geometric", "linear", "cubic"] = "geometric",
        scope: Literal["global", "layer"] = "global",
        pattern: tuple[int, int] | None = None,
    ) -> None:
        if (target is None) == (pattern is None):
            raise ValueError("either a target or a pattern is given")
        if target is not None and not 0 <= target < 1:
            raise ValueError(f"the share of zeros is in [0, 1), not {target}")
        if schedule not in ("geometric", "linear", "cubic") or scope not in ("global", "layer"):
            raise ValueError(f"unknown schedule {schedule!r} or scope {scope!r}")
        self.target, self.schedule, self.scope, self.pattern = target, schedule, scope, pattern
        kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
        self.layers = {n: m for n, m in module.named_modules() if isinstance(m, kinds)}
        if not self.layers:
            raise ValueError("the module has no linear map or convolution to prune")
        if pattern is not None:
            self._require_pattern(*pattern)
        self._masks: dict[str, Mask] = {}
        for name, layer in self.layers.items():
            self._masks[name] = Mask(layer.weight)
            parametrize.register_parametrization(layer, "weight", self._masks[name])
        self._at = 0.0

    def _require_pattern(self, n: int, m: int) -> None:
        if not 1 <= n < m:
            raise ValueError(f"a pattern keeps 1 to m - 1 of m weights, not {n} of {m}")
        for name, layer in self.layers.items():
            if layer.weight.shape[-1] % m:
                what = f"{name}: the last of {list(layer.weight.shape)} is no multiple of {m}"
                raise ValueError(what)

    @property
    def masks(self) -> dict[str, Tensor]:
        """The masks by the names of their layers, true where a weight is left."""
        return {name: mask.mask for name, mask in self._masks.items()}

    @property
    def density(self) -> float:
        """The share of weights that is left."""
        total = sum(mask.numel() for mask in self.masks.values())
        return sum(int(mask.sum()) for mask in self.masks.values()) / total

    def density_at(self, k: int, n: int) -> float:
        """The share of weights to be left after stage k of n."""
        assert self.target is not None
        done = k / n
        if self.schedule == "geometric":
            return float((1 - self.target) ** done)
        gone = done if self.schedule == "linear" else 1 - (1 - done) ** 3
        return 1 - self.target * gone

    @torch.no_grad()
    def step(self, k: int, n: int, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Prune to stage k of n; the optimiser forgets what it knows of pruned weights.

        Errors:
            ValueError: k is not in 1 to n.
            RuntimeError: an earlier stage than the last one.
        """
        if not 1 <= k <= n:
            raise ValueError(f"stages go from 1 to {n}, not {k}")
        if k / n <= self._at:
            raise RuntimeError(f"stage {k} of {n} is no later than the last: masks are nested")
        self._at = k / n
        sizes = {
            name: torch.where(self._masks[name].mask, original.abs(), -1.0)
            for name, original in self._originals().items()
        }
        if self.pattern is not None:
            for name, size in sizes.items():
                self._masks[name].mask.copy_(self._patterned(size, k, n))
        elif self.scope == "layer":
            for name, size in sizes.items():
                self._masks[name].mask.copy_(_greatest(size, self.density_at(k, n)))
        else:
            together = torch.cat([size.flatten() for size in sizes.values()])
            kept = _greatest(together, self.density_at(k, n))
            parts = kept.split([size.numel() for size in sizes.values()])
            for (name, size), part in zip(sizes.items(), parts, strict=True):
                self._masks[name].mask.copy_(part.reshape(size.shape))
        self._forget(optimizer)

    def _originals(self) -> dict[str, Tensor]:
        found = {}
        for name, layer in self.layers.items():
            original = layer.parametrizations["weight"].original  # type: ignore[index, union-attr]
            assert isinstance(original, Tensor)
            found[name] = original
        return found

    def _patterned(self, size: Tensor, k: int, n: int) -> Tensor:
        assert self.pattern is not None
        least, m = self.pattern
        kept = m - (m - least) * k // n
        groups = size.unflatten(-1, (-1, m))
        chosen = groups.topk(kept, -1).indices
        mask = torch.zeros_like(groups, dtype=torch.bool).scatter(-1, chosen, True)
        return mask.flatten(-2)

    def _forget(self, optimizer: torch.optim.Optimizer | None) -> None:
        for name, original in self._originals().items():
            state = {} if optimizer is None else optimizer.state.get(original, {})
            for value in state.values():
                if isinstance(value, Tensor) and value.shape == original.shape:
                    value.mul_(self._masks[name].mask)

    def apply_masks(self) -> None:
        """Make the masks part of the weights, which are ordinary parameters again."""
        for layer in self.layers.values():
            parametrize.remove_parametrizations(layer, "weight")


def _greatest(size: Tensor, density: float) -> Tensor:
    """A mask of the greatest entries."""
    count = round(density * size.numel())
    chosen = size.flatten().topk(count).indices
    mask = torch.zeros(size.numel(), dtype=torch.bool, device=size.device)
    mask[chosen] = True
    return mask.reshape(size.shape)
