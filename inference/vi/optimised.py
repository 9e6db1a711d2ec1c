"""What a run of ``SVI`` gives: an objective after an optimisation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...ppl.errors import ObjectiveError, located
from ..results.fit import Fit
from .objective import Objective
from .posterior import posterior


@dataclass
class Optimised:
    """An objective after an optimisation.

    ``history``: the estimates of the objective, by step.  ``noise``: of each parameter the norm of
    its gradient's standard deviation, and of its mean, over the last steps.  ``site_noise``: the
    same of each choice, by the parameters of its law, if the driver was to monitor it.
    ``validation`` [evaluations, 2]: steps, and the objective of ``SVI(validation=)`` after them.
    """

    objective: Objective
    history: Tensor
    noise: dict[str, tuple[float, float]]
    site_noise: dict[str, tuple[float, float]] = field(default_factory=dict)
    validation: Tensor = field(default_factory=lambda: torch.zeros(0, 2))
    seconds: float = 0.0
    stopped: bool = False
    interrupted: bool = False
    args: tuple[Any, ...] = field(default=(), repr=False)

    @property
    def value(self) -> float:
        """The mean of the last tenth of the estimates."""
        last = max(1, len(self.history) // 10)
        return float(self.history[-last:].mean())

    def posterior(self, *args: Any, draws: int = 1000, seed: int = 0) -> Fit:
        """Draws of the guide with their importance weights: see ``vi.posterior``.

        The objective's first two arguments must be model and guide; ``args`` are those of the run
        unless others are given.
        """
        if len(self.objective.bound) < 2:
            what = f"{self.objective!r} does not begin with a model and a guide"
            raise ObjectiveError(located(what, hint="use posterior(model, guide, *args)"))
        model, guide = self.objective.bound[:2]
        return posterior(model, guide, *(args or self.args), draws=draws, seed=seed)

    def __repr__(self) -> str:
        end = " (interrupted)" if self.interrupted else " (stopped early)" if self.stopped else ""
        lines = [
            f"{self.objective!r} after {len(self.history)} steps: {self.value:.4f}{end}, "
            f"{self.seconds:.1f} s"
        ]
        for what, noise in (("gradient of", self.noise), ("at site", self.site_noise)):
            worst = sorted(noise.items(), key=lambda item: -item[1][0])[:5]
            lines += [f"  {what} {n}: {mean:.3g}, sd {sd:.3g}" for n, (sd, mean) in worst]
        return "\n".join(lines)
