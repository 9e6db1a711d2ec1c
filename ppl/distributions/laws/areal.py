"""Effects of areas that are like those of their neighbours: CAR and ICAR laws."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from ...errors import ProgramError, located
from ...tensors.hidden import is_known
from ...types.zero_sum import zero_sum
from .neighbours import Neighbours
from .parameters import together

LOG_TURN = math.log(2 * math.pi)


class CAR(dist.TorchDistribution):  # type: ignore[misc]
    """Normal with mean ``loc`` and precision tau (D - alpha W), D the sums of the rows of W.

    The density costs a sum over pairs; of the determinant only eigenvalues that are found once are
    needed.  Source: Jin, Carlin and Banerjee, Biometrics 61 (2005).

    Args:
        loc: [*batch, n] or a number.
        alpha: [*batch], above 1 / (the least eigenvalue of D^-1 W) and below 1; 0 is independence.
        tau: [*batch], positive.
        neighbours: ``Neighbours``, or the matrix W [n, n].

    Errors:
        ProgramError: W is no matrix of neighbours, or alpha is out of range.
    """

    arg_constraints = {
        "loc": constraints.real_vector,
        "alpha": constraints.less_than(1.0),  # type: ignore[no-untyped-call]
        "tau": constraints.positive,
    }
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self,
        loc: Tensor | float,
        alpha: Tensor | float,
        tau: Tensor | float,
        neighbours: Any,
        validate_args: bool | None = None,
    ) -> None:
        self.neighbours = _neighbours(neighbours)
        n = self.neighbours.count
        alpha, tau = together(alpha, tau)
        loc = torch.as_tensor(loc, dtype=tau.dtype)
        batch = torch.broadcast_shapes(loc.shape[:-1], alpha.shape)
        self.loc = loc.expand(*batch, n)
        self.alpha, self.tau = alpha.expand(batch), tau.expand(batch)
        least = 1 / float(self.neighbours.spectrum[0])
        if is_known(alpha) and bool((alpha <= least).any()):
            raise ProgramError(
                located(f"alpha of a CAR law is above {least:g} for these neighbours")
            )
        super().__init__(batch, torch.Size([n]), validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> CAR:
        batch = torch.Size(batch_shape)
        loc = self.loc.expand(batch + self.event_shape)
        alpha, tau = self.alpha.expand(batch), self.tau.expand(batch)
        return CAR(loc, alpha, tau, self.neighbours, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        n, y = self.event_shape[0], value - self.loc
        own = (self.neighbours.tensor(self.neighbours.degrees, y) * y.square()).sum(
            -1
        )  # y' D y, and y' (D - W) y
        square = (1 - self.alpha) * own + self.alpha * self.neighbours.differences(y)
        left = 1 - self.alpha[..., None] * self.neighbours.tensor(self.neighbours.spectrum, y)
        positive = (left > 0).all(-1)
        log_det = torch.where(left > 0, left, 1.0).log().sum(-1)
        log_det = log_det + n * self.tau.log() + self.neighbours.log_degrees
        found = (log_det - n * LOG_TURN - self.tau * square) / 2
        return torch.where(positive, found, -math.inf)

    @property
    def precision_matrix(self) -> Tensor:
        """[*batch, n, n]."""
        of = self.neighbours
        w, d = (of.tensor(x, self.loc) for x in (of.matrix, of.degrees))
        return self.tau[..., None, None] * (d.diag() - self.alpha[..., None, None] * w)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        e = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        factor = torch.linalg.cholesky(self.precision_matrix)
        wide = factor.expand(*shape[:-1], *factor.shape[-2:])
        white: Tensor = torch.linalg.solve_triangular(wide.mT, e[..., None], upper=True)
        return self.loc + white[..., 0]

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def covariance_matrix(self) -> Tensor:
        """[*batch, n, n]."""
        found: Tensor = torch.linalg.inv(self.precision_matrix)
        return found

    @property
    def variance(self) -> Tensor:
        return self.covariance_matrix.diagonal(dim1=-2, dim2=-1)


class ICAR(dist.TorchDistribution):  # type: ignore[misc]
    """Vectors of sum zero with density as exp(-tau / 2 sum of w (x_i - x_j)^2 over neighbours).

    It is proper: the density is that on the plane of sum zero.  The areas must hang together; give
    each island that has neighbours of its own a law of its own.

    Args:
        tau: [*batch], positive.
        neighbours: ``Neighbours``, or a matrix [n, n] of weights.

    Errors:
        ProgramError: it is no matrix of neighbours, or the areas do not hang together.
    """

    arg_constraints = {"tau": constraints.positive}
    support = zero_sum
    has_rsample = True

    def __init__(
        self, tau: Tensor | float, neighbours: Any, validate_args: bool | None = None
    ) -> None:
        self.neighbours = _neighbours(neighbours)
        if (parts := self.neighbours.parts) > 1:
            what = f"the areas of an ICAR law hang together; these are {parts} groups"
            raise ProgramError(located(what, hint="give each group an ICAR law of its own"))
        (self.tau,) = together(tau)
        n = self.neighbours.count
        super().__init__(self.tau.shape, torch.Size([n]), validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> ICAR:
        return ICAR(self.tau.expand(torch.Size(batch_shape)), self.neighbours, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        free = self.event_shape[0] - 1
        log_det = free * self.tau.log() + self.neighbours.log_modes
        square = self.tau * self.neighbours.differences(value)
        return (log_det - free * LOG_TURN - square) / 2

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        n = self.event_shape[0]
        shape = torch.Size(sample_shape) + self.batch_shape + (n - 1,)
        e = torch.randn(shape, dtype=self.tau.dtype, device=self.tau.device)
        values, vectors = (self.neighbours.tensor(x, self.tau) for x in self.neighbours.modes)
        return (e / (self.tau[..., None] * values).sqrt()) @ vectors.T

    @property
    def mean(self) -> Tensor:
        return torch.zeros_like(self.variance)

    @property
    def variance(self) -> Tensor:
        """[*batch, n]; where its geometric mean at tau = 1 is s, tau / s has that of one."""
        values, vectors = (self.neighbours.tensor(x, self.tau) for x in self.neighbours.modes)
        return (vectors.square() / values).sum(-1) / self.tau[..., None]


def _neighbours(given: Any) -> Neighbours:
    return given if isinstance(given, Neighbours) else Neighbours.of(given)
