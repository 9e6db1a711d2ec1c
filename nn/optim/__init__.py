"""Optimisers for torch, and learners for data that come one by one."""

from .adamp import SGDP, AdamP, project_radial
from .bilevel import BOREP, BilevelProblem, hypergradient
from .domains import Ball, Box, Domain, Free, PositiveOrthant, Simplex
from .exponentiated import ExponentiatedSGD, egd_step, init_dale_
from .local_smoothness import gradient_normalized_smoothness
from .mirror import DynamicOptimisticMD, OnlineLearner, OptimisticMirrorDescent
from .normalized_logistic import NormalizedLogisticGD
from .radius import RadiusInfo, SoftmaxRadiusController, partition_radius, softmax_radius
from .smoothness import GradNormSmooth, gns_accept, gns_step

__all__ = [
    "BOREP",
    "SGDP",
    "AdamP",
    "Ball",
    "BilevelProblem",
    "Box",
    "Domain",
    "DynamicOptimisticMD",
    "ExponentiatedSGD",
    "Free",
    "GradNormSmooth",
    "NormalizedLogisticGD",
    "OnlineLearner",
    "OptimisticMirrorDescent",
    "PositiveOrthant",
    "RadiusInfo",
    "Simplex",
    "SoftmaxRadiusController",
    "egd_step",
    "gns_accept",
    "gns_step",
    "gradient_normalized_smoothness",
    "hypergradient",
    "init_dale_",
    "partition_radius",
    "project_radial",
    "softmax_radius",
]
