"""Layers of softmax-free attention: where landmarks come from, heads, and a transformer block.

Sources: Lu et al., SOFT: Softmax-free Transformer with Linear Complexity (arXiv 2110.11945),
Softmax-free Linear Transformers (arXiv 2207.03341), and their public code.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._C import _functorch

from ...kernels.precision import widened
from .local import DepthwiseConv, counted
from .soft import Norm, attended

Landmark = Literal["conv", "pool", "linspace", "learned"]


class Landmarks(nn.Module):
    """Landmarks [b, h, m, d] of tokens [b, h, n, d], and which of them count [b, m].

    Args:
        head_dim, num_heads: d and h.
        kind: "conv": a linear map of every block of ratio x ratio tokens, LayerNorm, GELU; "pool":
            their mean; "linspace": evenly spaced tokens; "learned": parameters.
        num_landmarks: m, where no ratio gives it.
        ratio: the side of a block on the grid, or the length of one in a row.
    """

    def __init__(
        self,
        head_dim: int,
        num_heads: int,
        kind: Landmark,
        num_landmarks: int,
        ratio: int | None,
        **about: Any,
    ) -> None:
        super().__init__()
        if kind not in ("conv", "pool", "linspace", "learned"):
            what = f"landmarks are 'conv', 'pool', 'linspace' or 'learned', not {kind!r}"
            raise ValueError(what)
        if kind == "conv" and ratio is None:
            raise ValueError("landmarks by 'conv' need a ratio, the side of a block of the grid")
        self.kind, self.num_landmarks, self.ratio = kind, num_landmarks, ratio
        if kind == "conv":
            assert ratio is not None
            self.conv = nn.Linear(ratio**2 * head_dim, head_dim, bias=False, **about)
            self.norm = nn.LayerNorm(head_dim, **about)
        if kind == "learned":
            self.learned = nn.Parameter(torch.randn(num_heads, num_landmarks, head_dim, **about))

    def forward(
        self, tokens: Tensor, hw: tuple[int, int] | None, kept: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        n = tokens.shape[2]
        if self.kind == "learned":
            return self.learned.expand(tokens.shape[0], -1, -1, -1), None
        if self.kind == "linspace":
            steps = torch.linspace(0, n - 1, self.num_landmarks, device=tokens.device)
            at = steps.round().long()
            return tokens[:, :, at], None if kept is None else kept[:, at]
        weights = (
            tokens.new_ones(tokens.shape[0], 1, n, 1) if kept is None else kept[:, None, :, None]
        )
        there = tokens if kept is None else torch.where(weights, tokens, 0.0)
        sums, counts = self._blocks(there, hw), self._blocks(weights.to(tokens.dtype), hw)
        alive = None if kept is None else counts[:, 0, :, :, 0].sum(-1) > 0
        if self.kind == "conv":
            return nn.functional.gelu(self.norm(self.conv(sums.flatten(-2)))), alive
        return widened(sums).sum(-2) / widened(counts).sum(-2).clamp(min=1), alive

    def _blocks(self, x: Tensor, hw: tuple[int, int] | None) -> Tensor:
        """[b, h, n, d] as [b, h, blocks, size, d]."""
        n = x.shape[2]
        if self.ratio is not None and hw is not None:
            if hw[0] * hw[1] != n or hw[0] % self.ratio or hw[1] % self.ratio:
                what = (
                    f"blocks of {self.ratio} x {self.ratio} do not tile a grid {hw} of {n} tokens"
                )
                raise ValueError(what)
            grid = x.unflatten(2, (hw[0] // self.ratio, self.ratio, hw[1] // self.ratio, -1))
            blocks: Tensor = grid.transpose(3, 4)
            return blocks.flatten(4, 5).flatten(2, 3)
        if self.kind == "conv":
            raise ValueError("landmarks by 'conv' need the grid hw of the tokens")
        size = n // self.num_landmarks if self.ratio is None else self.ratio
        if size == 0 or n % size or (self.ratio is None and n % self.num_landmarks):
            parts = self.num_landmarks if self.ratio is None else f"blocks of {self.ratio}"
            raise ValueError(f"{n} tokens do not divide into {parts}")
        rows: Tensor = x.unflatten(2, (-1, size))
        return rows


class SoftAttention(nn.Module):
    """Multi-head softmax-free attention: one projection is both queries and keys.

    Args:
        embed_dim, num_heads, bias, batch_first: as in ``nn.MultiheadAttention``.
        num_landmarks, landmark, ratio: see :class:`Landmarks`; "conv" needs a ratio and the grid.
        norm, max_iter, ridge, alpha_scale: of :func:`soft_attention`.
        local_kernel: width of a depthwise convolution of the values, which is added; 0 for none.

    Shape:
        [b, n, embed_dim] to the same.  Landmarks of padded tokens alone are left out.

    Errors:
        ValueError: sizes or the grid do not fit.
        NotImplementedError: a mask of pairs, or causal attention, which this kernel does not have.
    """

    inputs = ("x",)
    clamped: Tensor

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        num_landmarks: int = 49,
        landmark: Landmark = "conv",
        ratio: int | None = None,
        norm: Norm | None = None,
        max_iter: int = 20,
        ridge: float = 0.0,
        alpha_scale: float = 1.8,
        local_kernel: int = 0,
        bias: bool = True,
        batch_first: bool = True,
        *,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(f"{num_heads} heads do not divide a width of {embed_dim}")
        if num_landmarks < 1 or (ratio is not None and ratio < 1):
            raise ValueError(f"landmarks {num_landmarks} and ratio {ratio} are positive")
        about = {"device": device, "dtype": dtype}
        self.embed_dim, self.num_heads, self.batch_first = embed_dim, num_heads, batch_first
        self.norm, self.max_iter, self.ridge, self.alpha_scale = norm, max_iter, ridge, alpha_scale
        head_dim = embed_dim // num_heads
        self.landmarks = Landmarks(head_dim, num_heads, landmark, num_landmarks, ratio, **about)
        self.q_proj = nn.Linear(embed_dim, embed_dim, bias=bias, **about)
        self.v_proj = nn.Linear(embed_dim, embed_dim, bias=bias, **about)
        self.out_proj = nn.Linear(embed_dim, embed_dim, bias=bias, **about)
        self.local = (
            DepthwiseConv(embed_dim, "conv2d", local_kernel, **about) if local_kernel else None
        )
        self.register_buffer("clamped", torch.zeros((), dtype=torch.long, device=device))

    def forward(
        self,
        x: Tensor,
        hw: tuple[int, int] | None = None,
        key_padding_mask: Tensor | None = None,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        """The output; ``key_padding_mask`` [b, n] is true for tokens that do not count."""
        if attn_mask is not None or is_causal:
            raise NotImplementedError("softmax-free attention has no causal or masked form")
        if not self.batch_first:
            x = x.transpose(0, 1)
        if x.ndim != 3 or x.shape[-1] != self.embed_dim:
            raise ValueError(f"[b, n, {self.embed_dim}] is expected, not {list(x.shape)}")
        kept = counted(key_padding_mask)
        values = self.v_proj(x)
        q = self._heads(self.q_proj(x)) * (self.embed_dim // self.num_heads) ** -0.25
        marks, alive = self.landmarks(q, hw, kept)
        out: Tensor
        out, clamped = attended(
            *(q, self._heads(values), marks, self.norm, self.max_iter, self.ridge),
            *(self.alpha_scale, 1.0, kept, alive, "auto"),
        )
        if self.norm == "token":
            self._count(clamped)
        out = out.transpose(1, 2).flatten(2)
        if self.local is not None:
            out = out + self.local(values, hw, kept)
        out = self.out_proj(out)
        if not self.batch_first:
            out = out.transpose(0, 1)
        return out

    def input_maps(self) -> tuple[nn.Linear, ...]:
        """The linear maps that read the input."""
        return self.q_proj, self.v_proj

    @torch.no_grad()
    def _count(self, clamped: Tensor) -> None:
        """Count rows that were too small, where no function transform hides their number."""
        if torch.compiler.is_compiling() or not _functorch.is_functorch_wrapped_tensor(clamped):
            self.clamped.add_(clamped)

    def _heads(self, x: Tensor) -> Tensor:
        heads: Tensor = x.unflatten(-1, (self.num_heads, -1))
        return heads.transpose(1, 2)

    def extra_repr(self) -> str:
        about = f"landmark={self.landmarks.kind}, norm={self.norm}, ridge={self.ridge}"
        return f"{self.embed_dim}, num_heads={self.num_heads}, {about}"


class SoftBlock(nn.Module):
    """A transformer block: attention, then a feed-forward net, each added.

    Args:
        embed_dim, num_heads: of :class:`SoftAttention`, as are further settings.
        hidden: width of the feed-forward net over ``embed_dim``.
        pre_norm: whether each normalises its input, or their sum is normalised.

    Shape:
        [b, n, embed_dim] to the same.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        hidden: int = 4,
        pre_norm: bool = True,
        *,
        device: Any = None,
        dtype: torch.dtype | None = None,
        **settings: Any,
    ) -> None:
        super().__init__()
        about = {"device": device, "dtype": dtype}
        self.pre_norm = pre_norm
        self.norms = nn.ModuleList(nn.LayerNorm(embed_dim, **about) for _ in range(2))
        self.attention = SoftAttention(embed_dim, num_heads, **settings, **about)
        self.feed = nn.Sequential(
            nn.Linear(embed_dim, hidden * embed_dim, **about),
            nn.GELU(),
            nn.Linear(hidden * embed_dim, embed_dim, **about),
        )

    def forward(
        self, x: Tensor, hw: tuple[int, int] | None = None, key_padding_mask: Tensor | None = None
    ) -> Tensor:
        first, second = self.norms
        if self.pre_norm:
            x = x + self.attention(first(x), hw, key_padding_mask)
            out: Tensor = x + self.feed(second(x))
        else:
            x = first(x + self.attention(x, hw, key_padding_mask))
            out = second(x + self.feed(x))
        return out
