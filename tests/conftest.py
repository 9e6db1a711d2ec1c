"""Fixtures that many test files share."""

from __future__ import annotations

from collections.abc import Iterator

import mpmath
import pytest
import torch
from hypothesis import settings

settings.register_profile("tests", deadline=None)  # others may be at work on the machine
settings.load_profile("tests")


@pytest.fixture
def double() -> Iterator[None]:
    """Within, numbers are float64 unless they say otherwise."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture(autouse=True)
def digits() -> Iterator[None]:
    """A test that asks mpmath for more digits leaves others what they had."""
    before = mpmath.mp.dps
    yield
    mpmath.mp.dps = before
