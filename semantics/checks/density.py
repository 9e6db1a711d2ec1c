"""Whether the density of a distribution has mass one, and its sampler draws from it.

The mass is exact where the support is finite, else by quadrature, or from a list of numbers with an
estimate of what lies beyond.  Draws are compared by bounds that hold for every number of them: of
the binomial law for finitely many cells, of Bernstein for the means of bounded waves.  A level is
shared between comparisons.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...ppl import sample
from ...ppl.distributions.data import value_dtype
from ...ppl.errors import (
    BranchError,
    BudgetError,
    ConvergenceError,
    InfiniteMassError,
    NoDensityError,
    ProgramError,
    UnsupportedDistributionError,
    located,
)
from ...ppl.interpretations.log_density import LogDensity
from ...ppl.types.supports import interval_of, support_of
from ..evaluation.denote import BUDGET, denote
from ..evaluation.measure import EPSILON, Measure, readable
from ..evaluation.sources import AGAIN
from ..judging.candidate import held, repeated, verdict
from ..judging.comparing import ROUNDINGS
from ..judging.counts import Counts, counts_of, ends_of
from ..judging.decay import endless
from ..judging.draws import ByWaves, Compared, by_count, by_value
from ..judging.frequencies import CELLS
from ..judging.report import Report, decide

SOURCE = "for the normaliser's rounding"
IN_SINGLE = "for the rounding of its dtype: use float64 parameters for 1e-8"
TOLERANCE = 1e-8  # of the mass: normalisers of some libraries are rational approximations
NODES = {1: 256, 2: 64}  # of quadrature, by numbers of an event; fewer for more of them
FEWEST_NODES = 32
FEWER = 25  # times, draws in each of the other shapes


@verdict
def density(
    distribution: Any,
    draws: int = 100_000,
    level: float = 1e-6,
    quadrature: int | None = None,
    depth: int | None = None,
    budget: int = BUDGET,
    seed: int = 0,
) -> Report:
    """Whether ``exp(log_prob)`` has mass one, and draws of ``sample`` have that law.

    Args:
        distribution: without batch dimensions.
        draws: of the sampler; some more are made in other sample shapes, [n, 1] and the like.
        level: the chance that a right sampler is said to be wrong.
        quadrature: nodes for each coordinate of a continuous distribution.
        depth: how many whole numbers are listed of an infinite or large support: those about the
            draws unless given, then the first.  What lies beyond is estimated; as long as it could
            turn the verdict, that is unknown.
        seed: of the draws; the state of torch's generator is left as it is.

    Errors:
        ValueError: the distribution is a batch, or a setting is out of range.
        UnsupportedDistributionError: its support is not known to this library.
        BudgetError: more than ``budget`` values or nodes.
    """
    if distribution.batch_shape:
        raise ValueError(f"one distribution is checked, not a batch {distribution.batch_shape}")
    if draws < 1 or not 0 < level < 1:
        raise ValueError(f"draws are positive and the level is in (0, 1): {draws}, {level}")
    start = time.perf_counter()
    subject = f"{type(distribution).__name__} has the density that it says"
    drawn, otherwise = _drawn(subject, distribution, draws, seed)
    try:
        with held(subject, "in its density"):
            law = _law(distribution, drawn, quadrature, depth, budget)
    except (ConvergenceError, InfiniteMassError) as error:
        seconds = time.perf_counter() - start
        return Report(subject, "unknown", math.inf, TOLERANCE, SOURCE, "", seconds, (str(error),))
    rounding = _rounding(distribution, drawn)
    off, tolerance = law.mass - 1.0, TOLERANCE + max(law.error, rounding)
    if (lost := _lost(distribution)) > tolerance:
        told = f"about {lost:.2g} of the mass lies within rounding of an end of the support"
        law, tolerance = law._replace(notes=(*law.notes, told)), tolerance + lost
    if not -tolerance - law.beyond <= off <= tolerance:
        source = law.source if law.error else SOURCE
        source = IN_SINGLE if rounding > law.error else source
        told = f"the density has {law.told}"
        seconds = time.perf_counter() - start
        return decide(subject, abs(off), tolerance, source, told, seconds, law.notes)
    found, count, shaped = law.compare(drawn, level / 2), draws, ""
    other = law.compare(otherwise, level / 2)
    if not other.deviation / other.allowed <= max(1.0, found.deviation / found.allowed):
        found, count = other, len(otherwise)
        shaped = ", in the sample shapes [n, 1], [1, n] and [n, 2]"
    report = decide(
        subject,
        found.deviation,
        found.allowed,
        f"for {count} draws at the level {level:g}",
        found.where + shaped,
        time.perf_counter() - start,
        law.notes,
    )
    note = "" if found.known else "the quadrature has not converged: raise quadrature="
    if report.verdict == "pass" and law.beyond > found.allowed:
        note = f"up to about {law.beyond:.2g} of the mass was cut: raise depth="
    return replace(report, verdict="unknown", notes=(*report.notes, note)) if note else report


class _Law(NamedTuple):
    """The mass of a density, as found and with an error, what may lie beyond, and how it is told.

    ``compare`` holds draws against the law at a level.
    """

    mass: float
    told: str
    compare: Callable[[Tensor, float], Compared]
    error: float = 0.0
    source: str = "with the quadrature error"
    beyond: float = 0.0
    notes: tuple[str, ...] = ()

    @staticmethod
    def of(measure: Measure, compare: Callable[[Tensor, float], Compared]) -> _Law:
        """That of a measure which was enumerated or integrated."""
        mass = measure.mass()
        return _Law(mass, f"mass {mass:.10g}", compare, measure.error, notes=measure.notes)


def _rounding(distribution: Any, drawn: Tensor) -> float:
    """Of the mass, where the density is computed in less than double precision."""
    unit = torch.finfo(distribution.log_prob(drawn[:1]).dtype).eps
    return ROUNDINGS * unit if unit > EPSILON else 0.0


def _drawn(subject: str, distribution: Any, draws: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draws [draws, *event], at which the density is a number, and the same each time.

    Others [n, *event], fewer, come from other sample shapes, which a sampler may mistake.
    """
    few, event = max(1, draws // FEWER), distribution.event_shape

    def asked(shape: tuple[int, ...]) -> Tensor:
        with held(subject, f"in drawing {math.prod(shape)} times with seed {seed}"):
            found: Tensor = distribution.sample(torch.Size(shape)).detach()
            if found.shape != (*shape, *event):
                wanted = [*shape, *event]
                what = f"sample({list(shape)}) gives shape {list(found.shape)}, not {wanted}"
                raise ProgramError(located(what, hint="prepend the sample shape"))
        return found.reshape(-1, *event)

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        drawn = asked((draws,))
        otherwise = torch.cat([asked(shape) for shape in ((few, 1), (1, few), (few, 2))])
    at = f"in the density of {draws} draws"
    scores = repeated(subject, at, lambda: distribution.log_prob(drawn), distribution, AGAIN)
    with held(subject, at):
        wrong = scores.isnan() | (scores == math.inf) & support_of(distribution).is_discrete
        if bool(wrong.any()):
            value = drawn[wrong][0]
            told = f"the log density is {float(scores[wrong][0])} at {readable(value)}, a draw"
            raise ProgramError(located(told))
    with held(subject, "at an end of its support"):
        for end in _ends(distribution):
            if bool((score := distribution.log_prob(end)).isnan()):
                raise ProgramError(located(f"the log density is {float(score)} at {float(end)}"))
    return drawn, otherwise


def _ends(distribution: Any) -> list[Tensor]:
    """The ends of an interval of real numbers that belong to it: no draw will ever meet them."""
    support = support_of(distribution)
    if distribution.event_shape or support.is_discrete:
        return []
    ends = [torch.as_tensor(x, dtype=value_dtype(distribution)) for x in interval_of(support) or ()]
    return [end for end in ends if bool(end.isfinite()) and bool(support.check(end))]


def _lost(distribution: Any) -> float:
    """About the mass within a few rounding units of the ends of an interval, where no nodes are.

    There a density that rises is taken for a power d^(b - 1) of the distance d, of mass d p(d) / b.
    """
    support = support_of(distribution)
    interval = None if distribution.event_shape or support.is_discrete else interval_of(support)
    if interval is None:
        return 0.0
    lost = 0.0
    low, high = (torch.as_tensor(x, dtype=value_dtype(distribution)) for x in interval)
    for end, other in ((low, high), (high, low)):
        if bool(end.isfinite()):
            unit = (torch.nextafter(end, other) - end).abs()
            distances = unit * torch.tensor([4.0, 8.0], dtype=unit.dtype)
            near, far = distribution.log_prob(end + (other - end).sign() * distances).tolist()
            power = 1.0 + (far - near) / math.log(2.0)
            if 0.0 < power < 1.0:
                lost += math.exp(near + math.log(float(distances[0]))) / power
    return lost


def _law(
    distribution: Any, drawn: Tensor, quadrature: int | None, depth: int | None, budget: int
) -> _Law:
    """The law of the density, however it is found."""

    def program() -> Any:
        return sample("x", distribution)

    if (ends := ends_of(distribution)) is not None and ends[1] - ends[0] >= CELLS:
        return _of_counts(counts_of(distribution, ends, drawn, depth))
    if support_of(distribution).is_discrete:
        measure = denote(program, budget=budget)
        return _Law.of(measure, partial(by_value, measure))
    usual = NODES.get(math.prod(distribution.event_shape), FEWEST_NODES)
    return _integrated(program, quadrature or usual, budget)


def _integrated(program: Callable[[], Any], nodes: int, budget: int) -> _Law:
    """The law of a continuous density; it is endless only if its mass is not found to be one."""
    failure: Exception | None = None
    try:
        measure = denote(program, budget=budget, quadrature=nodes)
        coarse = denote(program, budget=budget, quadrature=max(2, 3 * nodes // 4))
        law = _Law.of(measure, ByWaves(measure, coarse))
        if abs(law.mass - 1.0) <= TOLERANCE + law.error:
            return law
    except (BudgetError, ConvergenceError, InfiniteMassError) as error:
        failure = error
    if ray := _ray(program):
        told = f"infinite mass: it does not decay {ray}"
        return _Law(math.inf, told, lambda drawn, level: Compared(math.inf, 0.0, told))
    if failure is not None:
        raise failure
    return law


def _ray(program: Callable[[], Any]) -> str:
    """A ray on which the density does not decay, where it can be asked for."""
    with suppress(UnsupportedDistributionError, NoDensityError, BranchError):
        return endless(LogDensity(program))
    return ""


def _of_counts(counts: Counts) -> _Law:
    """The law of a density on the whole numbers."""
    mass, last = float(counts.masses.sum()), counts.first + len(counts.masses) - 1
    listed = f"mass {mass:.10g} on the numbers {counts.first} to {last}"
    if counts.beyond == math.inf:
        told = f"infinite mass: {listed}, and it does not fall beyond"
    else:
        told = f"{listed}, and no more than about {counts.beyond:.3g} beyond"
    compare = partial(by_count, counts)
    notes = (f"{len(counts.masses)} numbers from {counts.first} to {last}",)
    rounding = "for the rounding of factorials"
    return _Law(mass, told, compare, counts.rounding, rounding, counts.beyond, notes)
