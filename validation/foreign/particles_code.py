"""Schemes and filters of the library ``particles``: their uniform numbers are effects.

What numba has compiled runs as the Python that it was compiled from, since compiled code draws
from a generator of its own.  Weights that sum to a little less than one, as rounding has it, are
read past their end where a uniform number is that near to one: numbers above ``END`` are left out,
unless all are asked for.
"""

from __future__ import annotations

import functools
from bisect import bisect_left
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from pyro import distributions as dist
from torch import Tensor

from ...inference.smc import Population
from ...ppl import draw
from ...ppl.language.program import program_name
from .numpy_code import Generator, globals_as
from .replacing import Replacement, held_in, replaced

SPACINGS = "uniform_spacings"
END = 1 - 2.0**-40  # of uniform numbers: less is left out than checks tolerate


def particles_scheme(
    scheme: Callable[..., Any], taken: int | None = None, end: float = END
) -> Callable[..., Any]:
    """A resampling scheme as a program from weights [n], that sum to one, to a ``Population``.

    The population has the indices [taken] that are taken, of equal weights: it is valid for a
    categorical choice if the expected number of each is ``taken`` times its weight.

    Args:
        scheme: of ``particles.resampling``, or a function (W, M) as these are.
        taken: how many indices, as many as there are weights by default.
        end: where uniform numbers end; with 1.0 the errors that rounding leads to are found.
    """

    def run(weights: Tensor) -> Population:
        size = len(weights) if taken is None else taken
        with replaced(_replacements(scheme, end)):
            indices = scheme(weights.double().numpy(), size)
        ancestors = torch.as_tensor(np.asarray(indices).astype(np.int64))
        return Population(ancestors, -torch.full((size,), float(size)).double().log())

    run.__name__ = run.__qualname__ = program_name(scheme)
    return run


def particles_filter(make: Callable[..., Any], end: float = END) -> Callable[..., Any]:
    """A run of an algorithm of ``particles`` as a program that returns a ``Population``.

    It has the particles of the last step, and their weights with the estimate of the evidence:
    it is valid for a model that returns its last state.

    Args:
        make: makes the algorithm anew, from the arguments of the program:
            ``lambda y: particles.SMC(fk=ssm.Bootstrap(ssm=model(), data=y), N=2)``.
        end: as in ``particles_scheme``.
    """

    def run(*args: Any) -> Population:
        with replaced(_replacements(make, end)):
            algorithm = make(*args)
            algorithm.run()
        log_weights = np.log(algorithm.W) + algorithm.logLt
        return Population(torch.as_tensor(np.asarray(algorithm.X)), torch.as_tensor(log_weights))

    run.__name__ = run.__qualname__ = program_name(make)
    return run


def _replacements(function: Callable[..., Any], end: float) -> list[Replacement]:
    def rule(value: Any) -> Any:
        if getattr(value, "__name__", "") == SPACINGS and callable(value):
            return functools.partial(ordered, end=end)
        return getattr(value, "py_func", None)

    inside = [
        found for package in {"particles", function.__module__} for found in held_in(package, rule)
    ]
    return [*globals_as(Generator(end)), *inside]


def ordered(count: int, end: float = 1.0) -> Any:
    """So many uniform numbers [count] in order, which can be compared with numbers."""
    cells, numbers = _Cells(int(count), end), np.empty(count, dtype=object)
    numbers[:] = [_Ordered(cells, rank) for rank in range(count)]
    return numbers


class _Cells:
    """How many of the uniform numbers lie in each cell of [0, end], which comparisons cut."""

    def __init__(self, count: int, end: float) -> None:
        self.edges, self.counts = [0.0, end], [count]

    def below(self, bound: float) -> int:
        """How many lie below a bound: a binomial choice, in the cell that it cuts."""
        bound = min(max(float(bound), 0.0), self.edges[-1])
        after = bisect_left(self.edges, bound)
        if self.edges[after] != bound:
            low, high, count = self.edges[after - 1], self.edges[after], self.counts[after - 1]
            share = torch.tensor((bound - low) / (high - low), dtype=torch.float64)
            part = int(draw(dist.Binomial(count, share))) if count else 0
            self.edges.insert(after, bound)
            self.counts[after - 1 : after] = [part, count - part]
        return sum(self.counts[:after])


class _Ordered:
    """One of the numbers, by its rank among them."""

    __array_ufunc__ = None  # comparisons with numbers of numpy are its own

    def __init__(self, cells: _Cells, rank: int) -> None:
        self.cells, self.rank = cells, rank

    def __lt__(self, bound: float) -> bool:
        return self.cells.below(bound) > self.rank

    def __gt__(self, bound: float) -> bool:
        return not self < bound

    __le__, __ge__ = __lt__, __gt__  # none is equal to a number
