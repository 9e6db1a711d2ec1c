"""Variational bounds of a model whose posterior is a circle, by the objective that is named.

x and y are Normal(0, 10), z is Normal(r, .1 + r / 100) with r = x^2 + y^2, and z = 5 is observed.
Guides: two independent normals, or a ring: u uniform, and normals around the point of the circle at
the angle 2 pi u, with u proposed back uniformly.  The figures to reach are computed by long runs;
the best bound of independent normals is -8.0745374, that of five particles -7.532.

Source: Becker et al. (arXiv 2406.15742), table 4.
"""

from __future__ import annotations

import argparse
import math
import time

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from pushforward import dist, observe, sample
from pushforward.inference.vi import SVI, Objective, diwhvi, elbo, hvi, iwelbo, iwhvi, reparam

RADIUS = math.sqrt(5.0)


def cone() -> None:
    x = sample("x", dist.Normal(0.0, 10.0))
    y = sample("y", dist.Normal(0.0, 10.0))
    r = x**2 + y**2
    observe("z", dist.Normal(r, 0.1 + r / 100), torch.tensor(5.0))


class Independent(torch.nn.Module):
    """Two normals."""

    def __init__(self, *start: float) -> None:
        super().__init__()
        self.at = torch.nn.Parameter(torch.tensor(start))

    def forward(self) -> None:
        sample("x", reparam(dist.Normal(self.at[0], self.at[2].exp())))
        sample("y", reparam(dist.Normal(self.at[1], self.at[3].exp())))


class Ring(torch.nn.Module):
    """A normal around a random point of the circle of radius sqrt(5)."""

    def __init__(self) -> None:
        super().__init__()
        self.at = torch.nn.Parameter(torch.zeros(2))

    def forward(self) -> None:
        angle = 2 * math.pi * sample("u", dist.Uniform(0.0, 1.0))
        sample("x", reparam(dist.Normal(RADIUS * angle.cos(), self.at[0].exp())))
        sample("y", reparam(dist.Normal(RADIUS * angle.sin(), self.at[1].exp())))


def reverse(kept: dict[str, Tensor]) -> None:
    sample("u", dist.Uniform(0.0, 1.0))


KEEP = ("x", "y")


def objective(name: str) -> tuple[Objective, torch.nn.Module, float]:
    """The objective, its guide at the start, and the figure to reach."""
    ring = Ring()
    return {
        "elbo": lambda: (elbo(cone, (g := Independent(0.0, 0.0, 1.0, 1.0))), g, -8.0745),
        "iwelbo": lambda: (iwelbo(cone, (g := Independent(3.0, 0.0, 1.0, 1.0)), 5), g, -7.56),
        "hvi": lambda: (hvi(cone, ring, KEEP, reverse), ring, -9.748),
        "iwhvi": lambda: (iwhvi(cone, ring, KEEP, reverse, 5), ring, -8.179),
        "diwhvi": lambda: (diwhvi(cone, ring, KEEP, reverse, 5, 5), ring, -7.308),
    }[name]()


NAMES = ("elbo", "iwelbo", "hvi", "iwhvi", "diwhvi")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=NAMES, help=f"some of {', '.join(NAMES)}")
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--draws", type=int, default=400_000, help="of the final evaluation")
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = Table("objective", "to reach", "reached", "s.e.", "seconds", "parameters")
    for name in options.names:
        bound, guide, figure = objective(name)
        optimizer = torch.optim.SGD(guide.parameters(), lr=options.rate)
        start = time.perf_counter()
        SVI(bound, optimizer, samples=options.samples).run(steps=options.steps, seed=options.seed)
        seconds = time.perf_counter() - start
        torch.manual_seed(options.seed)
        with torch.no_grad():
            values = bound.surrogates(options.draws).values.detach()
        error = float(values.std()) / math.sqrt(len(values))
        found = f"{float(values.mean()):.4f}"
        at = ", ".join(f"{x:.3f}" for x in guide.at.tolist())
        table.add_row(name, f"{figure}", found, f"{error:.4f}", f"{seconds:.1f}", at)
    Console().print(table)


if __name__ == "__main__":
    main()
