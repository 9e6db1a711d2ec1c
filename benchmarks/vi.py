"""The whole step of a variational autoencoder, loss to optimiser: by ``SVI``, and by hand.

Encoder P-200-20, decoder 10-200-P, leaky rectifiers, Bernoulli pixels: P = 64 are scikit-learn's
digits, P = 784 random pixels.  A step is the loss, which is kept, its gradient, clipping to a norm,
fused Adam and a schedule of its rate.  *By hand* is plain torch, *compiled* the same with the loss
under ``torch.compile``.  ``SVI`` also checks that all is finite, and follows the noise of gradients
by parameter.  Chunks of steps alternate within one run of the driver; times are those of the
process's CPU.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from torch import Tensor
from vae import Autoencoder

from pushforward.inference.vi import SVI, elbo

RATE, DECAY, NORM = 1e-3, 0.9999, 1e5


def tools(net: Autoencoder) -> tuple[Any, Any]:
    """The optimiser and its schedule."""
    optimizer = torch.optim.Adam(net.parameters(), lr=RATE, fused=True)
    return optimizer, torch.optim.lr_scheduler.ExponentialLR(optimizer, DECAY)


def by_hand(net: Autoencoder, x: Tensor, compiled: bool) -> Callable[[], None]:
    """A step of plain torch."""
    optimizer, schedule = tools(net)
    parameters, history = list(net.parameters()), list[float]()
    bound: Callable[[Tensor], Tensor] = torch.compile(net.bound) if compiled else net.bound

    def step() -> None:
        optimizer.zero_grad()
        loss = -bound(x)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, NORM)
        optimizer.step()
        schedule.step()
        history.append(-loss.item())

    return step


def data(pixels: int, batch: int) -> Tensor:
    if pixels != 64:
        return (torch.rand(batch, pixels) < 0.3).float()
    return (torch.from_numpy(load_digits().data)[:batch] > 7).float()


def measured(pixels: int, batch: int, chunks: int, steps: int) -> dict[str, list[float]]:
    """Milliseconds a step, of each chunk, by variant."""
    x = data(pixels, batch)
    hand, quick, own = (Autoencoder(pixels) for _ in range(3))
    others = {
        "by hand": by_hand(hand, x, compiled=False),
        "compiled": by_hand(quick, x, compiled=True),
    }
    times: dict[str, list[float]] = {"SVI": [], **{name: [] for name in others}}
    optimizer, schedule = tools(own)
    warm = 300

    def alternating() -> Iterator[Tensor]:
        for _ in range(warm):
            yield x
        for _ in range(3):
            for step in others.values():
                step()
        for _ in range(chunks):
            start = time.process_time()
            for _ in range(steps):
                yield x
            times["SVI"].append(time.process_time() - start)
            for name, step in others.items():
                start = time.process_time()
                for _ in range(steps):
                    step()
                times[name].append(time.process_time() - start)

    svi = SVI(elbo(own.model, own.guide), optimizer, schedule, clip=NORM, progress=False)
    svi.run(batches=alternating(), steps=warm + chunks * steps)
    return {name: [1e3 * t / steps for t in each] for name, each in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, nargs="*", default=[1, 64, 256, 1024])
    parser.add_argument("--pixels", type=int, nargs="*", default=[64, 784])
    parser.add_argument("--chunks", type=int, default=30)
    parser.add_argument("--steps", type=int, default=10, help="in a chunk")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    table = Table(
        "pixels", "batch", "SVI, ms", "by hand, ms", "compiled, ms", "/ hand", "/ compiled"
    )
    for pixels in options.pixels:
        for batch in options.batch:
            times = measured(pixels, batch, options.chunks, options.steps)
            own = times["SVI"]
            ratios = [
                statistics.median(a / b for a, b in zip(own, times[name], strict=True))
                for name in ("by hand", "compiled")
            ]
            medians = [statistics.median(each) for each in times.values()]
            shown = [f"{t:.3f}" for t in medians] + [f"{r:.2f}" for r in ratios]
            table.add_row(str(pixels), str(batch), *shown)
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
