"""Simulate: a program as a sampler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..distributions.data import as_arguments, one_precision
from ..errors import checked, implemented
from ..tensors.seeds import seeded
from .abstract_run import require_known, unless_impossible
from .recorder import Recorder, Trace


def simulate(p: Callable[..., Any], *args: Any, seed: int | None = None) -> Trace:
    """Run a program and record its choices."""
    args = as_arguments(args)

    def run() -> tuple[Recorder, Any]:
        recording = Recorder({}, density=False)
        with one_precision(args), checked(), implemented(), recording as recorder:
            return recorder, p(*args)

    with seeded(seed), torch.no_grad():
        recorder, value = unless_impossible(p, args, run)
    require_known(p, args, recorder.coverage)
    return recorder.trace(value)
