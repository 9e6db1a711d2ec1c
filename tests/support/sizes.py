"""Sizes of tests: what runs at each change, and what `make slow` adds to it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def quick(count: int, members: Iterable[Any]) -> list[Any]:
    """The members as parameters of a test, of which those after the first ``count`` are slow.

    A plain tuple stands for several parameters.
    """

    def slow(member: Any) -> Any:
        row = member if type(member) is tuple else (member,)
        return pytest.param(*row, marks=pytest.mark.slow)

    return [member if i < count else slow(member) for i, member in enumerate(members)]
