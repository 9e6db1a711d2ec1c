"""Choices that are made outside of handlers of Pyro: its own have no part in them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ...ppl.language.effects import stack


@contextmanager
def outside(depth: int) -> Iterator[None]:
    """Within, only so many of the handlers stand: those that were put up first."""
    handlers = stack()
    inner = handlers[depth:]
    del handlers[depth:]
    try:
        yield
    finally:
        handlers.extend(inner)
