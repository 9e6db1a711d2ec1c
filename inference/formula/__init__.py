"""Programs from formulas, such as ``y ~ x + (1 + x | g)``."""

from .fitting import Formula, formula

__all__ = ["Formula", "formula"]
