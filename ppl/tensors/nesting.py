"""How deeply Python may nest its calls, where programs and terms are recursive."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import ProgramError, located

FRAMES = 30_000  # about 2 000 nested calls of a recursive program


@contextmanager
def deep() -> Iterator[None]:
    """Within, or in a function that it decorates, Python may nest its calls deeply.

    Errors:
        ProgramError: they nest more deeply still.
    """
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(max(before, FRAMES))
    try:
        yield
    except RecursionError as error:
        raise ProgramError(
            located(
                f"the recursion is deeper than {FRAMES} Python frames",
                hint="on some choices it may not end; or use iterate(..., until=)",
            )
        ) from error
    finally:
        sys.setrecursionlimit(before)
