"""Attend, infer, repeat on small canvases: counting digits, by the strategy of the flips.

A canvas of 20 x 20 holds up to two of scikit-learn's 8 x 8 digits.  The model: for each of two
slots a flip says whether a glyph is there, and a place and a code say where and what; the canvas is
the sum of the decoded glyphs with normal noise.  The guide reads the canvas slot by slot.  Accuracy
is that of the most probable number of glyphs under the guide.

``--pyro`` runs the same model and guide in Pyro beside it (scores with TraceGraph_ELBO).

Source: Eslami et al. (arXiv 1603.08575); Becker et al. (arXiv 2406.15742), figure 7.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import pyro
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from torch import Tensor, nn

from pushforward import dist, observe, sample
from pushforward.inference.vi import (
    SVI,
    elbo,
    enum,
    iwelbo,
    mvd,
    objective,
    over,
    reinforce,
    reparam,
)

CANVAS, GLYPH, SLOTS, CODE, HIDDEN = 20, 8, 2, 8, 64
NOISE, PRESENT = 0.3, 0.5


def placed(glyph: Tensor, where: Tensor) -> Tensor:
    """A glyph [..., 8, 8] on the canvas [..., 20, 20], its centre at where [..., 2] in (-1, 1)."""
    down, across = _weights(where[..., 0]), _weights(where[..., 1])
    return down.mT @ glyph @ across


def window(canvas: Tensor, where: Tensor) -> Tensor:
    """What is seen at a place: the transpose of ``placed``."""
    return _weights(where[..., 0]) @ canvas @ _weights(where[..., 1]).mT


def _weights(centre: Tensor) -> Tensor:
    """Bilinear weights [..., 8, 20] of the glyph's rows on those of the canvas."""
    start = (centre[..., None, None] + 1) / 2 * (CANVAS - GLYPH)
    rows = torch.arange(GLYPH)[:, None] + start
    return F.relu(1 - (rows - torch.arange(CANVAS)).abs())


