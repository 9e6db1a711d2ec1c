"""Policies that draw sequences, fitted to targets that are known up to a factor."""

from .causal_lm import CausalLM
from .fitting import FDPG
from .gradient import exact_divergence, pseudo_reward, surrogate
from .policies import Autoregressive, Chain, Independent, TinyAR
from .programs import divergence_objective, policy_program, target_program
from .targets import EBM, GDCTarget, RLHFTarget

__all__ = [
    "EBM",
    "FDPG",
    "Autoregressive",
    "CausalLM",
    "Chain",
    "GDCTarget",
    "Independent",
    "RLHFTarget",
    "TinyAR",
    "divergence_objective",
    "exact_divergence",
    "policy_program",
    "pseudo_reward",
    "surrogate",
    "target_program",
]
