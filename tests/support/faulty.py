"""Modules with one piece of their text replaced, as controls that a check must reject."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from types import ModuleType


def faulty(original: ModuleType, old: str, new: str) -> ModuleType:
    """A copy of a module in whose text ``old``, which is there once, is ``new``."""
    source = inspect.getsource(original)
    assert source.count(old) == 1, f"{old!r} is there {source.count(old)} times"
    spec = importlib.util.spec_from_loader(original.__name__ + "_faulty", loader=None)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    module.__package__ = original.__package__
    sys.modules[spec.name] = module
    exec(compile(source.replace(old, new), spec.name, "exec"), module.__dict__)
    return module
