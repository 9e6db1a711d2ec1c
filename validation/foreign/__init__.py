"""Other people's code as programs: their randomness becomes effects, which the judge enumerates."""

from .blackjax_code import blackjax_kernel, blackjax_scheme
from .jax_code import with_jax
from .numpy_code import Generator, with_generator, with_numpy
from .particles_code import particles_filter, particles_scheme
from .pyro_code import pyro_kernel
from .pyro_filters import pyro_filter
from .pyro_losses import pyro_loss
from .torch_code import with_effects

__all__ = [
    "Generator",
    "blackjax_kernel",
    "blackjax_scheme",
    "particles_filter",
    "particles_scheme",
    "pyro_filter",
    "pyro_kernel",
    "pyro_loss",
    "with_effects",
    "with_generator",
    "with_jax",
    "with_numpy",
]
