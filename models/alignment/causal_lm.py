"""A causal language model of ``transformers`` as a law of continuations of a prompt."""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro import distributions as dist
from torch import Tensor, nn

from ...ppl import draw
from .policies import Autoregressive


class CausalLM(Autoregressive):
    """Continuations of one length, of one prompt.  Dropout is turned off: a policy has one density.

    Args:
        model: such as ``AutoModelForCausalLM.from_pretrained(...)``: of tokens [n, m] it gives
            ``logits`` [n, m, vocab], and takes and gives a ``cache``.
        prompt_ids: [m], at least one token, such as that of the beginning.
        length: of continuations.
        eos_id: the token after which all others are the same one, with probability one.

    Errors:
        ValueError: the prompt is empty or no row, or a token is none of the vocabulary.
    """

    prompt_ids: Tensor

    def __init__(
        self, model: nn.Module, prompt_ids: Tensor, length: int, eos_id: int | None = None
    ) -> None:
        about: Any = model
        super().__init__(int(about.config.vocab_size), length)
        if prompt_ids.ndim != 1 or not len(prompt_ids):
            raise ValueError(f"a prompt is a row of tokens [m], not {list(prompt_ids.shape)}")
        ends = [] if eos_id is None else [eos_id]
        if any(not 0 <= token < self.vocab for token in [*prompt_ids.tolist(), *ends]):
            raise ValueError(f"tokens lie in [0, {self.vocab})")
        self.model, self.eos_id = model.eval(), eos_id
        self.register_buffer("prompt_ids", prompt_ids)

    def _ended(self, logits: Tensor, ended: Tensor) -> Tensor:
        """Logits [..., vocab], of rows [...] that have ended those of the last token alone."""
        if self.eos_id is None:
            return logits
        last = torch.full_like(logits[0], -math.inf)
        last[..., self.eos_id] = 0.0
        return torch.where(ended[..., None], last, logits)

    def _after(self, x: Tensor) -> Tensor:
        """Logits [n, i + 1, vocab] behind the prompt and each token of x [n, i]."""
        ids = torch.cat([self.prompt_ids.expand(len(x), -1), x], 1)
        logits = self.model(ids).logits[:, len(self.prompt_ids) - 1 :]
        last = -1 if self.eos_id is None else self.eos_id
        ended = nn.functional.pad((x == last).cumsum(1) > 0, (1, 0))
        return self._ended(logits, ended)

    def next_logits(self, prefix: Tensor) -> Tensor:
        return self._after(prefix)[:, -1]

    def log_prob(self, x: Tensor) -> Tensor:
        """Log probabilities [n] of continuations [n, length], in one pass."""
        log_p = self._after(x[:, :-1]).log_softmax(-1)
        return log_p.gather(-1, x[..., None]).squeeze(-1).sum(-1)

    @torch.no_grad()
    def sample(self, n: int) -> Tensor:
        """Continuations [n, length]; what was read is kept in the model's cache."""
        new, cache = self.prompt_ids.expand(n, -1), None
        ended = torch.zeros(n, dtype=torch.bool, device=new.device)
        found = []
        for _ in range(self.length):
            out = self.model(new, cache=cache, use_cache=True)
            cache = out.cache
            logits = self._ended(out.logits[:, -1], ended)
            token = draw(dist.Categorical(logits=logits), label="token")
            ended = ended | (token == self.eos_id) if self.eos_id is not None else ended
            found.append(token)
            new = token[:, None]
        return torch.stack(found, 1)
