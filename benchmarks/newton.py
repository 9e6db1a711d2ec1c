"""Gradient-normalised Newton steps beside scipy's minimisers, by time to a norm of the gradient.

The loss is the mean logistic loss of scikit-learn's breast cancer data, standardised, with a ridge
of 1e-3; all begin at zero and stop where the norm of the gradient is below 1e-8.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.datasets import load_breast_cancer

from pushforward.nn.optim import GradNormSmooth

RIDGE, GOAL = 1e-3, 1e-8
DATA = load_breast_cancer()
ROWS = (DATA.data - DATA.data.mean(0)) / DATA.data.std(0)
ROWS = ROWS * np.where(DATA.target == 1, 1.0, -1.0)[:, None]


def value(x: Any) -> float:
    return float(np.logaddexp(0, -(ROWS @ x)).mean() + RIDGE / 2 * x @ x)


def gradient(x: Any) -> Any:
    return -(expit(-(ROWS @ x)) @ ROWS) / len(ROWS) + RIDGE * x


def hessian(x: Any) -> Any:
    p = expit(-(ROWS @ x))
    return (ROWS.T * (p * (1 - p))) @ ROWS / len(ROWS) + RIDGE * np.eye(ROWS.shape[1])


def ours(kind: Any) -> tuple[int, Any]:
    rows = torch.tensor(ROWS)
    x = torch.nn.Parameter(torch.zeros(ROWS.shape[1], dtype=torch.float64))

    def loss() -> Any:
        plain = torch.nn.functional.softplus(-(rows @ x)).mean()
        return plain + RIDGE / 2 * x.square().sum()

    def exact(at: Any) -> Any:
        return torch.tensor(hessian(at.numpy()))

    optimizer = GradNormSmooth([x], hessian=exact if kind == "by hand" else kind)
    steps = 0
    while np.linalg.norm(gradient(x.detach().numpy())) >= GOAL:
        optimizer.step(loss)
        steps += 1
    return steps, x.detach().numpy()


def scipys(method: str, **about: Any) -> tuple[int, Any]:
    start = np.zeros(ROWS.shape[1])
    found = minimize(value, start, jac=gradient, method=method, **about)
    return int(found.nit), found.x


def main() -> None:
    """Parse the command line, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=11)
    options = parser.parse_args()
    torch.set_num_threads(1)
    fine = {"gtol": 1e-8}
    variants: dict[str, Callable[[], tuple[int, Any]]] = {
        "GNS, Hessian by hand": lambda: ours("by hand"),
        "GNS, Hessian by autograd": lambda: ours("exact"),
        "scipy trust-ncg": lambda: scipys("trust-ncg", hess=hessian, options=fine),
        "scipy L-BFGS-B": lambda: scipys(
            "L-BFGS-B", options={**fine, "ftol": 0, "maxiter": 10000, "maxfun": 100000}
        ),
    }
    times: dict[str, list[float]] = {name: [] for name in variants}
    ends = {}
    for _ in range(options.rounds):
        for name, variant in variants.items():
            start = time.perf_counter()
            ends[name] = variant()
            times[name].append(time.perf_counter() - start)
    table = Table("minimiser", "steps", "ms", "|gradient|", title="logistic regression, 569 x 30")
    for name, (steps, x) in ends.items():
        ms = f"{1e3 * statistics.median(times[name]):.1f}"
        table.add_row(name, str(steps), ms, f"{np.linalg.norm(gradient(x)):.0e}")
    Console().print(table)


if __name__ == "__main__":
    main()
