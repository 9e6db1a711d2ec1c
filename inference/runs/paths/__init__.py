"""Pathfinder's paths: ascents of a log density, and normal approximations along them.

Zhang, Carpenter, Gelman and Vehtari, "Pathfinder: Parallel quasi-Newton variational inference",
JMLR 23 (2022), arXiv 2108.03782.
"""

from .pathfinder import Found, pathfinder
from .target import Target

__all__ = ["Found", "Target", "pathfinder"]
