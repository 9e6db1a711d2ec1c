"""docs/museum.md: what every exhibit is about, and what the check said of it.

``PYTHONPATH=tests .venv/bin/python -m museum.page --write`` judges all and writes the page.
"""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path

import torch

from .exhibit import Exhibit
from .rooms import EXHIBITS, RECONSTRUCTED

PAGE = Path(__file__).parents[2] / "docs" / "museum.md"
COLUMNS = ("entry", "what was wrong", "reported in", "check", "seconds", "twin", "mutant")
SECONDS = COLUMNS.index("seconds")

INTRODUCTION = f"""# A museum of faults

Faults of correctness that were found in libraries of inference, each as a small algorithm in the
words of this one. Of each there is a correct twin, which differs in one place; the check must pass
the twin and fail the mutant. They are in [tests/museum](../tests/museum), a file for each family,
and `make museum` judges all {len(EXHIBITS)}.

A star marks a thread that shows a symptom only: the mutant is then our reading of it, and no claim
about that code. Most verdicts are exact; where draws are compared, the level is the chance that a
right algorithm fails. Seconds are of one core, for both.

"""


def linked(source: str) -> str:
    """The threads as links; GitHub leads from the number of an issue to a pull request."""
    place = f"https://github.com/{source.partition(',')[0]}/issues"
    return re.sub(r"(?<= )(\d+)", rf"[\1]({place}/\1)", source)


def row(exhibit: Exhibit, seconds: float, twin: str, mutant: str) -> str:
    star = "*" if exhibit.number in RECONSTRUCTED else ""
    cells = [f"{exhibit}{star}", exhibit.fault, linked(exhibit.source), exhibit.judge]
    return " | ".join([f"| {cells[0]}", *cells[1:], f"{seconds:.1f}", twin, f"{mutant} |"])


def without_seconds(line: str) -> str:
    """A row as it is whatever the machine."""
    cells = line.split(" | ")
    return " | ".join(cells[:SECONDS] + cells[SECONDS + 1 :])


def head() -> str:
    names = " | ".join(COLUMNS)
    return f"{INTRODUCTION}| {names} |\n{'|---' * len(COLUMNS)}|\n"


def judged(exhibit: Exhibit) -> str:
    """The row of an exhibit, which is judged for it."""
    start = time.process_time()
    twin, mutant = exhibit.verdicts()
    seconds = time.process_time() - start
    if problems := exhibit.problems(twin, mutant):
        sys.exit(f"{exhibit}: {problems}")
    return row(exhibit, seconds, twin.verdict, mutant.verdict)


def main() -> None:
    torch.set_default_dtype(torch.float64)
    text = head() + "".join(f"{judged(exhibit)}\n" for exhibit in EXHIBITS)
    if "--write" in sys.argv[1:]:
        PAGE.write_text(text, encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()
