"""What attention layers share: convolutions of neighbouring tokens, and linear maps."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn

Local = Literal["conv1d", "conv2d"]


class DepthwiseConv(nn.Module):
    """A convolution of every channel with itself, of tokens in a row or on a grid.

    Args:
        channels: of the tokens.
        kind: "conv1d" or "conv2d".
        kernel: its odd width.
        causal: whether a token sees only those before it (conv1d).

    Shape:
        [b, n, channels] to the same; conv2d needs the grid ``hw`` of the n tokens.

    Errors:
        ValueError: the grid is missing, or does not have n places.
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

    def forward(self, x: Tensor, hw: tuple[int, int] | None = None) -> Tensor:
        rows = x.transpose(1, 2)
        if self.kind == "conv1d":
            if self.causal:
                rows = nn.functional.pad(rows, (self.kernel - 1, 0))
            out: Tensor = self.conv(rows)
            return out.transpose(1, 2)
        if hw is None or hw[0] * hw[1] != x.shape[1]:
            raise ValueError(f"conv2d needs the grid hw of the {x.shape[1]} tokens, not {hw}")
        grid: Tensor = self.conv(rows.unflatten(2, hw))
        return grid.flatten(2).transpose(1, 2)


def linear(width: int, bias: bool, about: dict[str, Any], out: int | None = None) -> nn.Linear:
    """A linear map from ``width``, begun with small normal weights and no bias."""
    layer = nn.Linear(width, width if out is None else out, bias=bias, **about)
    nn.init.trunc_normal_(layer.weight, std=0.02)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer
