"""Linear maps and convolutions that train on whole numbers.

y = x W^T is a product of few bits.  Backward, dx = dy W contracts over outputs and dW = dy^T x over
tokens: dy is quantised twice, with groups along either, and with independent draws.  Weights are
kept in floating point, and their gradient passes the rounding unchanged; since scales are set by
the greatest entry, nothing is clipped.

Source: Guo et al., Towards Accurate and Efficient Sub-8-Bit Integer Training (arXiv 2411.10948), as
far as its abstract tells.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ...kernels.precision import as_given
from ..standing_in import call_children, called
from .shift import QTensor, ShiftTensor, quantize_tensor, seeded_shift, shift_matmul


@dataclass(frozen=True)
class QConfig:
    """Bits of weights, of activations and of gradients (None: not quantised), and the groups.

    Args:
        weight_scale: one "tensor" scale for the weights, or one for each output "channel".
        backend: "int" multiplies whole numbers; "fake" the floating point numbers that they mean,
            with the same result up to rounding.
        nonfinite: of :func:`quantize_shift`, for gradients.

    Errors:
        ValueError: the "int" back end lacks some of the bits, or a choice is unknown.
    """

    w_bits: int | None = 4
    a_bits: int | None = 4
    g_bits: int | None = 4
    num_groups: int = 4
    weight_scale: Literal["tensor", "channel"] = "tensor"
    backend: Literal["int", "fake"] = "int"
    nonfinite: Literal["raise", "skip_step"] = "raise"

    def __post_init__(self) -> None:
        if self.backend not in ("int", "fake"):
            raise ValueError(f"the back end is 'int' or 'fake', not {self.backend!r}")
        if self.weight_scale not in ("tensor", "channel"):
            raise ValueError(f"weight_scale is 'tensor' or 'channel', not {self.weight_scale!r}")
        if self.backend == "int" and None in (self.w_bits, self.a_bits, self.g_bits):
            raise ValueError("back end 'int' needs bits for weights, activations and gradients")
        for bits in (self.w_bits, self.a_bits, self.g_bits):
            if bits is not None and not 2 <= bits <= 8:
                raise ValueError(f"numbers have 2 to 8 bits, not {bits}")


def _few_bits(x: Tensor, bits: int | None, per_column: bool = False) -> QTensor | None:
    return None if bits is None else quantize_tensor(x, bits, per_column)


def _meant(x: Tensor, few: QTensor | None) -> Tensor:
    return x if few is None else few.dequantize().to(x.dtype)


class _Product(torch.autograd.Function):
    """x W^T [m, n] of tokens [m, k] and weights [n, k], by the bits of a config."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, seeds: Tensor, config: QConfig) -> Tensor:
        few_x = _few_bits(x, config.a_bits)
        few_w = _few_bits(weight.T, config.w_bits, config.weight_scale == "channel")
        ctx.config, ctx.dtypes = config, (x.dtype, weight.dtype)
        if config.backend == "int":
            assert few_x is not None and few_w is not None
            ctx.save_for_backward(few_x.q, few_x.scale, few_w.q, few_w.scale, seeds)
            return _whole_product(few_x, few_w).to(x.dtype)
        meant_x, meant_w = _meant(x, few_x), _meant(weight.T, few_w)
        ctx.save_for_backward(meant_x, meant_w, seeds)
        with as_given(x.device):
            return meant_x @ meant_w

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        config: QConfig = ctx.config
        if config.backend == "fake":
            x, w, seeds = ctx.saved_tensors
            by_output = _gradient(gradient, -1, seeds[0], config)
            by_token = _gradient(gradient, 0, seeds[1], config)
            with as_given(w.device):
                return by_output @ w.T, by_token @ x, None, None
        x_q, x_scale, w_q, w_scale, seeds = ctx.saved_tensors
        bits, groups = config.g_bits, config.num_groups
        assert bits is not None
        # scales of output channels stand along the contracted axis: they go into the gradient
        scaled = gradient * w_scale if w_scale.ndim else gradient
        rows = seeded_shift(scaled, bits, groups, -1, seeds[0], config.nonfinite)
        one = torch.ones_like(w_scale) if w_scale.ndim == 0 else w_scale.new_ones(())
        d_x = shift_matmul(rows, QTensor(w_q.T, w_scale if w_scale.ndim == 0 else one))
        columns = seeded_shift(gradient, bits, groups, 0, seeds[1], config.nonfinite)
        d_w = shift_matmul(columns, QTensor(x_q, x_scale))
        return d_x.to(ctx.dtypes[0]), d_w.to(ctx.dtypes[1]), None, None


def _whole_product(x: QTensor, w: QTensor) -> Tensor:
    flat = torch.zeros(x.q.shape[1], dtype=torch.uint8, device=x.q.device)
    return shift_matmul(ShiftTensor(x.q, x.scale, flat, 8, 1), w)


