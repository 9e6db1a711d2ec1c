"""Markov kernels on traces: programs from a run of a program to another run of it."""

from .block import block, independence
from .gibbs import gibbs
from .involutive import involutive
from .kernel import TraceKernel, barker, cycle, metropolis, mixture, repeat
from .single_site import single_site
from .slices import elliptical_slice, slice_site

__all__ = [
    "TraceKernel",
    "barker",
    "block",
    "cycle",
    "elliptical_slice",
    "gibbs",
    "independence",
    "involutive",
    "metropolis",
    "mixture",
    "repeat",
    "single_site",
    "slice_site",
]
