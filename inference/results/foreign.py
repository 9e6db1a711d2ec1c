"""ArviZ, imported where it is needed."""

from __future__ import annotations

import warnings
from typing import Any


def import_arviz() -> Any:
    """ArviZ, which takes seconds to import, and announces its next version."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        import arviz
    return arviz
