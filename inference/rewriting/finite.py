"""Finite latents summed out, and drawn again from their conditional where the others are known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ...ppl import marginal
from ...ppl.interpretations.abstract_run import abstract_run
from ...ppl.interpretations.factors import FiniteLatents
from ...ppl.language.program import Callback


def finite_latents(p: Callback, args: tuple[Any, ...]) -> list[str]:
    """The names of the latents of p(*args) that are finite."""
    run, _ = abstract_run(p, *args)
    return [n for n, site in run.sites.items() if not site.observed and site.space.finite]


def summed(
    p: Callback, args: tuple[Any, ...]
) -> tuple[Callback, Callable[[dict[str, Tensor]], dict[str, Tensor]]]:
    """``marginal(p, exact=True)``, and all latents of p from those of a run of it.

    The finite ones are drawn jointly from their law given the others, by elimination and back.
    """
    model = FiniteLatents(p, args)

    def restored(values: dict[str, Tensor]) -> dict[str, Tensor]:
        drawn = model.solved(values).draw(1)
        return {**values, **{name: x[0] for name, x in drawn.items()}}

    return marginal(p, exact=True), restored
