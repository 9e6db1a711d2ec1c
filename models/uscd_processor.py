"""Contrastive decoding for the text generation of ``transformers``.

Source: Wang et al., USCD (arXiv 2409.05923).  The lame prompt has a cache of its own, and
is fed the tokens that were drawn after the full one.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor

from .decoding import uscd_scores


@dataclass
class Stats:
    """Steps, rows of them that were not finished, and what became of those."""

    steps: int = 0
    rows: int = 0
    contrasted: int = 0
    fallbacks: int = 0

    @property
    def contrast_rate(self) -> float:
        """The share of rows where the contrast was used."""
        return self.contrasted / max(1, self.rows)


class USCDLogitsProcessor(LogitsProcessor):  # type: ignore[misc]
    """The scores of :func:`~pushforward.models.decoding.uscd_scores` at every step.

    Give it to ``model.generate(..., logits_processor=LogitsProcessorList([processor]))``, for
    greedy decoding or sampling; it comes before temperature and truncation.  One processor serves
    one generation, or one after each ``reset()``.

    Args:
        model: that generates; or any function of tokens [b, n] that gives logits [b, n, v], which
            is then called anew on all tokens.
        lame_input_ids: the prompt without its examples [b, n], or [1, n] for all rows.
        lame_attention_mask: of that prompt, zero on padding, which is on the left.
        settings: of ``uscd_scores``: alpha, eta, a threshold, vocab_size.

    Errors:
        ValueError: the lame prompt is empty, or has another number of rows.
        RuntimeError: another generation without ``reset()``.
        NotImplementedError: beam search, or a model with an encoder.
    """

    def __init__(
        self,
        model: Any,
        lame_input_ids: Tensor,
        lame_attention_mask: Tensor | None = None,
        **settings: Any,
    ) -> None:
        if lame_input_ids.ndim != 2 or lame_input_ids.numel() == 0:
            raise ValueError("the lame prompt is empty; give it a token that begins a text")
        self._config = getattr(model, "config", None)
        if getattr(self._config, "is_encoder_decoder", False):
            raise NotImplementedError("models with an encoder are not supported")
        self.model, self.lame_input_ids = model, lame_input_ids
        self.lame_attention_mask, self.settings = lame_attention_mask, settings
        ends = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
        self._ends = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
        self._warned = False
        self.reset()

    def reset(self) -> None:
        """Forget the last generation."""
        self.stats = Stats()
        self._seen: Tensor | None = None
        self._fed: Tensor | None = None
        self._mask: Tensor | None = None
        self._cache: Any = None
        self._finished: Tensor | None = None

    @torch.no_grad()
    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        new = self._new_tokens(input_ids)
        found = uscd_scores(scores, self._lame_logits(new).to(scores.dtype), **self.settings)
        assert self._finished is not None
        alive = ~self._finished
        self.stats.steps += 1
        self.stats.rows += int(alive.sum())
        self.stats.contrasted += int((found.contrasted & alive).sum())
        self.stats.fallbacks += int((found.fallback & alive).sum())
        return found.scores.to(scores.dtype)

    def _new_tokens(self, input_ids: Tensor) -> Tensor:
        """The tokens that the lame branch has not seen: its prompt at first, then those drawn."""
        rows = len(input_ids)
        seen, self._seen = self._seen, input_ids
        if seen is None:
            if len(self.lame_input_ids) not in (1, rows):
                what = f"{len(self.lame_input_ids)} lame prompts do not fit {rows} rows"
                raise ValueError(f"{what}; beam search is not supported")
            self._finished = torch.zeros(rows, dtype=torch.bool, device=input_ids.device)
            return self.lame_input_ids.to(input_ids.device).expand(rows, -1)
        if input_ids.shape != (rows, seen.shape[1] + 1) or len(seen) != rows:
            raise RuntimeError("this is another generation: call reset() before it")
        if not torch.equal(input_ids[:, :-1], seen):
            raise NotImplementedError("rows changed places: beam search is not supported")
        assert self._finished is not None
        for end in self._ends:
            self._finished = self._finished | (input_ids[:, -1] == end)
        return input_ids[:, -1:]

    def _lame_logits(self, new: Tensor) -> Tensor:
        """Logits [b, v] behind the lame prompt and all drawn tokens."""
        if self._config is None:
            return self._anew(new)
        mask = torch.ones_like(new)
        if self._mask is None and self.lame_attention_mask is not None:
            mask = self.lame_attention_mask.to(new.device).expand_as(new)
        self._mask = mask if self._mask is None else torch.cat([self._mask, mask], 1)
        places = (self._mask.cumsum(1) - 1).clamp(min=0)[:, -new.shape[1] :]
        about = {"attention_mask": self._mask, "position_ids": places}
        out = self.model(new, cache=self._cache, use_cache=True, **about)
        self._cache = out.cache
        logits: Tensor = out.logits[:, -1]
        return logits

    def _anew(self, new: Tensor) -> Tensor:
        if self.lame_attention_mask is not None and not bool(self.lame_attention_mask.all()):
            raise ValueError("a model that is a function takes no padding in the lame prompt")
        if not self._warned:
            warnings.warn("the model has no cache: every step reads all tokens", stacklevel=4)
            self._warned = True
        self._fed = new if self._fed is None else torch.cat([self._fed, new], 1)
        logits: Tensor = self.model(self._fed)[:, -1]
        return logits
