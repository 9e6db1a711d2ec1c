"""Simulate: a program as a sampler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..distributions.data import as_arguments, one_precision
from ..errors import checked, implemented
from ..tensors.seeds import seeded
from .abstract_run import require_known
from .recorder import Recorder, Trace


def simulate(p: Callable[..., Any], *args: Any, seed: int | None = None) -> Trace:
    """Run a program and record its choices."""
    recording = Recorder({}, density=False)
    args = as_arguments(args)
    with (
        one_precision(args),
        checked(),
        implemented(),
        seeded(seed),
        torch.no_grad(),
        recording as recorder,
    ):
        value = p(*args)
    require_known(p, args)
    return recorder.trace(value)
