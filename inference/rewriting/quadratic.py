"""Real latents in which the log density is quadratic, integrated out, and drawn again from there.

The effects of the groups of a hierarchical model are such, if laws and data are normal: what is
left are means and scales, without the funnel between a scale and its effects.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from ...ppl import marginal
from ...ppl.errors import PushforwardError
from ...ppl.interpretations.abstract_run import abstract_run
from ...ppl.interpretations.quadratic import QuadraticLatents
from ...ppl.language.program import Callback
from .centring import families, with_random_parameters

Values = dict[str, Tensor]

TIED = 4  # coordinates at most; each is a further derivative of the program


def quadratic_latents(p: Callback, args: tuple[Any, ...]) -> list[str]:
    """Which latents to integrate out: of those with random parameters, from the last family on."""
    found: list[str] = []
    for family in reversed(families(with_random_parameters(p, args))):
        names = [*family, *found]
        keep = _others(p, args, names)
        if keep and _is_cheap(p, args, keep):
            found = names
    return found


def integrated(
    p: Callback, args: tuple[Any, ...], names: Sequence[str]
) -> tuple[Callback, Callable[[Values], Values]]:
    """``marginal(p, keep, exact=True)`` of the others, and all latents of p from those of a run."""
    keep = _others(p, args, names)
    model = QuadraticLatents(p, args, keep)

    def restored(values: Values) -> Values:
        return {**values, **model.draw(values)}

    return marginal(p, keep, exact=True), restored


def _others(p: Callback, args: tuple[Any, ...], names: Sequence[str]) -> list[str]:
    """The latents of p(*args) that are not among these."""
    run, _ = abstract_run(p, *args)
    return [n for n, site in run.sites.items() if not site.observed and n not in names]


def _is_cheap(p: Callback, args: tuple[Any, ...], keep: Sequence[str]) -> bool:
    try:
        return QuadraticLatents(p, args, keep).groups.shape[1] <= TIED
    except PushforwardError:  # not quadratic, or another latent depends on them
        return False
