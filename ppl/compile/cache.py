"""The system's compiler, and where what it makes is kept."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "pushforward"


def compiler() -> str | None:
    """The system's C++ compiler, if it has one: that of ``CXX``, else g++ or clang++."""
    names = (os.environ.get("CXX", ""), "g++", "clang++")
    return next((path for path in map(shutil.which, filter(None, names)) if path), None)
