"""Activation functions for torch, with what is known of moments and entropy behind them."""

from .crrelu import CRReLU, crrelu
from .eafo import WAFBC, Corrected, EntropyTunedActivation, correction, entropy
from .moments import moment_map, selu_parameters
from .selu import (
    SELU,
    SNN,
    AlphaDropout,
    FeatureAlphaDropout,
    LayerMoments,
    alpha_dropout,
    check_self_normalizing,
    lecun_normal_,
    lecun_uniform_,
    selu,
    selu_dropout,
)

__all__ = [
    "SELU",
    "SNN",
    "WAFBC",
    "AlphaDropout",
    "CRReLU",
    "Corrected",
    "EntropyTunedActivation",
    "FeatureAlphaDropout",
    "LayerMoments",
    "alpha_dropout",
    "check_self_normalizing",
    "correction",
    "crrelu",
    "entropy",
    "lecun_normal_",
    "lecun_uniform_",
    "moment_map",
    "selu",
    "selu_dropout",
    "selu_parameters",
]
