"""The language: programs, effects, combinators, types and interpretations."""

from .branching import cond, mixture, switch
from .combinators import (
    Conditioned,
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
from .modules import normal_prior, random_module
from .program import Program, program
from .queries import do, marginal, normalize
from .recursion import fix, memo
from .stepping import compiled

__all__ = [
    "Conditioned",
    "Program",
    "Trace",
    "assess",
    "compiled",
    "cond",
    "condition",
    "deterministic",
    "do",
    "draw",
    "factor",
    "fix",
    "generate",
    "iterate",
    "marginal",
    "memo",
    "mixture",
    "normal_prior",
    "normalize",
    "observe",
    "plate",
    "program",
    "random_module",
    "sample",
    "scan",
    "scope",
    "seeded",
    "simulate",
    "switch",
    "untraced",
    "vmap",
    "weighted",
]
