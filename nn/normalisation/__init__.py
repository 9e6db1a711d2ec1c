"""Normalisation layers for torch."""

from .evonorm import EvoNorm, convert_bn_act, evonorm
from .l1 import L1BatchNorm1d, L1BatchNorm2d, L1LayerNorm, l1_layer_norm

__all__ = [
    "EvoNorm",
    "L1BatchNorm1d",
    "L1BatchNorm2d",
    "L1LayerNorm",
    "convert_bn_act",
    "evonorm",
    "l1_layer_norm",
]
