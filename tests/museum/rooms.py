"""All exhibits, in the order of the collection."""

from __future__ import annotations

from . import (
    adaptation,
    conditioning,
    densities,
    filters,
    gibbs,
    gradients,
    keys,
    metropolis,
    plates,
    transforms,
    trees,
)
from .exhibit import Exhibit

ROOMS = [
    metropolis,
    trees,
    adaptation,
    filters,
    gibbs,
    transforms,
    densities,
    keys,
    gradients,
    plates,
    conditioning,
]
EXHIBITS: list[Exhibit] = [exhibit for room in ROOMS for exhibit in room.EXHIBITS]
# Threads that show a symptom only: the formula of the mutant is our reading of it.
RECONSTRUCTED = {5, 15, 16, 20, 22, 25, 31, 34, 37, 43, 44, 54, 59, 61, 62, 68, 70}
