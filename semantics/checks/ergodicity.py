"""Whether a finite Markov kernel forgets where it began: invariance alone never asks."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, connected_components

from ...ppl.errors import BudgetError, located
from ...ppl.language.program import program_name
from ...ppl.tensors.keys import Values
from ..evaluation.denote import BUDGET, denote
from ..evaluation.measure import readable, share
from ..judging.candidate import measure_of, verdict
from ..judging.report import Report, decide

Program = Callable[..., Any]

LEAST = 1e-15  # chance of a step; one below it is rounding
STATES = 20_000


@verdict
def ergodic(
    kernel: Program,
    target: Program,
    *args: Any,
    budget: int = BUDGET,
    depth: int | None = None,
    bound: float | None = None,
) -> Report:
    """Whether a Markov kernel on finitely many states is irreducible and aperiodic on the target.

    That is, whether each state of positive mass is reached from each other, after any number of
    steps that is large enough.  With ``invariant`` this makes the chain converge to the target from
    every start (Norris 1997, Markov Chains, theorem 1.8.3).  A kernel may keep the target and never
    find half of it, or go round in a circle.

    The deviation is the share of mass that is never reached from some state; of a kernel of period
    k, which is in one part of k at any time, it is 1 - 1/k.

    Errors:
        BudgetError: there are too many paths, or more than 20 000 states.
    """
    start = time.perf_counter()
    subject = f"{program_name(kernel)} is ergodic on {program_name(target)}"
    limits: dict[str, Any] = {"budget": budget, "depth": depth, "bound": bound}
    wanted = denote(target, *args, **limits)
    states, steps = _walk(kernel, subject, [state for state, _ in wanted.atoms], limits)
    top = wanted.log_mass()
    masses = [share(log_weight, top) for _, log_weight in wanted.atoms]
    missed, told = _unreached(steps, masses, states)
    if not missed and masses:
        period = _period(steps)
        missed = 1 - 1 / period
        told = f"a return to {readable(states[0])} takes a multiple of {period} steps"
    return decide(
        subject,
        missed,
        0.0,
        f"of the mass of {len(states)} states",
        told if missed else "",
        time.perf_counter() - start,
        wanted.notes,
        missing=share(wanted.log_rest, top),
    )


def _walk(
    kernel: Program, subject: str, begun: list[Any], limits: dict[str, Any]
) -> tuple[list[Any], csr_array]:
    """All states that are reached from those where it begins, these first; and which steps are."""
    key = Values()
    states, number = list(begun), dict[Hashable, int]()
    for i, state in enumerate(states):
        number[key(state)] = i
    open_, pairs = deque(range(len(states))), list[tuple[int, int]]()
    while open_:
        i = open_.popleft()
        at = f"at the state {readable(states[i])}"
        after = measure_of(subject, kernel, states[i], at=at, runs=len(begun), **limits)
        for state, log_weight in after.atoms:
            if log_weight <= math.log(LEAST):
                continue
            if (k := number.setdefault(key(state), len(states))) == len(states):
                if k >= STATES:
                    what = f"{subject}: the kernel reaches more than {STATES} states"
                    raise BudgetError(located(what, hint="check it on a smaller instance"))
                states.append(state)
                open_.append(k)
            pairs.append((i, k))
    rows, columns = zip(*pairs, strict=True) if pairs else ((), ())
    n = len(states)
    return states, csr_array(([True] * len(pairs), (rows, columns)), shape=(n, n))


def _unreached(steps: csr_array, masses: list[float], states: list[Any]) -> tuple[float, str]:
    """The largest share of mass that is never reached from a state to which the kernel comes.

    That is from a class which it does not leave: all others reach one, and more.
    """
    count, component = connected_components(steps, connection="strong")
    if count < 2:
        return 0.0, ""
    rows, columns = steps.nonzero()
    left = set(component[rows][component[rows] != component[columns]].tolist())
    held = np.bincount(component[: len(masses)], masses, count).tolist()
    least = min((c for c in range(count) if c not in left), key=lambda c: held[c])
    first = component.tolist().index(least)
    never = next(i for i in range(len(masses)) if component[i] != least)
    told = f"from {readable(states[first])} there is no way to {readable(states[never])}"
    return sum(held) - held[least], told


def _period(steps: csr_array) -> int:
    """The greatest common divisor of the lengths of all ways back, where each state leads to each.

    A step from level i of a search to level k changes the length of a way by i + 1 - k.
    """
    order, before = breadth_first_order(steps, 0)
    level = {int(order[0]): 0}
    for i in order[1:].tolist():
        level[i] = level[int(before[i])] + 1
    return math.gcd(
        *(level[int(i)] + 1 - level[int(k)] for i, k in zip(*steps.nonzero(), strict=True))
    )
