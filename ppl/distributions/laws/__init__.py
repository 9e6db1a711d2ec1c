"""Laws that neither torch nor Pyro has."""

from .censored import Censored
from .hurdle import (
    Hurdle,
    HurdleGamma,
    HurdleLogNormal,
    HurdleNegativeBinomial,
    HurdlePoisson,
    ZeroInflatedBinomial,
)
from .truncated import Truncated

__all__ = [
    "Censored",
    "Hurdle",
    "HurdleGamma",
    "HurdleLogNormal",
    "HurdleNegativeBinomial",
    "HurdlePoisson",
    "Truncated",
    "ZeroInflatedBinomial",
]
