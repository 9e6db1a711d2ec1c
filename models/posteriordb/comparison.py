"""How far a fit lies from the reference figures of a posterior, in standard errors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from ...inference import Fit
from ...inference.results.arviz import mcse, r_hat
from .files import content

QUANTILES = {"q05": 0.05, "q50": 0.5, "q95": 0.95}
FIGURES = ("mean", "sd", *QUANTILES)
R_HAT, Z = 1.01, 4.5  # what a fit must stay below


@dataclass(frozen=True)
class Comparison:
    """The greatest R-hat, and z = (estimate - reference) / standard error of both, by parameter.

    z: of each parameter its five figures, mean, sd and the quantiles of 5, 50 and 95 per cent.
    """

    r_hat: float
    z: dict[str, dict[str, float]]

    def worst(self, *figures: str) -> float:
        """The greatest |z| of these figures; of all, if none is named."""
        return max(abs(z[figure]) for z in self.z.values() for figure in figures or FIGURES)

    @property
    def passed(self) -> bool:
        """Whether the chains agree with each other and with the reference."""
        return self.r_hat < R_HAT and self.worst() < Z


def parameter(fit: Fit, name: str) -> Tensor:
    """The draws [chains, draws] of a parameter under its name in the reference, ``beta[1]``."""
    site, _, index = name.partition("[")
    x = fit[site]
    return x[:, :, int(index.rstrip("]")) - 1] if index else x


def figures(x: Any) -> dict[str, tuple[float, float]]:
    """Mean, sd and quantiles of draws [chains, draws], each with its Monte Carlo error."""
    found = {"mean": (float(np.mean(x)), mcse(x)), "sd": (float(np.std(x)), mcse(x, "sd"))}
    return found | {name: (float(np.quantile(x, q)), mcse(x, q)) for name, q in QUANTILES.items()}


def scores(x: Any, reference: Mapping[str, float]) -> dict[str, float]:
    """z of each figure of draws [chains, draws], with the errors of the reference counted in."""
    return {
        name: (value - reference[name]) / math.hypot(error, reference[f"mcse_{name}"])
        for name, (value, error) in figures(x).items()
    }


def compared(fit: Fit, name: str) -> Comparison:
    """A fit against the reference figures of the posterior of this name."""
    reference = content(name)["reference"]["summary"]
    draws = {each: parameter(fit, each).double().cpu().numpy() for each in reference}
    worst = max(r_hat(x) for x in draws.values())
    return Comparison(worst, {each: scores(x, reference[each]) for each, x in draws.items()})
