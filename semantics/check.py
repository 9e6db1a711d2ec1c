"""Checks of inference algorithms against the measure that the model denotes.

Each compares unnormalised measures: normalising first would hide a wrong evidence.  Where a
recursion or an infinite support was cut, the missing mass may leave the verdict unknown; ``depth``
and ``bound`` are those of ``denote``.  A candidate that raises an error, or that does something
else when it is run again, fails.
"""

from .checks.agreement import agreement
from .checks.calibration import sbc
from .checks.density import density
from .checks.ergodicity import ergodic
from .checks.geweke import geweke
from .checks.involution import check_involution as involution
from .checks.orbit import check_orbit as orbit
from .checks.stationarity import invariant, reversible
from .checks.stationary import stationary
from .checks.stein import stein
from .checks.unbiased import unbiased
from .checks.validity import valid

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
