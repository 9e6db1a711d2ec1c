"""Eight schools: the effect of coaching on test scores, with data and reference posterior."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files

import torch
from torch import Tensor

from .. import deterministic, dist, plate, program, sample

SCHOOLS = ["A", "B", "C", "D", "E", "F", "G", "H"]


@program
def eight_schools(sigma: Tensor) -> Tensor:
    """Effects theta of schools around a common one, non-centred; y has standard errors sigma."""
    mu = sample("mu", dist.Normal(0.0, 5.0))
    tau = sample("tau", dist.HalfCauchy(5.0))
    with plate("school", len(sigma)):
        z = sample("z", dist.Normal(0.0, 1.0))
        theta = deterministic("theta", mu + tau * z)
        sample("y", dist.Normal(theta, sigma))
    return theta


@dataclass(frozen=True)
class EightSchools:
    """The data (Rubin 1981) and posteriordb's reference summary by parameter and statistic."""

    sigma: Tensor
    y: Tensor
    reference: dict[str, dict[str, float]]
    licence: str


def load() -> EightSchools:
    """Read the data set that is shipped with the package."""
    content = json.loads(files(__package__).joinpath("eight_schools.json").read_text())
    data, summary = content["data"], content["reference"]["summary"]
    reference = {
        name if "[" not in name else f"theta[{int(name[6:-1]) - 1}]": row
        for name, row in summary.items()
    }
    return EightSchools(
        torch.tensor(data["sigma"], dtype=torch.float64),
        torch.tensor(data["y"], dtype=torch.float64),
        reference,
        content["licence"],
    )
