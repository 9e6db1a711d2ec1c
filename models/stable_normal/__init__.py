"""Surface normals from images by two stages: a guess in one call, and a short refinement of it."""

from . import normals, render
from .estimator import StableNormal
from .networks import DilatedNet, Pyramid
from .sampler import estimate, refinement
from .schedule import (
    NormalSchedule,
    Steps,
    ddim_step,
    ddim_steps,
    heuristic_steps,
    heuristic_timesteps,
    spaced_timesteps,
)
from .stages import YOSO, SGRefiner

__all__ = [
    "YOSO",
    "DilatedNet",
    "NormalSchedule",
    "Pyramid",
    "SGRefiner",
    "StableNormal",
    "Steps",
    "ddim_step",
    "ddim_steps",
    "estimate",
    "heuristic_steps",
    "heuristic_timesteps",
    "normals",
    "refinement",
    "render",
    "spaced_timesteps",
]
