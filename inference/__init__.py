"""Inference algorithms, each a program whose randomness goes through the effects."""

from .advi import ADVI
from .annealing import annealed, powered, spaced_powers
from .chains import MCMC
from .checkpoint import Checkpoint
from .exact import Exact
from .filter import particle_filter
from .importance import importance
from .islands import SMC
from .mcmc import hmc, mala, nuts
from .population import Apart, Population, collapse, push_evidence, spawn
from .predict import Prediction, log_likelihood, predict
from .pseudo_marginal import pseudo_marginal
from .recording import Recorded, recorded
from .rejection import rejection
from .resampling import multinomial, resample, residual, stratified, systematic
from .results import Fit
from .smc import smc
from .smc_squared import smc_squared
from .tempering import tempered
from .vi import SVI

__all__ = [
    "ADVI",
    "MCMC",
    "SMC",
    "SVI",
    "Apart",
    "Checkpoint",
    "Exact",
    "Fit",
    "Population",
    "Prediction",
    "Recorded",
    "annealed",
    "collapse",
    "hmc",
    "importance",
    "log_likelihood",
    "mala",
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
    "smc",
    "smc_squared",
    "spaced_powers",
    "spawn",
    "stratified",
    "systematic",
    "tempered",
]
