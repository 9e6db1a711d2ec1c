"""Optimisers for torch, and learners for data that come one by one."""

from .adamp import SGDP, AdamP, project_radial
from .bilevel import BOREP, BilevelProblem, hypergradient
from .domains import Ball, Box, Domain, Free, PositiveOrthant, Simplex
from .exponentiated import ExponentiatedSGD, egd_step, init_dale_
from .mirror import DynamicOptimisticMD, OnlineLearner, OptimisticMirrorDescent
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
    "OnlineLearner",
    "OptimisticMirrorDescent",
    "PositiveOrthant",
    "RadiusInfo",
    "Simplex",
    "SoftmaxRadiusController",
    "egd_step",
    "gns_accept",
    "gns_step",
    "hypergradient",
    "init_dale_",
    "partition_radius",
    "project_radial",
    "softmax_radius",
]
