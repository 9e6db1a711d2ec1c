"""Normals by two stages: the program beside a bare loop, and beside plain samplers of the same net.

    OMP_NUM_THREADS=1 python benchmarks/stable_normal.py

Milliseconds of CPU for a batch of images 32 x 32, float32, one thread, medians in turn, and the
median of paired ratios to the program.  Networks are as they start: training does not change costs.
On 1 December 2026, two shared AMD EPYC cores at work, torch 2.13.0 (CPU), 7 rounds:

    images  program    bare loop  networks only      DDIM-50  10 x DDIM-50
         1  25.8 ms    25 (0.94)      24 (0.91)   110 (4.26)   1100 (43.1)
        32   774 ms   788 (0.99)     776 (0.98)  3404 (4.57)             -
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from pushforward.models import stable_normal as sn

SIZE = 32


def bare(model: sn.StableNormal, images: Tensor, s: Tensor) -> Tensor:
    """The two stages as a loop in torch, with the same draws."""
    ab = model.refiner.schedule.ab.tolist()
    times = sn.heuristic_timesteps(10)
    x = model.yoso(images, torch.randn(len(images), 3, *images.shape[2:]))
    for c, t in enumerate(times, 1):
        x0 = model.refiner(x, torch.tensor(float(t)), images, s)
        if c == len(times):
            break
        ahead = ab[times[c]]
        if c < len(times) // 2:
            x = ab[t] ** 0.5 * x0 + (1 - ab[t]) ** 0.5 * torch.randn_like(x)
        else:
            e = (x - ab[t] ** 0.5 * x0) / (1 - ab[t]) ** 0.5
            x = ahead**0.5 * x0 + (1 - ahead) ** 0.5 * e
    return x0 / x0.norm(dim=1, keepdim=True).clamp(min=1e-6)


def plain(model: sn.StableNormal, images: Tensor, s: Tensor, steps: int = 50) -> Tensor:
    """DDIM from noise, as a loop in torch."""
    ab = model.refiner.schedule.ab.tolist()
    times = sn.spaced_timesteps(steps)
    x = torch.randn(len(images), 3, *images.shape[2:])
    for t, u in zip(times, [*times[1:], 0], strict=True):
        x0 = model.refiner(x, torch.tensor(float(t)), images, s)
        e = (x - ab[t] ** 0.5 * x0) / (1 - ab[t]) ** 0.5
        x = ab[u] ** 0.5 * x0 + (1 - ab[u]) ** 0.5 * e
    return x0 / x0.norm(dim=1, keepdim=True).clamp(min=1e-6)


def ensemble(model: sn.StableNormal, images: Tensor, s: Tensor) -> Tensor:
    """The mean of ten answers of DDIM with 50 steps, which scatter."""
    total = sum(plain(model, images, s) for _ in range(10))
    assert isinstance(total, Tensor)
    return sn.normals.unit(total)


def nets(model: sn.StableNormal, images: Tensor, s: Tensor) -> Tensor:
    """The eleven calls of the networks, and nothing else."""
    x = torch.zeros(len(images), 3, *images.shape[2:])
    found: Tensor = model.yoso(images, x)
    for _ in range(10):
        found = model.refiner(x, torch.tensor(1.0), images, s)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Normals by two stages, and plain samplers.")
    parser.add_argument("--rounds", type=int, default=15)
    settings = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = sn.StableNormal(sn.YOSO(sn.DilatedNet(1)), sn.SGRefiner(sn.DilatedNet(1, semantics=1)))
    for batch in (1, 32):
        scenes = sn.render.solids(batch, SIZE, "ambiguous")
        images, s = scenes.images, sn.render.height_code(scenes.heights)
        rows: dict[str, Callable[[], Tensor]] = {
            "program": partial(model.normals, images, s),
            "bare loop": partial(bare, model, images, s),
            "networks only": partial(nets, model, images, s),
            "DDIM-50": partial(plain, model, images, s),
        }
        if batch == 1:
            rows["10 x DDIM-50"] = partial(ensemble, model, images, s)
        compare(batch, rows, settings.rounds)


@torch.no_grad()
def compare(batch: int, rows: dict[str, Callable[[], Tensor]], rounds: int) -> None:
    found = []
    for name in ("program", "bare loop"):
        torch.manual_seed(1)
        found.append(rows[name]())
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-4)
    times: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(rounds):
        for name, run in rows.items():
            start = time.process_time()
            run()
            times[name].append(time.process_time() - start)
    for name, taken in times.items():
        ratio = statistics.median(a / b for a, b in zip(taken, times["program"], strict=True))
        ms = 1e3 * statistics.median(taken)
        print(f"{batch:3} images  {name:14} {ms:8.1f} ms  {ratio:6.2f} of the program")


if __name__ == "__main__":
    main()
