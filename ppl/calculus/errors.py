"""The errors of the calculus and of its evaluations, for those who know nothing else of ``ppl``."""

from ..errors import BudgetError, CalculusError, InfiniteMassError, ZeroMassError

__all__ = ["BudgetError", "CalculusError", "InfiniteMassError", "ZeroMassError"]
