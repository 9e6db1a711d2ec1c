"""The gradient step of a variational autoencoder: by an objective, by hand, and in Pyro.

Encoder 784-200-20, decoder 10-200-784, leaky rectifiers, Bernoulli pixels; no optimiser.  *Ours* is
``elbo(model, guide)`` as a compiled graph, *graph* the same graph uncompiled, *replay* the
reference; *by hand* is plain torch with ``autograd.grad``, *by hand, compiled* what
``torch.compile`` makes of it.  All are compared first, with the same noise.  ``--code`` prints the
generated graph.

Source of the setting: Becker et al. (arXiv 2406.15742), table 1.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import pyro
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from pushforward import dist, observe, plate, sample
from pushforward.inference.vi import Captured, elbo, reparam


class Autoencoder(nn.Module):
    """The networks, the model and the guide."""

    def __init__(self, pixels: int = 784) -> None:
        super().__init__()
        self.read, self.code = nn.Linear(pixels, 200), nn.Linear(200, 20)
        self.spread, self.pixels = nn.Linear(10, 200), nn.Linear(200, pixels)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        loc, raw = self.code(F.leaky_relu(self.read(x))).chunk(2, -1)
        return loc, F.softplus(raw)

    def decode(self, z: Tensor) -> Tensor:
        return self.pixels(F.leaky_relu(self.spread(z)))

    def model(self, x: Tensor) -> None:
        with plate("images", len(x)):
            z = sample("z", dist.Normal(x.new_zeros(10), 1.0).to_event(1))
            observe("x", dist.Bernoulli(logits=self.decode(z)).to_event(1), x)

    def guide(self, x: Tensor) -> None:
        loc, scale = self.encode(x)
        with plate("images", len(x)):
            sample("z", reparam(dist.Normal(loc, scale)).to_event(1))

    def bound(self, x: Tensor) -> Tensor:
        """By hand."""
        loc, scale = self.encode(x)
        e = torch.randn(loc.shape)
        z = loc + scale * e
        log_p = -F.binary_cross_entropy_with_logits(self.decode(z), x, reduction="sum")
        return log_p + (-0.5 * z**2 + 0.5 * e**2 + scale.log()).sum()


def variants(net: Autoencoder, x: Tensor) -> dict[str, Callable[[], list[Tensor]]]:
    """What gives the gradients of all parameters, by name."""
    parameters = list(net.parameters())
    objective = elbo(net.model, net.guide)
    compiled, graph = (
        Captured(objective, parameters, 1, x),
        Captured(objective, parameters, 1, x, compiled=False),
    )
    quick = torch.compile(net.bound)
    loss = pyro.infer.Trace_ELBO()

    def by_pyro() -> list[Tensor]:
        value = loss.differentiable_loss(net.model, net.guide, x)
        return [-g for g in torch.autograd.grad(value, parameters)]

    return {
        "by hand": lambda: list(torch.autograd.grad(net.bound(x), parameters)),
        "ours": lambda: compiled(x).by,
        "graph": lambda: graph(x).by,
        "replay": lambda: list(torch.autograd.grad(objective.surrogate(x), parameters)),
        "by hand, compiled": lambda: list(torch.autograd.grad(quick(x), parameters)),
        "Pyro": by_pyro,
    }


def agree(found: dict[str, Callable[[], list[Tensor]]]) -> float:
    """The largest relative difference from the gradient by hand, with the same noise."""
    gradients: dict[str, Any] = {}
    for name, run in found.items():
        torch.manual_seed(0)
        gradients[name] = run()
    hand = gradients.pop("by hand")
    gradients.pop("by hand, compiled")  # which has random numbers of its own
    scale = max(float(h.abs().max()) for h in hand)
    return max(
        float((a - b).abs().max()) / scale
        for other in gradients.values()
        for a, b in zip(other, hand, strict=True)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, nargs="*", default=[1, 64, 128, 256, 512, 1024])
    parser.add_argument("--seconds", type=float, default=6.0, help="for each batch size")
    parser.add_argument("--code", action="store_true", help="print the graph")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    net = Autoencoder()
    table: Table | None = None
    for batch in options.batch:
        x = (torch.rand(batch, 784) < 0.3).float()
        found = variants(net, x)
        gap = agree(found)
        if options.code:
            parameters = list(net.parameters())
            objective = elbo(net.model, net.guide)
            print(Captured(objective, parameters, 1, x, compiled=False).code)
            return
        times: dict[str, list[float]] = {name: [] for name in found}
        end = time.perf_counter() + options.seconds
        while time.perf_counter() < end:
            for name, run in found.items():
                start = time.perf_counter()
                run()
                times[name].append(time.perf_counter() - start)
        if table is None:
            table = Table("batch", *(f"{n}, ms" for n in found), "ratios to hand", "gap")
        ratios = [
            statistics.median(a / b for a, b in zip(t, times["by hand"], strict=True))
            for name, t in times.items()
            if name != "by hand"
        ]
        table.add_row(
            str(batch),
            *(f"{1e3 * statistics.median(t):.2f}" for t in times.values()),
            ", ".join(f"{r:.2f}" for r in ratios),
            f"{gap:.0e}",
        )
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
