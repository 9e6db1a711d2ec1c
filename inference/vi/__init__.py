"""Variational inference by objectives that are programs."""

from ...ppl.distributions.strategies import (
    enum,
    gumbel_softmax,
    implicit,
    importance,
    leave_one_out,
    mvd,
    reinforce,
    rejection,
    reparam,
    straight_through,
)
from .batches import Batches
from .captured import Captured
from .continuous import Continuous
from .divergences import Divergence, alpha_divergence, divergence
from .filtered import filtered
from .gradients.baselines import Constant, Learned, MovingAverage
from .guides import Amortised, Flow, FullRank, Guide, LowRank, MeanField, Structured
from .language.expectations import Estimate, exp_of, expect, over
from .language.marginals import log_mean_exp, marginal, normalize
from .language.traces import Sampled, frozen, log_density, sample_trace, strategic
from .library import (
    annealed,
    cubo,
    diwhvi,
    elbo,
    f_divergence,
    fivo,
    forward_kl,
    hvi,
    iwelbo,
    iwhvi,
    renyi,
    reweighted_wake_sleep,
    sleep_phi,
    sticking_the_landing,
    symmetric_kl,
    vimco,
    wake_phi,
    wake_theta,
)
from .natural import NaturalGradient
from .objective import Objective, objective
from .optimised import Optimised
from .posterior import posterior
from .summed import summed_elbo
from .svi import SVI
from .transported import Transported
from .validation import Validation

__all__ = [
    "SVI",
    "Amortised",
    "Batches",
    "Captured",
    "Constant",
    "Continuous",
    "Divergence",
    "Estimate",
    "Flow",
    "FullRank",
    "Guide",
    "Learned",
    "LowRank",
    "MeanField",
    "MovingAverage",
    "NaturalGradient",
    "Objective",
    "Optimised",
    "Sampled",
    "Structured",
    "Transported",
    "Validation",
    "alpha_divergence",
    "annealed",
    "cubo",
    "divergence",
    "diwhvi",
    "elbo",
    "enum",
    "exp_of",
    "expect",
    "f_divergence",
    "filtered",
    "fivo",
    "forward_kl",
    "frozen",
    "gumbel_softmax",
    "hvi",
    "implicit",
    "importance",
    "iwelbo",
    "iwhvi",
    "leave_one_out",
    "log_density",
    "log_mean_exp",
    "marginal",
    "mvd",
    "normalize",
    "objective",
    "over",
    "posterior",
    "reinforce",
    "rejection",
    "renyi",
    "reparam",
    "reweighted_wake_sleep",
    "sample_trace",
    "sleep_phi",
    "sticking_the_landing",
    "straight_through",
    "strategic",
    "summed_elbo",
    "symmetric_kl",
    "vimco",
    "wake_phi",
    "wake_theta",
]
