"""What a reader should know before believing islands: where they are coarse, stuck, or disagree."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from .pilot import CLOSE, Moved, Pilot, noise

COARSE = 0.1  # share of the particles' effective size that a step leaves
RARE = 0.4  # mean acceptance
STUCK = 0.5  # correlation with the start, after as many moves as were asked for
OFTEN = 0.05  # share of the powers where moves may be too few: modes part at one of them
FAMILIES = 3.0  # effective number of draws of the prior from which particles descend
DEAD = 0.01  # share of the evidence, relative to an equal one
WIDE = 1.0  # standard deviation of log evidences
DISTANT = 0.45  # spread of the means of islands, in posterior standard deviations: R-hat of 1.1
SURPRISE = 3.72  # the normal quantile of 1 - 1e-4
SLACK = 1.5  # by which standard deviations may exceed those of moves that forget all
APART = 5.0  # standard deviations between the pilot run and the islands


def of_pilot(pilot: Pilot, moves: int | None, length: int = 1) -> list[str]:
    """Moves that leave particles where they are.

    Args:
        moves: as many as were asked for.
        length: of waste-free chains.
    """
    uncertain = noise(pilot.population.values)
    close = CLOSE if moves is None else STUCK
    stuck = [each for each in pilot.moved if not each.forgot(close, uncertain)]
    found = []
    if len(stuck) > max(1.0, OFTEN * len(pilot.moved)) or (stuck and moves is not None):
        often = max(stage.moves for stage in pilot.stages)
        most = max(each.correlation for each in stuck)
        hint = "reparameterise, or use more particles" if moves is None else "use moves=None"
        found.append(
            f"at {len(stuck)} of {len(pilot.moved)} powers particles hardly move: after {often} "
            f"moves their correlation with where they were reaches {most:.2f}; {hint}"
        )
    slow = max((stage.moves for stage in pilot.stages), default=0)
    if 1 < length <= slow and moves is None:
        found.append(
            f"waste-free chains of {length} states are shorter than the {slow} moves in which "
            "particles forget where they were: use more moves"
        )
    return found


def worst(trail: Sequence[Moved], families: float) -> tuple[float, float, float]:
    """The least of an island: share that a step left, acceptance at a power, and families.

    ``families``: from how many draws of the prior its particles descend.
    """
    share = min((each.share for each in trail), default=math.inf)
    return share, min((each.acceptance for each in trail), default=math.inf), families


def of_stages(islands: Sequence[tuple[float, float, float]]) -> list[str]:
    """Steps that leave hardly a particle, moves that are rejected, and few families.

    Args:
        islands: the ``worst`` of each.
    """
    share, rate, families = (min(each) for each in zip(*islands, strict=True))
    found = []
    if share < COARSE:
        found.append(
            f"a step of the power leaves {share:.1%} of the particles' effective size: the ladder "
            "is too coarse; use more stages, or stages=None, which spaces them"
        )
    if rate < RARE:
        found.append(
            f"moves are accepted with probability {rate:.2f} at some power: the density is hard to "
            "follow; reparameterise, or use more particles"
        )
    if families < FAMILIES:
        found.append(
            f"the particles of an island descend from about {families:.1f} draws of the prior: use "
            "more particles"
        )
    return found


def of_islands(log_evidences: Tensor, expected: float | None) -> list[str]:
    """Islands without evidence, and a spread that is wide or a surprise.

    Args:
        log_evidences: of the islands.
        expected: the standard deviation of a log evidence if moves forget all, if it is known.
    """
    n = len(log_evidences)
    if n == 1:
        return []
    relative = n * log_evidences.softmax(0)
    dead = [i for i, share in enumerate(relative.tolist()) if share < DEAD]
    if dead:
        what = f"islands {dead} have" if len(dead) > 1 else f"island {dead[0]} has"
        return [
            f"{what} next to none of the evidence: draws are those of the others, which may have "
            "missed as much; use more particles"
        ]
    spread = float(log_evidences.std())
    if spread > WIDE:
        return [
            f"the log evidences of islands spread by {spread:.1f}: draws are weighted by evidence, "
            "and rest on few islands; use more particles"
        ]
    if expected is not None and spread > SLACK * expected * surprising(n - 1):
        return [
            f"the log evidences of islands spread by {spread:.2g}, where their weights alone "
            f"explain {expected:.2g}: moves leave particles where they are; reparameterise, or use "
            "more particles"
        ]
    return []


def of_means(draws: Tensor) -> list[str]:
    """Islands whose means differ by more than few draws explain; draws are [islands, n, d]."""
    if min(draws.shape[:2]) < 2 or not draws.shape[2]:
        return []
    draws = draws.double()
    ratio = draws.mean(1).var(0) / draws.var(1).mean(0)
    worst = float(ratio.nan_to_num(0.0).max().sqrt())
    if worst <= DISTANT:
        return []
    return [
        f"the means of islands differ by {worst:.2f} posterior standard deviations: moves leave "
        "particles where they are; reparameterise, or use more particles"
    ]


def between(pilot: float, islands: float, spread: float, count: int) -> list[str]:
    """A pilot run that found another evidence than the islands, of this standard deviation."""
    if abs(pilot - islands) <= APART * SLACK * spread * math.sqrt(1.0 + 1.0 / count):
        return []
    return [
        f"the pilot run found the log evidence {pilot:.2f}, and the islands {islands:.2f}: it "
        "has set their powers and moves by another law; use more particles"
    ]


def of_sizes(sizes: Tensor) -> list[str]:
    """Last weights that rest on hardly a particle; ``sizes`` are those of the islands."""
    worst = float(sizes.min())
    if worst >= 2.0:
        return []
    what = f"the effective sample size falls to {worst:.1f}: hardly a particle carries the weight"
    return [f"{what}; use more particles, or a better proposal"]


def surprising(freedom: int) -> float:
    """The quantile of 1 - 1e-4 of the ratio of a sample standard deviation to the true one.

    By the cube root of chi squared (Wilson and Hilferty 1931).
    """
    variance = 2.0 / (9.0 * freedom)
    return math.pow(1.0 - variance + SURPRISE * math.sqrt(variance), 1.5)
