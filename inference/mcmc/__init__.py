"""Markov chain Monte Carlo on a flat unconstrained space, batched over chains."""

from .adaptation import Samples, sample
from .hamiltonian import Kernel, Parameters, Potential, State
from .hmc import hmc, mala
from .jittered import chees, jittered_hmc
from .mams import mams
from .nuts import nuts
from .sghmc import sghmc
from .within_gibbs import with_gibbs

__all__ = [
    "Kernel",
    "Parameters",
    "Potential",
    "Samples",
    "State",
    "chees",
    "hmc",
    "jittered_hmc",
    "mala",
    "mams",
    "nuts",
    "sample",
    "sghmc",
    "with_gibbs",
]
