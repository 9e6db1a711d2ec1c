"""The cost of a step of an optimiser, beside its peer in torch.

The parameters are those of a network like ResNet-18, a third as wide: 1.3 million numbers in 62
tensors.  Steps are timed in alternation; ratios are medians of paired ratios.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from pushforward.nn.optim import SGDP, AdamP, Ball, ExponentiatedSGD, OptimisticMirrorDescent

WIDTHS = ((22, 22), (22, 43), (43, 85), (85, 171))


def shapes() -> list[tuple[int, ...]]:
    """Convolutions, normalisations and a classifier."""
    found: list[tuple[int, ...]] = [(22, 3, 7, 7), (22,), (22,)]
    for first, width in WIDTHS:
        for a, b in ((first, width), (width, width), (width, width), (width, width)):
            found += [(b, a, 3, 3), (b,), (b,)]
        if first != width:
            found += [(width, first, 1, 1), (width,), (width,)]
    return [*found, (10, 171), (10,)]


def parameters() -> list[nn.Parameter]:
    """Parameters with gradients."""
    generator = torch.Generator().manual_seed(0)
    params = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes()]
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator)
    return params


def step(optimizer: Any) -> float:
    """Seconds."""
    start = time.perf_counter()
    optimizer.step()
    return time.perf_counter() - start


def main() -> None:
    """Parse the command line, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=51)
    options = parser.parse_args()
    torch.set_num_threads(1)
    about: dict[str, Any] = {"lr": 1e-3, "weight_decay": 0.01}
    pairs: dict[str, tuple[Any, str, Any]] = {
        "AdamP": (
            AdamP(parameters(), **about),
            "AdamW, foreach",
            torch.optim.AdamW(parameters(), foreach=True, **about),
        ),
        "SGDP, momentum 0.9": (
            SGDP(parameters(), momentum=0.9, **about),
            "SGD, foreach",
            torch.optim.SGD(parameters(), momentum=0.9, foreach=True, **about),
        ),
        "ExponentiatedSGD": (
            ExponentiatedSGD(parameters(), 1e-3, momentum=0.9),
            "SGD, foreach",
            torch.optim.SGD(parameters(), lr=1e-3, momentum=0.9, foreach=True),
        ),
        "OptimisticMirrorDescent": (
            OptimisticMirrorDescent(parameters(), domain=Ball(1e4), grad_bound=1e4),
            "Adagrad, foreach",
            torch.optim.Adagrad(parameters(), foreach=True),
        ),
    }
    table = Table("optimiser", "ms", "peer", "ms", "ratio", title="one step")
    for name, (ours, peer, theirs) in pairs.items():
        times = [(step(ours), step(theirs)) for _ in range(options.rounds + 5)][5:]
        medians = [f"{1e3 * statistics.median(each):.2f}" for each in zip(*times, strict=True)]
        ratio = statistics.median(a / b for a, b in times)
        table.add_row(name, medians[0], peer, medians[1], f"{ratio:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
