"""Whether the density of a distribution has mass one, and its sampler draws from it.

The mass is exact where the support is finite, else by quadrature or from a list of values.  Draws
are compared by bounds that hold for every number of them: of the binomial law for each of finitely
many values, of Bernstein for the means of bounded waves.  A level is shared between comparisons.
"""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from torch import Tensor

from ..ppl import sample
from ..ppl.errors import InfiniteSupportError
from ..ppl.tensors.keys import Values
from ..ppl.types.supports import support_of
from .denote import BUDGET, denote
from .measure import Measure, readable
from .report import Report, decide
from .waves import Waves, rows_of, shares

TOLERANCE = 1e-8  # of the mass: normalisers of some libraries are rational approximations
NODES = {1: 256, 2: 64}  # of quadrature, by numbers of an event; fewer for more of them
FEWEST_NODES = 32


def density(
    distribution: Any,
    draws: int = 100_000,
    level: float = 1e-6,
    quadrature: int | None = None,
    depth: int = 1000,
    budget: int = BUDGET,
    seed: int = 0,
) -> Report:
    """Whether ``exp(log_prob)`` has mass one, and draws of ``sample`` have that law.

    Args:
        distribution: without batch dimensions.
        draws: of the sampler.
        level: the chance that a right sampler is said to be wrong.
        quadrature: nodes for each coordinate of a continuous distribution.
        depth: how many values of an infinite discrete support are listed; the verdict is unknown
            if mass lies beyond.
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
    law, continuous = _law(distribution, quadrature, depth, budget)
    subject = f"{type(distribution).__name__} has the density that it says"
    off, tolerance = abs(law.mass() - 1), TOLERANCE + law.error
    if not off <= tolerance + law.rest:
        told = f"the density has mass {law.mass():.10g}"
        source = "with the quadrature error" if law.error else "for the normaliser's rounding"
        return decide(subject, off, tolerance, source, told, time.perf_counter() - start, law.notes)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        drawn = distribution.sample((draws,)).detach()
    compare = _by_waves if continuous else _by_value
    deviation, allowed, where = compare(law, drawn, level)
    return decide(
        subject,
        deviation,
        allowed,
        f"for {draws} draws at the level {level:g}",
        where,
        time.perf_counter() - start,
        law.notes,
        missing=law.rest,
    )


def _law(
    distribution: Any, quadrature: int | None, depth: int, budget: int
) -> tuple[Measure, bool]:
    """The measure of the density, and whether it is continuous."""

    def program() -> Any:
        return sample("x", distribution)

    if support_of(distribution).is_discrete:
        try:
            return denote(program, budget=budget), False
        except InfiniteSupportError:
            return denote(program, budget=budget, depth=depth), False
    numbers = math.prod(distribution.event_shape)
    nodes = quadrature or NODES.get(numbers, FEWEST_NODES)
    return denote(program, budget=budget, quadrature=nodes), True


def _by_value(law: Measure, drawn: Tensor, level: float) -> tuple[float, float, str]:
    """The worst difference of a frequency from a mass, what is allowed there, and where it is."""
    from scipy.stats import binom  # slow to import

    n, key = len(drawn), Values()
    masses = {key(value): (value, mass) for value, mass in law.items()}
    distinct, repeats = drawn.unique(dim=0, return_counts=True)
    counts = {key(value): count for value, count in zip(distinct, repeats.tolist(), strict=True)}
    for value in distinct:
        masses.setdefault(key(value), (value, 0.0))
    shared = level / (2 * len(masses))
    worst = (0.0, 1.0, "")
    for k, (value, mass) in masses.items():
        count, p = counts.get(k, 0), min(mass, 1.0)
        bound = binom.isf(shared, n, p) if count > n * p else binom.ppf(shared, n, p)
        if bound == 0 and count < n * p:
            continue  # too rare for its absence to mean anything
        apart, allowed = abs(count / n - mass), abs(bound / n - p) + 1e-12
        if apart / allowed > worst[0] / worst[1]:
            told = f"{readable(value)} has mass {mass:.6g}, and {count / n:.6g} of the draws"
            worst = (apart, allowed, told)
    return worst


def _by_waves(law: Measure, drawn: Tensor, level: float) -> tuple[float, float, str]:
    """The worst difference of the means of a wave, what is allowed, and which wave it is."""
    nodes = rows_of(value for value, _ in law.items())
    assert nodes is not None
    masses = shares(law, law.log_mass())
    waves = Waves.about(nodes, masses)
    at_nodes = waves(nodes)
    expected = masses @ at_nodes
    variance = masses @ at_nodes.square() - expected.square()
    points = drawn.reshape(len(drawn), -1).double()
    found, bits = waves(points).mean(0), math.log(2 * len(expected) / level) / len(points)
    allowed = (2 * variance.clamp(min=0) * bits).sqrt() + 4 / 3 * bits + law.error + TOLERANCE
    gaps = (found - expected).abs()
    worst = int((gaps / allowed).argmax())
    told = f"the mean of {waves.name(worst)} is {float(expected[worst]):.4g} by the"
    told += f" density, and {float(found[worst]):.4g} of the draws"
    return float(gaps[worst]), float(allowed[worst]), told
