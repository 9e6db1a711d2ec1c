"""An exhibit: a fault that a library had, as a correct twin and a mutant, and its check."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pushforward.semantics import Report

BROKEN = "for a candidate that breaks"  # the source of a report on an error of the candidate


def f(x: Any) -> Tensor:
    """Numbers in double precision."""
    return torch.tensor(x, dtype=torch.float64)


@dataclass(frozen=True)
class Exhibit:
    """Two algorithms that differ in one place, of which the check must pass the first only.

    ``check`` is called with the twin or the mutant (a tuple stands for several arguments), what it
    is held ``against``, and ``options``.  ``breaks`` is part of the error that the mutant raises,
    if that is how it fails; no other error counts as a rejection.
    """

    number: int  # in the collection
    fault: str
    source: str
    check: Callable[..., Report]
    twin: Any
    mutant: Any
    against: tuple[Any, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    breaks: str = ""
    slow: bool = False

    def __str__(self) -> str:
        return f"M{self.number:02d}"

    @property
    def judge(self) -> str:
        """The check by its name, and the level of a statistical one."""
        name = self.check.__name__.removeprefix("check_")
        return f"`{name}`" + (", level 1e-6" if name in ("density", "sbc") else "")

    def judged(self, candidate: Any) -> Report:
        """The report on one of the two."""
        given = candidate if isinstance(candidate, tuple) else (candidate,)
        return self.check(*given, *self.against, **self.options)

    def verdicts(self) -> tuple[Report, Report]:
        """The reports on the twin and on the mutant."""
        return self.judged(self.twin), self.judged(self.mutant)

    def problems(self, twin: Report, mutant: Report) -> list[str]:
        """What is wrong with two reports: nothing, if the twin passes and the mutant fails."""
        found = [] if twin.verdict == "pass" else [f"the twin is not accepted: {twin}"]
        if mutant.verdict != "fail":
            found.append(f"the mutant is not rejected: {mutant}")
        broke = mutant.source == BROKEN
        if mutant.verdict == "fail" and (
            broke != bool(self.breaks) or self.breaks not in mutant.counterexample
        ):
            found.append(f"the mutant fails for another reason: {mutant}")
        return found
