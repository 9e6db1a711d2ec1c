"""Unified normalisation: by channels, with statistics of a window of batches, fixed at inference.

The gradient is a rule of its own, with a statistic of its own window; it is not the derivative of
what is computed.  Where both windows are of one batch nothing is smoothed or rescaled, and it is.

Source: Yang et al., Unified Normalization for Accelerating and Stabilizing Transformers
(arXiv 2208.01313) and its official code.  The rescaling r and its first 1000 steps are known from
the code alone.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from ...kernels import Backend, uses_triton
from ...kernels import unified as plain
from ...kernels.precision import widened
from ..standing_in import call_children, called


def _fused(backend: Backend, x: Tensor) -> bool:
    return uses_triton(backend, x) and x.dtype != torch.float64 and x.numel() > 0


def _squares(x: Tensor, valid: Tensor | None, backend: Backend) -> Tensor:
    if _fused(backend, x):
        from ...kernels.gpu import unified as fused

        sums: Tensor = fused.squares(x, valid)
        return sums
    return plain.squares(widened(x), valid)


def _products(
    gradient: Tensor, x: Tensor, valid: Tensor | None, backend: Backend
) -> tuple[Tensor, Tensor, Tensor]:
    if _fused(backend, x):
        from ...kernels.gpu import unified as fused

        sums: tuple[Tensor, Tensor, Tensor] = fused.products(gradient, x, valid)
        return sums
    return plain.products(widened(gradient), widened(x), valid)


def _combine(
    x: Tensor, a: Tensor, y: Tensor | None, b: Tensor, dtype: torch.dtype, backend: Backend
) -> Tensor:
    if _fused(backend, x):
        from ...kernels.gpu import unified as fused

        out: Tensor = fused.combine(x, a, y, b, dtype)
        return out
    return plain.combine(x, a, y, b).to(dtype)


class _Normalised(torch.autograd.Function):
    """gamma x / sqrt(sigma2 + eps) + beta of rows, with the paper's gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        valid: Tensor | None,
        inverse: Tensor,
        r: Tensor,
        outlier: Tensor,
        t: Tensor,
        window: Tensor,
        average: Tensor,
        tickets: Tensor,
        settings: tuple[int, float, bool, bool],
        backend: Backend,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, valid, inverse, r, outlier, t)
        ctx.windows, ctx.settings, ctx.backend = (window, average, tickets), settings, backend
        scale = weight.to(inverse.dtype) * inverse
        return _combine(x, scale, None, bias.to(inverse.dtype), x.dtype, backend)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, valid, inverse, r, outlier, t = ctx.saved_tensors
        warmup, momentum, sync, exact = ctx.settings
        gradient = gradient.contiguous()
        some, total, alone = _products(gradient, x, valid, ctx.backend)
        scale = weight.to(inverse.dtype) * r
        count = x.shape[0] if valid is None else valid.sum()
        p = _mean((total if exact else some) * inverse * scale, count, sync)
        fused = _fused(ctx.backend, x)
        taken = plain.backward_step(p, *ctx.windows, t, outlier, warmup, momentum, fused)
        if exact and valid is not None:  # padding is no part of the statistic
            x = x.masked_fill(~valid[:, None], 0.0)
        inner = _combine(gradient, scale * inverse, x, -taken * inverse**2, x.dtype, ctx.backend)
        d_weight = (total * inverse * r).to(weight.dtype)
        return inner, d_weight, alone.to(weight.dtype), *(None,) * 10


def _mean(total: Tensor, count: int | Tensor, sync: bool) -> Tensor:
    """total / count, over all ranks if they are in step."""
    if sync and torch.distributed.is_available() and torch.distributed.is_initialized():
        both = torch.cat([total, torch.as_tensor(count).to(total).reshape(1)])
        torch.distributed.all_reduce(both)
        total, count = both[:-1], both[-1]
    return total / count


