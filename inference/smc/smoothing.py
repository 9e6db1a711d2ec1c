"""Backward simulation: whole paths of a program with a ``scan``, through the particles of a filter.

Godsill, Doucet and West 2004, "Monte Carlo smoothing for nonlinear time series".
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from ...ppl import scan, vmap
from ...ppl.errors import ProgramError, located
from ...ppl.language.program import Callback, Program, program_name, signature
from ...ppl.tensors.hidden import is_hidden
from ...ppl.tensors.keys import Bookkeeping, Unkeyed, fingerprint
from .backward import Looked, Path, Smoothing, drawn_last, require_markov, weighed
from .lanes.paths import quick_paths
from .population import Population
from .resampling import Scheme, systematic


def backward_simulation(
    model: Callback,
    particles: int,
    draws: int,
    scheme: Scheme = systematic,
    ess: float = 1.0,
    proposal: Callback | None = None,
    ahead: Callback | None = None,
) -> Program:
    """Paths drawn backward through a filter's particles; it returns a ``Population`` of them.

    The last particle of a path is drawn by weight, and at each earlier step one in proportion to
    its weight times the density of the path's next step from it.  The values are the results of the
    model, from the outputs of its scan along the path; each weight is the filter's evidence over
    ``draws``, times what the model scores after the scan.

    Invariant: E[sum_i w_i delta_{x_i}] is the model's measure, for all numbers and schemes.  Given
    the particles of a step, a next particle has, weighted, the density that sums weight times
    transition over them, by which the probability of the one chosen backward is divided: what is
    left in expectation is each of them, by weight, with a next step drawn from it, and so on down
    to the first.

    A path never changes over between particles of which the steps look at different choices from
    before the scan, such as unknown parameters: for those see ``pseudo_marginal``.

    Args:
        particles: of the filter, whose ``scheme``, ``ess``, ``proposal`` and ``ahead`` are those of
            ``particle_filter``.
        draws: paths, independent given the particles.

    Errors:
        ProgramError: the steps draw anonymously, or make different choices; or the same choices
            lead from other particles to another carry, so that no path could change over to them.
    """
    if min(particles, draws) < 1:
        raise ValueError("backward_simulation needs at least one particle and one path")
    smoothing = Smoothing(model, particles, scheme, ess, proposal, ahead)
    checked, known = Bookkeeping(), _Known()

    def forward(state: tuple[Population, Any], t: Tensor) -> Any:
        population, args = state
        population, (_, made), _ = smoothing.step(population, t, True, *args)
        return (population, args), (population, made)

    def backward(state: tuple[Path, Looked, Any], row: Any) -> Any:
        path, looked, args = state
        path, found = back(path, looked, args, *row)
        return (path, looked, args), found

    def back(path: Path, looked: Looked, args: Any, *row: Any) -> Any:
        axes = (0, *(None,) * (len(row) + 1 + len(args)))
        return vmap(smoothing.back, axes, draws)(path, *row, looked, *args)

    def run(*args: Any) -> Population:
        hidden = any(map(is_hidden, tree_leaves(args)))
        if not hidden and (key := signature(args)) not in checked:
            smoothing.check(*args)
            checked.add(key)
        first, length = smoothing.begin(*args)
        if not length:
            raise ProgramError(located(f"the scan of {program_name(model)} has no steps"))
        times = torch.arange(length)
        (last, _), (populations, made) = scan(forward)((first, args), times)
        last.require_weights()
        key = "" if hidden else fingerprint(args)
        if hidden or key not in known:
            known[key] = smoothing.looked(populations.values, made, length, args)
        latest = tree_map(lambda x: None if x is None else x[-1], made)
        end = vmap(drawn_last, (None, None), draws)(last, latest)
        rows = tree_map(lambda x: x[:-1].flip(0), (times + 1, populations, made))
        (path, looked, _), later = scan(backward)((end, known[key], args), rows)
        path, earliest = back(path, looked, args, 0, first, None)
        found = tree_map(lambda x: None if x is None else x[None], earliest)
        if later is not None:
            found = tree_map(_joined, found, later)
        outputs, astray, spoilt = tree_map(lambda x: None if x is None else x.movedim(0, 1), found)
        require_markov(model, astray)
        paths = weighed((path.before, end.carry), last, spoilt)
        return replace(smoothing, particles=draws).end(paths, outputs, *args).require_weights()

    run.__name__ = run.__qualname__ = f"backward_simulation({particles}, {draws})"
    run.quick = partial(quick_paths, smoothing, draws)  # type: ignore[attr-defined]
    return Program(run)


class _Known(dict[str, Looked], Unkeyed):
    """What the steps look at, by the fingerprint of the arguments."""


def _joined(first: Tensor | None, later: Tensor | None) -> Tensor | None:
    """What the first step made [1, ...] and then the later ones [steps - 1, ...], from last on."""
    return None if first is None or later is None else torch.cat([first, later.flip(0)])
