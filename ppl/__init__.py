"""The language: programs, effects, combinators, types and interpretations."""

from .combinators import (
    Conditioned,
    cond,
    condition,
    iterate,
    scan,
    scope,
    untraced,
    vmap,
    weighted,
)
from .effects import deterministic, draw, factor, observe, plate, sample
from .interpret import Trace, assess, generate, seeded, simulate
from .program import Program, program

__all__ = [
    "Conditioned",
    "Program",
    "Trace",
    "assess",
    "cond",
    "condition",
    "deterministic",
    "draw",
    "factor",
    "generate",
    "iterate",
    "observe",
    "plate",
    "program",
    "sample",
    "scan",
    "scope",
    "seeded",
    "simulate",
    "untraced",
    "vmap",
    "weighted",
]
