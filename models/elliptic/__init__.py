"""Elliptic equations of a variational kind, solved with an account of their Barron norm."""

from .descent import BarronDescent, Descent, solution, unrolled
from .networks import CosineNetwork, TwoLayerNetwork, fit_ritz, projected_descent
from .problem import (
    EllipticVariational,
    LogCosh,
    Poisson,
    RegularisedPLaplace,
    SemilinearCubic,
    barron_norm,
)

__all__ = [
    "BarronDescent",
    "CosineNetwork",
    "Descent",
    "EllipticVariational",
    "LogCosh",
    "Poisson",
    "RegularisedPLaplace",
    "SemilinearCubic",
    "TwoLayerNetwork",
    "barron_norm",
    "fit_ritz",
    "projected_descent",
    "solution",
    "unrolled",
]
