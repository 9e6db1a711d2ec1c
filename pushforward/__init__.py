"""Pushforward: probabilistic programs whose inference algorithms are checked, exactly."""

from pyro import distributions as dist

from .inference import predict
from .ppl import (
    Program,
    assess,
    cond,
    condition,
    deterministic,
    draw,
    factor,
    generate,
    iterate,
    observe,
    plate,
    program,
    sample,
    scan,
    scope,
    simulate,
    untraced,
    vmap,
    weighted,
)

__version__ = "0.1.0"

__all__ = [
    "Program",
    "assess",
    "cond",
    "condition",
    "deterministic",
    "dist",
    "draw",
    "factor",
    "generate",
    "iterate",
    "observe",
    "plate",
    "predict",
    "program",
    "sample",
    "scan",
    "scope",
    "simulate",
    "untraced",
    "vmap",
    "weighted",
]
