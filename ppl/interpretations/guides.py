"""Guides checked against models before either runs."""

from __future__ import annotations

from typing import Any

from ..errors import GuideError
from ..language.handlers import Sealed
from ..language.program import Callback, program_name
from ..types import Direction, TraceType, compatible
from ..types.compatible import OBSERVING
from .abstract_run import abstract_run


def check_guide(
    guide: Callback,
    model: Callback,
    *args: Any,
    direction: Direction = "both",
    partial: bool = False,
    **kwargs: Any,
) -> TraceType:
    """Raise unless a guide fits a model at these arguments; nothing is sampled.

    Args:
        guide: a program of the same arguments as the model.
        model: the program whose latents are proposed; its observed sites are those with data.
        direction: "exclusive" for the ELBO, "inclusive" for importance sampling: see
            ``ppl.types.compatible``.
        partial: whether latents of the model may be left out.

    Returns:
        The trace type of the guide.

    Errors:
        GuideError: names, spaces or shapes differ; one line for each fault.
        BranchError, DuplicateNameError, ProgramError: the guide or the model has no type.
    """
    with Sealed():
        run = abstract_run(guide, *args, **kwargs)[0]
        theirs = TraceType(abstract_run(model, *args, **kwargs)[0].sites)
    ours = TraceType(run.sites)
    faults = [
        f"the guide scores by the factor '{name}' ({line}). {OBSERVING}"
        for name, line in run.scores.items()
        if name not in run.sites
    ]
    faults += compatible(ours, theirs, direction, partial=partial)
    if faults:
        first = f"{program_name(guide)} is no guide for {program_name(model)}: "
        raise GuideError(first + "\n".join(faults))
    return ours
