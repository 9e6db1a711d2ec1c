"""Draws that are made of given uniform numbers, in the order in which they are asked for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...ppl.distributions.data import value_dtype
from ...ppl.language.effects import Message, is_draw
from ...ppl.language.handlers import Handler
from .quantiles import by_quantile, numbers_of


class ByPoints(Handler):
    """Within, what is drawn is made of the numbers u [d], as long as they last.

    What has no quantile, and what comes after, is drawn as ever.  ``asked`` counts the numbers that
    draws could have used.
    """

    lane_wise = False

    def __init__(self, u: Tensor) -> None:
        super().__init__()
        self.u = u

    def __enter__(self) -> Any:
        self.asked = 0
        return super().__enter__()

    def state(self) -> Any:
        return self.asked

    def restore(self, state: Any) -> None:
        self.asked = state

    def _process_message(self, msg: Message) -> None:
        if msg["type"] != "sample" or not is_draw(msg) or msg["value"] is not None:
            return
        if (count := numbers_of(msg["fn"])) is None:
            return
        first, self.asked = self.asked, self.asked + count
        if self.asked <= len(self.u):
            msg["value"] = by_quantile(msg["fn"], self.u[first : self.asked])
            msg["done"] = msg["stop"] = True


class Counting(ByPoints):
    """Within, what is drawn is a median or a mean; ``asked`` says how many numbers that were."""

    def __init__(self) -> None:
        super().__init__(torch.zeros(0))

    def _process_message(self, msg: Message) -> None:
        if msg["type"] != "sample" or not is_draw(msg) or msg["value"] is not None:
            return
        count = numbers_of(msg["fn"])
        self.u = torch.full((self.asked + (count or 0),), 0.5, dtype=torch.float64)
        super()._process_message(msg)
        if count is None:
            msg["value"], msg["done"], msg["stop"] = _typical(msg["fn"]), True, True


def _typical(law: Any) -> Tensor:
    """The mean of a law, or zero where it has none, as a value of it."""
    zero = torch.zeros(law.batch_shape + law.event_shape)
    try:
        mean = torch.nan_to_num(law.mean)
    except (NotImplementedError, AttributeError):
        mean = zero
    whole = getattr(law.support, "is_discrete", False)
    return (mean.round() if whole else mean).expand(zero.shape).to(value_dtype(law))
