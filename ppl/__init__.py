"""The language: programs, effects, combinators, types and interpretations."""

from .compile.loops import compiled
from .interpretations import eliminating as eliminating  # which answers for marginal(exact=True)
from .interpretations.assess import assess
from .interpretations.generate import generate
from .interpretations.recorder import Trace
from .interpretations.simulate import simulate
from .language.branching import cond, mixture, switch
from .language.combinators import (
    Conditioned,
    condition,
    iterate,
    scan,
    scope,
    untraced,
    vmap,
    weighted,
)
from .language.effects import deterministic, draw, factor, observe, plate, sample
from .language.modules import normal_prior, random_module
from .language.program import Program, program
from .language.queries import do, marginal, normalize
from .language.recursion import fix, memo
from .tensors.seeds import seeded

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
