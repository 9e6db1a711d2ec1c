"""The law of a path of states, each an affine image of the one before with normal noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from ..errors import NumericalError, ProgramError, located
from ..language.combinators import scan
from ..tensors.hidden import is_known
from .associative import Element, prefixes

Method = Literal["scan", "loop"]
PIVOT = 4.0  # roundings of a diagonal entry: what is left of one that is smaller is noise


class GaussianMarkov(dist.TorchDistribution):  # type: ignore[misc]
    """Paths x [..., T, s] with x_t = A_t x_(t-1) + b_t + N(0, Q_t), from x_(-1) = 0.

    So Q_0 is the covariance of the first state.  Where it is ``backward`` the chain starts at the
    last state: the path is that of the chain, turned round.

    Args:
        transition: A [..., T, s, s]; offset: b [..., T, s]; covariance: Q [..., T, s, s].

    Errors:
        ProgramError: their shapes are others.
    """

    arg_constraints: dict[str, Any] = {}
    support = constraints.independent(constraints.real, 2)
    has_rsample = True

    def __init__(
        self, transition: Tensor, offset: Tensor, covariance: Tensor, backward: bool = False
    ) -> None:
        *batch, length, states = offset.shape
        for name, matrix in (("transition", transition), ("covariance", covariance)):
            if tuple(matrix.shape[-3:]) != (length, states, states):
                what = f"a chain of {length} times and {states} states has no {name} of shape"
                raise ProgramError(located(f"{what} {list(matrix.shape)}"))
            batch = torch.broadcast_shapes(torch.Size(batch), matrix.shape[:-3])
        shape = torch.Size((*batch, length, states))
        self.transition = transition.expand(*shape, states)
        self.offset, self.covariance = offset.expand(shape), covariance.expand(*shape, states)
        self.backward = backward
        super().__init__(torch.Size(batch), torch.Size((length, states)), validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> GaussianMarkov:
        shape = torch.Size(batch_shape) + self.event_shape
        wide = self.transition.expand(*shape, shape[-1]), self.offset.expand(shape)
        return GaussianMarkov(*wide, self.covariance.expand(*shape, shape[-1]), self.backward)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        """Paths [*sample_shape, ..., T, s]; a state without noise is one with a zero covariance."""
        shape = torch.Size(sample_shape) + self.batch_shape + self.event_shape
        return self.along(torch.randn(shape, dtype=self.offset.dtype, device=self.offset.device))

    def along(self, noise: Tensor) -> Tensor:
        """The path [..., T, s] of which standard normal noise [..., T, s] is the noise."""
        pushed = self.offset + (root_of(self.covariance) @ noise[..., None])[..., 0]
        steps = (self.transition.expand(*noise.shape, noise.shape[-1]), pushed[..., None])
        return self._turned(prefixes(_then, steps)[1][..., 0], -2)

    def log_prob(self, value: Tensor) -> Tensor:
        """[...] of paths [..., T, s].

        Errors:
            NumericalError: a step has a singular covariance, as between two equal times.
        """
        path = self._turned(value, -2)
        before = torch.cat([torch.zeros_like(path[..., :1, :]), path[..., :-1, :]], -2)
        miss = path - (self.transition @ before[..., None])[..., 0] - self.offset
        root = root_of(self.covariance)
        scale = root.diagonal(dim1=-2, dim2=-1)
        if is_known(scale) and bool((scale == 0).any()):
            step = int((scale == 0).any(-1).reshape(-1, scale.shape[-2]).any(0).nonzero()[0])
            what = f"step {step} of a chain has no density: its covariance is singular"
            raise NumericalError(located(what, hint="leave out times that are equal"))
        standard = torch.linalg.solve_triangular(root, miss[..., None], upper=False)[..., 0]
        squares = standard.square().sum((-2, -1)) / 2
        normal = path.shape[-1] * path.shape[-2] * math.log(2 * math.pi) / 2
        density: Tensor = -squares - scale.log().sum((-2, -1)) - normal
        return density

    def marginals(self, method: Method = "scan") -> tuple[Tensor, Tensor]:
        """Means [..., T, s] and covariances [..., T, s, s] of the states."""
        steps = (self.transition, self.offset[..., None], self.covariance)
        require_method(method)
        if method == "loop":
            mean, covariance = _by_loop(steps)
        else:
            _, mean, covariance = prefixes(_then_noisily, steps)
        return self._turned(mean[..., 0], -2), self._turned(covariance, -3)

    @property
    def mean(self) -> Tensor:
        return self.marginals()[0]

    @property
    def variance(self) -> Tensor:
        return self.marginals()[1].diagonal(dim1=-2, dim2=-1)

    def _turned(self, x: Tensor, axis: int) -> Tensor:
        return x.flip(axis) if self.backward else x


def require_method(method: str) -> None:
    """Raise unless it is one of two ways along a chain."""
    if method not in ("scan", "loop"):
        raise ProgramError(located(f"a chain is followed by 'scan' or by 'loop', not {method!r}"))


def joined(laws: Sequence[GaussianMarkov]) -> GaussianMarkov:
    """Independent chains of one length as one, whose state is all of theirs.

    Errors:
        ProgramError: their lengths or directions differ.
    """
    if len({(law.event_shape[0], law.backward) for law in laws}) != 1:
        raise ProgramError(located("chains of one length and direction can be joined"))
    blocks = [
        _blocks([getattr(law, name) for law in laws]) for name in ("transition", "covariance")
    ]
    offset = torch.cat([law.offset for law in laws], -1)
    return GaussianMarkov(blocks[0], offset, blocks[1], laws[0].backward)


def _blocks(matrices: list[Tensor]) -> Tensor:
    """Block-diagonal matrices [..., s, s] of theirs."""
    total, rows, start = sum(x.shape[-1] for x in matrices), [], 0
    for x in matrices:
        rows.append(torch.nn.functional.pad(x, (start, total - start - x.shape[-1])))
        start += x.shape[-1]
    return torch.cat(rows, -2)


def root_of(matrix: Tensor) -> Tensor:
    """Lower triangular R with R R^T = a positive semidefinite matrix [..., s, s].

    A column is zero where nothing but rounding is left of its pivot.
    """
    left, columns = matrix, []
    floor = PIVOT * torch.finfo(matrix.dtype).eps * matrix.diagonal(dim1=-2, dim2=-1)
    for j in range(matrix.shape[-1]):
        pivot = left[..., j, j]
        there = pivot > floor[..., j]
        scale = torch.where(there, pivot, 1.0).rsqrt()[..., None]
        column = torch.where(there[..., None], left[..., :, j] * scale, 0.0)
        column = torch.cat([torch.zeros_like(column[..., :j]), column[..., j:]], -1)
        columns.append(column)
        left = left - column[..., :, None] * column[..., None, :]
    return torch.stack(columns, -1)


def _then(earlier: Element, later: Element) -> Element:
    """x -> A x + b, one after the other."""
    (A, b), (C, d) = earlier, later
    return C @ A, C @ b + d


def _then_noisily(earlier: Element, later: Element) -> Element:
    """x -> N(A x + b, Q), one after the other."""
    (A, b, Q), (C, d, R) = earlier, later
    return C @ A, C @ b + d, C @ Q @ C.mT + R


def _by_loop(steps: Element) -> tuple[Tensor, Tensor]:
    """Means [..., T, s, 1] and covariances [..., T, s, s], one step after the other."""
    rows = tuple(x.movedim(-3, 0) for x in steps)
    start = (torch.zeros_like(rows[1][0]), torch.zeros_like(rows[2][0]))

    def step(carry: Element, row: Element) -> tuple[Element, Element]:
        (mean, covariance), (A, b, Q) = carry, row
        carry = A @ mean + b, A @ covariance @ A.mT + Q
        return carry, carry

    mean, covariance = scan(step)(start, rows)[1]
    return mean.movedim(0, -3), covariance.movedim(0, -3)
