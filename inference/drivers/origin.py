"""What a run is of, told from fingerprints: only the same posterior is gone on with."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...ppl.errors import DataError, located
from ...ppl.language.combinators import Conditioned
from ...ppl.language.program import Callback
from ...ppl.tensors.keys import fingerprint


def origin_of(p: Callback, args: tuple[Any, ...]) -> dict[str, str]:
    """Fingerprints of a program, of its data by site, and of its arguments by place."""
    data: dict[str, Tensor] = {}
    while isinstance(p, Conditioned):
        data, p = {**p.data, **data}, p.base
    found = {"the program, or what it reads": fingerprint(p)}
    found |= {f"the data of '{name}'": fingerprint(value) for name, value in data.items()}
    return found | {f"argument {i}": fingerprint(arg) for i, arg in enumerate(args)}


def require_same(before: dict[str, str], now: dict[str, str]) -> None:
    """Raise if a run would go on with another posterior.

    Errors:
        DataError: the program, its data or its arguments are not those of the earlier fit.
    """
    different = [part for part in {**before, **now} if before.get(part) != now.get(part)]
    if different:
        what = f"the fit to resume is of another posterior: {', '.join(different)} changed"
        hint = "run anew, or resume with the program and data that it was made of"
        raise DataError(located(what, hint=hint))


def continued_seed(seed: int, state: dict[str, Tensor]) -> int:
    """The seed of a run that goes on from a state: no stretch of a chain repeats its randomness."""
    return int(fingerprint((seed, state)), 16) % 2**63
