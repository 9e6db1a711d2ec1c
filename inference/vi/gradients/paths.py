"""Laws as differentiable functions of noise.

``path(law)`` holds laws of noise, which no parameter moves, and a function from noise to value that
carries the derivative.  Where no noise of fixed size exists (gamma, Dirichlet) the value itself is
the noise, and its derivative is implicit: dx = -dF(x) / p(x).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor

from ....ppl.distributions.pytrees import flatten, rebuild
from .implicit import gamma_slope, share_slope


class Path(NamedTuple):
    """value = function(*noise); ``order`` is how often it may be differentiated, None for ever."""

    noise: tuple[Any, ...]
    function: Callable[..., Tensor]
    order: int | None = None


def path(law: Any) -> Path:
    """The path of a plain law that has one (see ``strategies.has_path``)."""
    if type(law).__name__ == "Independent":
        return _as_event(path(law.base_dist), law.reinterpreted_batch_ndims)
    if type(law).__name__ == "ExpandedDistribution":
        inner: Path = path(law.base_dist)
        return inner._replace(noise=tuple(n.expand(law.batch_shape) for n in inner.noise))
    if isinstance(law, torch.distributions.TransformedDistribution):
        return _transformed(law)
    return _PATHS[type(law).__name__](law)


def by_cdf(law: Any) -> Path:
    """The path of a univariate law by the derivative of its distribution function."""
    if type(law).__name__ == "Independent":
        return _as_event(by_cdf(law.base_dist), law.reinterpreted_batch_ndims)

    def function(x: Tensor) -> Any:
        below = law.cdf(x)
        return x - (below - below.detach()) / law.log_prob(x).detach().exp()

    return Path((detached(law),), function, 1)


def detached(law: Any) -> Any:
    """The same law, which no parameter moves."""
    leaves, spec = flatten(law)
    return rebuild(spec, [leaf.detach() for leaf in leaves])


def _as_event(inner: Path, dims: int) -> Path:
    return inner._replace(noise=tuple(n.to_event(dims) for n in inner.noise))


def _transformed(law: Any) -> Path:
    inner = path(law.base_dist)

    def function(*noise: Tensor) -> Tensor:
        x = inner.function(*noise)
        for transform in law.transforms:
            x = transform(x)
        return x

    return Path(inner.noise, function, inner.order)


def _standard(kind: Any, law: Any) -> Any:
    """The law of a family at location 0 and scale 1, of the shape of another law."""
    zeros = law.loc.detach().new_zeros(law.batch_shape)
    return kind(zeros, torch.ones_like(zeros), validate_args=False)


def _location_scale(law: Any) -> Path:
    noise = _standard(getattr(dist, type(law).__name__), law)
    return Path((noise,), lambda e: law.loc + law.scale * e)


def _exponential(law: Any) -> Path:
    ones = torch.ones_like(law.rate.detach().expand(law.batch_shape))
    return Path((dist.Exponential(ones, validate_args=False),), lambda e: e / law.rate)


def _uniform(law: Any) -> Path:
    zeros = law.low.detach().new_zeros(law.batch_shape)
    noise = dist.Uniform(zeros, torch.ones_like(zeros), validate_args=False)
    return Path((noise,), lambda u: law.low + (law.high - law.low) * u)


def _delta(law: Any) -> Path:
    shape = law.batch_shape + law.event_shape
    return Path((), lambda: law.v if law.v.shape == shape else law.v.expand(shape))


def _normals(like: Tensor, *shape: int) -> Any:
    zeros = like.detach().new_zeros(shape)
    return dist.Normal(zeros, torch.ones_like(zeros), validate_args=False).to_event(1)


def _multivariate_normal(law: Any) -> Path:
    noise = _normals(law.loc, *law.batch_shape, *law.event_shape)
    return Path((noise,), lambda e: law.loc + (law.scale_tril @ e[..., None])[..., 0])


def _low_rank(law: Any) -> Path:
    factor, diagonal = law._unbroadcasted_cov_factor, law._unbroadcasted_cov_diag
    low = _normals(law.loc, *law.batch_shape, factor.shape[-1])
    own = _normals(law.loc, *law.batch_shape, *law.event_shape)

    def function(shared: Tensor, e: Tensor) -> Any:
        return law.loc + (factor @ shared[..., None])[..., 0] + diagonal.sqrt() * e

    return Path((low, own), function)


def _gaussian_markov(law: Any) -> Path:
    noise = _normals(law.offset, *law.batch_shape, *law.event_shape).to_event(1)
    return Path((noise,), law.along)


def _planar_flow(law: Any) -> Path:
    noise = _normals(law.loc, *law.batch_shape, *law.event_shape)
    return Path((noise,), lambda e: law.along(e)[0])


# ----------------------------------------------------------------------------------- implicit paths


def _standard_gamma(concentration: Tensor, law: Any) -> Path:
    """Gamma with rate one."""
    parameter = concentration.expand(law.batch_shape)
    shape = parameter.detach()

    def function(x: Tensor) -> Tensor:
        return x + (parameter - shape) * gamma_slope(shape, x.detach())

    return Path((dist.Gamma(shape, torch.ones_like(shape), validate_args=False),), function, 1)


def _gamma(law: Any) -> Path:
    inner = _standard_gamma(law.concentration, law)
    return Path(inner.noise, lambda g: inner.function(g) / law.rate, 1)


def _student(law: Any) -> Path:
    """A normal over the root of a gamma of mean one."""
    gamma = _standard_gamma(law.df / 2, law)

    def function(e: Tensor, g: Tensor) -> Any:
        return law.loc + law.scale * e * (gamma.function(g) / (law.df / 2)).rsqrt()

    return Path((_standard(dist.Normal, law), *gamma.noise), function, 1)


def _fisher(law: Any) -> Path:
    """A ratio of two gammas of mean one."""
    above, below = _standard_gamma(law.df1 / 2, law), _standard_gamma(law.df2 / 2, law)

    def function(a: Tensor, b: Tensor) -> Any:
        return (above.function(a) / law.df1) / (below.function(b) / law.df2)

    return Path((*above.noise, *below.noise), function, 1)


def _dirichlet(law: Any) -> Path:
    alpha = law.concentration.expand(law.batch_shape + law.event_shape)
    noise = dist.Dirichlet(alpha.detach(), validate_args=False)
    return Path((noise,), lambda x: _shares(alpha, x), 1)


def _beta(law: Any) -> Path:
    """The first share of a Dirichlet law on two."""
    a, b = law.concentration1.expand(law.batch_shape), law.concentration0.expand(law.batch_shape)
    noise = dist.Beta(a.detach(), b.detach(), validate_args=False)
    alpha = torch.stack([a, b], -1)
    return Path((noise,), lambda x: _shares(alpha, torch.stack([x, 1 - x], -1))[..., 0], 1)


def _shares(alpha: Tensor, x: Tensor) -> Tensor:
    """x ~ Dirichlet(alpha), with d x_i / d alpha_j = g_j (delta_ij - x_i)."""
    fixed, x = alpha.detach(), x.detach()
    moved = (alpha - fixed) * share_slope(x, fixed, fixed.sum(-1, True) - fixed)
    return x + moved - x * moved.sum(-1, True)


_PATHS: dict[str, Callable[[Any], Path]] = {
    "Normal": _location_scale,
    "Laplace": _location_scale,
    "Cauchy": _location_scale,
    "Logistic": _location_scale,
    "Exponential": _exponential,
    "Uniform": _uniform,
    "Delta": _delta,
    "MultivariateNormal": _multivariate_normal,
    "LowRankMultivariateNormal": _low_rank,
    "GaussianMarkov": _gaussian_markov,
    "PlanarFlow": _planar_flow,
    "Gamma": _gamma,
    "Chi2": _gamma,
    "StudentT": _student,
    "FisherSnedecor": _fisher,
    "Dirichlet": _dirichlet,
    "Beta": _beta,
}
