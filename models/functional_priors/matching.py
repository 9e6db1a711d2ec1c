"""Fitting a prior of weights to a law of functions, by Wasserstein distances at random inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from ...inference.vi.wasserstein import Fitting, Penalty, apart
from ...ppl import seeded, vmap
from ...ppl.errors import located
from .networks import Network
from .priors import NetworkPrior, prior_of
from .program import functions


class Inputs(Protocol):
    """What draws inputs [M, D]: a ``MeasurementSet`` or ``Grid``."""

    X: Tensor

    def draw(self) -> Tensor: ...


class WassersteinPriorMatcher:
    """Moves the parameters of a prior so that its functions resemble those of a target.

    Each step draws inputs, fits a new critic to draws of both laws there, and takes one step of
    RMSprop down E phi(f_prior) - E phi(f_target), by new draws of the prior.

    Args:
        prior: a prior, or the name of its family: "gaussian", "hierarchical", "flow".
        target: a program from x [M, D] to f [M, K], such as a ``GPTarget``.
        critic_steps, critic_lr, penalty, penalty_type, critic_width, enough: of ``Fitting``.
        lr: of RMSprop; n_samples: draws of each law in a step.
        clip: the largest norm of the gradient of the prior; our choice, as is a fresh state of the
            critic's optimiser for each critic.

    Attributes:
        prior, and history_: of each step, E phi(f_prior) - E phi(f_target).

    Errors:
        ValueError: a setting is out of range, or inputs, outputs and network do not fit.

    Source: arXiv 2011.12829, algorithm 1.
    """

    def __init__(
        self,
        net: Network,
        prior: NetworkPrior | str,
        target: Callable[[Tensor], Tensor],
        mset: Inputs,
        critic_steps: int = 200,
        critic_lr: float = 0.02,
        lr: float = 0.05,
        n_samples: int = 128,
        penalty: float = 10.0,
        penalty_type: Penalty = "two-sided",
        critic_width: int = 200,
        enough: float = 0.1,
        clip: float = 10.0,
    ) -> None:
        if min(lr, clip) <= 0 or n_samples < 2:
            what = f"lr={lr}, clip={clip}, n_samples={n_samples}"
            raise ValueError(located(what, hint="lr and clip are positive, n_samples 2 at least"))
        if mset.X.shape[1] != net.inputs:
            what = f"inputs have {mset.X.shape[1]} numbers, and the network takes {net.inputs}"
            raise ValueError(located(what))
        self.net, self.prior, self.target, self.mset = net, prior_of(prior), target, mset
        self.functions = functions(net, self.prior)
        self.fitting = Fitting(
            critic_steps, critic_lr, penalty, penalty_type, critic_width, enough=enough
        )
        self.n_samples, self.clip = n_samples, clip
        self._optimizer = torch.optim.RMSprop(self.prior.parameters(), lr=lr)
        self.history_: list[float] = []

    def fit(self, n_iter: int, seed: int | None = None) -> list[float]:
        """Take ``n_iter`` steps more, and give the history of all.

        Errors:
            ValueError: the target has another number of outputs than the network.
            FloatingPointError: a loss is not finite; it names the step.
            NumericalError: the kernel of the target is not positive semi-definite.
        """
        with seeded(seed):
            for _ in range(n_iter):
                self.history_.append(self._step())
        return self.history_

    def _step(self) -> float:
        number, x = len(self.history_) + 1, self.mset.draw()
        with torch.no_grad():
            theirs, ours = self._drawn(self.target, x), self._drawn(self.functions, x)
        if theirs.shape != ours.shape:
            what = f"a function of the target has values {list(theirs.shape[1:])}"
            hint = f"those of the network are {list(ours.shape[1:])}, [outputs, inputs]"
            raise ValueError(located(what, hint=hint))
        critic = self.fitting.fitted(ours, theirs)
        loss = apart(critic.frozen, self._drawn(self.functions, x), theirs)
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self.prior.parameters(), self.clip)
        if not bool(loss.isfinite() & norm.isfinite()):
            what = f"the distance or its gradient is not finite at step {number}"
            raise FloatingPointError(located(what, hint="lower lr, or scale the inputs"))
        self._optimizer.step()
        return float(loss.detach())

    def _drawn(self, p: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Draws [S, K, M] of functions at x."""
        found: Tensor = vmap(lambda: p(x), size=self.n_samples)()
        return found.mT
