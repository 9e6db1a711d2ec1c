"""Normalisation layers for torch, which activate too."""

from .evonorm import EvoNorm, convert_bn_act, evonorm

__all__ = ["EvoNorm", "convert_bn_act", "evonorm"]
