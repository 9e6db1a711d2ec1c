"""Attention whose cost is linear in the number of tokens."""

from .nala import nala_attention, nala_feature_maps, nala_step, nala_weights
from .nala_layer import NaLaAttention, NaLaBlock
from .soft import gaussian_scores, newton_pinv, soft_attention
from .soft_layer import SoftAttention, SoftBlock

__all__ = [
    "NaLaAttention",
    "NaLaBlock",
    "SoftAttention",
    "SoftBlock",
    "gaussian_scores",
    "nala_attention",
    "nala_feature_maps",
    "nala_step",
    "nala_weights",
    "newton_pinv",
    "soft_attention",
]
