"""Normalisation layers for torch."""

from .evonorm import EvoNorm, convert_bn_act, evonorm
from .fusion import fuse_into, fuse_unified_norm
from .l1 import L1BatchNorm1d, L1BatchNorm2d, L1LayerNorm, l1_layer_norm
from .unified import UnifiedNorm, convert_layernorm

__all__ = [
    "EvoNorm",
    "L1BatchNorm1d",
    "L1BatchNorm2d",
    "L1LayerNorm",
    "UnifiedNorm",
    "convert_bn_act",
    "convert_layernorm",
    "evonorm",
    "fuse_into",
    "fuse_unified_norm",
    "l1_layer_norm",
]
