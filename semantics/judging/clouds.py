"""Weighted rows of numbers, and whether two of them are quadratures of one measure.

Integrals of waves are compared, each with an error of its own that half the nodes tell.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..evaluation.denote import CONVERGED
from ..evaluation.measure import EPSILON, Measure
from ..evaluation.waves import COUNT, MOST, Waves, rows_of
from .comparing import ROUNDINGS
from .report import Report, decide

UNSETTLED = 4.0  # times the change of a gap by other nodes
CHUNK = 100_000  # rows whose waves are held at once
SOURCE = "of the mass, with the quadrature error of the worst of some test functions"


class Cloud(NamedTuple):
    """Rows [n, k] of numbers with log weights [n], whose rounding unit is ``resolution``."""

    rows: Tensor
    log_weights: Tensor
    resolution: float = EPSILON

    @staticmethod
    def of(measure: Measure) -> Cloud | None:
        """The atoms of a measure; None if its values differ in form, or hold what is no number."""
        rows = rows_of(value for value, _ in measure.atoms)
        logs = torch.tensor([log_weight for _, log_weight in measure.atoms], dtype=torch.float64)
        return None if rows is None else Cloud(rows, logs, measure.resolution)

    def log_mass(self) -> float:
        return float(self.log_weights.logsumexp(0))

    def shares(self, log_whole: float) -> Tensor:
        """The weights [n], as shares of a mass."""
        return (self.log_weights - log_whole).exp().where(self.log_weights > -math.inf, 0.0)

    def integrals(self, waves: Waves, log_whole: float) -> Tensor:
        """The mass, and the integrals of waves, as shares of a mass."""
        found = torch.zeros(1 + 2 * COUNT, dtype=torch.float64)
        parts = zip(self.rows.split(CHUNK), self.shares(log_whole).split(CHUNK), strict=True)
        for rows, weights in parts:
            found[0] += weights.sum()
            found[1:] += weights @ waves(rows)
        return found

    def is_lone(self, halved: Cloud) -> bool:
        """Whether one node holds most of the mass, so that the others tell nothing of its error.

        A value that half the nodes give, too, is no node but an atom.
        """
        most = int(self.log_weights.argmax())
        same = self.rows == self.rows[most]
        held = float(self.shares(self.log_mass())[same.all(1)].sum())
        return held > 0.5 and not bool((halved.rows == self.rows[most]).all(1).any())


class Refined(NamedTuple):
    """A cloud, and others of the same measure by fewer nodes, the first by half of them."""

    fine: Cloud
    coarse: tuple[Cloud, ...]

    @staticmethod
    def of(*measures: Measure) -> Refined | None:
        """Of measures by fewer and fewer nodes; None if they are no clouds of one dimension."""
        clouds = [cloud for measure in measures if (cloud := Cloud.of(measure)) is not None]
        if len(clouds) < len(measures) or len({cloud.rows.shape[1] for cloud in clouds}) > 1:
            return None
        return Refined(clouds[0], tuple(clouds[1:]))

    @property
    def width(self) -> int:
        """How many numbers a row has."""
        return self.fine.rows.shape[1]

    def integrals(self, waves: Waves, log_whole: float) -> tuple[Tensor, Tensor]:
        """The mass and the integrals of waves, as shares of a mass, each with an error."""
        found = self.fine.integrals(waves, log_whole)
        rough = [cloud.integrals(waves, log_whole) for cloud in self.coarse]
        return found, (torch.stack(rough) - found).abs().amax(0)


class Words(NamedTuple):
    """How the two sides of a comparison are told of."""

    first: str
    second: str


def compare(
    subject: str,
    one: Refined,
    other: Refined,
    words: Words,
    tolerance: float,
    start: float,
    again: Iterable[Callable[[], tuple[Cloud, Cloud] | None]],
) -> Report:
    """Whether two measures have the same integrals of waves.

    Fewer nodes estimate an error and do not bound it, and may meet one wave by chance: no error is
    taken for less than half of them are.  Up to three times what is allowed the verdict is unknown,
    and so it is where the mass or many waves have not converged.  Nothing fails whose gap is moved
    by a quarter where both clouds are made ``again`` by other numbers of nodes.
    """
    tolerance = max(tolerance, ROUNDINGS * max(one.fine.resolution, other.fine.resolution))
    top = max(one.fine.log_mass(), other.fine.log_mass())
    waves = Waves.about(one.fine.rows, one.fine.shares(one.fine.log_mass()))
    (fine, error_of_one), (second, error_of_other) = (x.integrals(waves, top) for x in (one, other))
    apart, errors = fine - second, error_of_one + error_of_other
    gaps = apart.abs()
    told = errors <= CONVERGED
    errors = errors.clamp(min=float(errors[told].median()) if bool(told.any()) else 0.0)
    known = bool(told[0]) and float(told.double().mean()) >= MOST
    worst = int((gaps / (tolerance + errors)).where(told | (not known), 0.0).argmax())
    gap, error = float(gaps[worst]), float(errors[worst])
    what = "the mass" if worst == 0 else f"the integral of {waves.name(worst - 1)}"
    report = decide(
        subject,
        gap,
        tolerance + error,
        SOURCE,
        f"{what} is {float(fine[worst]):.10g} of the mass {words.first}, and "
        f"{float(second[worst]):.10g} {words.second}{_moments(one.fine, other.fine, words)}",
        time.perf_counter() - start,
    )
    if report.verdict == "pass" and known:
        return report
    fails = gap > 3 * (tolerance + error) and error <= CONVERGED
    fails = fails and not other.fine.is_lone(other.coarse[0])
    if fails and all(_stays(apart[worst], worst, made(), waves, top) for made in again):
        return report
    note = "the quadrature has not converged: raise quadrature="
    return replace(report, verdict="unknown", notes=(*report.notes, note))


def _stays(
    gap: Tensor, worst: int, clouds: tuple[Cloud, Cloud] | None, waves: Waves, log_whole: float
) -> bool:
    """Whether a gap is hardly another by other clouds, if there are any."""
    if clouds is None:
        return True
    first, second = (cloud.integrals(waves, log_whole)[worst] for cloud in clouds)
    return bool(UNSETTLED * (first - second - gap).abs() < gap.abs())


def _moments(one: Cloud, other: Cloud, words: Words) -> str:
    """By how much the mean or the deviation of a number differs, where one is seen to."""
    (mean, spread), (second, other_spread) = map(_mean_and_deviation, (one, other))
    apart = torch.maximum((mean - second).abs(), (spread - other_spread).abs()) / spread
    i = int(apart.nan_to_num(-1.0, -1.0).argmax())
    if not float(apart[i]) > 0:
        return ""
    return (
        f"; number {i} has mean {float(mean[i]):.6g} and deviation {float(spread[i]):.6g} "
        f"{words.first}, {float(second[i]):.6g} and {float(other_spread[i]):.6g} {words.second}"
    )


def _mean_and_deviation(cloud: Cloud) -> tuple[Tensor, Tensor]:
    weights = cloud.shares(cloud.log_mass())[:, None]
    mean = (weights * cloud.rows).sum(0)
    square = (weights * (cloud.rows - mean).square()).sum(0)
    return mean, square.sqrt().masked_fill(square == 0, math.nan)


def other_numbers(nodes: int) -> tuple[int, int]:
    """Of nodes, by which a gap is looked at again: odd for even, and a quarter more."""
    return nodes + 1, nodes + nodes // 4 + 2
