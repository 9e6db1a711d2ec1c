"""Other people's code as programs: their randomness becomes effects, which the judge enumerates."""

from .numpy_code import Generator, with_generator
from .pyro_code import pyro_kernel
from .pyro_losses import pyro_loss
from .torch_code import with_effects

__all__ = ["Generator", "pyro_kernel", "pyro_loss", "with_effects", "with_generator"]
