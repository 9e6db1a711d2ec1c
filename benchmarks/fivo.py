"""The gradient of ``fivo``: particles as lanes, beside the same filter run particle by particle.

A linear Gaussian state space model with four parameters, proposals by their paths, ancestors by
their scores.  The two alternate; times are those of the process's CPU.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from pushforward import dist, observe, sample
from pushforward.inference.vi import Captured, Objective, fivo, reparam
from pushforward.inference.vi.captured import Replayed

LANES = "pushforward.inference.vi.filtered._in_lanes"


def bound(theta: Tensor, particles: int, steps: int) -> Objective:
    def step(t: int, state: Any, y: Tensor) -> None:
        x = sample("x", dist.Normal(0.0 if state is None else 0.9 * state, theta[0].exp()))
        observe("y", dist.Normal(x, theta[1].exp()), y)

    def propose(t: int, state: Any, y: Tensor) -> Tensor:
        at = 0.0 if state is None else state
        return sample("x", reparam(dist.Normal(theta[2] * at + 0.5 * y, theta[3].exp())))

    made: Objective = fivo(step, propose, particles, list(torch.randn(steps).cumsum(0)))
    return made


def seconds(call: Callable[[], Any]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--particles", type=int, default=16)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--graph", action="store_true", help="also trace and compile it: a minute")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    theta = torch.zeros(4, requires_grad=True)
    objective = bound(theta, options.particles, options.steps)
    replay = Replayed(objective, [theta], 1)
    replay()
    found = []
    for _ in range(options.pairs):
        with mock.patch(LANES, return_value=None):
            apart = seconds(replay)
        found.append((apart, seconds(replay)))
    ratio = statistics.median(a / b for a, b in found)
    one, lanes = (statistics.median(each) for each in zip(*found, strict=True))
    print(f"one by one {one:.3f} s, lanes {lanes:.3f} s, {ratio:.1f} times as fast")
    if options.graph:
        start = time.process_time()
        graph = Captured(objective, [theta], 1, compiled=False)
        traced = time.process_time() - start
        inner = statistics.median(seconds(graph) for _ in range(5))
        start = time.process_time()
        graph.finish()
        made = time.process_time() - start
        quick = statistics.median(seconds(graph) for _ in range(20))
        nodes = len(graph.graph.graph.nodes)
        print(f"traced in {traced:.0f} s: {nodes} nodes, {1e3 * inner:.0f} ms")
        print(f"compiled in {made:.0f} s: {1e3 * quick:.2f} ms")


if __name__ == "__main__":
    main()
