"""Bridges from low to high values, and the synthetic functions that they are learnt from."""

from .bridge import Schedule, backward, forward, levels, p_step, q_sample, schedule
from .synthetic import Mean, mean_function, pairs

__all__ = [
    "Mean",
    "Schedule",
    "backward",
    "forward",
    "levels",
    "mean_function",
    "p_step",
    "pairs",
    "q_sample",
    "schedule",
]
