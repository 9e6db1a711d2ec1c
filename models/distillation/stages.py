"""A student that is pruned and taught in turns.

Source: Flouro and Chadwick, Sparse Knowledge Distillation (arXiv 2601.03195): small steps from
dense to sparse do better than one great step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ...inference.runs.progress import Progress
from .loss import distillation_loss
from .pruning import MagnitudePruner


class MultiStage:
    """Prune a student in stages, and after each teach it for some steps.

    For a fixed number of steps in all, more stages are better on scikit-learn's digits, at least
    up to 20 of 10 steps each.  Adam goes on through the stages; what is pruned is forgotten.

    Args:
        teacher: gives logits [b, k] of inputs [b, ...]; its mode is left as it is.
        student: the same; it is changed.
        stages, steps_per_stage: how often, and for how long.
        target: the share of weights that is zero in the end.
        lr: of Adam.
        pruner: settings of :class:`MagnitudePruner`; ``loss``: of :func:`distillation_loss`.
        progress: show a progress bar.

    Errors:
        ValueError: there is no stage or no step.
    """

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module,
        stages: int,
        steps_per_stage: int,
        target: float,
        lr: float = 1e-3,
        pruner: dict[str, Any] | None = None,
        loss: dict[str, Any] | None = None,
        progress: bool = True,
    ) -> None:
        if stages < 1 or steps_per_stage < 1:
            raise ValueError(f"there are stages and steps: {stages}, {steps_per_stage}")
        self.teacher, self.student, self.stages = teacher, student, stages
        self.steps_per_stage, self.progress = steps_per_stage, progress
        self.pruner = MagnitudePruner(student, target, **(pruner or {}))
        self.optimizer = torch.optim.Adam(student.parameters(), lr=lr)
        self.loss = loss or {}

    def fit(self, loader: Iterable[Any]) -> list[float]:
        """Go through all stages on batches of the loader, again and again; the losses of all steps.

        A batch is a tensor of inputs, or a sequence that begins with one.

        Errors:
            ValueError: the loader is empty.
        """
        losses = []
        batches = _endless(loader)
        total = self.stages * self.steps_per_stage
        with Progress(total, "distilling", self.progress) as bar:
            for stage in range(1, self.stages + 1):
                self.pruner.step(stage, self.stages, self.optimizer)
                for _ in range(self.steps_per_stage):
                    losses.append(self._learn(next(batches)))
                    bar.advance(density=self.pruner.density, loss=losses[-1])
        return losses

    def _learn(self, x: Tensor) -> float:
        with torch.no_grad():
            teacher = self.teacher(x)
        loss = distillation_loss(self.student(x), teacher, **self.loss)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())


def _endless(loader: Iterable[Any]) -> Iterator[Tensor]:
    while True:
        batch = None
        for batch in loader:
            yield batch if isinstance(batch, Tensor) else batch[0]
        if batch is None:
            raise ValueError("the loader is empty")
