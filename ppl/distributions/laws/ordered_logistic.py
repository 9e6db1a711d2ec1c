"""Ordered categories by a logistic variable between cut points."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.nn.functional import logsigmoid

from .tails import log_rest_of


class OrderedLogistic(dist.Categorical):  # type: ignore[misc]
    """The number of cut points below predictor + noise of a standard logistic law.

    Its log probabilities keep their digits far out, and it runs in lanes, which Pyro's does not.

    Args:
        predictor: [*batch] or a number.
        cutpoints: [*batch, K - 1], ascending; values are 0 to K - 1.
    """

    arg_constraints = {"predictor": constraints.real, "cutpoints": constraints.ordered_vector}

    def __init__(
        self, predictor: Tensor | float, cutpoints: Tensor, validate_args: bool | None = None
    ) -> None:
        predictor = torch.as_tensor(predictor, dtype=cutpoints.dtype)
        batch = torch.broadcast_shapes(predictor.shape, cutpoints.shape[:-1])
        self.predictor = predictor.expand(batch)
        self.cutpoints = cutpoints.expand(batch + cutpoints.shape[-1:])
        at = self.cutpoints - self.predictor[..., None]
        between = log_rest_of(at[..., :-1] - at[..., 1:])
        inner = logsigmoid(at[..., 1:]) + logsigmoid(-at[..., :-1]) + between
        logits = torch.cat([logsigmoid(at[..., :1]), inner, logsigmoid(-at[..., -1:])], -1)
        super().__init__(logits=logits, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> OrderedLogistic:
        batch = torch.Size(batch_shape)
        cutpoints = self.cutpoints.expand(batch + self.cutpoints.shape[-1:])
        return OrderedLogistic(self.predictor.expand(batch), cutpoints, validate_args=False)
