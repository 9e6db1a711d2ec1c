"""Evolved layers that normalise and activate at once.

All moments divide by the count, and are taken in float32 at least.  The B layers use the moments of
a batch, and so couple its data; the S layers treat each datum alone, and are the ones for programs
whose data are independent.

Source: Liu, Brock, Simonyan, Le, Evolving Normalization-Activation Layers (arXiv 2004.02967).
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ...kernels import Backend, uses_triton
from ...kernels.precision import widened

Variant = Literal["B0", "B1", "B2", "S0", "S1", "S2"]
VARIANTS = ("B0", "B1", "B2", "S0", "S1", "S2")
LEARNED = ("B0", "S0")  # those with a trainable v


def evonorm(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    v: Tensor | None = None,
    running_var: Tensor | None = None,
    *,
    variant: Variant = "S0",
    groups: int = 32,
    eps: float = 1e-5,
    training: bool = True,
    apply_act: bool = True,
    backend: Backend = "auto",
) -> Tensor:
    """The layer of a variant, of the shape of x; ``running_var`` is read only.

    Args:
        x: [n, c, *spatial].
        weight, bias: of the affine map [c]; none unless given.
        v: of the gate of B0 and S0 [c]; one unless given.
        running_var: [c], used by the B layers in place of the batch where ``training`` is false.
        groups: of channels, for the S layers.
        eps: added to every variance, inside the root.
        apply_act: else x is only normalised, by its standard deviation.
        backend: Triton has S0 and B0, with activation and not in float64; others run in torch.

    Errors:
        ValueError, TypeError: x, groups, eps or the variant do not fit.
    """
    require_fitting(x, variant, groups, eps, batch=training or running_var is None)
    if x.numel() == 0:
        return x.clone()
    fits = variant in LEARNED and apply_act and x.dtype != torch.float64
    if uses_triton(backend, x) and fits:
        return _fused(x, weight, bias, v, None if training else running_var, variant, groups, eps)
    wide = widened(x)
    gate = torch.ones((), device=x.device, dtype=wide.dtype) if v is None else _channel(v, wide)
    if variant.startswith("S"):
        scale = _group_root(wide, groups, eps, centred=variant != "S2")
        gated = wide * torch.sigmoid(gate * wide if variant == "S0" else wide)
        out = (gated if apply_act else wide) / scale
    else:
        whole = _batch_root(wide, running_var, eps, training)
        out = wide / (_denominator(wide, whole, gate, variant, eps) if apply_act else whole)
    if weight is not None:
        out = out * _channel(weight, wide)
    if bias is not None:
        out = out + _channel(bias, wide)
    return out.to(x.dtype)


def _fused(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    v: Tensor | None,
    running_var: Tensor | None,
    variant: str,
    groups: int,
    eps: float,
) -> Tensor:
    from ...kernels.gpu.evonorm import fused_b0, fused_s0

    def full(parameter: Tensor | None, fill: float) -> Tensor:
        if parameter is not None:
            return parameter.float()
        return torch.full(x.shape[1:2], fill, device=x.device)

    parameters = (full(v, 1.0), full(weight, 1.0), full(bias, 0.0))
    if variant == "S0":
        out: Tensor = fused_s0(x, *parameters, groups, eps)
    else:
        out = fused_b0(x, *parameters, running_var, eps)
    return out


def _denominator(x: Tensor, whole: Tensor, v: Tensor, variant: str, eps: float) -> Tensor:
    if variant == "B0":
        other = v * x + _instance_root(x, eps, centred=True)
    elif variant == "B1":
        other = (x + 1) * _instance_root(x, eps, centred=False)
    else:
        other = _instance_root(x, eps, centred=False) - x
    return torch.maximum(whole, other)


def _channel(parameter: Tensor, like: Tensor) -> Tensor:
    return parameter.to(like.dtype).reshape(-1, *(1 for _ in like.shape[2:]))


def _batch_root(x: Tensor, running_var: Tensor | None, eps: float, training: bool) -> Tensor:
    if not training and running_var is not None:
        return (_channel(running_var, x) + eps).sqrt()
    dims = (0, *range(2, x.ndim))
    return (x.var(dims, correction=0, keepdim=True) + eps).sqrt()


def _instance_root(x: Tensor, eps: float, *, centred: bool) -> Tensor:
    """The root of variance, or of the mean square, over space."""
    dims = tuple(range(2, x.ndim))
    square = x.var(dims, correction=0, keepdim=True) if centred else (x**2).mean(dims, keepdim=True)
    return (square + eps).sqrt()


def _group_root(x: Tensor, groups: int, eps: float, *, centred: bool) -> Tensor:
    """The root of variance, or of the mean square, over space and the channels of a group."""
    n, c = x.shape[:2]
    parts = x.reshape(n, groups, x.shape[1:].numel() // groups)
    square = parts.var(-1, correction=0) if centred else (parts**2).mean(-1)
    root = (square + eps).sqrt().repeat_interleave(c // groups, 1)
    return root.reshape(n, c, *(1 for _ in x.shape[2:]))


def require_fitting(x: Tensor, variant: str, groups: int, eps: float, batch: bool) -> None:
    """Raise unless a variant can take x; ``batch``: whether moments of the batch are asked for."""
    if variant not in VARIANTS:
        raise ValueError(f"the variant is one of {', '.join(VARIANTS)}, not {variant!r}")
    if not x.is_floating_point():
        raise TypeError(f"EvoNorm takes floating point tensors, not {x.dtype}")
    if eps <= 0:
        raise ValueError(f"eps is positive, which {eps} is not")
    if x.ndim < 2 or (x.ndim == 2 and variant.startswith("B")):
        raise ValueError(f"{variant} takes [n, c, *spatial], not {list(x.shape)}")
    if variant.startswith("S"):
        if x.shape[1] % groups:
            raise ValueError(f"{groups} groups do not divide the {x.shape[1]} channels of x")
        if x.shape[1:].numel() == groups:
            raise ValueError(f"a group of {variant} has one element, and no variance")
    elif batch and x.numel() == x.shape[1]:
        raise ValueError(f"{variant} has one value per channel in training: {list(x.shape)}")


class EvoNorm(nn.Module):
    """A layer that normalises and activates, for any number of spatial dimensions.

    Args:
        num_features: channels.
        variant: B0, B1, B2 (moments of the batch), S0, S1, S2 (of each datum).
        groups: of channels, for the S layers; "auto" is the greatest that divides 32 and them.
        eps: added to every variance, inside the root.
        momentum: of the running variance: the share of the new batch.
        affine: whether there are a weight and a bias.
        apply_act: else it only normalises.
        track_running_stats: whether the B layers keep a running variance for evaluation.
        backend: of :func:`evonorm`.

    Shape:
        [n, c, *spatial] to the same; the S layers take [n, c] too, where groups have several
        channels.

    Errors:
        ValueError: groups do not divide the channels, or an argument is none of the choices.
    """

    weight: Tensor | None
    bias: Tensor | None
    v: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor
    skipped_updates: Tensor

    def __init__(
        self,
        num_features: int,
        variant: Variant = "S0",
        groups: int | Literal["auto"] = 32,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
        apply_act: bool = True,
        track_running_stats: bool = True,
        backend: Backend = "auto",
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if variant not in VARIANTS:
            raise ValueError(f"the variant is one of {', '.join(VARIANTS)}, not {variant!r}")
        if eps <= 0:
            raise ValueError(f"eps is positive, which {eps} is not")
        self.groups = math.gcd(32, num_features) if groups == "auto" else groups
        if variant.startswith("S") and num_features % self.groups:
            raise ValueError(f"{self.groups} groups do not divide {num_features} channels")
        self.num_features, self.variant = num_features, variant
        self.eps, self.momentum, self.apply_act = eps, momentum, apply_act
        self.backend: Backend = backend
        about = {"device": device, "dtype": dtype}
        for name, fill, present in (
            ("weight", 1.0, affine),
            ("bias", 0.0, affine),
            ("v", 1.0, variant in LEARNED and apply_act),
        ):
            start = nn.Parameter(torch.full((num_features,), fill, **about)) if present else None
            self.register_parameter(name, start)
        tracked = variant.startswith("B") and track_running_stats
        self.register_buffer("running_var", torch.ones(num_features, **about) if tracked else None)
        for name in ("num_batches_tracked", "skipped_updates"):
            count = torch.zeros((), dtype=torch.long, device=device) if tracked else None
            self.register_buffer(name, count)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim < 2 or x.shape[1] != self.num_features:
            raise ValueError(f"{self.num_features} channels are expected, not {list(x.shape)}")
        training = self.training or self.running_var is None
        out = evonorm(
            x,
            self.weight,
            self.bias,
            self.v,
            self.running_var,
            variant=self.variant,
            groups=self.groups,
            eps=self.eps,
            training=training,
            apply_act=self.apply_act,
            backend=self.backend,
        )
        if self.training and self.running_var is not None:
            self._update(x)
        return out

    @torch.no_grad()
    def _update(self, x: Tensor) -> None:
        """Move the running variance towards the unbiased one of the batch, if that is finite."""
        assert self.running_var is not None
        if uses_triton(self.backend, x) and x.dtype != torch.float64:
            from ...kernels.gpu.evonorm import batch_variance

            batch: Tensor = batch_variance(x)
        else:
            batch = widened(x).var((0, *range(2, x.ndim)))
        finite = batch.isfinite().all()
        new = torch.lerp(self.running_var, batch.to(self.running_var.dtype), self.momentum)
        self.running_var.copy_(torch.where(finite, new, self.running_var))
        self.num_batches_tracked += 1
        self.skipped_updates += (~finite).long()

    def extra_repr(self) -> str:
        groups = f", groups={self.groups}" if self.variant.startswith("S") else ""
        return f"{self.num_features}, variant={self.variant}{groups}, eps={self.eps}"


def convert_bn_act(
    module: nn.Module, variant: Variant = "S0", groups: int | Literal["auto"] = "auto"
) -> nn.Module:
    """Replace, in every nn.Sequential, a batch normalisation and the activation behind it.

    Batch normalisations of one to three dimensions, with ReLU, SiLU or GELU.  The new layer takes
    over weight, bias, eps and the mode, and the B layers the running variance and its momentum; it
    is another function, which needs training.  Children keep their names, where they have some.
    The module is changed and returned.
    """
    norms, activations = nn.modules.batchnorm._BatchNorm, (nn.ReLU, nn.SiLU, nn.GELU)
    for parent in list(module.modules()):
        if not isinstance(parent, nn.Sequential):
            continue
        kept: dict[str, nn.Module] = {}
        for name, child in zip(parent._modules, parent, strict=True):  # also children that recur
            last = next(reversed(kept), None)
            norm = None if last is None else kept[last]
            if isinstance(child, activations) and isinstance(norm, norms):
                assert last is not None
                kept[last] = _converted(norm, variant, groups)
            else:
                kept[name] = child
        if len(kept) < len(parent):
            named = not all(name.isdigit() for name in kept)
            parent._modules = {n if named else str(i): kept[n] for i, n in enumerate(kept)}
    return module


def _converted(norm: Any, variant: Variant, groups: int | Literal["auto"]) -> EvoNorm:
    like = next((t for t in (norm.weight, norm.running_var) if t is not None), None)
    new = EvoNorm(
        norm.num_features,
        variant,
        groups,
        norm.eps,
        0.1 if norm.momentum is None else norm.momentum,
        affine=norm.affine,
        track_running_stats=norm.track_running_stats,
        **({} if like is None else {"device": like.device, "dtype": like.dtype}),
    )
    new.weight, new.bias = norm.weight, norm.bias
    if new.running_var is not None and norm.running_var is not None:
        new.running_var.copy_(norm.running_var)
        new.num_batches_tracked.copy_(norm.num_batches_tracked)
    return new.train(norm.training)
