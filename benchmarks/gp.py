"""The log evidence of a Gaussian process with its gradient, beside scikit-learn and GPyTorch.

``python benchmarks/gp.py [N ...]``: N points of two coordinates, a squared exponential with a
lengthscale for each, its variance and the noise.  A row: milliseconds of CPU for a call, medians of
rounds in turn, and the median ratios.  GPyTorch takes part where it is installed, by Cholesky
factors; ours is torch as it stands, not compiled.  All must agree to 1e-6 of the evidence.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from torch import Tensor

from pushforward.models import gp

START = (0.5, 0.8, 1.5, 0.1)  # two lengthscales, variance, squared noise
Call = Callable[[], tuple[float, int]]
"""The log evidence, and how many derivatives came with it."""


def ours(x: Tensor, y: Tensor) -> Call:
    def call() -> tuple[float, int]:
        p = torch.tensor(START, dtype=torch.float64).log().requires_grad_()
        at = p.exp()
        process = gp.Process(at[2] * gp.SquaredExponential(at[:2]))
        value = process.law(x, at[3].sqrt()).log_prob(y)
        (slope,) = torch.autograd.grad(value, p)
        return float(value.detach()), slope.numel()

    return call


def scikit_learn(x: Tensor, y: Tensor) -> Call:
    kernel = ConstantKernel(START[2]) * RBF(START[:2]) + WhiteKernel(START[3])
    fitted = GaussianProcessRegressor(kernel, alpha=0.0, optimizer=None)
    fitted.fit(x.numpy(), y.numpy())
    theta = fitted.kernel_.theta

    def call() -> tuple[float, int]:
        value, slope = fitted.log_marginal_likelihood(theta, eval_gradient=True)
        return float(value), slope.size

    return call


def gpytorch_(x: Tensor, y: Tensor) -> Call:
    import gpytorch

    likelihood = gpytorch.likelihoods.GaussianLikelihood().double()

    class Model(gpytorch.models.ExactGP):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(x, y, likelihood)
            self.mean = gpytorch.means.ZeroMean()
            rbf = gpytorch.kernels.RBFKernel(ard_num_dims=2)
            self.kernel = gpytorch.kernels.ScaleKernel(rbf)

        def forward(self, at: Tensor) -> gpytorch.distributions.MultivariateNormal:
            return gpytorch.distributions.MultivariateNormal(self.mean(at), self.kernel(at))

    model = Model().double().train()
    likelihood.train()
    model.kernel.base_kernel.lengthscale = torch.tensor(START[:2], dtype=torch.float64)
    model.kernel.outputscale, likelihood.noise = START[2], START[3]
    score = gpytorch.mlls.ExactMarginalLogLikelihood(likelihood, model)
    parameters = list(model.parameters())

    def call() -> tuple[float, int]:
        with gpytorch.settings.max_cholesky_size(100_000):
            value = score(model(x), y) * len(y)  # it is a mean over points
            slopes = torch.autograd.grad(value, parameters)
        return float(value.detach()), sum(s.numel() for s in slopes)

    return call


def timed(call: Call) -> float:
    start = time.process_time()
    call()
    return 1e3 * (time.process_time() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sizes", nargs="*", type=int, default=[50, 200, 800])
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(1)
    makers = {"ours": ours, "scikit-learn": scikit_learn}
    if find_spec("gpytorch") is not None:
        makers["GPyTorch"] = gpytorch_
    others = [name for name in makers if name != "ours"]
    table = Table("points", *(f"{name}, ms" for name in makers), *(f"{o} / ours" for o in others))
    for n in options.sizes:
        rng = np.random.default_rng(0)
        x = torch.tensor(rng.uniform(-2, 2, (n, 2)))
        y = torch.sin(2 * x[:, 0]) + x[:, 1] + 0.3 * torch.tensor(rng.normal(size=n))
        calls = {name: make(x, y) for name, make in makers.items()}
        found = {name: call() for name, call in calls.items()}
        for name, (value, derivatives) in found.items():
            assert derivatives == 4, (name, derivatives)
            assert abs(value - found["ours"][0]) < 1e-6 * abs(value), (name, found)
        times = [{name: timed(call) for name, call in calls.items()} for _ in range(options.rounds)]
        medians = [statistics.median(t[name] for t in times) for name in makers]
        ratios = [statistics.median(t[name] / t["ours"] for t in times) for name in others]
        table.add_row(str(n), *(f"{t:.2f}" for t in medians), *(f"{r:.2f}" for r in ratios))
    Console().print(table)


if __name__ == "__main__":
    main()
