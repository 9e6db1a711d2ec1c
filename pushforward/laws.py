"""Laws that neither torch nor Pyro has: truncated, censored, with hurdles, and others."""

from .ppl.distributions.laws import *  # noqa: F403
