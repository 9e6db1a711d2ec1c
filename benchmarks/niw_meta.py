"""Memory and time of a step of NIW-Meta beside MAML: one network, the same sizes of episodes.

    OMP_NUM_THREADS=1 python benchmarks/niw_meta.py --steps 10 --data 20

Seconds of CPU of a step, medians, in turns, and bytes at the peak of a step above those before it,
by torch's profiler.  A network 1-128-128-1 in float32, 16 episodes a step; MAML is of second order.
On 1 December 2026, two shared cores with other work, torch 2.13.0 (CPU):

    inner steps  data        MAML              NIW-Meta
             10    20    48 ms  16.1 MiB    45 ms  18.2 MiB
             20    20   104 ms  30.1 MiB    80 ms  18.2 MiB
             10   200   155 ms  54.3 MiB   123 ms  21.1 MiB
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from pushforward.models.niw_meta import Gaussian, NIWMeta

EPISODES, WIDTH, NOISE = 16, 128, 0.25


def batch(n: int) -> tuple[Tensor, Tensor]:
    """Inputs [E, n, 1] and targets [E, n] of lines with a sine."""
    weights = torch.tensor([1.0, -2.0, 0.5]) + torch.randn(EPISODES, 3)
    x = 4 * torch.rand(EPISODES, n) - 2
    features = torch.stack([torch.ones_like(x), x, torch.sin(3 * x)], -1)
    return x[..., None], (features @ weights[..., None])[..., 0]


def network() -> nn.Module:
    return nn.Sequential(
        nn.Linear(1, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 1)
    )


def maml(steps: int, n: int) -> Callable[[], None]:
    """Second order, by torch.func: half of the data are the support."""
    model = network()
    params = dict(model.named_parameters())
    optimizer = torch.optim.Adam(params.values(), lr=1e-3)
    half = n // 2

    def loss(theta: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        out = torch.func.functional_call(model, theta, (x,))[..., 0]
        return (out - y).square().mean()

    def adapted(theta: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        for _ in range(steps):
            slope = torch.func.grad(loss)(theta, x[:half], y[:half])
            theta = {name: p - 1e-2 * slope[name] for name, p in theta.items()}
        return loss(theta, x[half:], y[half:])

    def step() -> None:
        x, y = batch(n)
        optimizer.zero_grad()
        torch.func.vmap(adapted, in_dims=(None, 0, 0))(params, x, y).mean().backward()
        optimizer.step()

    return step


def ours(steps: int, n: int) -> Callable[[], None]:
    half = n // 2
    model = NIWMeta(network(), Gaussian(NOISE), inner_steps=steps, lr=1e-3, batch=EPISODES)

    def step() -> None:
        x, y = batch(n)
        rows = [(a[:half], b[:half], a[half:], b[half:]) for a, b in zip(x, y, strict=True)]
        model.fit(rows, 1)

    return step


def peak(step: Callable[[], None]) -> int:
    """Bytes above those held before the step."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        step()
    held = most = 0
    events: Any = seen.profiler.kineto_results.events()  # type: ignore[union-attr]
    for event in sorted(events, key=lambda e: e.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


def main() -> None:
    parser = argparse.ArgumentParser(description="NIW-Meta beside MAML.")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--data", type=int, default=20, help="of an episode; half are the support")
    parser.add_argument("--rounds", type=int, default=20)
    settings = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    rows = {
        "MAML": maml(settings.steps, settings.data),
        "NIW-Meta": ours(settings.steps, settings.data),
    }
    times: dict[str, list[float]] = {name: [] for name in rows}
    for step in rows.values():
        step()
    for _ in range(settings.rounds):
        for name, step in rows.items():
            start = time.process_time()
            step()
            times[name].append(time.process_time() - start)
    for name, step in rows.items():
        ms, mib = 1e3 * statistics.median(times[name]), peak(step) / 2**20
        print(f"{name:9} {settings.steps} inner steps: {ms:7.1f} ms, {mib:6.1f} MiB at the peak")


if __name__ == "__main__":
    main()
