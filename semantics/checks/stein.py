"""Whether code draws from the law that a program denotes: by an identity of Stein's kind.

If x has the density p, up to a factor, and z is drawn by a symmetric move from x, then for every f
the mean of min(1, p(z) / p(x)) (f(z) - f(x)) is zero: the generator of a Metropolis chain is an
operator that kills the mean (the discrete case of Gorham and Mackey, Measuring sample quality with
Stein's method, arXiv 1506.03039; Barbour 1988).  It needs neither the factor, nor draws of the
program, nor a gradient, and is as bounded as f, so that bets on it have an exact level.
"""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ...ppl.distributions.data import as_data
from ...ppl.errors import DataError, SupportError, located
from ...ppl.interpretations.mixed_density import MixedDensity
from ...ppl.language.program import program_name
from ..evaluation.sources import elsewhere
from ..evaluation.waves import COUNT, Waves
from ..judging.betting import Bets
from ..judging.candidate import held, verdict
from ..judging.report import Report
from .stationary import BATCH, PILOT, Words, by_bets

SCALES = (0.5, 4.0)  # of a move, in spreads of the draws: the least and the greatest
Choices = Mapping[str, Any]
WORDS = Words("the mean Stein residual", "draws", "a right sampler")


@verdict
def stein(
    sampler: Callable[..., Choices],
    target: Callable[..., Any],
    *args: Any,
    draws: int = 20_000,
    level: float = 1e-6,
    width: float = 0.1,
    seed: int = 0,
) -> Report:
    """Whether independent draws come from the normalised law of a program.

    For code that cannot be enumerated, and laws that cannot be drawn from: reference draws, other
    people's exact samplers, posteriors by conjugacy.

    Args:
        sampler: a function that returns one draw of the latents, by name; independent of the others
            it drew.  It may draw from the global generators of torch, numpy and random, which are
            seeded, or take ``seed``, another number each time.
        target: a program, called with ``args``; its scores may be anything.
        draws: the most that are taken; a wrong sampler is found earlier.
        level: the chance that a right sampler is said to be wrong, whatever the number of draws.
        width: what the mean residual of a bounded test function may be and not be found; the
            verdict is unknown where a larger one could hide.
        seed: of everything.

    Like every identity of its kind it sees the shape of each mode, and hardly the masses of modes
    between which no move goes.  Draws of a Markov chain depend on each other, and have no level.

    Errors:
        UnsupportedDistributionError: a latent is discrete without a finite set of values.
        ValueError: ``draws`` is not positive, or ``level`` not in (0, 1).
    """
    if draws < 1 or not 0 < level < 1:
        raise ValueError(f"draws is positive and the level in (0, 1): {draws}, {level}")
    name = getattr(sampler, "__name__", type(sampler).__name__)
    start, subject = time.perf_counter(), f"{name} draws from {program_name(target)}"
    density = MixedDensity(target, *args)
    log_density, limit = torch.func.vmap(density), -math.log(level)
    seeds = iter(range(10**9 * seed, 10**9 * (seed + 1)))
    seeded = "seed" in inspect.signature(sampler).parameters

    def drawn(count: int) -> Tensor:
        rows = []
        for _ in range(count):
            with held(subject, "in a draw"):
                found = sampler(seed=next(seeds)) if seeded else sampler()
                rows.append(_coordinates(density, found))
        return torch.stack(rows)

    with elsewhere(seed), torch.no_grad():
        pilot = drawn(PILOT).double()
        waves = Waves.about(pilot, torch.full((PILOT,), 1.0 / PILOT, dtype=torch.float64))
        moves, bets = _Moves(waves.spread[: density.size], density.sizes), Bets(2 * COUNT)
        while bets.number < draws and bets.log_evidence() < limit:
            x = drawn(min(BATCH, draws - bets.number))
            z = moves(x)
            here = log_density(x)
            if bool(here.isneginf().any()):
                impossible = x[here.isneginf()][0]
                told = f"it draws {density.results(impossible)[0]}, which has no density"
                return Report(subject, "fail", 1.0, 0.0, "of the mass", told)
            accepted = (log_density(z) - here).clamp(max=0.0).exp().nan_to_num(0.0)
            bets.place(accepted[:, None].double() * (waves(z.double()) - waves(x.double())) / 2)
    return by_bets(subject, bets, 1.0, waves, level, width, WORDS, time.perf_counter() - start)


class _Moves:
    """Symmetric moves of rows [n, d + m]: of all d real coordinates, or of one of m whole ones."""

    def __init__(self, spread: Tensor, sizes: list[int]) -> None:
        self.spread, self.sizes = spread, torch.tensor(sizes, dtype=torch.float64)

    def __call__(self, x: Tensor) -> Tensor:
        (n, both), d = x.shape, len(self.spread)
        low, high = (math.log(scale) for scale in SCALES)
        scale = torch.empty((n, 1), dtype=torch.float64).uniform_(low, high).exp()
        step = scale * self.spread * torch.randn((n, d), dtype=torch.float64) / math.sqrt(d or 1)
        moved = x.clone()
        jumps = (torch.rand(n) < 0.5) if d and both > d else torch.full((n,), not d)
        moved[~jumps, :d] += step[~jumps].to(x.dtype)
        which = torch.randint(max(1, both - d), (n,))[jumps]
        if len(which):
            value = (torch.rand(len(which), dtype=torch.float64) * self.sizes[which]).floor()
            moved[jumps, d + which] = value.to(x.dtype)
        return moved


def _coordinates(density: MixedDensity, draw: Choices) -> Tensor:
    """The vector [d + m] of a draw."""
    values = {name: as_data(name, value) for name, value in draw.items()}
    fixed = density.continuous.discrete  # at any values
    absent = fixed.keys() - values.keys()
    if absent:
        what = f"a draw has no {sorted(absent)}"
        raise DataError(located(what, hint="return all latents by name"))
    finite = {name: values.pop(name) for name in fixed}
    real = density.continuous.layout.pack(values)
    if not finite:
        return real
    for name, value in finite.items():
        if value.shape != fixed[name].shape:
            what = f"a draw of shape {list(value.shape)} where {list(fixed[name].shape)} is needed"
            raise DataError(located(what, site=name))
    numbers = density.numbers(finite)
    v, back = torch.cat([real, numbers]), density.at(torch.cat([real, numbers])).discrete
    listed = bool((numbers >= 0).all() and (numbers < torch.tensor(density.sizes)).all())
    if not listed or any(not torch.equal(back[n].to(value), value) for n, value in finite.items()):
        shown = {name: value.tolist() for name, value in finite.items()}
        raise SupportError(located(f"a draw is outside the support, at one of {shown}"))
    return v
