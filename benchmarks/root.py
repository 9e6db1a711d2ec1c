"""Pairs by a synthetic function, beside scikit-learn; training, beside a bare loop in PyTorch.

    OMP_NUM_THREADS=1 python benchmarks/root.py --data 400 2000

Seconds of CPU, medians, in turns, and the median of paired ratios. scikit-learn fits the same
process, without a search, and climbs by its kernel matrices in numpy; both find the same pairs. The
bare loop has the same network, schedule of rates and batches, without what is hidden being told.
On 1 December 2026, two shared cores with other work, torch 2.13.0 (CPU), scikit-learn 1.9.1:

    pairs, 400 data              ours  38 ms, scikit-learn  40 ms
    pairs, 2000 data             ours 280 ms, scikit-learn 379 ms
    ten passes, width 128        ours  25 ms, bare loop     17 ms
    ten passes, width 1024       ours 332 ms, bare loop    319 ms
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel
from torch import Tensor, nn

from pushforward.models import root

STEPS, RATE, POINTS = 60, 0.05, 128


def data(n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Standardised inputs and values of Hartmann's function, and the best inputs."""
    X, y = root.tasks.hartmann6.split(n)
    X, y = (X - X.mean(0)) / X.std(0), (y - y.mean()) / y.std()
    return X, y, X[y.argsort(descending=True)[:POINTS]]


def ours(X: Tensor, y: Tensor, start: Tensor) -> Any:
    found = root.pairs(root.mean_function(X, y), start, STEPS, RATE, 1e-9)
    return found.low.numpy(), found.high.numpy()


def by_sklearn(X: Any, y: Any, start: Any) -> Any:
    process = GaussianProcessRegressor(ConstantKernel() * RBF(), alpha=0.01, optimizer=None)
    process.fit(X, y)
    ends = []
    for rate in (-RATE, RATE):
        x = start
        for _ in range(STEPS):
            weights = process.kernel_(x, X) * process.alpha_
            x = x + rate * (weights @ X - weights.sum(1, keepdims=True) * x)
        ends.append(x)
    return tuple(ends)


def bare(pairs: root.Pairs, passes: int, hidden: int) -> Callable[[], None]:
    """The same bridge, loss and steps, by hand."""
    low, high, y = pairs.low, pairs.high, torch.stack([pairs.y_high, pairs.y_low], 1)
    d, T = low.shape[1], 1000
    m = torch.linspace(0.001, 0.999, T)
    spread = (2 * (m - m**2)).sqrt()
    layers: list[nn.Module] = [nn.Linear(d + 3, hidden), nn.SiLU()]
    for _ in range(2):
        layers += [nn.Linear(hidden, hidden), nn.SiLU()]
    net = nn.Sequential(*layers, nn.Linear(hidden, d))
    adam = torch.optim.Adam(net.parameters(), 1e-3)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(adam, factor=0.5, patience=200)

    def run() -> None:
        for _ in range(passes):
            rows = torch.randperm(len(low)).split(64)
            for i in range(0, len(rows), 2):
                adam.zero_grad()
                seen = 0.0
                for row in rows[i : i + 2]:
                    t = torch.randint(T, (len(row), 1))
                    noise = torch.randn(len(row), d)
                    x_t = (1 - m[t]) * high[row] + m[t] * low[row] + spread[t] * noise
                    told = y[row] * (torch.rand(len(row), 1) > 0.15)
                    o = net(torch.cat([x_t, t / T, told], 1))
                    loss = (x_t - high[row] - o).abs().mean() / 2
                    loss.backward()
                    seen += float(loss.detach())
                adam.step()
                plateau.step(seen)

    return run


def trained(pairs: root.Pairs, passes: int, hidden: int) -> Callable[[], None]:
    net = root.Denoiser(pairs.low.shape[1], hidden)
    of = root.Schedule(*(v.float() for v in root.schedule()))

    def run() -> None:
        root.train(net, of, [(pairs, pairs.at(slice(0)))], passes=passes)

    return run


def in_turn(label: str, mine: Callable[[], Any], peer: Callable[[], Any], rounds: int) -> None:
    times: list[tuple[float, float]] = []
    mine(), peer()
    for _ in range(rounds):
        row = []
        for run in (mine, peer):
            start = time.process_time()
            run()
            row.append(time.process_time() - start)
        times.append((row[0], row[1]))
    a, b = (1e3 * statistics.median(column) for column in zip(*times, strict=True))
    ratio = statistics.median(y / x for x, y in times)
    print(f"{label}: ours {a:.0f} ms, the peer {b:.0f} ms, {ratio:.2f} times ours")


def main() -> None:
    parser = argparse.ArgumentParser(description="ROOT beside scikit-learn and a bare loop.")
    parser.add_argument("--data", type=int, nargs="+", default=[400, 2000])
    parser.add_argument("--hidden", type=int, nargs="+", default=[128, 1024])
    parser.add_argument("--rounds", type=int, default=7)
    settings = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    for n in settings.data:
        X, y, start = data(n)
        arrays = X.numpy(), y.numpy(), start.numpy()
        ends = zip(ours(X, y, start), by_sklearn(*arrays), strict=True)
        apart = max(np.abs(a - b).max() for a, b in ends)
        print(f"{n} data: pairs differ by {apart:.1e}")
        mine, peer = partial(ours, X, y, start), partial(by_sklearn, *arrays)
        in_turn(f"pairs, {n} data", mine, peer, settings.rounds)
    X, y, start = data(400)
    found = root.pairs(root.mean_function(X, y), start, STEPS, RATE)
    pairs = root.Pairs(*(column.float() for column in found))
    for hidden in settings.hidden:
        by = trained(pairs, 10, hidden), bare(pairs, 10, hidden)
        in_turn(f"ten passes, width {hidden}", *by, settings.rounds)


if __name__ == "__main__":
    main()
