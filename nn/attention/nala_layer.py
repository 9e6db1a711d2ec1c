"""Layers of norm-aware linear attention, with the call of torch's multi-head attention.

Source: Meng et al., NaLaFormer: Norm-Aware Linear Attention for Transformer Models
(arXiv 2506.21137), and its public code for the gate, the local term and the block.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...kernels.nala import Direction, NaLaState
from ..standing_in import called
from .local import DepthwiseConv, Local, counted, linear
from .nala import nala_attention, nala_step, nala_weights


class NaLaAttention(nn.Module):
    """Multi-head norm-aware linear attention, at a cost linear in the number of tokens.

    The output is W (LayerNorm(o + local) * SiLU(g)), where o is the attention, local a depthwise
    convolution of the values, and g linear in the queries; without a gate it is W o.

    Args:
        embed_dim, num_heads, bias, dropout, batch_first: as in ``nn.MultiheadAttention``; dropout
            is of the output, since there are no weights to drop.
        gate: whether the output is normalised and gated.
        local: None, "conv1d" (width 5) or "conv2d" (5 x 5, tokens on a grid), in self-attention.
        lam, tau, direction: of :func:`nala_feature_maps`.
        rope: whether the features are turned by their place on the grid ``hw``.
        causal: whether every call is causal, whatever its ``is_causal``; conv1d then looks back
            by its whole width.

    Shape:
        query [b, n, embed_dim], key and value [b, m, embed_dim]; to [b, n, embed_dim].

    It may stand in ``nn.TransformerEncoderLayer``.

    Errors:
        ValueError: sizes do not fit each other.
        NotImplementedError: a mask that is no padding mask, nor said to be causal.
    """

    inputs = ("query", "key", "value")
    in_proj_bias = None  # by these torch's encoders know that there is no joint projection
    _qkv_same_embed_dim = False

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        gate: bool = True,
        local: Local | None = None,
        batch_first: bool = True,
        *,
        lam: float = 3.0,
        tau: float = 0.5,
        direction: Direction = "sign",
        rope: bool = False,
        causal: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(f"{num_heads} heads do not divide a width of {embed_dim}")
        if rope and (embed_dim // num_heads) % 4:
            raise ValueError(f"rope needs heads of a width divisible by 4: {embed_dim}/{num_heads}")
        about = {"device": device, "dtype": dtype}
        self.embed_dim, self.num_heads, self.batch_first = embed_dim, num_heads, batch_first
        self.rope, self.causal = rope, causal
        self.settings: dict[str, Any] = {"lam": lam, "tau": tau, "direction": direction}
        self.q_proj = linear(embed_dim, bias, about)
        self.k_proj = linear(embed_dim, bias, about)
        self.v_proj = linear(embed_dim, bias, about)
        self.out_proj = linear(embed_dim, bias, about)
        self.gate = linear(embed_dim, bias, about) if gate else None
        self.norm = nn.LayerNorm(embed_dim, **about) if gate else None
        self.local = None if local is None else DepthwiseConv(embed_dim, local, 5, causal, **about)
        self.dropout = nn.Dropout(dropout)
        called(self)

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = False,
        attn_mask: Tensor | None = None,
        is_causal: bool | None = None,
        hw: tuple[int, int] | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """The output, and the weights [b, heads, n, m] if they are needed (at quadratic cost).

        Key and value are the query unless given.  ``key_padding_mask`` [b, m] is true for keys that
        do not count, or -inf, as in torch; ``attn_mask`` is taken for causal where ``is_causal``
        says so; ``hw`` is the grid of the tokens.
        """
        if attn_mask is not None and not is_causal:
            raise NotImplementedError("linear attention cannot apply an arbitrary mask")
        key = query if key is None else key
        value = key if value is None else value
        if not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        for name, x in (("query", query), ("key", key), ("value", value)):
            if x.ndim != 3 or x.shape[-1] != self.embed_dim:
                raise ValueError(f"{name} is [b, n, {self.embed_dim}], not {list(x.shape)}")
        causal = self.causal or bool(is_causal)
        kept = counted(key_padding_mask)
        mask = None if kept is None else kept[:, None, None]
        values = self.v_proj(value)
        q, k, v = (self._heads(x) for x in (self.q_proj(query), self.k_proj(key), values))
        rope = hw if self.rope else None
        if self.rope and hw is None:
            raise ValueError("rope needs the grid hw of the tokens")
        out = nala_attention(q, k, v, is_causal=causal, rope=rope, attn_mask=mask, **self.settings)
        out = out.transpose(1, 2).flatten(2)
        if self.local is not None:
            out = out + self.local(values, hw, kept, causal)
        out = self._read_out(out, query)
        weights = None
        if need_weights:
            weights = nala_weights(q, k, is_causal=causal, attn_mask=mask, **self.settings)
        return (out if self.batch_first else out.transpose(0, 1)), weights

    def input_maps(self) -> tuple[nn.Linear, ...]:
        """The linear maps that read an input."""
        maps = (self.q_proj, self.k_proj, self.v_proj)
        return maps if self.gate is None else (*maps, self.gate)

    def _heads(self, x: Tensor) -> Tensor:
        heads: Tensor = x.unflatten(-1, (self.num_heads, -1))
        return heads.transpose(1, 2)

    def _read_out(self, out: Tensor, query: Tensor) -> Tensor:
        if self.gate is not None and self.norm is not None:
            out = self.norm(out) * nn.functional.silu(self.gate(query))
        result: Tensor = self.dropout(self.out_proj(out))
        return result

    def step(self, x: Tensor, state: NaLaState | None = None) -> tuple[Tensor, NaLaState]:
        """One token [b, embed_dim] behind those of a state: its output, and the state with it.

        Errors:
            NotImplementedError: the layer has a local term or rope, which a state does not hold.
        """
        if self.local is not None or self.rope:
            raise NotImplementedError("a step needs a layer without local term and rope")
        q, k, v = (
            project(x).unflatten(-1, (self.num_heads, -1))
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        out, state = nala_step(q, k, v, state, **self.settings)
        return self._read_out(out.flatten(1), x), state

    def extra_repr(self) -> str:
        settings = ", ".join(f"{name}={value}" for name, value in self.settings.items())
        return f"{self.embed_dim}, num_heads={self.num_heads}, {settings}, causal={self.causal}"


class NaLaBlock(nn.Module):
    """A transformer block: attention, then a feed-forward net, each normalised before and added.

    With a local term a depthwise convolution (width 3) encodes places before both, and another
    stands inside the feed-forward net.

    Args:
        embed_dim, num_heads, local, causal: of :class:`NaLaAttention`, as are further settings.
        ratio: width of the feed-forward net over ``embed_dim``.

    Shape:
        [b, n, embed_dim] to the same.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        ratio: int = 3,
        local: Local | None = None,
        causal: bool = False,
        *,
        device: Any = None,
        dtype: torch.dtype | None = None,
        **settings: Any,
    ) -> None:
        super().__init__()
        about = {"device": device, "dtype": dtype}
        hidden = ratio * embed_dim
        self.norms = nn.ModuleList(nn.LayerNorm(embed_dim, **about) for _ in range(2))
        self.attention = NaLaAttention(
            embed_dim, num_heads, local=local, causal=causal, **settings, **about
        )
        self.into = linear(embed_dim, True, about, hidden)
        self.back = linear(hidden, True, about, embed_dim)
        sizes = (embed_dim, embed_dim, hidden) if local else ()
        self.places = nn.ModuleList(
            DepthwiseConv(size, local or "conv1d", 3, causal, **about) for size in sizes
        )

    def forward(
        self, x: Tensor, key_padding_mask: Tensor | None = None, hw: tuple[int, int] | None = None
    ) -> Tensor:
        kept = counted(key_padding_mask)
        if self.places:
            x = x + self.places[0](x, hw, kept)
        x = x + self.attention(self.norms[0](x), key_padding_mask=key_padding_mask, hw=hw)[0]
        if self.places:
            x = x + self.places[1](x, hw, kept)
        hidden = self.into(self.norms[1](x))
        if self.places:
            hidden = hidden + self.places[2](hidden, hw, kept)
        out: Tensor = x + self.back(nn.functional.gelu(hidden))
        return out
