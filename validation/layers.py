"""Layers of a validation: checks that fit a thing, cheapest first, within a budget of seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from ..ppl.errors import PushforwardError
from ..semantics import CheckFailed, Report

Verdict = Literal["pass", "fail", "unknown"]


@dataclass(frozen=True)
class Layer:
    """One check that fits a thing.

    ``check`` takes the seconds that are left, and returns a report, or None where it says nothing
    of this thing.
    """

    name: str
    check: Callable[[float], Report | None]


@dataclass(frozen=True)
class Skipped:
    """A layer that was not run, and why."""

    name: str
    why: str


@dataclass(frozen=True)
class Validation:
    """What the layers found of a thing.

    ``reports`` by layer, in the order in which they ran; ``skipped``: those that did not.
    """

    thing: str
    kind: str
    reports: dict[str, Report]
    skipped: tuple[Skipped, ...] = ()
    seconds: float = 0.0

    @property
    def verdict(self) -> Verdict:
        """Fail if any layer failed, pass if all that ran passed and one did, else unknown."""
        verdicts = [report.verdict for report in self.reports.values()]
        if "fail" in verdicts:
            return "fail"
        return "pass" if verdicts and set(verdicts) == {"pass"} else "unknown"

    def require(self) -> Validation:
        """Return the validation if it passed; raise ``CheckFailed`` otherwise."""
        if self.verdict != "pass":
            raise CheckFailed(str(self))
        return self

    def __str__(self) -> str:
        lines = [f"{self.verdict.upper()}: {self.thing}, {self.kind} ({self.seconds:.1f} s)"]
        for name, report in self.reports.items():
            first, *rest = str(report).splitlines()
            lines += [f"  {name}: {first}", *(f"  {line}" for line in rest)]
        lines += [f"  {each.name}: not run, {each.why}" for each in self.skipped]
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return "".join(report._repr_html_() for report in self.reports.values())


@dataclass(frozen=True)
class Subject:
    """A thing to validate: its name, what kind of thing it is, and the layers that fit it."""

    name: str
    kind: str
    layers: tuple[Layer, ...] = field(repr=False)


def run_layers(
    subject: Subject, budget: float, tell: Callable[[str], None] = lambda text: None
) -> Validation:
    """Run the layers of a subject in turn, as long as the budget lasts.

    A check that is not possible (too many paths, no density) is skipped with its reason.
    """
    start = time.perf_counter()
    reports, skipped = dict[str, Report](), list[Skipped]()
    for layer in subject.layers:
        left = budget - (time.perf_counter() - start)
        if left <= 0:
            skipped.append(Skipped(layer.name, f"the budget of {budget:g} s is spent"))
            continue
        tell(f"{subject.name}: {layer.name}")
        try:
            report = layer.check(left)
        except PushforwardError as error:
            skipped.append(Skipped(layer.name, str(error)))
            continue
        if report is not None:
            reports[layer.name] = report
    seconds = time.perf_counter() - start
    return Validation(subject.name, subject.kind, reports, tuple(skipped), seconds)
