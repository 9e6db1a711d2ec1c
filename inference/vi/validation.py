"""An objective on other data, by which a run is stopped and its parameters are chosen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...ppl.distributions.data import as_arguments
from ...ppl.errors import ObjectiveError, ProgramError, located
from ...ppl.tensors.seeds import seeded
from .objective import Objective
from .processes import averaged


@dataclass(frozen=True)
class Validation:
    """An objective that a run does not climb, and that it is judged by.

    Args:
        args: in place of the arguments of the run: other data.
        objective: that of the run unless given.
        every: steps from one evaluation to the next.
        samples: how many estimates are averaged, with the same noise in each evaluation.
        patience: the run stops after so many evaluations without a rise; None: it goes on.
        best: leave the parameters at those of the best evaluation.
    """

    args: tuple[Any, ...] = ()
    objective: Objective | None = None
    every: int = 100
    samples: int = 16
    patience: int | None = 5
    best: bool = True


class Validating:
    """The evaluations of one run."""

    def __init__(
        self,
        validation: Validation | None,
        objective: Objective,
        parameters: Sequence[Tensor],
        seed: int,
    ) -> None:
        self.parameters, self.seed = parameters, seed
        self.found: list[tuple[int, float]] = []
        self.since, self.top = 0, -math.inf
        self.kept: list[Tensor] = []
        self.about = validation
        if validation is None:
            return
        if not isinstance(validation, Validation):
            what = f"validation is a Validation, and not {validation!r:.40}"
            raise ObjectiveError(located(what, hint="write validation=Validation((held_out,))"))
        for name in ("every", "samples"):
            if (number := getattr(validation, name)) < 1:
                raise ObjectiveError(located(f"a validation needs {name} above 0, not {number}"))
        self.objective = validation.objective or objective
        self.args = as_arguments(validation.args)

    def after(self, steps: int) -> bool:
        """Evaluate if it is time to; whether the run is to stop."""
        about = self.about
        if about is None or steps % about.every:
            return False
        value = self._value(about.samples)
        if not math.isfinite(value):
            what = f"the objective of the validation is {value} after {steps} steps"
            raise ProgramError(located(what, hint="look at the data that it is given"))
        self.found.append((steps, value))
        if value > self.top:
            self.top, self.since = value, 0
            self.kept = [p.detach().clone() for p in self.parameters] if about.best else []
        else:
            self.since += 1
        return about.patience is not None and self.since >= about.patience

    def _value(self, samples: int) -> float:
        """The mean over samples and processes."""
        with seeded(self.seed):
            values = self.objective.values(samples, *self.args)
        return float(averaged([values.mean()])[0])

    def finish(self) -> None:
        """Leave the parameters as they are to be."""
        for parameter, value in zip(self.parameters, self.kept, strict=False):
            parameter.data.copy_(value)

    @property
    def history(self) -> Tensor:
        return torch.tensor(self.found, dtype=torch.float64).reshape(-1, 2)

    @property
    def state(self) -> list[Any]:
        return [[list(each) for each in self.found], self.since, self.top, self.kept]

    @state.setter
    def state(self, kept: list[Any]) -> None:
        found, self.since, self.top, self.kept = kept
        self.found = [(steps, value) for steps, value in found]