def canvases(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Canvases [n, 20, 20] with 0, 1 or 2 digits that do not overlap much, and their numbers."""
    generator = torch.Generator().manual_seed(seed)
    digits = torch.as_tensor(load_digits().images, dtype=torch.float32) / 16
    counts = torch.randint(0, SLOTS + 1, (n,), generator=generator)
    found = torch.zeros(n, CANVAS, CANVAS)
    for i in range(n):
        taken: list[Tensor] = []
        while len(taken) < int(counts[i]):
            at = torch.randint(0, CANVAS - GLYPH + 1, (2,), generator=generator)
            if all(int((at - other).abs().max()) >= GLYPH for other in taken):
                glyph = digits[int(torch.randint(0, len(digits), (1,), generator=generator))]
                found[i, at[0] : at[0] + GLYPH, at[1] : at[1] + GLYPH] += glyph
                taken.append(at)
            elif torch.rand((), generator=generator) < 0.05:
                taken, found[i] = [], 0.0  # the first stands where no second fits
    return found, counts


class Air(nn.Module):
    """The networks of model and guide, for single canvases and for batches."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = nn.Sequential(
            nn.Linear(CODE, HIDDEN), nn.LeakyReLU(), nn.Linear(HIDDEN, GLYPH * GLYPH)
        )
        self.encoder = nn.Sequential(
            nn.Linear(GLYPH * GLYPH, HIDDEN), nn.LeakyReLU(), nn.Linear(HIDDEN, 2 * CODE)
        )
        self.reader = nn.Sequential(
            nn.Linear(CANVAS * CANVAS, 128), nn.LeakyReLU(), nn.Linear(128, HIDDEN), nn.LeakyReLU()
        )
        self.head = nn.Linear(HIDDEN, 5)

    def glyph(self, what: Tensor) -> Tensor:
        return (self.decoder(what) - 2).sigmoid().reshape(*what.shape[:-1], GLYPH, GLYPH)

    def look(self, rest: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Whether something is left on a canvas, and where: a logit, a centre and its spread."""
        out = self.head(self.reader(rest.flatten(-2)))
        return out[..., 0], out[..., 1:3].tanh(), F.softplus(out[..., 3:] - 2) + 1e-3

    def read(self, rest: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
        loc, raw = self.encoder(window(rest, where).flatten(-2)).chunk(2, -1)
        return loc, F.softplus(raw) + 1e-3

    def model(self, x: Tensor) -> None:
        seen = torch.zeros(CANVAS, CANVAS)
        for t in range(SLOTS):
            present = sample(f"present{t}", dist.Bernoulli(torch.tensor(PRESENT)))
            where = sample(f"where{t}", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            what = sample(f"what{t}", dist.Normal(torch.zeros(CODE), 1.0).to_event(1))
            seen = seen + present * placed(self.glyph(what), where)
        observe("x", dist.Normal(seen, NOISE).to_event(2), x)

    def guide(self, strategy: Callable[[Any], Any]) -> Callable[[Tensor], None]:
        """Slot by slot: look at what is not yet explained."""

        def run(x: Tensor) -> None:
            rest = x
            for t in range(SLOTS):
                logit, centre, spread = self.look(rest)
                present = sample(f"present{t}", strategy(dist.Bernoulli(logits=logit)))
                where = sample(f"where{t}", reparam(dist.Normal(centre, spread)).to_event(1))
                loc, scale = self.read(rest, where)
                what = sample(f"what{t}", reparam(dist.Normal(loc, scale)).to_event(1))
                rest = rest - present * placed(self.glyph(what), where)

        return run

    @torch.no_grad()
    def count(self, x: Tensor) -> Tensor:
        """The number of glyphs [n] on canvases, slot by slot at the centres."""
        total, rest = torch.zeros(len(x)), x
        for _ in range(SLOTS):
            logit, centre, _ = self.look(rest)
            present = (logit > 0).float()
            glyph = placed(self.glyph(self.read(rest, centre)[0]), centre)
            total, rest = total + present, rest - present[:, None, None] * glyph
        return total


STRATEGIES: dict[str, tuple[Callable[[Any], Any], int]] = {
    "enum": (enum, 1),
    "mvd": (mvd, 1),
    "reinforce": (reinforce, 1),
    "mvd, 2 particles": (mvd, 2),
    "reinforce, 2 particles": (reinforce, 2),
}


class Watched:
    """Batches, again and again: how long each round took, and the accuracy before it."""

    def __init__(self, x: Tensor, batch: int, accuracy: Callable[[], float]) -> None:
        self.batches = torch.utils.data.DataLoader(x, batch, shuffle=True, drop_last=True)
        self.accuracy, self.seconds = accuracy, list[float]()
        self.accuracies: list[float] = []

    def __iter__(self) -> Iterator[Tensor]:
        self.accuracies.append(self.accuracy())
        start = time.perf_counter()
        yield from self.batches
        self.seconds.append(time.perf_counter() - start)


def train(name: str, air: Air, rounds: Watched, seed: int, epochs: int) -> None:
    """Fit the networks by a strategy."""
    strategy, particles = STRATEGIES[name]
    guide = air.guide(strategy)

    @objective
    def images(rows: Tensor) -> Any:
        def one(row: Tensor) -> Any:
            if particles == 1:
                return elbo(air.model, guide, row)
            return iwelbo(air.model, guide, particles, row)

        return over(one, rows) * (1 / len(rows))

    optimizer = torch.optim.Adam(air.parameters(), lr=1e-3)
    steps = epochs * len(rounds.batches)
    SVI(images(), optimizer, progress=False).run(steps=steps, batches=rounds, seed=seed)


def train_by_pyro(air: Air, rounds: Watched, epochs: int) -> None:
    """The same model and guide, their choices in a plate over the batch."""
    pyro.clear_param_store()

    def model(rows: Tensor) -> None:
        pyro.module("air", air)
        with pyro.plate("rows", len(rows)):
            seen = torch.zeros(len(rows), CANVAS, CANVAS)
            for t in range(SLOTS):
                present = pyro.sample(f"present{t}", dist.Bernoulli(torch.tensor(PRESENT)))
                where = pyro.sample(f"where{t}", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                what = pyro.sample(f"what{t}", dist.Normal(torch.zeros(CODE), 1.0).to_event(1))
                seen = seen + present[:, None, None] * placed(air.glyph(what), where)
            pyro.sample("x", dist.Normal(seen, NOISE).to_event(2), obs=rows)

    def guide(rows: Tensor) -> None:
        pyro.module("air", air)
        with pyro.plate("rows", len(rows)):
            rest = rows
            for t in range(SLOTS):
                logit, centre, spread = air.look(rest)
                present = pyro.sample(f"present{t}", dist.Bernoulli(logits=logit))
                where = pyro.sample(f"where{t}", dist.Normal(centre, spread).to_event(1))
                loc, scale = air.read(rest, where)
                what = pyro.sample(f"what{t}", dist.Normal(loc, scale).to_event(1))
                rest = rest - present[:, None, None] * placed(air.glyph(what), where)

    loss = pyro.infer.TraceGraph_ELBO()
    svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), loss)
    for _ in range(epochs):
        for rows in rounds:
            svi.step(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=list(STRATEGIES)[:3], help="of strategies")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--pyro", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    x, _ = canvases(options.images, 0)
    held_out, counts = canvases(500, 1)
    shown = sorted({options.epochs * i // 4 for i in range(1, 5)})
    table = Table("strategy", *(f"epoch {e}" for e in shown), "range at the end", "s an epoch")
    for name in [*options.names, *(["Pyro, reinforce"] if options.pyro else [])]:
        curves, seconds = [], []
        for seed in range(options.seeds):
            torch.manual_seed(seed)
            air = Air()

            def accuracy(air: Air = air) -> float:
                return float((air.count(held_out) == counts).float().mean())

            rounds = Watched(x, options.batch, accuracy)
            if name in STRATEGIES:
                train(name, air, rounds, seed, options.epochs)
            else:
                train_by_pyro(air, rounds, options.epochs)
            curves.append([*rounds.accuracies[: options.epochs], accuracy()])
            seconds += rounds.seconds[1:]
        medians = [statistics.median(curve[e] for curve in curves) for e in shown]
        last = sorted(curve[-1] for curve in curves)
        pace = f"{statistics.median(seconds):.2f}"
        table.add_row(name, *(f"{m:.3f}" for m in medians), f"{last[0]:.3f}-{last[-1]:.3f}", pace)
        Console().print(name, [[round(v, 3) for v in curve] for curve in curves])
    Console().print(table)


if __name__ == "__main__":
    main()
