"""Gaussian processes: kernels, means, and the laws of functions seen at points, with noise or not.

``Process`` is exact.  ``FITC``, ``VFE`` and ``Hilbert`` approximate it at less cost, ``Kronecker``
is exact on grids, ``StudentProcess`` has tails, and ``Splines`` are curves of another kind.
"""

from .changing import ChangePoint, Gibbs, Linear, Polynomial, WhiteNoise
from .given import JITTER, Given
from .hilbert import Advice, Hilbert, advised
from .kernel import Constant, Kernel, On, Product, Scaled, Sum
from .kronecker import Kronecker
from .kronecker_normal import KroneckerNormal
from .low_rank import LowRank
from .means import ConstantMean, LinearMean, zero
from .process import Process
from .sparse import FITC, VFE, Inducing
from .splines import Splines
from .stationary import (
    Matern12,
    Matern32,
    Matern52,
    Periodic,
    RationalQuadratic,
    SquaredExponential,
)
from .student import StudentProcess

__all__ = [
    "FITC",
    "JITTER",
    "VFE",
    "Advice",
    "ChangePoint",
    "Constant",
    "ConstantMean",
    "Gibbs",
    "Given",
    "Hilbert",
    "Inducing",
    "Kernel",
    "Kronecker",
    "KroneckerNormal",
    "Linear",
    "LinearMean",
    "LowRank",
    "Matern12",
    "Matern32",
    "Matern52",
    "On",
    "Periodic",
    "Polynomial",
    "Process",
    "Product",
    "RationalQuadratic",
    "Scaled",
    "Splines",
    "SquaredExponential",
    "StudentProcess",
    "Sum",
    "WhiteNoise",
    "advised",
    "zero",
]
