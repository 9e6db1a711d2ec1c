"""Sequential Monte Carlo: weighted populations, and the algorithms that move them."""

from .annealing import annealed, powered, spaced_powers
from .conditional import conditional_smc
from .importance import importance
from .particle_filter import particle_filter
from .population import Apart, Population, collapse, push_evidence, spawn
from .pseudo_marginal import pseudo_marginal
from .rejection import rejection
from .resampling import multinomial, resample, residual, stratified, systematic
from .smc import smc
from .smc_squared import smc_squared
from .smoothing import backward_simulation
from .sqmc import sqmc
from .tempering import tempered
from .waste_free import waste_free

__all__ = [
    "Apart",
    "Population",
    "annealed",
    "backward_simulation",
    "collapse",
    "conditional_smc",
    "importance",
    "multinomial",
    "particle_filter",
    "powered",
    "pseudo_marginal",
    "push_evidence",
    "rejection",
    "resample",
    "residual",
    "smc",
    "smc_squared",
    "spaced_powers",
    "spawn",
    "sqmc",
    "stratified",
    "systematic",
    "tempered",
    "waste_free",
]
