"""Programs for methods that move real numbers: finite latents are summed out."""

from __future__ import annotations

from typing import Any

from ...ppl import marginal
from ...ppl.interpretations.abstract_run import abstract_run
from ...ppl.language.program import Callback


def without_finite(p: Callback, args: tuple[Any, ...]) -> tuple[Callback, str]:
    """``p``, or ``marginal(p, exact=True)`` if a latent of ``p(*args)`` is finite; and what to say.

    Errors:
        BranchError: Python control flow depends on a random value.
        ProgramError: another latent depends on a finite one.
    """
    run, _ = abstract_run(p, *args)
    names = [n for n, site in run.sites.items() if not site.observed and site.space.finite]
    if not names:
        return p, ""
    listed = ", ".join(names) if len(names) < 4 else f"{names[0]} ... {names[-1]}"
    return marginal(p, exact=True), f"{listed} summed out"
