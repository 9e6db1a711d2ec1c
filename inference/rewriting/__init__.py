"""Programs in place of others: the same measure, in a form that NUTS samples more easily."""

from .centring import decentred
from .finite import summed
from .quadratic import integrated
from .rewriting import Restored, Rewriting, rewritten

__all__ = ["Restored", "Rewriting", "decentred", "integrated", "rewritten", "summed"]
