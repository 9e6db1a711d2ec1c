"""Markov chain Monte Carlo on a flat unconstrained space, batched over chains."""

from .adaptation import Samples, sample
from .hamiltonian import Kernel, Parameters, Potential, State
from .hmc import hmc, mala
from .nuts import nuts

__all__ = ["Kernel", "Parameters", "Potential", "Samples", "State", "hmc", "mala", "nuts", "sample"]