def _gradient(gradient: Tensor, axis: int, seed: Tensor, config: QConfig) -> Tensor:
    """The gradient, or its transpose for axis 0, as its few bits mean it."""
    if config.g_bits is None:
        return gradient if axis == -1 else gradient.T
    few = seeded_shift(gradient, config.g_bits, config.num_groups, axis, seed, config.nonfinite)
    return few.dequantize().to(gradient.dtype)


def _seeds(x: Tensor) -> Tensor:
    """Two seeds from torch's generator, on the device of x."""
    return torch.randint(2**32, (2,)).to(x.device)


class QLinear(nn.Linear):
    """``nn.Linear`` that trains on whole numbers of few bits.

    Args:
        in_features, out_features, bias, device, dtype: as in ``nn.Linear``.
        qconfig: bits, groups and back end.

    It cannot be transformed by ``torch.func``.

    Errors:
        ValueError: a gradient is not finite.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        qconfig: QConfig = QConfig(),
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias, device, dtype)
        self.qconfig = qconfig
        called(self)

    def forward(self, input: Tensor) -> Tensor:
        if input.shape[-1] != self.in_features:
            raise ValueError(f"{self.in_features} features are expected, not {list(input.shape)}")
        tokens = input.reshape(-1, self.in_features)
        out: Tensor = _Product.apply(tokens, self.weight, _seeds(input), self.qconfig)
        out = out.reshape(*input.shape[:-1], self.out_features)
        return out if self.bias is None else out + self.bias

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {_shown(self.qconfig)}"


class QConv2d(nn.Conv2d):
    """``nn.Conv2d`` of one group that trains on whole numbers: a product with unfolded patches.

    Args:
        qconfig: bits, groups and back end; the rest as in ``nn.Conv2d``.

    Errors:
        ValueError: convolution in groups, or padding other than by zeros.
    """

    def __init__(self, *args: Any, qconfig: QConfig = QConfig(), **about: Any) -> None:
        super().__init__(*args, **about)
        if self.groups != 1 or self.padding_mode != "zeros" or isinstance(self.padding, str):
            raise ValueError("QConv2d has one group, and padding by a number of zeros")
        self.zeros = self.padding
        self.qconfig = qconfig

    def forward(self, input: Tensor) -> Tensor:
        sides = zip(
            *(input.shape[-2:], self.kernel_size, self.stride, self.zeros, self.dilation),
            strict=True,
        )
        height, width = ((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in sides)
        patches = nn.functional.unfold(
            input, self.kernel_size, self.dilation, self.zeros, self.stride
        )
        tokens = patches.transpose(1, 2).flatten(0, 1)
        out: Tensor = _Product.apply(tokens, self.weight.flatten(1), _seeds(input), self.qconfig)
        out = out.unflatten(0, (input.shape[0], height * width)).transpose(1, 2)
        out = out.unflatten(2, (height, width))
        return out if self.bias is None else out + self.bias[:, None, None]

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {_shown(self.qconfig)}"


def _shown(config: QConfig) -> str:
    bits = f"w{config.w_bits} a{config.a_bits} g{config.g_bits}"
    return f"bits={bits}, groups={config.num_groups}, backend={config.backend}"


def convert_to_integer_training(
    module: nn.Module,
    qconfig: QConfig = QConfig(),
    eight_bits: tuple[str, ...] = ("first", "last"),
) -> nn.Module:
    """Replace linear maps and convolutions of one group by layers that train on whole numbers.

    The new layers take over the parameters.  The module is changed and returned.

    Args:
        eight_bits: which of the "first" and "last" layer, in order of registration, keep 8 bits.

    Errors:
        ValueError: ``eight_bits`` names something else.
    """
    if not set(eight_bits) <= {"first", "last"}:
        raise ValueError(f"eight_bits names 'first' and 'last', not {eight_bits}")
    places = [
        (parent, name, child)
        for parent in module.modules()
        for name, child in parent.named_children()
        if type(child) is nn.Linear or (type(child) is nn.Conv2d and _can_convert(child))
    ]
    wide = replace(qconfig, w_bits=8, a_bits=8, g_bits=8)
    ends = {0 for name in eight_bits if name == "first"} | {
        len(places) - 1 for name in eight_bits if name == "last"
    }
    for i, (parent, name, child) in enumerate(places):
        setattr(parent, name, _converted(child, wide if i in ends else qconfig))
    call_children(module)
    return module


def _can_convert(child: nn.Conv2d) -> bool:
    zeros = child.padding_mode == "zeros" and not isinstance(child.padding, str)
    return child.groups == 1 and zeros


def _converted(child: nn.Module, config: QConfig) -> nn.Module:
    has_bias = child.bias is not None
    about: dict[str, Any] = {"qconfig": config, "device": "meta"}
    if isinstance(child, nn.Linear):
        new: Any = QLinear(child.in_features, child.out_features, has_bias, **about)
    else:
        assert isinstance(child, nn.Conv2d)
        new = QConv2d(
            *(child.in_channels, child.out_channels, child.kernel_size, child.stride),
            padding=child.padding,
            dilation=child.dilation,
            bias=has_bias,
            **about,
        )
    new.weight, new.bias = child.weight, child.bias
    new.train(child.training)
    converted: nn.Module = new
    return converted
