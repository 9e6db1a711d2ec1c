"""Assertions for tests: checks that must pass, and what a run of tests asks of chance.

    from pushforward.testing import assert_invariant

    def test_my_kernel():
        assert_invariant(my_kernel, target)

A failing assertion shows the report of the check.  Checks that compare draws with a law say that a
right algorithm is wrong with a small probability, their ``level``; the levels of a run of tests add
up (by the union bound), which pytest tells at its end: see ``pushforward_pytest``.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ParamSpec

from .semantics import Report, check

__all__ = [
    "assert_agreement",
    "assert_calibrated",
    "assert_density",
    "assert_ergodic",
    "assert_geweke",
    "assert_invariant",
    "assert_involution",
    "assert_orbit",
    "assert_reversible",
    "assert_stationary",
    "assert_stein",
    "assert_unbiased",
    "assert_valid",
]

P = ParamSpec("P")


@dataclass
class Ledger:
    """How many exact checks were made, and the levels of the others."""

    exact: int = 0
    levels: list[float] = field(default_factory=list)

    @property
    def level(self) -> float:
        """A bound of the chance that any of them fails though all is right."""
        return sum(self.levels)


LEDGER = Ledger()


def _asserting(made: Callable[P, Report]) -> Callable[P, Report]:
    """The check as an assertion: it returns its report, or raises ``CheckFailed``."""
    parameters = inspect.signature(made)

    @functools.wraps(made)
    def asserted(*args: P.args, **kwargs: P.kwargs) -> Report:
        __tracebackhide__ = True
        if "level" in parameters.parameters:
            bound = parameters.bind(*args, **kwargs)
            bound.apply_defaults()
            LEDGER.levels.append(float(bound.arguments["level"]))
        else:
            LEDGER.exact += 1
        return made(*args, **kwargs).require()

    asserted.__name__ = asserted.__qualname__ = f"assert_{made.__name__.removeprefix('check_')}"
    return asserted


assert_agreement = _asserting(check.agreement)
assert_calibrated = _asserting(check.sbc)
assert_density = _asserting(check.density)
assert_ergodic = _asserting(check.ergodic)
assert_geweke = _asserting(check.geweke)
assert_invariant = _asserting(check.invariant)
assert_involution = _asserting(check.involution)
assert_orbit = _asserting(check.orbit)
assert_reversible = _asserting(check.reversible)
assert_stationary = _asserting(check.stationary)
assert_stein = _asserting(check.stein)
assert_unbiased = _asserting(check.unbiased)
assert_valid = _asserting(check.valid)
