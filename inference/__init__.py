"""Inference algorithms, each a program whose randomness goes through the effects."""

from ..ppl.tasks.checkpoint import Checkpoint
from .drivers.consensus import Consensus
from .drivers.mcmc import MCMC
from .drivers.sgmcmc import SGMCMC, Conditional
from .drivers.smc import SMC
from .exact import Exact
from .formula import Formula, formula
from .mcmc import chees, hmc, jittered_hmc, mala, mams, nuts, sghmc, with_gibbs
from .results.comparison import compare
from .results.fit import Fit
from .results.page import write_page
from .results.predict import log_likelihood, predict
from .results.prediction import Prediction
from .results.sensitivity import sensitivity
from .runs.columns import Columns, columns
from .runs.recording import Recorded, recorded
from .smc import (
    Apart,
    Population,
    annealed,
    backward_simulation,
    collapse,
    importance,
    multinomial,
    particle_filter,
    powered,
    pseudo_marginal,
    push_evidence,
    rejection,
    resample,
    residual,
    smc,
    smc_squared,
    spaced_powers,
    spawn,
    sqmc,
    stratified,
    systematic,
    tempered,
    waste_free,
)
from .vi import SVI
from .vi.advi import ADVI
from .vi.laplace import Laplace
from .vi.map import MAP
from .vi.pathfinder import Pathfinder
from .vi.svgd import SVGD

__all__ = [
    "ADVI",
    "MAP",
    "MCMC",
    "SGMCMC",
    "SMC",
    "SVGD",
    "SVI",
    "Apart",
    "Checkpoint",
    "Columns",
    "Conditional",
    "Consensus",
    "Exact",
    "Fit",
    "Formula",
    "Laplace",
    "Pathfinder",
    "Population",
    "Prediction",
    "Recorded",
    "annealed",
    "backward_simulation",
    "chees",
    "collapse",
    "columns",
    "compare",
    "formula",
    "hmc",
    "importance",
    "jittered_hmc",
    "log_likelihood",
    "mala",
    "mams",
    "multinomial",
    "nuts",
    "particle_filter",
    "powered",
    "predict",
    "pseudo_marginal",
    "push_evidence",
    "recorded",
    "rejection",
    "resample",
    "residual",
    "sensitivity",
    "sghmc",
    "smc",
    "smc_squared",
    "spaced_powers",
    "spawn",
    "sqmc",
    "stratified",
    "systematic",
    "tempered",
    "waste_free",
    "with_gibbs",
    "write_page",
]
