"""Functional Bayesian Tucker decomposition: tensors whose modes are real coordinates."""

from .decomposition import Decomposition
from .estimator import FunBaT
from .program import funbat, guide

__all__ = ["Decomposition", "FunBaT", "funbat", "guide"]
