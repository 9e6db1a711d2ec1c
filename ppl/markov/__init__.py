"""Gaussian Markov laws: kernels in time as state spaces, their posteriors by loops or by scans."""

from .conditioning import Posterior, Sites, observed, seen, smoothed, with_unseen
from .law import GaussianMarkov, joined
from .matern import KERNELS, Matern
from .paths import gaussian_path

__all__ = [
    "KERNELS",
    "GaussianMarkov",
    "Matern",
    "Posterior",
    "Sites",
    "gaussian_path",
    "joined",
    "observed",
    "seen",
    "smoothed",
    "with_unseen",
]
