"""Gradient descent that multiplies weights, and never changes their signs.

Source: Shetty, Prasath, Seelamantula, Dale meets Langevin: A Multiplicative Denoising Diffusion
Model (arXiv 2510.02730); the decay of log magnitudes is a choice.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from .stepping import Stepping


def egd_step(w: Tensor, gradient: Tensor, lr: float) -> Tensor:
    """w exp(-lr sign(w) gradient): a step of mirror descent, in the orthant of w."""
    return w * torch.exp(-lr * w.sign() * gradient)


@torch.no_grad()
def init_dale_(
    tensor: Tensor,
    ratio: float = 0.8,
    scale: float = 0.1,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Fill a matrix [out, in] in place: magnitudes are log-normal about ``scale``, and signs are
    those of the inputs, a share ``ratio`` of which excites.

    Errors:
        ValueError: the tensor is no matrix, the ratio not in [0, 1], the scale not positive.
    """
    if tensor.ndim != 2 or not 0 <= ratio <= 1 or not scale > 0:
        raise ValueError(f"a matrix, a share and a scale: {list(tensor.shape)}, {ratio}, {scale}")
    tensor.normal_(generator=generator).exp_().mul_(scale)
    signs = torch.ones(tensor.shape[1], dtype=tensor.dtype, device=tensor.device)
    signs[round(ratio * tensor.shape[1]) :] = -1
    return tensor.mul_(signs)


class ExponentiatedSGD(Stepping):
    """w <- w exp(-lr sign(w) m) with momentum m: weights keep their signs, and zeros stay zero.

    For rates, scales and weights of one sign, without a transformation.

    Args:
        momentum: of the gradients: m <- momentum m + g.
        weight_decay: of log |w| towards ``log_anchor``.
        clip_exponent: a bound of the size of exponents; ``clipped`` counts how often it was
            met.
        freeze_zero: zeros stay; else they are an error.

    Errors:
        ValueError: a setting is out of range, or a weight is zero and not to stay so.
        RuntimeError: a gradient is sparse.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        clip_exponent: float = 5.0,
        freeze_zero: bool = True,
        log_anchor: float = 0.0,
        maximize: bool = False,
    ) -> None:
        if lr < 0 or not 0 <= momentum < 1 or weight_decay < 0 or not clip_exponent > 0:
            what = f"lr {lr}, momentum {momentum}, weight_decay {weight_decay}"
            raise ValueError(f"out of range: {what}, clip_exponent {clip_exponent}")
        defaults = {
            "lr": lr, "momentum": momentum, "weight_decay": weight_decay,
            "clip_exponent": clip_exponent, "freeze_zero": freeze_zero, "log_anchor": log_anchor,
            "maximize": maximize,
        }  # fmt: skip
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        if not group["freeze_zero"] and any(bool((p == 0).any()) for p in group["params"]):
            raise ValueError("a weight is zero and would stay so; start elsewhere")

    @property
    def clipped(self) -> int:
        """How often exponents of a tensor were clipped so far, at one entry or more."""
        return sum(int(state.get("clipped", 0)) for state in self.state.values())

    def _move_all(self) -> None:
        for group in self.param_groups:
            kinds: dict[Any, list[Tensor]] = {}
            for p in group["params"]:
                if p.grad is not None and p.numel():
                    kinds.setdefault((p.device, p.dtype), []).append(p)
            for params in kinds.values():
                self._move_together(params, group)

    def _move_together(self, params: list[Tensor], group: dict[str, Any]) -> None:
        gradients = [p.grad for p in params if p.grad is not None]
        if any(g.is_sparse for g in gradients):
            raise RuntimeError("ExponentiatedSGD takes no sparse gradients")
        for p in params:
            if not self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
                self.state[p]["clipped"] = torch.zeros((), dtype=torch.int64, device=p.device)
        moves = [self.state[p]["momentum"] for p in params]
        torch._foreach_mul_(moves, group["momentum"])
        torch._foreach_add_(moves, gradients, alpha=-1 if group["maximize"] else 1)
        exponents = list(torch._foreach_sign(params))
        torch._foreach_mul_(exponents, moves)
        torch._foreach_mul_(exponents, -group["lr"])
        if group["weight_decay"]:
            pull = group["lr"] * group["weight_decay"]
            for exponent, p in zip(exponents, params, strict=True):
                exponent -= pull * torch.where(p == 0, 0.0, p.abs().log() - group["log_anchor"])
        most = group["clip_exponent"]
        for p, size in zip(params, torch._foreach_norm(exponents, math.inf), strict=True):
            self.state[p]["clipped"] += size > most
        torch._foreach_clamp_max_(exponents, most)
        torch._foreach_clamp_min_(exponents, -most)
        torch._foreach_exp_(exponents)
        torch._foreach_mul_(params, exponents)
