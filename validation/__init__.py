"""One front door to the checks: validate(thing) sees what it is, and runs those that fit."""

from .front import validate
from .layers import Skipped, Validation
from .pages import as_html, as_json, as_junit

__all__ = ["Skipped", "Validation", "as_html", "as_json", "as_junit", "validate"]
