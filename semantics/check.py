"""Checks of inference algorithms against the measure that the model denotes.

Each compares unnormalised measures: normalising first would hide a wrong evidence.  Where a
recursion or an infinite support was cut, the missing mass may leave the verdict unknown; ``depth``
and ``bound`` are those of ``denote``.  A candidate that raises an error, or that does something
else when it is run again, fails.
"""

from .agreement import agreement
from .calibration import sbc
from .density import density
from .ergodicity import ergodic
from .geweke import geweke
from .involution import check_involution as involution
from .orbit import check_orbit as orbit
from .stationarity import invariant, reversible
from .stationary import stationary
from .stein import stein
from .unbiased import unbiased
from .validity import valid

__all__ = [
    "agreement",
    "density",
    "ergodic",
    "geweke",
    "invariant",
    "involution",
    "orbit",
    "reversible",
    "sbc",
    "stationary",
    "stein",
    "unbiased",
    "valid",
]
