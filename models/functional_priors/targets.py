"""What a prior of functions is to resemble: Gaussian processes, as programs of their values."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from pyro import distributions as dist
from torch import Tensor

from ...ppl import Program, program, sample, vmap
from ...ppl.distributions.gaussian_process import process_law, rbf
from ...ppl.errors import located

# (x [n, D], y [m, D], lengthscale, variance) -> [n, m]
Kernel = Callable[..., Tensor]


@dataclass(frozen=True)
class Hyperprior:
    """log lengthscale ~ N(log sqrt(2 D), 1) and log variance ~ N(0.1, 1), for inputs [M, D].

    Args:
        lengthscale, variance: mean and deviation of the logs; a mean of None is log sqrt(2 D).

    Source: the public code of arXiv 2011.12829.
    """

    lengthscale: tuple[float | None, float] = (None, 1.0)
    variance: tuple[float, float] = (0.1, 1.0)

    def drawn(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Sample lengthscale and variance [], for inputs [M, D]."""
        mean, spread = self.lengthscale
        mean = math.log(2 * x.shape[1]) / 2 if mean is None else mean
        laws = {"log_lengthscale": (mean, spread), "log_variance": self.variance}
        at = {
            name: sample(name, dist.Normal(x.new_tensor(a), x.new_tensor(b)))
            for name, (a, b) in laws.items()
        }
        return at["log_lengthscale"].exp(), at["log_variance"].exp()


@dataclass(frozen=True)
class GPTarget:
    """Independent draws f ~ GP(0, kernel), one for each output.

    Args:
        kernel: k(x, y) [n, m] of points [n, D], [m, D]; with a hyperprior, k(x, y, lengthscale,
            variance), such as ``rbf``.
        noise: on the diagonal, as a part of the mean variance.
        hyperprior: of lengthscale and variance, one draw for each function.
        outputs: K.

    Errors:
        ValueError: there is no output, or noise is negative.
    """

    kernel: Kernel = rbf
    noise: float = 1e-6
    hyperprior: Hyperprior | None = None
    outputs: int = 1

    def __post_init__(self) -> None:
        if self.outputs < 1 or not self.noise >= 0:
            raise ValueError(located(f"a target has outputs, and no negative noise: {self}"))

    def __call__(self, x: Tensor) -> Tensor:
        """Sample values f [M, K] at x [M, D]: a program.

        Errors:
            NumericalError: the kernel is not positive semi-definite there.
        """
        values: Tensor = self.program(x)
        return values

    @property
    def program(self) -> Program:
        """Sites ``f`` [K, M], and logs of lengthscale and variance where these have a prior."""

        def process(x: Tensor) -> Tensor:
            at = () if self.hyperprior is None else self.hyperprior.drawn(x)
            law = process_law(self.kernel(x.double(), x.double(), *at), self.noise, x.dtype)
            f: Tensor = sample("f", law.expand([self.outputs]).to_event(1))
            return f.mT

        return program(process)

    def sample(self, x: Tensor, n: int) -> Tensor:
        """``n`` functions at x [M, D]: [n, M, K]."""
        found: Tensor = vmap(lambda: self(x), size=n)()
        return found
