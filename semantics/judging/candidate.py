"""Candidates: what a check judges, run under watch, and failed with a reason where they break.

An error of a candidate, impurity among them, is a verdict: it fails, whatever it would compute.
What the judge cannot do (a budget, a support or a handler without rules, a quadrature that has not
converged) says nothing about the candidate, and stays an error; so does all that is wrong with a
model.
"""

from __future__ import annotations

import functools
import math
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from textwrap import shorten
from typing import Any, ParamSpec, TypeVar

from ...ppl.errors import (
    BudgetError,
    ConvergenceError,
    InfiniteMassError,
    PushforwardError,
    UnsupportedDistributionError,
    UnsupportedHandlerError,
    is_users,
    raising_line,
)
from ..evaluation.denote import doubted
from ..evaluation.measure import Measure
from ..evaluation.sources import AGAIN, the_same
from .report import Report

LIMITS = (
    BudgetError,
    ConvergenceError,
    InfiniteMassError,
    UnsupportedDistributionError,
    UnsupportedHandlerError,
)
MOST_TOLD = 500  # characters of a message
P = ParamSpec("P")
R = TypeVar("R", bound=Report | None)


class Broken(Exception):
    """A candidate broke: what was asked of it, and how and where it failed."""

    def __init__(self, subject: str, reason: str) -> None:
        super().__init__(reason)
        self.subject, self.reason = subject, reason

    def report(self, seconds: float) -> Report:
        """That it fails, whatever it would have computed."""
        source = "for a candidate that breaks"
        return Report(self.subject, "fail", math.inf, 0.0, source, self.reason, seconds)


def verdict(check: Callable[P, R]) -> Callable[P, R | Report]:
    """A check whose candidate may break: then it fails, and the reason is its counterexample."""

    @functools.wraps(check)
    def judged(*args: P.args, **kwargs: P.kwargs) -> R | Report:
        start = time.perf_counter()
        try:
            return check(*args, **kwargs)
        except Broken as broken:
            return broken.report(time.perf_counter() - start)

    return judged


@contextmanager
def held(subject: str, at: str) -> Iterator[None]:
    """Within, an error is the candidate's, unless it is a limit of the judge."""
    try:
        yield
    except Exception as error:
        own = _own(error)
        if isinstance(own, (Broken, MemoryError, *LIMITS)):
            raise
        raise Broken(subject, f"{at}: {told(own)}") from error


def measure_of(
    subject: str, candidate: Callable[..., Any], *args: Any, at: str, runs: int = 1, **limits: Any
) -> Measure:
    """The measure of a candidate, which is run as one of so many ``runs`` of the check."""
    with held(subject, at):
        return doubted(candidate, *args, again=math.ceil(AGAIN / max(1, runs)), **limits)


def repeated(subject: str, at: str, function: Callable[[], Any], used: Any, times: int) -> Any:
    """What a part of a candidate gives, which must be the same so many times."""
    with held(subject, at):
        return the_same(function, used, times)


def told(error: Exception) -> str:
    """An error in a line: its type, its message, the line it came from, and what was noted."""
    message = shorten(str(error), MOST_TOLD, placeholder=" ...")
    line = "" if isinstance(error, PushforwardError) else f" ({_line(error)})"
    notes = "".join(f"; {note}" for note in getattr(error, "__notes__", ()))
    return f"{type(error).__name__}: {message}{line}{notes}"


def _own(error: Exception) -> Exception:
    """The error that a candidate's own line raised, where the library has put another around it."""
    cause = error.__cause__
    return cause if isinstance(cause, NotImplementedError) and is_users(cause) else error


def _line(error: Exception) -> str:
    """The user's line from which an error came, or the innermost one."""
    *_, (frame, number) = traceback.walk_tb(error.__traceback__)
    found = raising_line(error)
    return f"{frame.f_code.co_filename}:{number}" if found == "unknown line" else found
