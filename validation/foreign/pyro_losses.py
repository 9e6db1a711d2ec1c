"""Pyro's losses of SVI: loss and gradient as a program, whose choices are those of the guide."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from ...ppl.language.effects import Message, draw, stack
from .outside import outside

NAME = "parameters"
Estimator = Callable[[Tensor], tuple[Tensor, Tensor]]


def pyro_loss(make: Callable[[], Any], model: Callable[..., Any], guide: Any) -> Estimator:
    """A loss and its gradient, for ``check.unbiased``.

    Args:
        make: makes the loss anew for each run, as one that learns a baseline would remember
            others: ``TraceGraph_ELBO``, ``lambda: RenyiELBO(alpha=0.5, num_particles=3)``.
        model, guide: programs of Pyro that take the parameters [d] as their argument.

    Returns:
        A program from parameters [d] to the loss [] and its gradient [d].
    """

    def estimate(at: Tensor) -> tuple[Tensor, Tensor]:
        def taken(p: Callable[..., Any]) -> Callable[[], Any]:
            return lambda: p(pyro.param(NAME))

        with pyro.get_param_store().scope(), torch.enable_grad(), _Choosing():
            parameters = pyro.param(NAME, at.detach().clone())
            loss = make().loss_and_grads(taken(model), taken(guide))
        slope = torch.zeros_like(at) if parameters.grad is None else parameters.grad
        return torch.as_tensor(loss, dtype=at.dtype), slope

    estimate.__name__ = estimate.__qualname__ = type(make()).__name__
    return estimate


class _Choosing(Messenger):  # type: ignore[misc]
    """Makes choices of the sites that have no value within, and hides all of them."""

    def _process_message(self, msg: Message) -> None:
        if msg["type"] != "sample":
            return
        msg["stop"] = True
        if msg["value"] is None and not msg["is_observed"]:
            with outside(stack().index(self)):
                msg["value"], msg["done"] = draw(msg["fn"], label=msg["name"]), True
