"""Sparse students of teachers that are known by their probabilities."""

from .loss import distillation_loss, from_samples, from_top_k
from .pruning import MagnitudePruner
from .softening import (
    AxiomReport,
    MixtureSoftening,
    OddsSoftening,
    PowerSoftening,
    SofteningOperator,
    are_equivalent,
    check_axioms,
    soften,
)
from .stages import MultiStage
from .theory import Decomposition, bias_variance, homotopy_bound

__all__ = [
    "AxiomReport",
    "Decomposition",
    "MagnitudePruner",
    "MixtureSoftening",
    "MultiStage",
    "OddsSoftening",
    "PowerSoftening",
    "SofteningOperator",
    "are_equivalent",
    "bias_variance",
    "check_axioms",
    "distillation_loss",
    "from_samples",
    "from_top_k",
    "homotopy_bound",
    "soften",
]
