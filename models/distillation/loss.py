"""The divergence of a student from a teacher of whom probabilities, top ones or samples are known.

Source: Flouro and Chadwick, Sparse Knowledge Distillation (arXiv 2601.03195); what to do about the
unknown tail is a choice.
"""

from __future__ import annotations

import math
import warnings
from typing import Literal

import torch
from torch import Tensor

from ...kernels.precision import widened
from .softening import Family, SofteningOperator, operator_of

Access = Literal["logits", "probs", "topk", "samples"]
Tail = Literal["drop", "uniform", "bucket"]


def _require_top(ids: Tensor, probs: Tensor, K: int | None) -> None:
    if ids.shape != probs.shape or ids.ndim == 0:
        raise ValueError(f"ids {list(ids.shape)} and probabilities {list(probs.shape)} differ")
    if bool((probs < 0).any()) or bool((probs.sum(-1) > 1 + 1e-4).any()):
        raise ValueError("top probabilities are not negative, and sum to at most one")
    if K is not None and (bool((ids < 0).any()) or bool((ids >= K).any())):
        raise ValueError(f"ids of the teacher lie in [0, {K})")
    in_order = ids.sort(-1).values
    if bool((in_order[..., 1:] == in_order[..., :-1]).any()):
        raise ValueError("a token is listed twice among the top ones")


def from_top_k(ids: Tensor, probs: Tensor, K: int, tail: Literal["drop", "uniform"]) -> Tensor:
    """Log probabilities [..., K] of a teacher known by its k most probable outcomes.

    Args:
        ids, probs: [..., k].
        tail: "drop" normalises them; "uniform" spreads the rest over the other outcomes.

    Errors:
        ValueError: an outcome is listed twice or out of range, or the masses are wrong.
    """
    _require_top(ids, probs, K)
    known = torch.zeros(*ids.shape[:-1], K, dtype=probs.dtype, device=probs.device)
    mass = probs.sum(-1, keepdim=True)
    if tail == "drop":
        return known.scatter(-1, ids, probs / mass).log()
    if tail != "uniform":
        raise ValueError(f"the tail is 'drop' or 'uniform' here, not {tail!r}")
    others = max(1, K - ids.shape[-1])
    return known.add((1 - mass).clamp(min=0) / others).scatter(-1, ids, probs).log()


def from_samples(ids: Tensor, K: int, prior: float = 0.5) -> Tensor:
    """Log probabilities [..., K] of a teacher known by outcomes [..., n]: the posterior mean under
    a Dirichlet prior.

    Errors:
        ValueError: an outcome is out of range, or the prior is not positive.
    """
    if prior <= 0 or bool((ids < 0).any()) or bool((ids >= K).any()):
        raise ValueError(f"outcomes lie in [0, {K}), and the prior {prior} is positive")
    counts = torch.zeros(*ids.shape[:-1], K, device=ids.device)
    counts = counts.scatter_add(-1, ids, torch.ones(ids.shape, device=ids.device))
    return ((counts + prior) / (ids.shape[-1] + prior * K)).log()


def _teacher(teacher: Tensor, access: str, size: int) -> Tensor:
    """Log probabilities [..., size]."""
    if access == "samples":
        return from_samples(teacher, size)
    if teacher.shape[-1] != size:
        raise ValueError(f"the teacher has {teacher.shape[-1]} outcomes, the student {size}")
    if bool(teacher.isnan().any()):
        raise ValueError("the teacher has entries that are not numbers")
    wide = widened(teacher)
    if access == "logits":
        return wide.log_softmax(-1)
    if bool((wide < 0).any()) or bool(((wide.sum(-1) - 1).abs() > 1e-4).any()):
        raise ValueError("the teacher's probabilities are negative, or do not sum to one")
    return wide.log()


def _bucketed(log_p: Tensor, ids: Tensor) -> Tensor:
    """Log probabilities [..., k + 1] of listed outcomes, and of all the others together."""
    listed = log_p.gather(-1, ids)
    others = log_p.scatter(-1, ids, -math.inf).logsumexp(-1, keepdim=True)
    return torch.cat([listed, others], -1)


def _divergence(log_q: Tensor, log_p: Tensor) -> Tensor:
    """KL(q, p) [...]; infinite, with a warning, where q has mass and p has none."""
    there = log_q > -math.inf
    away = torch.where(there, log_q, torch.zeros_like(log_q)) - log_p
    if bool((there & (log_p == -math.inf)).any()):
        warnings.warn("the student gives no mass to what the teacher does", stacklevel=3)
    return (log_q.exp() * torch.where(there, away, torch.zeros_like(away))).sum(-1)


def distillation_loss(
    student_logits: Tensor,
    teacher: Tensor | tuple[Tensor, Tensor],
    *,
    T: float = 2.0,
    op: Family | SofteningOperator = "power",
    access: Access = "logits",
    tail: Tail = "bucket",
    hard_targets: Tensor | None = None,
    weight: float = 1.0,
    reduction: Literal["mean", "sum", "none"] = "mean",
) -> Tensor:
    """T^2 KL of the softened student from the softened teacher.

    Args:
        student_logits: [..., k].
        teacher: by ``access``, logits or probabilities [..., k], a pair of ids and probabilities
            [..., j] of the top outcomes, or sampled ids [..., n].
        T: the temperature.
        op: "power", "mixture", "odds", or a function.
        tail: of top outcomes: "drop" and "uniform" as in :func:`from_top_k`; "bucket" takes all
            others for one outcome, which at T = 1 bounds the divergence from below.
        hard_targets: labels [...], whose cross-entropy has the weight 1 - ``weight``.
        reduction: over [...].

    Errors:
        ValueError: sizes do not fit, or probabilities are none.
    """
    size = student_logits.shape[-1]
    softened = operator_of(op)
    if not 0 <= weight <= 1 or (weight < 1 and hard_targets is None):
        raise ValueError(f"the weight is in [0, 1], and one without hard targets: {weight}")
    logits = widened(student_logits)
    log_p = logits.log_softmax(-1)
    if access == "topk":
        ids, probs = teacher
        if tail == "bucket":
            _require_top(ids, probs, size)
            rest = (1 - probs.sum(-1, keepdim=True)).clamp(min=0)
            log_q, log_p = torch.cat([probs, rest], -1).log(), _bucketed(log_p, ids)
        else:
            log_q = from_top_k(ids, probs, size, tail)
    elif access in ("logits", "probs", "samples"):
        assert isinstance(teacher, Tensor)
        log_q = _teacher(teacher, access, size)
    else:
        raise ValueError(f"access is 'logits', 'probs', 'topk' or 'samples', not {access!r}")
    loss = T**2 * _divergence(softened(log_q.to(log_p.dtype), T), softened(log_p, T))
    if hard_targets is not None:
        plain = torch.nn.functional.cross_entropy(
            logits.flatten(0, -2), hard_targets.flatten(), reduction="none"
        )
        loss = weight * loss + (1 - weight) * plain.reshape(loss.shape)
    if reduction == "none":
        return loss
    if reduction not in ("mean", "sum"):
        raise ValueError(f"the reduction is 'mean', 'sum' or 'none', not {reduction!r}")
    return loss.mean() if reduction == "mean" else loss.sum()
