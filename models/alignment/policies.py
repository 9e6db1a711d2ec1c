"""Laws of sequences of tokens, of one length, that are drawn token by token."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from pyro import distributions as dist
from torch import Tensor, nn

from ...ppl import draw

MANY = 2**20


class Autoregressive(nn.Module):
    """A law of sequences x [length] of tokens 0 .. vocab - 1.

    What derives from it says ``next_logits``; the rest may be made faster.
    """

    def __init__(self, vocab: int, length: int) -> None:
        super().__init__()
        if vocab < 2 or length < 1:
            raise ValueError(f"sequences have tokens and a length, not {vocab} and {length}")
        self.vocab, self.length = vocab, length

    def next_logits(self, prefix: Tensor) -> Tensor:
        """Logits [n, vocab] of the token behind each prefix [n, i]; need not be normalised."""
        raise NotImplementedError

    def log_prob(self, x: Tensor) -> Tensor:
        """Log probabilities [n] of sequences [n, length]."""
        steps = [self.next_logits(x[:, :i]) for i in range(self.length)]
        log_p = torch.stack(steps, 1).log_softmax(-1)
        return log_p.gather(-1, x[..., None]).squeeze(-1).sum(-1)

    @torch.no_grad()
    def sample(self, n: int) -> Tensor:
        """Sequences [n, length], drawn as effects are."""
        x = torch.zeros(n, 0, dtype=torch.int64, device=self._device())
        for _ in range(self.length):
            token = draw(dist.Categorical(logits=self.next_logits(x)), label="token")
            x = torch.cat([x, token[:, None]], 1)
        return x

    def enumerate(self) -> Tensor:
        """All sequences [vocab^length, length].

        Errors:
            ValueError: they are more than 2^20.
        """
        if self.vocab**self.length > MANY:
            raise ValueError(f"{self.vocab}^{self.length} sequences are too many to enumerate")
        rows = list(itertools.product(range(self.vocab), repeat=self.length))
        return torch.tensor(rows, device=self._device())

    def _device(self) -> torch.device | None:
        held = itertools.chain(self.parameters(), self.buffers())
        return next((x.device for x in held), None)


class TinyAR(Autoregressive):
    """A small recurrent network (GRU)."""

    def __init__(self, vocab: int, length: int, hidden: int = 32) -> None:
        super().__init__(vocab, length)
        self.tokens = nn.Embedding(vocab + 1, hidden)  # the last one begins
        self.cell, self.head = nn.GRU(hidden, hidden, batch_first=True), nn.Linear(hidden, vocab)

    def next_logits(self, prefix: Tensor) -> Tensor:
        first = prefix.new_full((len(prefix), 1), self.vocab)
        read: Tensor = self.cell(self.tokens(torch.cat([first, prefix], 1)))[0][:, -1]
        logits: Tensor = self.head(read)
        return logits

    def log_prob(self, x: Tensor) -> Tensor:
        """Log probabilities [n] of sequences [n, length], in one pass."""
        first = x.new_full((len(x), 1), self.vocab)
        read = self.cell(self.tokens(torch.cat([first, x[:, :-1]], 1)))[0]
        log_p = self.head(read).log_softmax(-1)
        found: Tensor = log_p.gather(-1, x[..., None]).squeeze(-1).sum(-1)
        return found

    @torch.no_grad()
    def sample(self, n: int) -> Tensor:
        """Sequences [n, length]; what was read is kept."""
        token = torch.full((n, 1), self.vocab, device=self.tokens.weight.device)
        state: Any = None
        found = []
        for _ in range(self.length):
            read, state = self.cell(self.tokens(token), state)
            token = draw(dist.Categorical(logits=self.head(read[:, -1])), label="token")[:, None]
            found.append(token)
        return torch.cat(found, 1)


class Independent(Autoregressive):
    """Tokens that know nothing of each other: logits [length, vocab]."""

    def __init__(self, vocab: int, length: int) -> None:
        super().__init__(vocab, length)
        self.logits = nn.Parameter(torch.zeros(length, vocab))

    def next_logits(self, prefix: Tensor) -> Tensor:
        return self.logits[prefix.shape[1]].expand(len(prefix), -1)


class Chain(Autoregressive):
    """A Markov chain, by the law of the first token [vocab] and of the next ones [vocab, vocab]."""

    first: Tensor
    then: Tensor

    def __init__(self, first: Tensor, then: Tensor, length: int) -> None:
        super().__init__(len(first), length)
        if then.shape != (len(first), len(first)):
            raise ValueError(f"transitions {list(then.shape)} do not fit {len(first)} tokens")
        self.register_buffer("first", first.log())
        self.register_buffer("then", then.log())

    def next_logits(self, prefix: Tensor) -> Tensor:
        if not prefix.shape[1]:
            return self.first.expand(len(prefix), -1)
        return self.then[prefix[:, -1]]

    def log_prob(self, x: Tensor) -> Tensor:
        """Log probabilities [n] of sequences [n, length]."""
        first, then = self.first.log_softmax(-1), self.then.log_softmax(-1)
        return first[x[:, 0]] + then[x[:, :-1], x[:, 1:]].sum(1)
