"""Draws held against a law: by frequencies of numbers or values, or by means of bounded waves."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...ppl.tensors.keys import Values
from ..evaluation.denote import CONVERGED
from ..evaluation.measure import Measure, readable
from ..evaluation.waves import MOST, Waves
from .clouds import Cloud
from .comparing import numbers
from .counts import Counts
from .frequencies import cells_of, worst_gap

ROUNDING = 1e-8  # of the means of waves


class Compared(NamedTuple):
    """The worst difference, what is allowed there, where it is, and whether the law is known."""

    deviation: float
    allowed: float
    where: str
    known: bool = True


def by_count(counts: Counts, drawn: Tensor, level: float) -> Compared:
    """By the frequencies of whole numbers, neighbours put together where there are many.

    Draws off the list are a cell of their own, of no more mass than may lie beyond.
    """
    places = drawn.double().reshape(-1) - counts.first
    listed = (places >= 0) & (places < len(counts.masses)) & (places == places.round())
    cells = cells_of(counts.masses)
    last = int(cells.max()) + 1
    masses = torch.zeros(last + 1, dtype=torch.float64).index_add(0, cells, counts.masses)
    found = torch.bincount(cells[places[listed].long()], minlength=last + 1)
    found[last] = int((~listed).sum())
    masses[last] = min(counts.beyond, float(found[last]) / len(drawn))
    gap = worst_gap(masses, found, len(drawn), level)
    if gap.cell == last and not bool(listed.all()):
        where = f"all off the list, such as {readable(drawn[~listed][0])},"
    else:
        there = (cells == gap.cell).nonzero()[:, 0] + counts.first
        low, high = int(there.min()), int(there.max())
        where = f"{low}" if low == high else f"all from {low} to {high}"
    return Compared(gap.size, gap.allowed, _told(where, masses, found, gap.cell, len(drawn)))


def by_value(law: Measure, drawn: Tensor, level: float) -> Compared:
    """By the frequencies of finitely many values."""
    key, places, values = Values(), dict[Any, int](), list[Any]()
    distinct, repeats = drawn.unique(dim=0, return_counts=True)
    for value in (*(value for value, _ in law.atoms), *distinct):
        if places.setdefault(key(value), len(values)) == len(values):
            values.append(value)
    masses, found = torch.zeros(len(values), dtype=torch.float64), torch.zeros(len(values))
    for value, mass in law.items():
        masses[places[key(value)]] = mass
    for value, repeat in zip(distinct, repeats, strict=True):
        found[places[key(value)]] = repeat
    gap = worst_gap(masses, found, len(drawn), level)
    where = str(readable(values[gap.cell]))
    return Compared(gap.size, gap.allowed, _told(where, masses, found, gap.cell, len(drawn)))


def _told(where: str, masses: Tensor, found: Tensor, cell: int, draws: int) -> str:
    mass, share = numbers(float(masses[cell]), float(found[cell]) / draws)
    return f"{where} has mass {mass}, and {share} of the draws"


class ByWaves:
    """By the means of waves, each with the error that a law on fewer nodes tells.

    Those whose means the nodes do not tell are left out, as long as most are told.
    """

    def __init__(self, law: Measure, coarse: Measure) -> None:
        self.law, self.coarse = law, coarse

    @functools.cached_property
    def _expected(self) -> tuple[Waves, Tensor, Tensor, Tensor]:
        """The waves, their means by the law, and the errors and the variances of these."""
        fine, coarse = Cloud.of(self.law), Cloud.of(self.coarse)
        assert fine is not None and coarse is not None
        masses = fine.shares(fine.log_mass())
        waves = Waves.about(fine.rows, masses)
        at_nodes = waves(fine.rows)
        means = masses @ at_nodes
        others = coarse.shares(coarse.log_mass()) @ waves(coarse.rows)
        return waves, means, (means - others).abs(), masses @ at_nodes.square() - means.square()

    def __call__(self, drawn: Tensor, level: float) -> Compared:
        waves, means, errors, variance = self._expected
        points = drawn.reshape(len(drawn), -1).double()
        found, bits = waves(points).mean(0), math.log(2 * len(means) / level) / len(points)
        allowed = (2 * variance.clamp(min=0) * bits).sqrt() + 4 / 3 * bits
        allowed = allowed + self.law.error + ROUNDING + errors
        told = errors <= CONVERGED
        known = bool(told.double().mean() >= MOST)
        gaps = (found - means).abs()
        worst = int((gaps / allowed).where(told | ~torch.tensor(known), 0.0).argmax())
        mean, of_draws = numbers(float(means[worst]), float(found[worst]))
        name = waves.name(worst)
        where = f"the mean of {name} is {mean} by the density, and {of_draws} of the draws"
        return Compared(float(gaps[worst]), float(allowed[worst]), where, known)
