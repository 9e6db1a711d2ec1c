"""Stochastic volatility, 500 days: the filter by particles, PMMH and SMC^2 on its parameters.

x_0 ~ N(mu, sigma^2 / (1 - phi^2)), x_t ~ N(mu + phi (x_{t-1} - mu), sigma^2), y_t ~ N(0, exp(x_t)),
with mu = -1, phi = 0.95, sigma = 0.25 in the simulated data.  All in float64, compiled.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import pyro.distributions as dist
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from pushforward.inference import MCMC, particle_filter, pseudo_marginal, smc_squared
from pushforward.inference.kernels import block
from pushforward.ppl import compiled, observe, program, sample, scan

Parameters = tuple[Tensor, Tensor, Tensor]


def f(x: float) -> Tensor:
    """A number in float64."""
    return torch.tensor(x, dtype=torch.float64)


@program
def volatility(parameters: Parameters, ys: Tensor) -> Tensor:
    """The series; returns its last state."""
    mu, phi, sigma = parameters

    def step(x: Tensor, y: Tensor) -> tuple[Tensor, None]:
        x = sample("x", dist.Normal(mu + phi * (x - mu), sigma))
        observe("y", dist.Normal(torch.zeros_like(x), (0.5 * x).exp()), y)
        return x, None

    return scan(step)(sample("x0", dist.Normal(mu, sigma / (1 - phi**2).sqrt())), ys)[0]


@program
def prior(ys: Tensor) -> Parameters:
    """Weak about the level, sure of a long memory."""
    return (
        sample("mu", dist.Normal(f(0.0), f(2.0))),
        sample("phi", dist.Beta(f(20.0), f(1.5))),
        sample("sigma", dist.Gamma(f(2.0), f(8.0))),
    )


def walk(at: dict[str, Tensor], ys: Tensor) -> None:
    """A random walk of the parameters, each on a scale without bounds."""
    sample("mu", dist.Normal(at["mu"], f(0.15)))
    logit = dist.Normal(at["phi"].logit(), f(0.3))
    sample("phi", dist.TransformedDistribution(logit, [dist.transforms.SigmoidTransform()]))
    sample("sigma", dist.LogNormal(at["sigma"].log(), f(0.2)))


def simulated(truth: Parameters, steps: int) -> Tensor:
    """Data from the model."""
    mu, phi, sigma = truth
    x, ys = mu + sigma / (1 - phi**2).sqrt() * torch.randn((), dtype=torch.float64), []
    for _ in range(steps):
        x = mu + phi * (x - mu) + sigma * torch.randn((), dtype=torch.float64)
        ys.append((0.5 * x).exp() * torch.randn((), dtype=torch.float64))
    return torch.stack(ys)


def filters(truth: Parameters, ys: Tensor) -> Table:
    """Speed and spread of the log evidence by the number of particles."""
    names = ("particles", "runs", "M particle-steps a second", "mean log evidence", "sd")
    table = Table(*names, title="particle filter")
    for n, runs in ((100, 40), (1_000, 40), (10_000, 20), (100_000, 5)):
        filtering = compiled(particle_filter(volatility, n))
        filtering(truth, ys)
        found, seconds = [], []
        for _ in range(runs):
            start = time.perf_counter()
            found.append(float(filtering(truth, ys).log_evidence()))
            seconds.append(time.perf_counter() - start)
        rate = n * len(ys) / statistics.median(seconds) / 1e6
        mean, sd = statistics.mean(found), statistics.stdev(found)
        table.add_row(f"{n}", f"{runs}", f"{rate:.1f}", f"{mean:.3f}", f"{sd:.3f}")
    return table


def parameters(ys: Tensor, draws: int) -> Table:
    """The posterior of the parameters by two algorithms."""
    table = Table("algorithm", "seconds", "mu", "phi", "sigma", "log evidence", title="parameters")

    def add(name: str, seconds: float, moments: list[tuple[Any, Any]], evidence: str) -> None:
        shown = (f"{float(mean):.3f} ({float(sd):.3f})" for mean, sd in moments)
        table.add_row(name, f"{seconds:.1f}", *shown, evidence)

    target = pseudo_marginal(prior, compiled(particle_filter(volatility, 300)))
    start = time.perf_counter()
    chains = MCMC(block(walk), chains=2, draws=draws, warmup=draws // 5)
    fit = chains.run(target, ys, seed=1)
    seconds = time.perf_counter() - start
    moments = [(fit[name].mean(), fit[name].std()) for name in ("mu", "phi", "sigma")]
    add(f"PMMH, 2 x {draws} draws, 300 particles", seconds, moments, "")
    squared = compiled(smc_squared(prior, volatility, 256, 100, walk, every=25))
    squared(ys)
    found, populations = [], []
    start = time.perf_counter()
    for _ in range(5):
        population = squared(ys)
        populations.append(population)
        found.append(float(population.log_evidence()))
    seconds = (time.perf_counter() - start) / 5
    weights = torch.cat([p.probabilities() / 5 for p in populations])
    moments = []
    for i in range(3):
        x = torch.cat([p.values[0][i] for p in populations])
        mean = weights @ x
        moments.append((mean, (weights @ (x - mean) ** 2).sqrt()))
    evidence = f"{statistics.mean(found):.2f} (sd {statistics.stdev(found):.2f})"
    add("SMC^2, 256 x 100 particles, 5 runs", seconds, moments, evidence)
    return table


def main() -> None:
    """Parse the command line, and print the two tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--draws", type=int, default=3000, help="of each PMMH chain")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(1)
    truth = (f(-1.0), f(0.95), f(0.25))
    with torch.no_grad():
        ys = simulated(truth, options.steps)
        console = Console(width=140)
        console.print(filters(truth, ys))
        console.print(parameters(ys, options.draws))


if __name__ == "__main__":
    main()
