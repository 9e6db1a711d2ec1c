"""Errors of user programs: what is wrong, where it is wrong, and what to do about it."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

import torch

_LIBRARY = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_EXAMPLES = os.path.join(_LIBRARY, "examples") + os.sep
_FOREIGN = (
    "/site-packages/",
    "/torch/",
    "/pyro/",
    "/functorch/",
    "/contextlib.py",
    "/functools.py",
    "<",
)


def user_line() -> str:
    """The innermost stack frame outside this library, torch and Pyro, as ``file:line``."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if _is_user(frame):
            return f"{frame.f_code.co_filename}:{frame.f_lineno}"
        frame = frame.f_back
    return "unknown line"


def raising_line(error: BaseException) -> str:
    """The innermost line outside this library, torch and Pyro that ``error`` passed through."""
    lines = [
        f"{frame.f_code.co_filename}:{number}"
        for frame, number in traceback.walk_tb(error.__traceback__)
        if _is_user(frame)
    ]
    return lines[-1] if lines else "unknown line"


def is_users(error: BaseException) -> bool:
    """Whether the line that raised ``error`` lies outside this library, torch and Pyro."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return bool(frames) and _is_user(frames[-1])


def _is_user(frame: FrameType) -> bool:
    path = os.path.abspath(frame.f_code.co_filename)
    if path.startswith(_EXAMPLES):
        return True
    ours = path.startswith(_LIBRARY)
    return not ours and not any(part in frame.f_code.co_filename for part in _FOREIGN)


def located(what: str, *, site: str | None = None, hint: str = "", line: str | None = None) -> str:
    """Join the three parts of a message: what, where, what to do."""
    where = f"at site '{site}' " if site else ""
    text = f"{what} ({where}{line or user_line()})"
    return f"{text}. {hint}" if hint else text


def named_rows(rows: Sequence[int]) -> str:
    """``row 3``, or ``rows 3, 5, 8, 9, 12 and 4 more``."""
    shown = ", ".join(map(str, rows[:5]))
    more = f" and {len(rows) - 5} more" if len(rows) > 5 else ""
    return f"row{'s' if len(rows) > 1 else ''} {shown}{more}"


class PushforwardError(Exception):
    """Base of all errors that this library raises about programs and their data."""


class ProgramError(PushforwardError, ValueError):
    """A program or its data are not what the operation needs."""


class DuplicateNameError(ProgramError):
    """Two sites on one path of a program share a name."""


class DataError(ProgramError):
    """Data do not fit the program: unknown name, wrong shape, value outside the support, NaN."""


class PrecisionError(DataError):
    """Tensors of several floating point types meet where torch does not mix them."""


class SupportError(DataError):
    """A value lies outside the support of its distribution."""


class AnnotationError(ProgramError):
    """A program, its arguments or its result are not what its annotations declare."""


class GuideError(ProgramError):
    """A guide does not fit its model."""


class ObjectiveError(ProgramError):
    """A variational objective does what its transformation does not know how to differentiate."""


class StrategyError(ProgramError):
    """A choice has no gradient estimator, or one that is not legal for it."""


class SmoothnessError(PushforwardError, TypeError):
    """A density jumps as a random value moves, where its gradient must tell how it changes."""


class BranchError(PushforwardError, TypeError):
    """Python control flow depends on a random value where that cannot be captured."""


class ImpureProgramError(ProgramError):
    """A program behaves differently when it is run again with the same choices."""


class NoDensityError(ProgramError):
    """The program has anonymous randomness, so its traces have no exact density."""


class UnsupportedDistributionError(PushforwardError, TypeError):
    """A distribution cannot take part in the interpretation that met it."""


class UnsupportedHandlerError(ProgramError):
    """One of Pyro's inference handlers stands within a program, where it has no meaning."""


@contextmanager
def implemented() -> Iterator[None]:
    """Within, what a distribution does not implement, or a matrix does not admit, is named."""
    try:
        yield
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
        raise ProgramError(
            located(
                f"a matrix cannot be decomposed: {error}",
                line=raising_line(error),
                hint="check what it is made of; a covariance may want more on its diagonal",
            )
        ) from error
    except NotImplementedError as error:
        raise UnsupportedDistributionError(
            located(
                str(error) or "a distribution has no sampler, density or support to ask for",
                line=raising_line(error),
                hint="another distribution or method is needed; an improper prior has no draws",
            )
        ) from error


# What torch and Pyro say of mistakes in programs, and what to do about each.
_SAID = {
    "Expected parameter": "check the arguments of the distribution",
    "Shape mismatch inside plate": "give the site the plate's size there, or make it an event by"
    " to_event(1)",
    "collide at dim": "leave out dim=, or give each plate one of its own",
    "subsample_size does not match": "take at most as many as the plate has",
    "duplicate plate": "leave the first plate, or give the second another name",
}


@contextmanager
def checked() -> Iterator[None]:
    """Within, what torch and Pyro find wrong with distributions and plates is an error of ours."""
    try:
        yield
    except ValueError as error:
        hint = next((hint for said, hint in _SAID.items() if said in str(error)), "")
        if isinstance(error, PushforwardError) or not hint:
            raise
        what = " ".join(str(error).split("\n\n")[0].split())
        raise ProgramError(
            located(what[:1].lower() + what[1:], line=raising_line(error), hint=hint)
        ) from error


class InfiniteSupportError(UnsupportedDistributionError):
    """A distribution has no finite support and no quadrature rule was asked for."""


class BudgetError(PushforwardError, RuntimeError):
    """An exact evaluation would need more paths than allowed."""


class MassError(ProgramError):
    """A measure cannot be normalised."""


class ZeroMassError(MassError):
    """Every path of the program has weight zero."""


class ConvergenceError(MassError):
    """A quadrature is not accurate enough to be believed."""


class NumericalError(PushforwardError, ArithmeticError):
    """A computation has lost its digits, or a matrix is not what its use needs."""


class InfiniteMassError(MassError):
    """The total mass of the program is infinite."""


class InitializationError(ProgramError):
    """No starting point with a finite log density and gradient was found."""


class CalculusError(ProgramError):
    """A text of the calculus that cannot be read, typed or evaluated; ``at`` is line and column."""

    def __init__(self, what: str, at: object = None, hint: str = "") -> None:
        self.what, self.at, self.hint = what, at, hint
        place = f"{at}: " if at is not None else ""
        super().__init__(f"{place}{what}" + (f". {hint}" if hint else ""))
