"""Priors of the weights of networks that make their functions resemble a Gaussian process."""

from .estimators import BNNClassifier, BNNRegressor
from .matching import WassersteinPriorMatcher
from .measurement import Grid, MeasurementSet
from .networks import Network
from .priors import FlowPrior, GaussianPrior, HierarchicalPrior, NetworkPrior
from .program import Classes, Normal, bnn, functions
from .targets import GPTarget, Hyperprior

__all__ = [
    "BNNClassifier",
    "BNNRegressor",
    "Classes",
    "FlowPrior",
    "GPTarget",
    "GaussianPrior",
    "Grid",
    "HierarchicalPrior",
    "Hyperprior",
    "MeasurementSet",
    "Network",
    "NetworkPrior",
    "Normal",
    "WassersteinPriorMatcher",
    "bnn",
    "functions",
]
