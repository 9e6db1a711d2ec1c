"""What attention layers share: convolutions of neighbouring tokens, and linear maps."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

Local = Literal["conv1d", "conv2d"]


class DepthwiseConv(nn.Module):
    """A convolution of every channel with itself, of tokens in a row or on a grid.

    Args:
        channels: of the tokens.
        kind: "conv1d" or "conv2d".
        kernel: its odd width.
        causal: whether a token sees only those before it (conv1d), by all ``kernel`` weights.

    Shape:
        [b, n, channels] to the same; conv2d needs the grid ``hw`` of the n tokens.  Tokens that are
        not ``kept`` [b, n] are zero, as are those beyond the ends, and for a call that is
        ``causal`` those that come later.

    Errors:
        ValueError: the grid is missing, does not have n places, or has a causal order.
    """

    def __init__(
        self, channels: int, kind: Local, kernel: int, causal: bool = False, **about: Any
    ) -> None:
        super().__init__()
        if kind not in ("conv1d", "conv2d"):
            raise ValueError(f"the local term is 'conv1d' or 'conv2d', not {kind!r}")
        if causal and kind == "conv2d":
            raise ValueError("a grid has no causal order: take conv1d")
        self.kind, self.kernel, self.causal = kind, kernel, causal
        make: Any = nn.Conv1d if kind == "conv1d" else nn.Conv2d
        pad = 0 if causal else kernel // 2
        self.conv = make(channels, channels, kernel, padding=pad, groups=channels, **about)
        nn.init.trunc_normal_(self.conv.weight, std=0.02)
        nn.init.zeros_(self.conv.bias)

    def forward(
        self,
        x: Tensor,
        hw: tuple[int, int] | None = None,
        kept: Tensor | None = None,
        causal: bool = False,
    ) -> Tensor:
        if causal and self.kind == "conv2d":
            raise ValueError("a grid has no causal order: take conv1d")
        if kept is not None:
            x = torch.where(kept[..., None], x, 0.0)
        rows = x.transpose(1, 2)
        if self.kind == "conv1d":
            if self.causal:
                rows = nn.functional.pad(rows, (self.kernel - 1, 0))
            elif causal:
                return self._backwards(rows).transpose(1, 2)
            out: Tensor = self.conv(rows)
            return out.transpose(1, 2)
        if hw is None or hw[0] * hw[1] != x.shape[1]:
            raise ValueError(f"conv2d needs the grid hw of the {x.shape[1]} tokens, not {hw}")
        grid: Tensor = self.conv(rows.unflatten(2, hw))
        return grid.flatten(2).transpose(1, 2)

    def _backwards(self, rows: Tensor) -> Tensor:
        """The convolution without the weights that look ahead."""
        half = self.kernel // 2
        weight, padded = self.conv.weight[..., : half + 1], nn.functional.pad(rows, (half, 0))
        return nn.functional.conv1d(padded, weight, self.conv.bias, groups=self.conv.groups)


def counted(key_padding_mask: Tensor | None) -> Tensor | None:
    """Which tokens count [b, n], by a mask of bools, true for those that do not, or of 0 and -inf.

    Errors:
        NotImplementedError: the mask holds other numbers.
    """
    if key_padding_mask is None or key_padding_mask.dtype == torch.bool:
        return None if key_padding_mask is None else ~key_padding_mask
    kept = key_padding_mask == 0
    if not torch.compiler.is_compiling() and not bool((kept | key_padding_mask.isneginf()).all()):
        raise NotImplementedError("a padding mask holds bools, or zeros and -inf")
    return kept


def linear(width: int, bias: bool, about: dict[str, Any], out: int | None = None) -> nn.Linear:
    """A linear map from ``width``, begun with small normal weights and no bias."""
    layer = nn.Linear(width, width if out is None else out, bias=bias, **about)
    nn.init.trunc_normal_(layer.weight, std=0.02)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer
