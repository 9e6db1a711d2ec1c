"""The inverse Wishart law of covariances, and the normal-inverse-Wishart law of means with them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.utils import lazy_property

from ..errors import NumericalError, located


class InverseWishart(dist.TorchDistribution):  # type: ignore[misc]
    """Covariances [d, d] whose inverse is Wishart(df, scale^-1).

    Args:
        df: [*batch], above d - 1.
        scale: [*batch, d, d], positive definite; the mean is scale / (df - d - 1).
    """

    support = constraints.positive_definite
    has_rsample = True

    def __init__(
        self, df: Tensor | float, scale: Tensor, validate_args: bool | None = None
    ) -> None:
        if scale.ndim < 2 or scale.shape[-1] != scale.shape[-2]:
            what = f"the scale of an inverse Wishart law is [d, d], not {list(scale.shape)}"
            raise ValueError(located(what))
        df = torch.as_tensor(df, dtype=scale.dtype, device=scale.device)
        batch = torch.broadcast_shapes(df.shape, scale.shape[:-2])
        self.df, self.scale = df.expand(batch), scale.expand(batch + scale.shape[-2:])
        super().__init__(batch, scale.shape[-2:], validate_args=validate_args)

    @property
    def arg_constraints(self) -> dict[str, Any]:
        above = constraints.greater_than(self.scale.shape[-1] - 1)  # type: ignore[no-untyped-call]
        return {"df": above, "scale": constraints.positive_definite}

    def expand(self, batch_shape: Any, _instance: Any = None) -> InverseWishart:
        batch = torch.Size(batch_shape)
        scale = self.scale.expand(batch + self.event_shape)
        return InverseWishart(self.df.expand(batch), scale, validate_args=False)

    @lazy_property
    def _factor(self) -> Tensor:
        factor: Tensor = torch.linalg.cholesky(self.scale)
        return factor

    @property
    def dim(self) -> int:
        return int(self.event_shape[-1])

    @property
    def mean(self) -> Tensor:
        """scale / (df - d - 1), infinite unless df > d + 1."""
        over = (self.df - self.dim - 1)[..., None, None]
        return torch.where(over > 0, self.scale / over, math.inf)

    @property
    def mode(self) -> Tensor:
        return self.scale / (self.df + self.dim + 1)[..., None, None]

    @property
    def variance(self) -> Tensor:
        """Of each entry, infinite unless df > d + 3."""
        over = (self.df - self.dim)[..., None, None]
        diagonal = self.scale.diagonal(dim1=-2, dim2=-1)
        product = diagonal[..., :, None] * diagonal[..., None, :]
        found = (over + 1) * self.scale**2 + (over - 1) * product
        return torch.where(over > 3, found / (over * (over - 1) ** 2 * (over - 3)), math.inf)

    @property
    def mean_log_det(self) -> Tensor:
        """E log |covariance| [*batch]."""
        at = self.df / 2
        return log_det(self._factor) - self.dim * math.log(2) - multidigamma(at, self.dim)

    def entropy(self) -> Tensor:
        """[*batch]."""
        d, a = self.dim, self.df / 2
        const = torch.mvlgamma(a, d) + self.df * d / 2 * (1 + math.log(2))
        weighed = (self.df + d + 1) / 2 * self.mean_log_det
        found: Tensor = const - self.df / 2 * log_det(self._factor) + weighed
        return found

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        """F F^T, F = C B^-T, for scale = C C^T and Bartlett's factor B of Wishart(df, I)."""
        shape = torch.Size(sample_shape) + self.batch_shape
        minus = torch.arange(self.dim, dtype=self.df.dtype, device=self.df.device)
        chi2 = dist.Chi2((self.df[..., None] - minus).expand((*shape, self.dim)))
        normal = torch.randn((*shape, self.dim, self.dim), dtype=self.df.dtype).to(self.df.device)
        factor = normal.tril(-1) + chi2.rsample().sqrt().diag_embed()
        whole = self._factor.expand(factor.shape)
        right = torch.linalg.solve_triangular(factor, whole.mT, upper=False)  # B^-1 C^T
        found: Tensor = right.mT @ right
        return found

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        d, factor = self.dim, torch.linalg.cholesky(value)
        white = torch.linalg.solve_triangular(
            factor,
            self._factor.expand(torch.broadcast_shapes(factor.shape, self.scale.shape)),
            upper=False,
        )
        const = self.df * (log_det(self._factor) - d * math.log(2)) / 2
        const = const - torch.mvlgamma(self.df / 2, d)
        found: Tensor = (
            const - (self.df + d + 1) / 2 * log_det(factor) - white.square().sum((-2, -1)) / 2
        )
        return found


