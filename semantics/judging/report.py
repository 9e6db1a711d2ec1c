"""What a check found: pass, fail or unknown, by how much, and the smallest failing case."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ...ppl.pages import text

Verdict = Literal["pass", "fail", "unknown"]


class CheckFailed(AssertionError):
    """A check did not pass; the message holds its counterexample."""


@dataclass(frozen=True)
class Report:
    """The outcome of one check.

    ``deviation`` is the largest difference found, ``tolerance`` what was allowed and ``source``
    of what both are shares, and where that comes from; ``counterexample`` tells a failing case
    in words.
    """

    subject: str
    verdict: Verdict
    deviation: float
    tolerance: float
    source: str
    counterexample: str = ""
    seconds: float = 0.0
    notes: tuple[str, ...] = ()

    def require(self) -> Report:
        """Return the report if the check passed; raise ``CheckFailed`` otherwise."""
        if self.verdict != "pass":
            raise CheckFailed(str(self))
        return self

    def __str__(self) -> str:
        lines = [
            f"{self.verdict.upper()}: {self.subject} "
            f"(deviation {self.deviation:.2g}, tolerance {self.tolerance:.2g} {self.source}; "
            f"{self.seconds:.2f} s)"
        ]
        if self.counterexample:
            lines.append(f"  counterexample: {self.counterexample}")
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        colour = {"pass": "#2a7", "fail": "#c33", "unknown": "#c90"}[self.verdict]
        return text(self, edge=colour)


def decide(
    subject: str,
    deviation: float,
    tolerance: float,
    source: str,
    counterexample: Any,
    seconds: float,
    notes: tuple[str, ...] = (),
    missing: float = 0.0,
) -> Report:
    """Pass within the tolerance, fail beyond it (a NaN fails), and unknown where it is open.

    ``missing`` bounds the mass that was cut away: it may hide a deviation, or make up for one.
    """
    if missing > tolerance:
        notes = (*notes, f"up to {missing:.2g} of the mass was cut: raise depth=, or say bound=")
    if deviation <= tolerance:
        verdict: Verdict = "pass" if missing <= tolerance else "unknown"
        return Report(subject, verdict, deviation, tolerance, source, "", seconds, notes)
    verdict = "unknown" if deviation <= tolerance + missing else "fail"
    return Report(
        subject, verdict, deviation, tolerance, source, str(counterexample), seconds, notes
    )
