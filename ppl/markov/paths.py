"""The law of a function with a Matern kernel as a program: a scan over times."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor

from ..language.combinators import scan
from ..language.effects import sample
from ..language.program import Program, program
from .law import root_of
from .matern import Matern


def gaussian_path(kernel: Matern, name: str = "x") -> Program:
    """The program of ``times`` [T], which rise, that returns the states [T, p] of a function.

    The sites are ``x[0]``, ``x[1]``, ...; the function is the first of the states.
    """

    def step(x: Tensor, row: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        A, root = row
        x = sample(name, dist.MultivariateNormal(A @ x, scale_tril=root))
        return x, x

    @program
    def path(times: Tensor) -> Tensor:
        law = kernel.chain(times)
        start = law.offset.new_zeros(kernel.order)
        states: Tensor = scan(step)(start, (law.transition, root_of(law.covariance)))[1]
        return states

    return path
