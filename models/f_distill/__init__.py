"""One-step students of diffusion models, by f-divergences."""

from .matching import FDistill, surrogate
from .weights import RatioNormalizer, divergence_of, normalised, weight

__all__ = ["FDistill", "RatioNormalizer", "divergence_of", "normalised", "surrogate", "weight"]
