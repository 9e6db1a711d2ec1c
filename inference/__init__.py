"""Inference algorithms, each a program whose randomness goes through the effects."""

from .chains import MCMC
from .filter import particle_filter
from .importance import importance
from .islands import SMC
from .mcmc import hmc, nuts
from .population import Population
from .predict import Prediction, log_likelihood, predict
from .resampling import multinomial, resample, residual, stratified, systematic
from .results import Fit
from .smc import smc
from .svi import SVI
from .tempering import tempered

__all__ = [
    "MCMC",
    "SMC",
    "SVI",
    "Fit",
    "Population",
    "Prediction",
    "hmc",
    "importance",
    "log_likelihood",
    "multinomial",
    "nuts",
    "particle_filter",
    "predict",
    "resample",
    "residual",
    "smc",
    "stratified",
    "systematic",
    "tempered",
]
