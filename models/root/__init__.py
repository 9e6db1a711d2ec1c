"""Bridges from low to high values, learnt from synthetic functions, and designs by them."""

from . import tasks
from .aims import bound_weights, high_end, target
from .bridge import Schedule, backward, forward, levels, p_step, q_sample, schedule
from .estimator import ROOT
from .network import Denoiser
from .sampling import chain, guided, sampler
from .synthetic import Mean, Pairs, hyperparameters, mean_function, pairs
from .training import loss, train

__all__ = [
    "ROOT",
    "Denoiser",
    "Mean",
    "Pairs",
    "Schedule",
    "backward",
    "bound_weights",
    "chain",
    "forward",
    "guided",
    "high_end",
    "hyperparameters",
    "levels",
    "loss",
    "mean_function",
    "p_step",
    "pairs",
    "q_sample",
    "sampler",
    "schedule",
    "target",
    "tasks",
    "train",
]
