"""Functional maps between meshes, with a diffusion model of good maps as their prior."""

from . import fmap, masks, mesh
from .distillation import distilled, gradient, refined
from .fmap import from_pointmap, solve, to_pointmap, zoomout
from .mesh import Basis, eigenbasis, laplacian
from .prior import ScoreOnly, SpectralDiffusion
from .programs import matching, posterior

__all__ = [
    "Basis",
    "ScoreOnly",
    "SpectralDiffusion",
    "distilled",
    "eigenbasis",
    "fmap",
    "from_pointmap",
    "gradient",
    "laplacian",
    "masks",
    "matching",
    "mesh",
    "posterior",
    "refined",
    "solve",
    "to_pointmap",
    "zoomout",
]
