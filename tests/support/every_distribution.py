"""Every distribution of torch and Pyro, and compound ones of models, as functions of a scale."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints, transforms
from torch import Tensor

from pushforward import laws

Law = Callable[[Tensor], Any]


def f(x: Any) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


def eye(n: int) -> Tensor:
    return torch.eye(n, dtype=torch.float64)


def tril(s: Tensor) -> Tensor:
    return eye(2) * s + f([[0.0, 0.0], [0.5, 0.0]])


def truncated_normal(s: Tensor) -> Any:
    """A normal between 0 and 1, as the inverse of its distribution function at a uniform."""
    base = dist.Uniform(f(0.0), f(1.0))
    low, high = (dist.Normal(f(0.3), s).cdf(f(x)) for x in (0.0, 1.0))
    quantile = transforms.AffineTransform(low, high - low)
    return dist.TransformedDistribution(base, [quantile, _NormalQuantile(f(0.3), s)])


class _NormalQuantile(torch.distributions.Transform):
    """The quantile function of a normal distribution."""

    domain, codomain = constraints.unit_interval, constraints.unit_interval  # of this example
    bijective, sign = True, 1

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.loc, self.scale = loc, scale

    def _call(self, x: Tensor) -> Tensor:
        return self.loc + self.scale * torch.special.ndtri(x)

    def _inverse(self, y: Tensor) -> Tensor:
        return torch.special.ndtr((y - self.loc) / self.scale)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        z = (y - self.loc) / self.scale
        return 0.5 * z**2 + 0.9189385332046727 + self.scale.log()


def mixture(s: Tensor) -> Any:
    weights = dist.Categorical(f([0.3, 0.7]))
    return dist.MixtureSameFamily(weights, dist.Normal(torch.stack([-s, s]), f(0.5)))


def hidden_markov(s: Tensor) -> Any:
    logits = f([[0.5, -0.5], [0.0, 1.0]]) * s
    return dist.DiscreteHMM(logits[0], logits, dist.Normal(f([0.0, 1.0]), f(1.0)), duration=3)


def gaussian(n: int, s: Tensor) -> Any:
    return dist.Normal(torch.zeros(n, dtype=torch.float64), s).to_event(1)


AREAS = laws.Neighbours.of_pairs([(0, 1), (0, 2), (1, 2)])  # a triangle
LAWS: dict[str, Law] = {
    # continuous, univariate
    "AffineBeta": lambda s: dist.AffineBeta(2.0 * s, f(3.0), f(-1.0), f(2.0)),
    "AsymmetricLaplace": lambda s: dist.AsymmetricLaplace(f(0.0), s, f(1.5)),
    "Beta": lambda s: dist.Beta(2.0 * s, f(3.0)),
    "Cauchy": lambda s: dist.Cauchy(f(0.0), s),
    "Chi2": lambda s: dist.Chi2(3.0 * s),
    "ContinuousBernoulli": lambda s: dist.ContinuousBernoulli(0.3 * s),
    "Exponential": lambda s: dist.Exponential(s),
    "FisherSnedecor": lambda s: dist.FisherSnedecor(5.0 * s, f(6.0)),
    "FoldedDistribution": lambda s: dist.FoldedDistribution(dist.Normal(f(0.5), s)),
    "Gamma": lambda s: dist.Gamma(2.0 * s, f(1.5)),
    "GeneralizedPareto": lambda s: dist.GeneralizedPareto(f(0.0), s, f(0.1)),
    "Gumbel": lambda s: dist.Gumbel(f(0.0), s),
    "HalfCauchy": lambda s: dist.HalfCauchy(s),
    "HalfNormal": lambda s: dist.HalfNormal(s),
    "InverseGamma": lambda s: dist.InverseGamma(4.0 * s, f(2.0)),
    "Kumaraswamy": lambda s: dist.Kumaraswamy(2.0 * s, f(1.5)),
    "Laplace": lambda s: dist.Laplace(f(0.0), s),
    "LogNormal": lambda s: dist.LogNormal(f(0.0), 0.5 * s),
    "Logistic": lambda s: dist.Logistic(f(0.0), s),
    "Normal": lambda s: dist.Normal(f(0.0), s),
    "Pareto": lambda s: dist.Pareto(f(1.0), 3.0 * s),
    "SkewLogistic": lambda s: dist.SkewLogistic(f(0.0), s, f(1.5)),
    "SoftAsymmetricLaplace": lambda s: dist.SoftAsymmetricLaplace(f(0.0), s, f(1.5)),
    "SoftLaplace": lambda s: dist.SoftLaplace(f(0.0), s),
    "Stable": lambda s: dist.Stable(f(1.5), f(0.1), s, f(0.0)),
    "StableWithLogProb": lambda s: dist.StableWithLogProb(f(1.5), f(0.1), s, f(0.0)),
    "StudentT": lambda s: dist.StudentT(f(4.0), f(0.0), s),
    "TruncatedPolyaGamma": lambda s: dist.TruncatedPolyaGamma(s),
    "Uniform": lambda s: dist.Uniform(f(-1.0), s),
    "VonMises": lambda s: dist.VonMises(f(0.0), 2.0 * s),
    "Weibull": lambda s: dist.Weibull(s, f(1.5)),
    "RelaxedBernoulli": lambda s: dist.RelaxedBernoulli(f(0.7), probs=0.3 * s),
    "RelaxedBernoulliStraightThrough": lambda s: dist.RelaxedBernoulliStraightThrough(
        f(0.7), probs=0.3 * s
    ),
    # continuous, multivariate
    "AVFMultivariateNormal": lambda s: dist.AVFMultivariateNormal(
        f([0.0, 1.0]), tril(s), f([[[0.1, 0.2]], [[0.3, 0.4]]])
    ),
    "CoalescentTimes": lambda s: dist.CoalescentTimes(f([0.0, 0.0, 0.5]), s),
    "CoalescentTimesWithRate": lambda s: dist.CoalescentTimesWithRate(
        f([0.0, 0.0, 0.5]), s * f([1.0, 1.0, 2.0])
    ),
    "Dirichlet": lambda s: dist.Dirichlet(s * f([1.0, 2.0, 3.0])),
    "GaussianHMM": lambda s: dist.GaussianHMM(
        gaussian(2, s), eye(2), gaussian(2, f(1.0)), eye(2), gaussian(2, f(0.5)), duration=3
    ),
    "GammaGaussianHMM": lambda s: dist.GammaGaussianHMM(
        dist.Gamma(2.0 * s, f(2.0)),
        dist.MultivariateNormal(f([0.0, 0.0]), eye(2)),
        eye(2),
        dist.MultivariateNormal(f([0.0, 0.0]), eye(2)),
        eye(2),
        dist.MultivariateNormal(f([0.0, 0.0]), eye(2)),
        duration=3,
    ),
    "GaussianMRF": lambda s: dist.GaussianMRF(
        dist.MultivariateNormal(f([0.0]), eye(1) * s),
        dist.MultivariateNormal(f([0.0, 0.0]), eye(2) + 0.1).expand([3]),
        dist.MultivariateNormal(f([0.0, 0.0]), eye(2) + 0.1).expand([3]),
    ),
    "GaussianScaleMixture": lambda s: dist.GaussianScaleMixture(
        s * f([1.0, 1.0]), f([0.2, 0.1]), f([0.5, 1.5])
    ),
    "GroupedNormalNormal": lambda s: dist.GroupedNormalNormal(
        f([0.0]), s * f([1.0]), f([0.5, 0.5, 0.5]), torch.tensor([0, 0, 0])
    ),
    "IndependentHMM": lambda s: dist.IndependentHMM(
        dist.GaussianHMM(
            gaussian(1, s).expand([2]),
            eye(1),
            gaussian(1, f(1.0)),
            eye(1),
            gaussian(1, f(0.5)),
            duration=3,
        )
    ),
    "LKJ": lambda s: dist.LKJ(3, s),
    "LKJCholesky": lambda s: dist.LKJCholesky(3, s),
    "LKJCorrCholesky": lambda s: dist.LKJCorrCholesky(3, s),
    "LinearHMM": lambda s: dist.LinearHMM(
        gaussian(2, s), eye(2), gaussian(2, f(1.0)), eye(2), gaussian(2, f(0.5)), duration=3
    ),
    "LogisticNormal": lambda s: dist.LogisticNormal(f([0.0, 0.5]), s * f([1.0, 1.0])),
    "LowRankMultivariateNormal": lambda s: dist.LowRankMultivariateNormal(
        f([0.0, 1.0]), f([[0.5], [0.2]]), s * f([1.0, 0.5])
    ),
    "MixtureOfDiagNormals": lambda s: dist.MixtureOfDiagNormals(
        f([[0.0, 1.0], [1.0, 0.0]]), s * f([[1.0, 1.0], [0.5, 0.5]]), f([0.1, 0.2])
    ),
    "MixtureOfDiagNormalsSharedCovariance": lambda s: dist.MixtureOfDiagNormalsSharedCovariance(
        f([[0.0, 1.0], [1.0, 0.0]]), s * f([1.0, 0.5]), f([0.1, 0.2])
    ),
    "MultivariateNormal": lambda s: dist.MultivariateNormal(f([0.0, 1.0]), scale_tril=tril(s)),
    "MultivariateStudentT": lambda s: dist.MultivariateStudentT(f(4.0), f([0.0, 1.0]), tril(s)),
    "OMTMultivariateNormal": lambda s: dist.OMTMultivariateNormal(f([0.0, 1.0]), tril(s)),
    "ProjectedNormal": lambda s: dist.ProjectedNormal(s * f([1.0, 0.0, 0.5])),
    "RelaxedOneHotCategorical": lambda s: dist.RelaxedOneHotCategorical(
        f(0.7), logits=s * f([0.1, 0.2, 0.3])
    ),
    "RelaxedOneHotCategoricalStraightThrough": lambda s: (
        dist.RelaxedOneHotCategoricalStraightThrough(f(0.7), logits=s * f([0.1, 0.2, 0.3]))
    ),
    "SineBivariateVonMises": lambda s: dist.SineBivariateVonMises(
        f(0.0), f(0.0), 2.0 * s, f(2.0), correlation=f(0.5)
    ),
    "SineSkewed": lambda s: dist.SineSkewed(dist.VonMises(f([0.0]), s).to_event(1), f([0.3])),
    "VonMises3D": lambda s: dist.VonMises3D(s * f([1.0, 0.0, 0.5])),
    "Wishart": lambda s: dist.Wishart(4.0 * s, scale_tril=tril(f(1.0))),
    # discrete
    "Bernoulli": lambda s: dist.Bernoulli(0.3 * s),
    "BetaBinomial": lambda s: dist.BetaBinomial(2.0 * s, f(3.0), 4),
    "Binomial": lambda s: dist.Binomial(4, 0.3 * s),
    "Categorical": lambda s: dist.Categorical(logits=s * f([0.1, 0.2, 0.3])),
    "DirichletMultinomial": lambda s: dist.DirichletMultinomial(s * f([1.0, 2.0]), 3),
    "DiscreteHMM": hidden_markov,
    "ExtendedBetaBinomial": lambda s: dist.ExtendedBetaBinomial(2.0 * s, f(3.0), 4),
    "ExtendedBinomial": lambda s: dist.ExtendedBinomial(4, probs=0.3 * s),
    "GammaPoisson": lambda s: dist.GammaPoisson(2.0 * s, f(1.5)),
    "Geometric": lambda s: dist.Geometric(0.4 * s),
    "LogNormalNegativeBinomial": lambda s: dist.LogNormalNegativeBinomial(f(4.0), f(0.0), 0.5 * s),
    "Multinomial": lambda s: dist.Multinomial(3, probs=torch.stack([0.3 * s, 1.0 - 0.3 * s])),
    "NegativeBinomial": lambda s: dist.NegativeBinomial(f(4.0), probs=0.3 * s),
    "OneHotCategorical": lambda s: dist.OneHotCategorical(logits=s * f([0.1, 0.2, 0.3])),
    "OneHotCategoricalStraightThrough": lambda s: dist.OneHotCategoricalStraightThrough(
        logits=s * f([0.1, 0.2, 0.3])
    ),
    "OneOneMatching": lambda s: dist.OneOneMatching(s * f([[0.1, 0.2], [0.3, 0.1]])),
    "OneTwoMatching": lambda s: dist.OneTwoMatching(
        s * f([[0.1, 0.2], [0.3, 0.1], [0.0, 0.2], [0.5, 0.1]])
    ),
    "OrderedLogistic": lambda s: dist.OrderedLogistic(s, f([-1.0, 0.5])),
    "Poisson": lambda s: dist.Poisson(2.0 * s),
    "SpanningTree": lambda s: dist.SpanningTree(s * f([0.1, 0.2, 0.3])),
    "ZeroInflatedDistribution": lambda s: dist.ZeroInflatedDistribution(
        dist.Binomial(3, 0.3 * s), gate=f(0.2)
    ),
    "ZeroInflatedNegativeBinomial": lambda s: dist.ZeroInflatedNegativeBinomial(
        f(4.0), probs=0.3 * s, gate=f(0.2)
    ),
    "ZeroInflatedPoisson": lambda s: dist.ZeroInflatedPoisson(2.0 * s, gate=f(0.2)),
    # points, and laws made of others
    "Delta": lambda s: dist.Delta(s),
    "Empirical": lambda s: dist.Empirical(f([1.0, 2.0, 4.0]), s * f([0.1, 0.2, 0.3])),
    "ExpandedDistribution": lambda s: dist.ExpandedDistribution(dist.Normal(f(0.0), s), (2,)),
    "ImproperUniform": lambda s: dist.ImproperUniform(constraints.real, (), ()),
    "Independent": lambda s: dist.Normal(f([0.0, 1.0]), s).to_event(1),
    "MaskedDistribution": lambda s: dist.Normal(f([0.0, 1.0]), s).mask(torch.tensor([True, False])),
    "MaskedMixture": lambda s: dist.MaskedMixture(
        torch.tensor([True, False]), dist.Normal(f([0.0, 0.0]), s), dist.Normal(f([1.0, 1.0]), s)
    ),
    "MixtureSameFamily": mixture,
    "NanMaskedMultivariateNormal": lambda s: dist.NanMaskedMultivariateNormal(
        f([0.0, 1.0]), scale_tril=tril(s)
    ),
    "NanMaskedNormal": lambda s: dist.NanMaskedNormal(f(0.0), s),
    "Rejector": lambda s: dist.Rejector(
        dist.Normal(f(0.0), s), lambda x: torch.where(x > 0, f(0.0), f(-torch.inf)), f(0.5).log()
    ),
    "TransformedDistribution": lambda s: dist.TransformedDistribution(
        dist.Normal(f(0.0), s), [transforms.SigmoidTransform()]
    ),
    "Unit": lambda s: dist.Unit(s.log()),
    "affine Normal": lambda s: dist.TransformedDistribution(
        dist.Normal(f(0.0), f(1.0)), [transforms.AffineTransform(s, 2.0 * s)]
    ),
    "ordered Normals": lambda s: dist.TransformedDistribution(
        dist.Normal(f([0.0, 0.0]), s).to_event(1), [transforms.OrderedTransform()]
    ),
    "plate of Bernoullis": lambda s: dist.Bernoulli(0.3 * s).expand([3]),
    "truncated Normal": truncated_normal,
    # of this library
    "AR": lambda s: laws.AR(f([0.5, 0.2]), s, 2, f(0.3)),
    "CAR": lambda s: laws.CAR(f(0.0), f(0.6), s, AREAS),
    "Censored": lambda s: laws.Censored(dist.Normal(f(0.3), s), -1.0, 2.0),
    "GaussianRandomWalk": lambda s: laws.GaussianRandomWalk(s, 2, f(0.1)),
    "GeneralizedExtremeValue": lambda s: laws.GeneralizedExtremeValue(f(0.3), s, f(0.2)),
    "Hurdle": lambda s: laws.Hurdle(dist.Binomial(4, 0.3 * s), f(0.2)),
    "HurdleGamma": lambda s: laws.HurdleGamma(2.0 * s, f(1.5), gate=f(0.2)),
    "HurdleLogNormal": lambda s: laws.HurdleLogNormal(f(0.5), s, gate=f(0.2)),
    "HurdleNegativeBinomial": lambda s: laws.HurdleNegativeBinomial(
        f(4.0), probs=0.3 * s, gate=f(0.2)
    ),
    "HurdlePoisson": lambda s: laws.HurdlePoisson(2.0 * s, gate=f(0.2)),
    "ICAR": lambda s: laws.ICAR(s, AREAS),
    "SkewNormal": lambda s: laws.SkewNormal(f(0.3), s, f(2.0)),
    "Truncated": lambda s: laws.Truncated(dist.Normal(f(0.3), s), -1.0, 2.0),
    "ZeroInflatedBinomial": lambda s: laws.ZeroInflatedBinomial(4, probs=0.3 * s, gate=f(0.2)),
    "ZeroSumNormal": lambda s: laws.ZeroSumNormal(s, 3),
    "censored Poisson": lambda s: laws.Censored(dist.Poisson(2.0 * s), high=4),
    "ordered logistic": lambda s: laws.OrderedLogistic(s, f([-1.0, 0.5])),
    "truncated Poisson": lambda s: laws.Truncated(dist.Poisson(2.0 * s), 1),
}

# Bases and protocols, which are no laws of their own.
NO_LAWS = {"Distribution", "ExponentialFamily", "TorchDistribution"}
