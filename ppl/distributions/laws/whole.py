"""Sums over the whole numbers between two ends, by a law of whole numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from ...errors import BudgetError, ProgramError, UnsupportedDistributionError, located
from ...tensors.hidden import is_known
from ...tensors.logs import logsumexp
from ...types import space_of
from ..data import value_dtype
from ..densities import log_density
from .tails import log_rest_of

LIMIT = 100_000  # numbers that are listed
SPREAD = 40  # standard deviations, beyond which most laws have no mass
BEYOND = 1e-12  # share of the mass that the last number may have, times that number
ROUNDING = 1e4  # of a sum of all masses: units in the last place of one
CERTAIN = math.log(0.999)  # of what is below: beyond, the rest is summed by itself


@dataclass(frozen=True)
class WholeNumbers:
    """Numbers from ``first`` to ``last``, which ends of all elements of a batch lie in.

    ``start`` is the greatest low end, and ``own`` the first number of the law; ``alike`` says
    whether the ends are those of every element.
    """

    own: int
    first: int
    start: int
    last: int | None
    alike: bool

    @staticmethod
    def of(law: Any, low: Tensor, high: Tensor) -> WholeNumbers:
        """What a law has between two ends.

        Errors:
            ProgramError: the ends are not known, or nothing is between them.
            UnsupportedDistributionError: the law has no first number.
            BudgetError: there are too many numbers to list.
        """
        name = type(law).__name__
        if not (is_known(low) and is_known(high)):
            what = f"the ends of a {name} depend on a choice"
            raise ProgramError(located(what, hint="ends of laws of whole numbers are known"))
        own, end = _ends(law)
        lows, highs = (x.flatten().tolist() for x in (low.ceil(), high.floor()))
        first, start = (max(own, x) for x in (min(lows), max(lows)))
        last = min(max(highs), math.inf if end is None else end)
        ends = low.ceil().clamp(min=own), high.floor().clamp(max=last)
        if math.isinf(start) or not bool((ends[0] <= ends[1]).all()):
            shown = f"low is {lows[:3]} and high is {highs[:3]}"
            raise ProgramError(located(f"a {name} has no numbers between its ends: {shown}"))
        many = (start if math.isinf(last) else last) - min(first, own)
        if many > LIMIT:
            raise BudgetError(located(f"a {name} has {many:.0f} numbers to sum over, over {LIMIT}"))
        alike = len({*lows}) == len({*highs}) == 1
        until = None if math.isinf(last) else int(last)
        return WholeNumbers(own, int(first), int(start), until, alike)

    @property
    def listed(self) -> bool:
        """Whether the numbers can be listed, the same for each element."""
        return self.last is not None and self.alike

    def support(self, low: Tensor, high: Tensor) -> Any:
        if self.last is None:
            at_least = type(constraints.nonnegative_integer)
            return at_least(self.first if self.alike else low.ceil().clamp(min=self.own))  # type: ignore[call-arg]
        if self.alike:
            return constraints.integer_interval(self.first, self.last)  # type: ignore[no-untyped-call]
        ends = low.ceil().clamp(min=self.own), high.floor().clamp(max=self.last)
        return constraints.integer_interval(*ends)  # type: ignore[no-untyped-call]

    def values(self, like: Tensor) -> Tensor:
        """All numbers, if there is a last one."""
        assert self.last is not None
        return torch.arange(self.first, self.last + 1, dtype=like.dtype, device=like.device)

    def log_mass(self, law: Any, low: Tensor, high: Tensor) -> Tensor:
        """log P(low <= X <= high) [*batch].

        Where there is no last one it is the rest of what is below, and where that rest is small
        a sum of so many numbers that few laws have mass beyond, unless the rest shows some.
        """
        if self.last is not None:
            values, logs = _listed(law, self.first, self.last)
            return _summed(logs, (values >= low) & (values <= high))
        bounded = high.isfinite()
        if bool(bounded.any()):
            last = int(high[bounded].max())
            values, logs = _listed(law, min(self.first, last), last)
            inside = _summed(logs, (values >= low) & (values <= high))
            return torch.where(bounded, inside, self._log_above(law, low))
        return self._log_above(law, low)

    def _log_above(self, law: Any, low: Tensor) -> Tensor:
        """log P(low <= X) [*batch]."""
        if self.start == self.own:
            return torch.zeros_like(low)
        values, logs = _listed(law, self.own, self.start - 1)
        before = _summed(logs, values < low)
        if self.start == self.own + 1:  # one number, whose mass has all digits
            return log_rest_of(before)
        values, logs = _listed(law, self.first, 7 * self.start + 64)
        far, rest = _summed(logs, values >= low), log_rest_of(before)
        cut = rest.exp() - far.exp() > ROUNDING * torch.finfo(low.dtype).eps
        return torch.where((before > CERTAIN) & ~cut, far, rest)

    def sample(self, law: Any, low: Tensor, high: Tensor, shape: torch.Size) -> Tensor:
        """Draws [*shape], by the inverse of the distribution function."""
        values, masses = self._masses(law, low, high)
        steps = masses.cumsum(0)
        u = torch.rand(shape, dtype=low.dtype, device=low.device) * steps[-1]
        index = torch.searchsorted(
            steps.movedim(0, -1).expand(*shape, len(steps)).contiguous(), u[..., None]
        )[..., 0]
        return values.flatten()[index.clamp(max=len(values) - 1)]

    def moments(self, law: Any, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance."""
        values, masses = self._masses(law, low, high)
        masses = masses / masses.sum(0)
        mean = (values * masses).sum(0)
        return mean, ((values - mean) ** 2 * masses).sum(0)

    def _masses(self, law: Any, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """All numbers [m, ...] that matter, and their masses [m, *batch] times a common factor."""
        last = self.last
        if last is None:
            far = (law.mean + SPREAD * (1 + law.variance.sqrt())).max()
            last = max(7 * self.start + 64, int(far))
        while True:
            values, logs = _listed(law, self.first, last)
            logs = torch.where((values >= low) & (values <= high), logs, -math.inf)
            masses = (logs - logs.max(0).values).exp()
            beyond = masses[-1] * last > BEYOND * masses.sum(0)
            if self.last is not None or not bool(beyond.any()):
                return values, masses
            last *= 2


def _listed(law: Any, first: int, last: int) -> tuple[Tensor, Tensor]:
    """Numbers [m, 1, ...] and their log probabilities [m, *batch]."""
    if last - first > LIMIT:
        what = f"a {type(law).__name__} has {last - first} numbers to sum over, over {LIMIT}"
        raise BudgetError(located(what))
    values = torch.arange(first, last + 1, dtype=value_dtype(law))
    values = values.reshape(-1, *(1,) * len(law.batch_shape))
    return values, log_density(law, values)


def _summed(logs: Tensor, kept: Tensor) -> Tensor:
    return logsumexp(torch.where(kept, logs, -math.inf), 0)


def _ends(law: Any) -> tuple[int, int | None]:
    """The first number of a law, and the last if there is one."""
    space = space_of(law)
    numbers = [p if isinstance(p, tuple) else (p,) for p in space.parameters]
    known = [[int(x) for x in p if x is not None] for p in numbers]
    if space.kind in {"Bool", "Fin"} and all(known):
        return 0, max(known[0]) - 1 if known else 1
    if space.kind == "Nat":
        return 0, None
    if space.kind in {"IntAtLeast", "IntInterval"} and all(known):
        return min(known[0]), max(known[1]) if len(known) > 1 else None
    raise UnsupportedDistributionError(
        located(f"where the numbers of a {type(law).__name__} begin is not known: {space}")
    )
