"""Laws that neither torch nor Pyro has, or has in another form."""

from ..inverse_wishart import InverseWishart, NormalInverseWishart
from .areal import CAR, ICAR
from .autoregressive import AR, stationary
from .censored import Censored
from .extremes import GeneralizedExtremeValue
from .hurdle import (
    Hurdle,
    HurdleGamma,
    HurdleLogNormal,
    HurdleNegativeBinomial,
    HurdlePoisson,
    ZeroInflatedBinomial,
)
from .neighbours import Neighbours
from .ordered_logistic import OrderedLogistic
from .random_walk import GaussianRandomWalk
from .skew_normal import SkewNormal
from .truncated import Truncated
from .zero_sum import ZeroSumNormal

__all__ = [
    "AR",
    "CAR",
    "ICAR",
    "Censored",
    "GaussianRandomWalk",
    "GeneralizedExtremeValue",
    "Hurdle",
    "HurdleGamma",
    "HurdleLogNormal",
    "HurdleNegativeBinomial",
    "HurdlePoisson",
    "InverseWishart",
    "Neighbours",
    "NormalInverseWishart",
    "OrderedLogistic",
    "SkewNormal",
    "Truncated",
    "ZeroInflatedBinomial",
    "ZeroSumNormal",
    "stationary",
]
