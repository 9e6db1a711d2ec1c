"""The judge: exact and numerical denotations of programs, and checks of algorithms against them."""

from . import check
from .evaluation.denote import denote
from .evaluation.ideal import ideal
from .evaluation.measure import Measure
from .judging.report import CheckFailed, Report

__all__ = ["CheckFailed", "Measure", "Report", "check", "denote", "ideal"]