@dataclass(frozen=True)
class NormalInverseWishart:
    """Covariance ~ InverseWishart(df, scale), and mean ~ Normal(loc, covariance / count) given it.

    A joint law of two sites: as a program, ``models.niw_meta.niw``.

    Args:
        loc: [*batch, d].
        scale: [*batch, d, d], positive definite.
        df: [*batch] or a number, above d - 1.
        count: positive; infinite for a mean that is known given the covariance.

    Errors:
        ValueError: a shape or a parameter is out of range.
    """

    loc: Tensor
    scale: Tensor
    df: Tensor | float
    count: Tensor | float = math.inf

    def __post_init__(self) -> None:
        if self.scale.shape[-2:] != (self.dim, self.dim):
            what = f"loc has {self.dim} numbers, and scale is {list(self.scale.shape)}"
            raise ValueError(located(what))
        if not bool((torch.as_tensor(self.count) > 0).all()):
            raise ValueError(located(f"count is positive, not {self.count}"))
        _ = self.covariance

    @property
    def dim(self) -> int:
        return self.loc.shape[-1]

    @property
    def covariance(self) -> InverseWishart:
        """The law of the covariance."""
        return InverseWishart(self.df, self.scale, validate_args=True)

    def given(self, covariance: Tensor) -> Any:
        """The law of the mean given the covariance [*batch, d, d]; ``count`` must be finite."""
        count = torch.as_tensor(self.count, dtype=self.loc.dtype)
        if not bool(count.isfinite().all()):
            what = "the mean has no density where count is infinite"
            raise ValueError(located(what, hint="give a finite count"))
        return dist.MultivariateNormal(self.loc, covariance / count[..., None, None])

    def rsample(self, sample_shape: Any = torch.Size()) -> tuple[Tensor, Tensor]:
        """Means [*sample, *batch, d] and covariances [*sample, *batch, d, d]."""
        covariance = self.covariance.rsample(sample_shape)
        if math.isinf(float(torch.as_tensor(self.count).max())):
            return self.loc.expand(covariance.shape[:-1]), covariance
        return self.given(covariance).rsample(), covariance

    def log_prob(self, mean: Tensor, covariance: Tensor) -> Tensor:
        """The joint density [*batch], with respect to mean and lower triangle of the covariance."""
        marginal: Tensor = self.covariance.log_prob(covariance)
        conditional: Tensor = self.given(covariance).log_prob(mean)
        return marginal + conditional

    def mode(self) -> tuple[Tensor, Tensor]:
        """The mean and the covariance at which the joint density is greatest."""
        below = torch.as_tensor(self.df) + self.dim + 2
        return self.loc, self.scale / below[..., None, None]

    def entropy(self) -> Tensor:
        """Of the joint law [*batch]; ``count`` must be finite."""
        law, d = self.covariance, self.dim
        count = torch.as_tensor(self.count, dtype=self.loc.dtype)
        if not bool(count.isfinite().all()):
            raise ValueError(located("the mean has no density where count is infinite"))
        found: Tensor = (
            law.entropy()
            + (d * (1 + math.log(2 * math.pi)) - d * count.log() + law.mean_log_det) / 2
        )
        return found

    def expected_kl(self, mean: Tensor, covariance: Tensor) -> Tensor:
        """E KL(Normal(mean, covariance) || Normal(mu, Sigma)) [*batch], (mu, Sigma) of this law.

        Args:
            mean: [*batch, d]; covariance: [*batch, d, d].
        """
        law, d = self.covariance, self.dim
        n, count = law.df, torch.as_tensor(self.count, dtype=self.loc.dtype)
        factor = _cholesky("the covariance of a local posterior", covariance)
        own = torch.linalg.cholesky(self.scale)
        spread = _solved(own, factor).square().sum((-2, -1))
        apart = _solved(own, (mean - self.loc)[..., None]).square().sum((-2, -1))
        logs = law.mean_log_det - log_det(factor)
        found: Tensor = (n * (spread + apart) + d / count - d + logs) / 2
        return found

    def predictive(self) -> Any:
        """The Student law of theta ~ Normal(mean, covariance), both of this law."""
        df = torch.as_tensor(self.df, dtype=self.loc.dtype) - self.dim + 1
        count = torch.as_tensor(self.count, dtype=self.loc.dtype)
        scale = self.scale * ((1 + 1 / count) / df)[..., None, None]
        return dist.MultivariateStudentT(df, self.loc, torch.linalg.cholesky(scale))


def log_det(factor: Tensor) -> Tensor:
    """log |F F^T| [*batch] of Cholesky factors [*batch, d, d]."""
    return 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def multidigamma(at: Tensor, d: int) -> Tensor:
    """sum_j digamma(at + (1 - j) / 2), j = 1 .. d: the derivative of torch.mvlgamma."""
    less = torch.arange(d, dtype=at.dtype, device=at.device) / 2
    return torch.digamma(at[..., None] - less).sum(-1)


def _solved(factor: Tensor, right: Tensor) -> Tensor:
    batch = torch.broadcast_shapes(factor.shape[:-2], right.shape[:-2])
    a, b = (x.expand(batch + x.shape[-2:]) for x in (factor, right))
    found: Tensor = torch.linalg.solve_triangular(a, b, upper=False)
    return found


def _cholesky(what: str, matrix: Tensor) -> Tensor:
    factor: Tensor
    factor, info = torch.linalg.cholesky_ex(matrix)
    if bool((info != 0).any()):
        raise NumericalError(located(f"{what} is not positive definite"))
    return factor
