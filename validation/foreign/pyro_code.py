"""Pyro's Markov kernels (HMC, NUTS): one transition as a program from state to state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from ...ppl.language.effects import Message
from ...ppl.language.handlers import Sealed

State = Tensor | dict[str, Tensor]
Potential = Callable[[dict[str, Tensor]], Tensor]
NAME = "x"


def pyro_kernel(make: Callable[[Potential], Any], log_density: Callable[[Any], Tensor]) -> Any:
    """One transition of a kernel of Pyro on a state [...], or tensors by name, made anew for each.

    Args:
        make: from a potential to the kernel, with adaptation off:
            ``lambda u: NUTS(potential_fn=u, step_size=0.5, adapt_step_size=False,
            adapt_mass_matrix=False)``.
        log_density: of a state, on all of R^n.
    """

    def potential(state: dict[str, Tensor]) -> Tensor:
        with Sealed():
            return -log_density(state[NAME] if set(state) == {NAME} else state)

    def transition(state: State) -> State:
        named = state if isinstance(state, dict) else {NAME: state}
        kernel = make(potential)
        kernel.initial_params = named
        with Sealed():
            kernel.setup(0)
        with _Drawing(), torch.enable_grad():
            found = {name: x.detach() for name, x in kernel.sample(named).items()}
        return found if isinstance(state, dict) else found[NAME]

    transition.__name__ = transition.__qualname__ = type(make(potential)).__name__
    return transition


class _Drawing(Messenger):  # type: ignore[misc]
    """Makes choices of the sites within: those of a sampler are no part of a trace."""

    def _process_message(self, msg: Message) -> None:
        if msg["type"] == "sample" and not msg["is_observed"]:
            more = {"draw": True, "_do_not_trace": True, "is_auxiliary": True}
            msg["infer"] = {**(msg["infer"] or {}), **more}
