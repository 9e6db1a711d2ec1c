"""Normalisation layers."""

from .evonorm import EvoNorm, convert_bn_act, evonorm

__all__ = ["EvoNorm", "convert_bn_act", "evonorm"]
