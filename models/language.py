"""Small language models, to try decoding on: a transformer, and one that infers a task exactly."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

Processor = Callable[[Tensor, Tensor], Tensor]
Sampler = Callable[[Tensor], Tensor]


def greedy(scores: Tensor) -> Tensor:
    """The tokens [b] of greatest score of scores [b, v]."""
    return scores.argmax(-1)


@torch.no_grad()
def generate(
    model: Callable[[Tensor], Tensor],
    ids: Tensor,
    steps: int,
    processors: Sequence[Processor] = (),
    sampler: Sampler = greedy,
) -> Tensor:
    """Tokens [b, n + steps]: those given [b, n], and one after another.

    Args:
        model: gives logits [b, n, v] of the token behind each.
        processors: change scores [b, v], given all tokens, in turn.
        sampler: takes a token [b] by the scores.
    """
    for _ in range(steps):
        scores = model(ids)[:, -1]
        for processor in processors:
            scores = processor(ids, scores)
        ids = torch.cat([ids, sampler(scores)[:, None]], 1)
    return ids


class CausalAttention(nn.Module):
    """Softmax attention of tokens [b, n, width] to the earlier ones and themselves."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"{heads} heads do not divide the width {width}")
        self.heads = heads
        self.into, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.into(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out


class _Block(nn.Module):
    def __init__(self, width: int, norm: nn.Module, attention: nn.Module, other: nn.Module) -> None:
        super().__init__()
        self.first, self.attention, self.second = norm, attention, other
        self.mixing = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.first(x))
        out: Tensor = x + self.mixing(self.second(x))
        return out


class TinyLM(nn.Module):
    """A small transformer that predicts the next token.

    Args:
        norm: makes a normalisation for a width.
        attention: makes a causal self-attention for a width and a number of heads.

    Shape:
        tokens [b, n] with n at most ``max_len`` to logits [b, n, v].

    Errors:
        ValueError: there are too many tokens, or the heads do not divide the width.
    """

    def __init__(
        self,
        vocab_size: int = 64,
        embed_dim: int = 32,
        num_layers: int = 2,
        num_heads: int = 2,
        max_len: int = 64,
        norm: Callable[[int], nn.Module] = nn.LayerNorm,
        attention: Callable[[int, int], nn.Module] = CausalAttention,
    ) -> None:
        super().__init__()
        self.max_len = max_len
        self.tokens = nn.Embedding(vocab_size, embed_dim)
        self.places = nn.Embedding(max_len, embed_dim)
        self.blocks = nn.Sequential(
            *(
                _Block(embed_dim, norm(embed_dim), attention(embed_dim, num_heads), norm(embed_dim))
                for _ in range(num_layers)
            )
        )
        self.norm, self.head = norm(embed_dim), nn.Linear(embed_dim, vocab_size, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        if ids.shape[1] > self.max_len:
            raise ValueError(f"{ids.shape[1]} tokens are more than {self.max_len}")
        x = self.tokens(ids) + self.places.weight[: ids.shape[1]]
        logits: Tensor = self.head(self.norm(self.blocks(x)))
        return logits

    def generate(
        self,
        ids: Tensor,
        steps: int,
        processors: Sequence[Processor] = (),
        sampler: Sampler = greedy,
    ) -> Tensor:
        """:func:`generate` with this model."""
        return generate(self, ids, steps, processors, sampler)


class InContextBayesLM(nn.Module):
    """A language model in closed form, which infers from examples which task they show.

    Tokens come in pairs x, y with y = x + c modulo m, where the task c is unknown and has a prior;
    an answer is right with probability rho, and else uniform.  Questions are uniform.

    Args:
        prior: of the tasks [m].
        rho: how reliable answers are.

    Shape:
        tokens [b, n] to log probabilities [b, n, m] of the token behind each.

    Errors:
        ValueError: the prior does not sum to one, or rho is not in [0, 1].
    """

    prior: Tensor
    table: Tensor

    def __init__(self, prior: Tensor, rho: float) -> None:
        super().__init__()
        if bool((prior < 0).any()) or abs(float(prior.sum()) - 1) > 1e-4 or not 0 <= rho <= 1:
            raise ValueError("the prior sums to one, and rho is in [0, 1]")
        m = len(prior)
        right = (torch.arange(m)[:, None] + torch.arange(m)) % m
        table = (1 - rho) / m + rho * nn.functional.one_hot(right, m).to(prior.dtype)
        self.register_buffer("prior", prior)
        self.register_buffer("table", table)  # [c, x, y]

    def forward(self, ids: Tensor) -> Tensor:
        outs = []
        log_weights = self.prior.log().expand(len(ids), -1)
        uniform = torch.full_like(log_weights, 1 / len(self.prior)).log()
        for at in range(ids.shape[1]):
            if at % 2:
                log_weights = log_weights + self.table[:, ids[:, at - 1], ids[:, at]].log().T
                outs.append(uniform)
            else:
                answers = self.table[:, ids[:, at]].transpose(0, 1)
                weights = log_weights.softmax(-1)
                outs.append((weights[:, :, None] * answers).sum(1).log())
        return torch.stack(outs, 1)
