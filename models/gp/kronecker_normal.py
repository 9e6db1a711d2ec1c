"""Normal laws on grids: their covariance is a Kronecker product of small matrices, and noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from ...ppl.errors import DataError, located


class KroneckerNormal(dist.TorchDistribution):  # type: ignore[misc]
    """N(loc, K_1 x ... x K_D + noise^2 I), of N = n_1 ... n_D values, the last axis fastest.

    The density costs sums over axes of n_d^3 and N n_d.  It has no more derivatives than two: that
    of an eigenvector is not computed, as it has none where eigenvalues meet, which those of smooth
    kernels do; the log density is a smooth function all the same, and is expanded to second order
    about the matrices.

    Args:
        loc: [*batch, N].
        factors: K_d [*batch, n_d, n_d], positive semi-definite.
        noise: [*batch], a deviation, positive.

    Source: Saatci, Scalable inference for structured Gaussian process models (2011), chapter 5; the
        expansion is worked out here.

    Errors:
        DataError: loc has another number of values than the grid.
    """

    arg_constraints = {"loc": constraints.real_vector, "noise": constraints.positive}
    support = constraints.real_vector

    def __init__(
        self,
        loc: Tensor,
        factors: Sequence[Tensor],
        noise: Tensor,
        validate_args: bool | None = None,
    ) -> None:
        size = math.prod(K.shape[-1] for K in factors)
        if loc.shape[-1:] != (size,):
            raise DataError(located(f"a grid of {size} values has a mean {list(loc.shape)}"))
        shapes = [loc.shape[:-1], noise.shape, *(K.shape[:-2] for K in factors)]
        batch = torch.broadcast_shapes(*shapes)
        self.loc, self.noise = loc.expand(*batch, size), noise.expand(batch)
        self.factors = tuple(K.expand(*batch, *K.shape[-2:]) for K in factors)
        super().__init__(batch, torch.Size([size]), validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> KroneckerNormal:
        batch = torch.Size(batch_shape)
        factors = tuple(K.expand(*batch, *K.shape[-2:]) for K in self.factors)
        loc, noise = self.loc.expand(batch + self.event_shape), self.noise.expand(batch)
        return KroneckerNormal(loc, factors, noise, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """In the basis of eigenvectors V, where M = T + noise^2 I is nearly diagonal.

        log det M is expanded about the diagonal mu that it has.  z' M^-1 z is the largest value of
        2 z a - a' M a over a, which forgives the errors of a: to one step from z / mu it is exact
        to third order.
        """
        if self._validate_args:
            self._validate_sample(value)
        noise = self.noise.square()[..., None]
        spectra, bases = spectrum(self.factors)
        mu = outer(spectra) + noise.detach()
        turned = [V.mT @ K @ V for V, K in zip(bases, self.factors, strict=True)]
        own = outer([T.diagonal(dim1=-2, dim2=-1) for T in turned])
        w = 1 / mu
        change = own + noise - mu
        pairs = (w * applied([T.square() for T in turned], w)).sum(-1) - (w * own).square().sum(-1)
        log_det = (mu.log() + w * change - (w * change).square() / 2).sum(-1) - pairs / 2

        z = applied([V.mT for V in bases], value - self.loc)
        first = w * z
        a = first + w * (z - applied(turned, first) - noise * first)
        square = (a * (2 * z - applied(turned, a) - noise * a)).sum(-1)
        found: Tensor = -(square + log_det + self.event_shape[0] * math.log(2 * math.pi)) / 2
        return found

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        """A draw [*sample, *batch, N]; it has no derivative."""
        with torch.no_grad():
            shape = self._extended_shape(sample_shape)
            e = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
            spectra, bases = spectrum(self.factors)
            spread = (outer(spectra) + self.noise.square()[..., None]).sqrt()
            return self.loc + applied(bases, spread * e)

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def variance(self) -> Tensor:
        """[*batch, N]."""
        own = outer([K.diagonal(dim1=-2, dim2=-1) for K in self.factors])
        return own + self.noise.square()[..., None]

    @property
    def covariance_matrix(self) -> Tensor:
        """[*batch, N, N]."""
        columns = applied(self.factors, torch.eye(self.event_shape[0]).to(self.loc))
        return columns + torch.diag_embed(self.noise.square()[..., None].expand(self.loc.shape))


def spectrum(factors: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Eigenvalues [..., n_d] and eigenvectors [..., n_d, n_d], as constants; none is below zero."""
    found = [torch.linalg.eigh(K.detach()) for K in factors]
    return [values.clamp(min=0) for values, _ in found], [vectors for _, vectors in found]


def outer(vectors: Sequence[Tensor]) -> Tensor:
    """The Kronecker product [..., N] of vectors [..., n_d]."""
    product = vectors[0]
    for v in vectors[1:]:
        product = (product[..., :, None] * v[..., None, :]).flatten(-2)
    return product


def applied(factors: Sequence[Tensor], v: Tensor) -> Tensor:
    """The Kronecker product of matrices [..., p_d, n_d] times vectors [..., N]."""
    for A in factors:
        v = (A @ v.unflatten(-1, (A.shape[-1], -1))).mT.flatten(-2)
    return v
