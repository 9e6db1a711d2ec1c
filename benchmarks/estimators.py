"""Estimators and models beside their usual peers, in alternation on one thread.

Projection processes beside DPPy (``pip install dppy``; left out where it is missing), separators
beside scikit-learn, unnormalised models beside noise-contrastive estimation, elliptic equations
beside Newton's method on finite differences, bilevel steps beside implicit differentiation.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy.sparse import diags_array, eye_array, kron
from scipy.sparse.linalg import spsolve
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.linear_model import Perceptron as Peer
from torch import nn

from pushforward import dist
from pushforward.models.bilevel import HyperCleaning
from pushforward.models.determinantal import Finite, draw_projection
from pushforward.models.elliptic import BarronDescent, EllipticVariational, SemilinearCubic
from pushforward.models.energy import CompositionalLikelihood, NoiseContrastive, UnnormalizedModel
from pushforward.models.logistic import BatchPerceptron, NormalizedLogisticClassifier
from pushforward.nn.optim import BOREP, hypergradient

Run = Callable[[], Any]
Case = tuple[str, dict[str, Run], Callable[[str, Any], str]]


def processes(n: int, m: int) -> Case:
    """A draw of m of n points; the answer is how many are distinct."""
    vectors, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(n, m)))
    space = Finite(torch.as_tensor(vectors) * math.sqrt(n))
    runs: dict[str, Run] = {"ours": lambda: draw_projection(space).tolist()}
    if importlib.util.find_spec("dppy"):
        from dppy.finite_dpps import FiniteDPP

        peer = FiniteDPP("correlation", projection=True, K_eig_dec=(np.ones(m), vectors))
        runs["DPPy, GS"] = lambda: peer.sample_exact(mode="GS")
    return f"{m} of {n} points", runs, lambda name, out: f"{len(set(out))} distinct"


def separators(rows: int) -> Case:
    """The set where the number of steps of plain descent grows with the data."""
    x = np.tile([-0.5, -1.0], (rows, 1))
    x[0] = [0.5, -1.0]
    y = np.r_[1, -np.ones(rows - 1)]
    about: dict[str, Any] = {"fit_intercept": False}
    made: dict[str, Any] = {
        "ours, gamma 100": NormalizedLogisticClassifier(100.0, **about),
        "ours, batch perceptron": BatchPerceptron(normalized=True, **about),
        "scikit-learn, lbfgs": LogisticRegression(C=1e6, **about),
        "scikit-learn, perceptron": Peer(tol=None, max_iter=50, **about),
    }
    runs = {name: lambda each=each: each.fit(x, y) for name, each in made.items()}
    return f"a separator of {rows}", runs, lambda name, out: f"accuracy {out.score(x, y):.4f}"


def energies() -> Case:
    """One step of a network in two dimensions, 256 data and as many draws of noise."""

    def made(kind: type[nn.Module]) -> Run:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(2, 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU())
        read = nn.Linear(128, 1)
        noise: Any = dist.Normal(torch.zeros(2), 1.5)
        model = UnnormalizedModel(lambda x: read(net(x))[:, 0], noise.to_event(1))
        loss = kind(model)
        optimizer = torch.optim.Adam([*net.parameters(), *read.parameters()])
        data = torch.randn(256, 2)

        def step() -> float:
            optimizer.zero_grad()
            value = loss(data)
            value.backward()
            optimizer.step()
            return float(value.detach())

        return step

    runs = {"ours": made(CompositionalLikelihood), "noise contrast": made(NoiseContrastive)}
    return "a step of an energy", runs, lambda name, out: ""


def equations(n: int) -> Case:
    """-Lap u + u^3 = f on a square, for u = sin pi x sin pi y + sin 2 pi x sin pi y / 2."""

    def true(x: Any, y: Any, lib: Any) -> Any:
        return lib.sin(math.pi * x) * lib.sin(math.pi * y) + 0.5 * lib.sin(
            2 * math.pi * x
        ) * lib.sin(math.pi * y)

    def source(x: Any, y: Any, lib: Any) -> Any:
        first = 2 * math.pi**2 * lib.sin(math.pi * x) * lib.sin(math.pi * y)
        second = 2.5 * math.pi**2 * lib.sin(2 * math.pi * x) * lib.sin(math.pi * y)
        return first + second + true(x, y, lib) ** 3

    problem = EllipticVariational(
        2, SemilinearCubic(), lambda x: source(x[..., 0], x[..., 1], torch), n
    )
    exact = problem.project(true(problem.points[..., 0], problem.points[..., 1], torch))
    line = np.arange(1, n + 1) / (n + 1)
    x, y = np.meshgrid(line, line, indexing="ij")
    second = diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(n, n)) * (n + 1) ** 2
    laplacian = (kron(second, eye_array(n)) + kron(eye_array(n), second)).tocsc()
    f = source(x, y, np).ravel()

    def newton() -> Any:
        u = np.zeros(n * n)
        for _ in range(20):
            residual = laplacian @ u + u**3 - f
            if np.abs(residual).max() < 1e-8:
                break
            u -= spsolve(laplacian + diags_array([3 * u**2], offsets=[0]).tocsc(), residual)
        return u

    def error(name: str, out: Any) -> str:
        if name.startswith("ours"):
            return f"error {float(problem.l2_norm(out.u - exact)):.0e}"
        return f"error {np.sqrt(np.mean((out - true(x, y, np).ravel()) ** 2)):.0e}"

    runs: dict[str, Run] = {
        "ours, 30 steps": lambda: BarronDescent(problem).run(),
        "ours, eta 1": lambda: BarronDescent(problem, 1.0).run(),
        "scipy, Newton on differences": newton,
    }
    return f"an equation, {n} x {n}", runs, error


def cleaning() -> Case:
    """One step on 400 labels, 200 clean ones and softmax regression."""
    data = load_digits()
    x, y = torch.tensor(data.data / 16, dtype=torch.float32), torch.tensor(data.target)
    tasks = [HyperCleaning(nn.Linear(64, 10), x[:400], y[:400], x[400:600], y[400:600])] * 2
    made = BOREP(tasks[0], 0.5, lower_lr=1.0, z_lr=1.0, period=2, lower_steps=3)
    made.refine(itertools.repeat(None))
    runs: dict[str, Run] = {
        "ours": made.step,
        "implicit, conjugate gradients": lambda: hypergradient(
            tasks[1], tasks[1].x, made.y, tol=1e-3
        ),
    }
    return "a bilevel step", runs, lambda name, out: ""


def main() -> None:
    """Parse the command line, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = Table("what", "by", "ms", "ours relative to it", "result")
    made = (processes(100_000, 100), separators(10_000), energies(), equations(127), cleaning())
    for what, runs, result in made:
        times: dict[str, list[float]] = {name: [] for name in runs}
        outs: dict[str, Any] = {}
        for turn in range(options.rounds + 1):
            for name, run in runs.items():
                start = time.perf_counter()
                outs[name] = run()
                if turn:
                    times[name].append(time.perf_counter() - start)
        first = times[next(iter(runs))]
        for name, found in times.items():
            ratio = statistics.median(a / b for a, b in zip(first, found, strict=True))
            ms = f"{1e3 * statistics.median(found):.3g}"
            table.add_row(what, name, ms, f"{ratio:.2f}", result(name, outs[name]))
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
