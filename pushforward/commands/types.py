"""``pushforward type``: the type of a program, inferred without sampling."""

from __future__ import annotations

from .. import calculus
from ..ppl.language.combinators import Conditioned
from ..ppl.language.program import program
from .options import Data, Target
from .saying import say
from .targets import paper, posed


def show_type(target: Target, data: Data = None) -> None:
    """Print the type of a program, inferred without sampling, or those of a .pf file."""
    if (module := paper(target)) is not None:
        say(calculus.types(module))
        return
    p, args, _ = posed(target, data)
    base = p if isinstance(p, Conditioned) else program(p)
    say(str(base.type(*args)))
