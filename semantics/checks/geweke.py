"""Whether a method draws posteriors: by the joint law of latents and data, which it must keep.

Latents and data are drawn from the model.  In turn the latents move by the method, given the data,
and new data are drawn given the latents: Geweke's successive-conditional simulation (Getting it
right: joint distribution tests of posterior simulators, JASA 99, 2004).  Each chain starts in the
joint law, as with Gandy and Scott (Unit testing for MCMC and other Monte Carlo methods, arXiv
2001.06465), and is used once, so no two bets depend on each other and nothing is to burn in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ...ppl.errors import DataError, ProgramError, located
from ...ppl.interpretations.assess import assess
from ...ppl.interpretations.generate import generate
from ...ppl.interpretations.simulate import simulate
from ...ppl.language.combinators import condition
from ...ppl.language.program import program_name
from ..evaluation.sources import elsewhere
from ..judging.candidate import verdict
from ..judging.report import Report
from .stationary import kept

JOINT = "log density"  # is a number of a state, and sees widths that margins hide
LOOKS = 5  # redrawn data, at which the prior of the latents is looked at
ROUNDING = 1e-6
Choices = dict[str, Tensor]
Step = Callable[[Callable[..., Any], Choices], Choices]


@verdict
def geweke(
    model: Callable[..., Any],
    step: Step,
    observed: Sequence[str],
    *args: Any,
    steps: int = 1,
    draws: int = 20_000,
    level: float = 1e-6,
    width: float = 0.1,
    seed: int = 0,
) -> Report:
    """Whether a step given data, and new data given the latents, keep the joint law of a model.

    For methods that are run on a program, and not on a target of their own: it finds what is wrong
    in the likelihood that a method uses, or in the data that it takes, as well as in its moves.

    Args:
        model: a program without data, called with ``args``.
        step: from the program conditioned on data, and latents by name, to latents by name.  It may
            draw from the global generators of torch, numpy and random, which are seeded.
        observed: the sites that are data.
        steps: how often the latents move, and data between, before they are compared with what they
            were.  The last to move are latents, which the data that moved them would betray.
        draws: the most chains; a wrong method is found earlier.
        level: the chance that a right method is said to be wrong, whatever the number of draws.
        width: what half the change of a bounded test function's mean may be and not be found; the
            verdict is unknown where a larger one could hide.
        seed: of everything.

    It sees one step of a chain, however slow; ``sbc`` sees more of whole posteriors, whose widths
    it compares among many draws.  A step that stands still keeps every law: see ``ergodic``.

    Errors:
        DataError: a site is not in the model, or all are observed.
        ProgramError: latents depend on data, or scores do: these cannot be redrawn from the model.
        ValueError: ``draws`` or ``steps`` is not positive, or ``level`` not in (0, 1).
    """
    if steps < 1 or isinstance(observed, str):
        what = f"steps={steps!r}, observed={observed!r}"
        raise ValueError(f"steps is positive and observed a list of names: {what}")
    with elsewhere(seed), torch.no_grad():
        _require_first(model, observed, args)

    def moved(state: Choices) -> Choices:
        latents, data = _parted(state, observed)
        for i in range(steps):
            if i:
                data = _parted(generate(model, latents, *args)[0].choices, observed)[1]
            found = step(condition(model, data), latents)
            if not isinstance(found, dict) or found.keys() != latents.keys():
                what = f"the step returns {sorted(found) if isinstance(found, dict) else found!r}"
                raise DataError(located(what, hint=f"return the latents {sorted(latents)}"))
            latents = found
        return scored({**latents, **data})

    def scored(state: Choices) -> Choices:
        return {**state, JOINT: assess(model, state, *args)[0]}

    def drawn() -> tuple[Choices, Tensor]:
        trace, log_weight = generate(model, {}, *args)
        return scored(trace.choices), log_weight

    name = getattr(step, "__name__", type(step).__name__)
    subject = f"{name} draws the latents of {program_name(model)} given its data"
    return kept(subject, moved, drawn, draws, level, width, None, seed)


def _parted(choices: Choices, observed: Sequence[str]) -> tuple[Choices, Choices]:
    """Latents and data of a state, which may have its log density with it."""
    data = {name: choices[name] for name in observed}
    return {name: x for name, x in choices.items() if name not in (*data, JOINT)}, data


def _require_first(
    model: Callable[..., Any], observed: Sequence[str], args: tuple[Any, ...]
) -> None:
    """Raise unless data drawn given the latents are drawn from their law given the latents.

    They are, where nothing but the data's own density depends on them.
    """
    trace = simulate(model, *args)
    absent = [name for name in observed if name not in trace.choices]
    if absent or not observed or len(set(observed)) == len(trace.choices):
        what = f"no site called {absent}" if absent else "none or all of the sites are observed"
        hint = f"the sites are {sorted(trace.choices)}"
        raise DataError(located(f"the joint law of {program_name(model)}: {what}", hint=hint))
    latents, data = _parted(trace.choices, observed)
    before = _without(model, latents, data, args)
    for _ in range(LOOKS):
        new = _parted(generate(model, latents, *args)[0].choices, observed)[1]
        after = _without(model, latents, new, args)
        if not math.isclose(before, after, rel_tol=ROUNDING, abs_tol=ROUNDING):
            what = f"what is not data has the log density {before:.6g}, and {after:.6g} by new data"
            hint = "latents and scores may not depend on data: check a step by stationary()"
            raise ProgramError(located(f"{program_name(model)}: {what}", hint=hint))


def _without(
    model: Callable[..., Any], latents: Choices, data: Choices, args: tuple[Any, ...]
) -> float:
    """The log density of all but the data."""
    trace, _ = generate(condition(model, data), latents, *args)
    return float(trace.log_density) - sum(float(trace.log_probs[name].sum()) for name in data)
