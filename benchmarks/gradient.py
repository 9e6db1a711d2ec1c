"""The log density and gradient of eight schools: captured and compiled, by hand, and in Pyro.

The model is non-centred, in ten unconstrained coordinates.  All variants are checked against each
other first, then timed in alternation; ratios are medians of paired ratios.  The vectors of all
chains are a tensor [chains, 10], which may lie in memory by rows (chain after chain) or by columns
(coordinate after coordinate): the compiled code is made for the layout of its example.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.infer.mcmc.util import initialize_model
from pyro.ops.integrator import potential_grad
from rich.console import Console
from rich.table import Table
from torch import Tensor

from pushforward.ppl import condition, deterministic, plate, program, sample
from pushforward.ppl.compile.potential import Potential
from pushforward.ppl.interpretations.log_density import LogDensity

Y = [28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0]
SIGMA = [15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0]
DTYPES = {"float32": torch.float32, "float64": torch.float64}
CHAINS = (1, 64, 1024)
Evaluate = Callable[[Tensor], tuple[Tensor, Tensor]]


@program
def eight_schools(sigma: Tensor) -> Tensor:
    """Effects of coaching in eight schools, non-centred."""
    zero = torch.zeros((), dtype=sigma.dtype)
    mu = sample("mu", dist.Normal(zero, 5.0))
    tau = sample("tau", dist.HalfCauchy(zero + 5.0))
    with plate("school", len(sigma)):
        z = sample("z", dist.Normal(zero, 1.0))
        theta = deterministic("theta", mu + tau * z)
        sample("y", dist.Normal(theta, sigma))
    return theta


def by_hand(y: Tensor, sigma: Tensor) -> Evaluate:
    """Batched torch with autograd, for u = (mu, log tau, z) of each chain."""
    log_2pi = math.log(2 * math.pi)
    constant = (
        *(-0.5 * log_2pi - math.log(5.0), math.log(2 / math.pi) - math.log(5.0)),
        *(-4.0 * log_2pi, float(-4.0 * log_2pi - sigma.log().sum())),
    )

    def evaluate(u: Tensor) -> tuple[Tensor, Tensor]:
        u = u.detach().requires_grad_()
        mu, log_tau, z = u[:, 0], u[:, 1], u[:, 2:]
        tau = log_tau.exp()
        theta = mu[:, None] + tau[:, None] * z
        log_density = (
            sum(constant)
            - 0.5 * (mu / 5.0) ** 2
            - torch.log1p((tau / 5.0) ** 2)
            + log_tau
            - 0.5 * (z**2).sum(-1)
            - 0.5 * (((y - theta) / sigma) ** 2).sum(-1)
        )
        (gradient,) = torch.autograd.grad(log_density.sum(), u)
        return log_density.detach(), gradient

    return evaluate


def pyro_potential(y: Tensor, sigma: Tensor) -> Evaluate:
    """Pyro's potential function and its gradient, one chain at a time, as its samplers call it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        conditioned = pyro.poutine.condition(eight_schools.fn, {"y": y})
        _, potential, _, _ = initialize_model(conditioned, (sigma,))

    def evaluate(u: Tensor) -> tuple[Tensor, Tensor]:
        values, gradients = [], []
        for row in u:
            gradient, value = potential_grad(potential, {"mu": row[0], "tau": row[1], "z": row[2:]})
            parts = [gradient["mu"][None], gradient["tau"][None], gradient["z"]]
            values.append(-value)
            gradients.append(-torch.cat(parts))
        return torch.stack(values), torch.stack(gradients)

    return evaluate


def coordinates(density: LogDensity) -> list[int]:
    """Where the library keeps (mu, tau, z) in its vectors."""
    names = density.layout.coordinate_names()
    order = [i for site in ("mu", "tau", "z") for i, n in enumerate(names) if n.startswith(site)]
    assert len(order) == len(names) == 10
    return order


def microseconds(evaluate: Evaluate, u: Tensor, calls: int) -> float:
    """The mean time of one of several calls in a row."""
    start = time.perf_counter()
    for _ in range(calls):
        evaluate(u)
    return (time.perf_counter() - start) / calls * 1e6


def compare(dtype: torch.dtype, chains: int, layout: str, rounds: int) -> list[Any]:
    """One row: microseconds of each variant, and its time relative to ours."""
    y, sigma = torch.tensor(Y, dtype=dtype), torch.tensor(SIGMA, dtype=dtype)
    density = LogDensity(condition(eight_schools, {"y": y}), sigma)
    u = torch.randn(chains, 10, dtype=dtype)
    if layout == "columns":
        u = u.t().contiguous().t()
    ours = Potential(density, u)
    variants: dict[str, Evaluate] = {"ours": ours, "hand": by_hand(y, sigma)}
    if chains <= 64 and layout == "rows":
        variants["pyro"] = pyro_potential(y, sigma)
    order = coordinates(density)
    assert order == list(range(10)), "reorder u for the other variants"
    wanted = variants["hand"](u)
    for name, evaluate in variants.items():
        for found, expected in zip(evaluate(u), wanted, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3, msg=name)
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, evaluate in variants.items():
            calls = {"ours": 200, "hand": 20}.get(name, 1 + 8 // chains)
            times[name].append(microseconds(evaluate, u, calls))
    row: list[Any] = [str(dtype).removeprefix("torch."), chains, layout]
    for name in ("ours", "hand", "pyro"):
        row.append(f"{statistics.median(times[name]):.1f}" if name in times else "")
    for name in ("hand", "pyro"):
        pairs = zip(times.get(name, []), times["ours"], strict=False)
        ratios = [a / b for a, b in pairs]
        row.append(f"{statistics.median(ratios):.0f}" if ratios else "")
    return row


def main() -> None:
    """Parse the command line, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--chains", type=int, nargs="+", default=CHAINS)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    table = Table(
        *(
            "dtype",
            "chains",
            "layout",
            "ours, us",
            "hand, us",
            "Pyro, us",
            "hand / ours",
            "Pyro / ours",
        ),
        title="eight schools: log density and gradient, all chains",
    )
    for dtype in DTYPES.values():
        for chains in options.chains:
            for layout in ("rows", "columns"):
                table.add_row(*map(str, compare(dtype, chains, layout, options.rounds)))
    Console().print(table)


if __name__ == "__main__":
    main()
