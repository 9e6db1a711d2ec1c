"""Predictions that do not depend on protected attributes: distance covariance as a penalty."""

from .covariance import ccdcov, conditional_dcov, dcor, dcov, jdcov
from .encoding import ProtectedEncoder
from .measures import chi_square_test, jsd_groups, permutation_test, unfairness_ratio
from .penalty import DCovPenalty, constrain

__all__ = [
    "DCovPenalty",
    "ProtectedEncoder",
    "ccdcov",
    "chi_square_test",
    "conditional_dcov",
    "constrain",
    "dcor",
    "dcov",
    "jdcov",
    "jsd_groups",
    "permutation_test",
    "unfairness_ratio",
]
