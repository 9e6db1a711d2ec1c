"""Gibbs sampling of finite blocks: drawn from their conditional, exactly."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from pyro import distributions as dist
from torch import Tensor

from ...ppl import draw
from ...ppl.distributions.support import finite_support
from ...ppl.errors import BudgetError, located
from ...ppl.language.program import Callback
from .kernel import Moved, TraceKernel, replaced
from .traces import Traced

LIMIT = 10_000  # joint values of a block


def gibbs(names: str | Sequence[str]) -> TraceKernel:
    """Draw the named finite sites from their joint conditional, given all other choices.

    Idempotent and reversible.  A block that the run lacks in part is drawn as far as it is there.

    Errors:
        ProgramError: the block decides which other choices are made.
        InfiniteSupportError: a site is not finite.
        BudgetError: the block has more than ten thousand joint values.
    """
    block = (names,) if isinstance(names, str) else tuple(names)

    def step(run: Traced, p: Callback, *args: Any) -> Moved:
        here = [name for name in run.choices if name in block]
        if not here:
            return Moved(run, {"+".join(block): []})
        runs = [r for r in _runs(run, here, p, args) if r is not None]
        weights = torch.stack([r.log_density for r in runs])
        index = int(draw(dist.Categorical(logits=weights), label="gibbs"))
        moved = any(not torch.equal(runs[index].choices[n], run.choices[n]) for n in here)
        return Moved(runs[index], {"+".join(here): [moved]})

    def _runs(run: Traced, here: list[str], p: Callback, args: tuple[Any, ...]) -> Any:
        supports = [_values(run.laws[name]) for name in here]
        if (count := math.prod(map(len, supports))) > LIMIT:
            what = f"the block {here} has {count} joint values, over {LIMIT}"
            raise BudgetError(located(what, hint="update it in smaller blocks"))
        for values in itertools.product(*supports):
            chosen = dict(zip(here, values, strict=True))
            yield replaced(run, chosen, p, args, f"the block {here}")

    return TraceKernel(step, f"gibbs({', '.join(block)})")


def _values(law: Any) -> Tensor:
    """All values of a finite law, also those of probability zero under these parents."""
    return finite_support(law, impossible=True)[0]
