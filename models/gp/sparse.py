"""Sparse processes, by their values at a few inducing points: FITC, and the variational bound VFE.

With Q = K_xz K_zz^-1 K_zx, for inducing points z, of the covariance K_xx at the points x of data.

Source: Snelson and Ghahramani (NIPS 2005) and Titsias (AISTATS 2009); Bauer, van der Wilk,
Rasmussen (arXiv 1606.04820) compare them.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ...ppl import factor, observe
from ...ppl.distributions.gaussian_process import covariance_factor
from .given import jitter_of, variances
from .kernel import Number, require_points
from .low_rank import LowRank
from .process import solved


@dataclass(frozen=True, eq=False)
class Inducing(LowRank):
    """A process by its values at inducing points.

    Noise belongs into ``noise=``; a ``WhiteNoise`` in the kernel would blur the inducing values.

    Args:
        points: z [m, D].
        jitter: on the diagonal of K_zz, in units of its mean; None is 1e-6.

    Errors:
        NumericalError: K_zz has no factor; take more jitter, or points that are further apart.
    """

    points: Tensor
    jitter: float | None = None

    def __post_init__(self) -> None:
        require_points(self.points)

    def features(self, x: Tensor) -> Tensor:
        """K_xz L^-T [..., n, m], where L L' = K_zz."""
        kernel, z = self.process.kernel, self.points
        root = covariance_factor(kernel(z), jitter_of(None, self.jitter))
        return solved(root, kernel(z, x).double()).mT.to(x.dtype)

    def left(self, x: Tensor) -> Tensor:
        W = self.features(x)
        return self.process.kernel(x) - W @ W.mT

    def unexplained(self, x: Tensor, features: Tensor) -> Tensor:
        """The diagonal of K_xx - Q [..., n]; nothing is below zero by rounding."""
        whole = self.process.kernel.diagonal(x)
        return (whole - features.square().sum(-1)).clamp(min=0)


class FITC(Inducing):
    """What the inducing points do not explain of a value is independent noise of that value.

    Observations have the covariance Q + diag(K - Q) + noise^2.
    """

    def own(self, x: Tensor, features: Tensor) -> Tensor:
        return self.unexplained(x, features)


class VFE(Inducing):
    """The variational bound: log N(y; mean, Q + noise^2) - tr(K - Q) / (2 noise^2).

    It is below the log evidence of the process, and equal to it where the inducing points tell all.
    ``law`` is that of the first term alone; ``observed`` has the second as a factor.  Inducing
    points may be optimised with it.
    """

    def slack(self, x: Tensor, noise: Number) -> Tensor:
        """-tr(K - Q) / (2 noise^2) [...]."""
        left = self.unexplained(x, self.features(x))
        return -(left / variances(noise, left)).sum(-1) / 2

    def observed(self, name: str, x: Tensor, y: Tensor, noise: Number) -> None:
        """Observe y [n] at x as site ``name``, and score the trace term as ``name/trace``."""
        observe(name, self.law(x, noise), y)
        factor(f"{name}/trace", self.slack(x, noise))
