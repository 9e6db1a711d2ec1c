"""The judge: exact and numerical denotations of programs, and checks of algorithms against them."""

from . import check
from .denote import denote
from .ideal import ideal
from .measure import Measure
from .report import CheckFailed, Report

__all__ = ["CheckFailed", "Measure", "Report", "check", "denote", "ideal"]
