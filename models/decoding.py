"""Contrastive decoding where the next token is uncertain.

A "lame" prompt is the prompt without its examples.  Where the next token after the full prompt is
uncertain, the distribution after the lame prompt, the habit of the model, is subtracted.

Source: Wang et al., USCD: Improving Code Generation of LLMs by Uncertainty-Aware Selective
Contrastive Decoding (arXiv 2409.05923), and its public code, which is the reference where the paper
leaves a choice.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from pyro import distributions as dist
from torch import Tensor

from ..inference.vi.divergences import JENSEN_SHANNON


class Scores(NamedTuple):
    """``scores`` [..., v]: log masses, minus infinity where a token has none.  Of each row [...]:
    whether the contrast was used, and whether it left no token, so that the plain scores stand."""

    scores: Tensor
    contrasted: Tensor
    fallback: Tensor


def std_threshold_of(collision: float, vocabulary: int) -> float:
    """The unbiased deviation of probabilities whose squares sum to ``collision``."""
    return math.sqrt((collision - 1 / vocabulary) / (vocabulary - 1))


def uscd_scores(
    standard_logits: Tensor,
    lame_logits: Tensor,
    *,
    alpha: float | Literal["js"] = 0.7,
    eta: float = 1 / 3,
    collision_threshold: float | None = None,
    std_threshold: float | None = None,
    vocab_size: int | None = None,
) -> Scores:
    """Scores of the next token from its logits [..., v] after the full and after the lame prompt.

    A row is certain if the squares of its probabilities p sum to more than the threshold: its
    scores are log p.  Elsewhere they are log(p - alpha q), for tokens with p at least eta over v.

    Args:
        alpha: the weight of the lame distribution q; "js" takes, row by row, their Jensen-Shannon
            divergence over log 2, which is not in the paper.
        eta: how plausible a token must be, relative to the mean.
        collision_threshold: of the sum of squares, in (1 / v, 1]; 0.392 unless a threshold is
            given.  It means the same for every vocabulary.
        std_threshold: in its place, of the unbiased standard deviation of p over the vocabulary.
        vocab_size: how many of the last axis are tokens; the rest is padding, and gets no mass.

    Errors:
        ValueError: shapes differ, or a number is out of range.
        TypeError: logits are no floating point numbers, or alpha is no number.
    """
    size = _vocabulary(standard_logits, lame_logits, vocab_size)
    threshold = _threshold(collision_threshold, std_threshold, size)
    if (not isinstance(alpha, int | float) and alpha != "js") or not isinstance(eta, int | float):
        raise TypeError("alpha and eta are numbers")
    if (alpha != "js" and alpha < 0) or eta < 0:
        raise ValueError(f"alpha and eta are not negative: {alpha}, {eta}")
    wide = torch.float64 if standard_logits.dtype == torch.float64 else torch.float32
    log_p = standard_logits[..., :size].to(wide).log_softmax(-1)
    p, q = log_p.exp(), lame_logits[..., :size].to(wide).softmax(-1)
    certain = (p**2).sum(-1) > threshold
    plausible = p >= eta / size
    weight = jensen_shannon(p, q)[..., None] / math.log(2) if alpha == "js" else alpha
    mass = torch.where(plausible, p - weight * q, torch.zeros_like(p))
    left = mass > 0
    contrast = torch.where(left, mass.clamp(min=torch.finfo(wide).tiny).log(), -math.inf)
    usable = left.any(-1) & torch.isfinite(mass).all(-1)
    contrasted = ~certain & usable
    scores = torch.where(contrasted[..., None], contrast, log_p)
    padding = standard_logits.shape[-1] - size
    scores = torch.nn.functional.pad(scores, (0, padding), value=-math.inf)
    return Scores(scores, contrasted, ~certain & ~usable)


def contrast(standard_logits: Tensor, lame_logits: Tensor, **settings: Any) -> dist.Categorical:
    """The distribution of the next token under :func:`uscd_scores`, to be drawn from or observed.

    A token that the contrast leaves out has probability zero: as a proposal it does not cover p.
    """
    return dist.Categorical(logits=uscd_scores(standard_logits, lame_logits, **settings).scores)


def _vocabulary(standard: Tensor, lame: Tensor, vocab_size: int | None) -> int:
    if standard.shape != lame.shape:
        what = f"standard logits {list(standard.shape)} and lame logits {list(lame.shape)} differ"
        raise ValueError(what)
    if not (standard.is_floating_point() and lame.is_floating_point()):
        raise TypeError(f"logits are floating point numbers, not {standard.dtype}, {lame.dtype}")
    size = standard.shape[-1] if vocab_size is None else vocab_size
    if not 2 <= size <= standard.shape[-1]:
        raise ValueError(f"a vocabulary has 2 to {standard.shape[-1]} tokens here, not {size}")
    return size


def _threshold(collision: float | None, std: float | None, size: int) -> float:
    """Of the sum of squares."""
    if collision is not None and std is not None:
        raise ValueError("give one threshold: of the collision probability, or of the deviation")
    if std is not None:
        if std < 0:
            raise ValueError(f"a standard deviation is not negative: {std}")
        return std**2 * (size - 1) + 1 / size
    collision = 0.392 if collision is None else collision
    if not 1 / size < collision <= 1:
        raise ValueError(f"a collision probability lies in (1 / {size}, 1], not {collision}")
    return collision


def jensen_shannon(p: Tensor, q: Tensor) -> Tensor:
    """The Jensen-Shannon divergence [...] of distributions [..., v], in nats."""
    return JENSEN_SHANNON.between(p, q) / 2


def lame_prompt(
    prompt: str, style: Literal["docstring", "fewshot"] | Callable[[str], str] = "docstring"
) -> str:
    """The prompt without its examples.

    Args:
        style: "docstring" leaves out doctests (">>>" lines and what they print) and paragraphs that
            begin with "Example"; "fewshot" all but the last block behind a blank line; or a
            function.

    Errors:
        ValueError: there is no such style.
    """
    if callable(style):
        return style(prompt)
    if style == "fewshot":
        return prompt.rstrip().split("\n\n")[-1]
    if style != "docstring":
        raise ValueError(f"the style is 'docstring', 'fewshot' or a function, not {style!r}")
    kept, skipping = [], False
    for line in prompt.split("\n"):
        text = line.strip()
        if text.startswith(">>>") or re.match(r"(for example|examples?\b.*:)", text, re.IGNORECASE):
            skipping = True
            continue
        if skipping and text and not text.startswith(('"""', "'''")):
            continue
        skipping = False
        kept.append(line)
    return "\n".join(kept)