class UnifiedNorm(nn.Module):
    """Unified normalisation of [..., c] over all but the last dimension; a stand-in for LayerNorm.

    A training step takes the mean square of each channel, smooths it over a window by its geometric
    mean, and divides by its root; there is no centring.  A batch whose arithmetic and geometric
    means differ by more than the recorded spread explains is an outlier, and used alone.  At
    inference it is an affine map, which :func:`fuse_unified_norm` can put into linear maps.

    In training a batch is coupled, as in batch normalisation: do not count on the independence of
    its data.  A forward pass that is computed twice, as in checkpointing, is two steps.

    Args:
        normalized_shape: channels c.
        window_size: steps in the windows, of activations and of gradients if there are two numbers;
            of one step nothing is smoothed, and with both of one the gradient is exact.
        warmup_iters: steps before which there is no smoothing.
        outlier_filtration: look for outliers, once the window is full.
        momentum: the share of the running variance that is kept, unlike in batch normalisation.
        threshold: the spread is "global", as in the official code, or of each "channel".
        update_on_outlier: let the running variance follow outliers, as in the official code.
        mask_grad: leave padding out of the statistic of gradients, too.
        rescale_after: steps before which gradients are not rescaled.
        sync: average statistics over the ranks of torch.distributed.
        backend: "auto", "torch" or "triton".

    Errors:
        ValueError: a setting is out of range, or a shape does not fit.
        TypeError: the mask is not of bools.
    """

    running_var: Tensor
    grad_ema: Tensor
    buffer_x2: Tensor
    buffer_gz: Tensor
    grad_tickets: Tensor
    iters: Tensor
    skip_counter: Tensor

    def __init__(
        self,
        normalized_shape: int,
        window_size: int | tuple[int, int] = 4,
        warmup_iters: int = 4000,
        outlier_filtration: bool = False,
        eps: float = 1e-5,
        momentum: float = 0.9,
        threshold: Literal["global", "channel"] = "global",
        update_on_outlier: bool = False,
        mask_grad: bool = True,
        rescale_after: int = 1000,
        sync: bool = False,
        backend: Backend = "auto",
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        windows = (window_size,) * 2 if isinstance(window_size, int) else tuple(window_size)
        if len(windows) != 2 or min(windows) < 1:
            raise ValueError(f"window_size is one or two positive numbers, not {window_size}")
        if not 0 < momentum < 1 or eps <= 0:
            raise ValueError(f"momentum is in (0, 1) and eps positive: {momentum}, {eps}")
        if threshold not in ("global", "channel"):
            raise ValueError(f"threshold is 'global' or 'channel', not {threshold!r}")
        if warmup_iters < 0 or rescale_after < 0:
            raise ValueError("numbers of steps are not negative")
        self.num_features, self.window_size = normalized_shape, windows
        self.warmup_iters, self.rescale_after = warmup_iters, rescale_after
        self.outlier_filtration, self.threshold = outlier_filtration, threshold
        self.eps, self.momentum, self.sync = eps, momentum, sync
        self.update_on_outlier, self.mask_grad = update_on_outlier, mask_grad
        self.backend: Backend = backend
        self.weight = nn.Parameter(torch.ones(normalized_shape, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(normalized_shape, device=device, dtype=dtype))
        wide = torch.float64 if self.weight.dtype == torch.float64 else torch.float32
        about: dict[str, Any] = {"device": device, "dtype": wide}
        self.register_buffer("running_var", torch.ones(normalized_shape, **about))
        self.register_buffer("grad_ema", torch.zeros(normalized_shape, **about))
        self.register_buffer("buffer_x2", torch.zeros(windows[0], normalized_shape, **about))
        self.register_buffer("buffer_gz", torch.zeros(windows[1], normalized_shape, **about))
        whole: dict[str, Any] = {"device": device, "dtype": torch.int64}
        self.register_buffer("grad_tickets", torch.zeros(windows[1], **whole))
        self.register_buffer("iters", torch.zeros((), **whole))
        self.register_buffer("skip_counter", torch.zeros((), **whole))
        called(self)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Statistics stay wide where the parameters become narrow."""
        before = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, old in before.items():
            new = self._buffers[name]
            if old is not None and new is not None and new.dtype in (torch.half, torch.bfloat16):
                self._buffers[name] = old.to(new.device)
        return self

    @torch.no_grad()
    def reset_statistics(self, keep_running: bool = True) -> None:
        """Begin counting steps again, as for fine-tuning; the running variance may be kept."""
        for buffer in self.buffers():
            if buffer is not self.running_var:
                buffer.zero_()
        if not keep_running:
            self.running_var.fill_(1.0)

    def scale(self) -> Tensor:
        """gamma / sqrt(running variance + eps) [c], by which inputs are multiplied at inference."""
        return self.weight.to(self.running_var.dtype) * (self.running_var + self.eps).rsqrt()

    def forward(self, x: Tensor, pad_mask: Tensor | None = None) -> Tensor:
        self._require(x, pad_mask)
        rows = x.reshape(-1, self.num_features)
        if not self.training:
            scale, bias = self.scale(), self.bias.to(self.running_var.dtype)
            return plain.combine(widened(x), scale, None, bias).to(x.dtype)
        valid = None if pad_mask is None else ~pad_mask.reshape(-1)
        with torch.no_grad():
            count = rows.shape[0] if valid is None else valid.sum()
            total = _squares(rows, valid, self.backend).to(self.running_var.dtype)
            q = _mean(total, count, self.sync)
            sigma2, r, outlier, t = plain.forward_step(
                *(q, self.buffer_x2, self.running_var, self.iters, self.skip_counter),
                *(self.warmup_iters, self.rescale_after, self.outlier_filtration),
                *(self.threshold == "channel", self.update_on_outlier, self.momentum, self.eps),
                _fused(self.backend, rows),
            )
        exact = self.window_size == (1, 1)
        out: Tensor = _Normalised.apply(
            *(rows, self.weight, self.bias, valid if self.mask_grad or exact else None),
            *((sigma2 + self.eps).rsqrt(), r, outlier, t),
            *(self.buffer_gz, self.grad_ema, self.grad_tickets),
            *((self.warmup_iters, self.momentum, self.sync, exact), self.backend),
        )
        return out.reshape(x.shape)

    def _require(self, x: Tensor, pad_mask: Tensor | None) -> None:
        if not x.is_floating_point():
            raise TypeError(f"floating point tensors are normalised, not {x.dtype}")
        if x.ndim == 0 or x.shape[-1] != self.num_features:
            raise ValueError(f"[..., {self.num_features}] is expected, not {list(x.shape)}")
        if pad_mask is not None:
            if pad_mask.dtype != torch.bool:
                raise TypeError(f"pad_mask has bools, not {pad_mask.dtype}")
            if pad_mask.shape != x.shape[:-1]:
                raise ValueError(f"pad_mask is {list(pad_mask.shape)} for {list(x.shape)}")
        if self.training:
            if x.numel() == 0:
                raise ValueError(f"there is nothing to normalise in training: {list(x.shape)}")
            if pad_mask is not None and not torch.compiler.is_compiling() and bool(pad_mask.all()):
                raise ValueError("all positions are padding in training")

    def extra_repr(self) -> str:
        fixed = f"{self.num_features}, window_size={self.window_size}, eps={self.eps}"
        return f"{fixed}, warmup_iters={self.warmup_iters}, filtration={self.outlier_filtration}"


def convert_layernorm(module: nn.Module, **settings: Any) -> nn.Module:
    """Replace layer normalisations over the last dimension; parameters are taken over.

    The module is changed and returned (if it is a layer normalisation itself, its replacement is).
    ``settings`` are those of :class:`UnifiedNorm`.
    """
    if type(module) is nn.LayerNorm:
        return _converted(module, settings) if len(module.normalized_shape) == 1 else module
    for name, child in module.named_children():
        setattr(module, name, convert_layernorm(child, **settings))
    call_children(module)
    return module


def _converted(old: nn.LayerNorm, settings: dict[str, Any]) -> UnifiedNorm:
    about = {} if old.weight is None else {"device": old.weight.device, "dtype": old.weight.dtype}
    new = UnifiedNorm(old.normalized_shape[0], **{"eps": old.eps, **about, **settings})
    with torch.no_grad():
        if old.weight is not None:
            new.weight = old.weight
        if old.bias is not None:
            new.bias = old.bias
    return new.train(old.training)
