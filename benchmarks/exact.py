"""Exact evaluation of a hidden Markov model: its cost in the length, with states merged or not.

The model has three states, observes at each step, and returns its last state.  The program is
evaluated by effects (``denote``) and the same text in rationals (``semantics.reference``); both are
compared with the forward algorithm.  Without merging there are 3^T paths.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from pushforward.ppl.calculus.elaborate import elaborate
from pushforward.ppl.calculus.parse import parse
from pushforward.semantics import denote, reference
from pushforward.semantics.checks.agreement import collected, plain

UNMERGED = 7  # longer models have too many paths


def model(steps: int) -> str:
    """The model of this length as text of the calculus; every third observation is false."""
    seen = ", ".join("true" if i % 3 else "false" for i in range(steps))
    return f"""loop y in [{seen}], z = (0 : Fin 3) {{ do {{
      after <- if z == 0 then categorical(2, 1, 1)
               else if z == 1 then categorical(1, 2, 1) else categorical(1, 1, 2);
      observe y from flip(if after == 0 then 1/4 else if after == 1 then 1/2 else 3/4);
      return after }} }}"""


def forward(steps: int) -> list[float]:
    """The masses of the last state by the forward algorithm."""
    move = torch.tensor([[2, 1, 1], [1, 2, 1], [1, 1, 2]], dtype=torch.float64) / 4
    up = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
    at = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    for i in range(steps):
        at = (at @ move) * (up if i % 3 else 1 - up)
    return list(map(float, at))


def evaluations(steps: int) -> dict[str, Callable[[], Any]]:
    term = parse(model(steps))
    program = elaborate(term)
    found: dict[str, Callable[[], Any]] = {
        "by effects": lambda: denote(program).items(),
        "in rationals": lambda: reference.denote(term),
    }
    if steps <= UNMERGED:
        found["path by path"] = lambda: denote(program, merge=False).items()
    return found


def deviation(steps: int, result: Any) -> float:
    masses = collected(result)
    return max(abs(masses.get(plain(i), 0.0) - m) for i, m in enumerate(forward(steps)))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--steps", type=int, nargs="+", default=[3, 6, 12, 24, 48])
    options.add_argument("--rounds", type=int, default=15)
    given = options.parse_args()
    runs = {steps: evaluations(steps) for steps in given.steps}
    for each in runs.values():  # what is made once is made here
        for run in each.values():
            run()
    times: dict[tuple[int, str], list[float]] = {}
    results: dict[tuple[int, str], Any] = {}
    for _ in range(given.rounds):
        for steps, each in runs.items():
            for name, run in each.items():
                start = time.perf_counter()
                results[steps, name] = list(run())
                times.setdefault((steps, name), []).append(time.perf_counter() - start)
    table = Table("evaluation", "T", "median, ms", "time(T) / time(T / 2)", "deviation")
    for (steps, name), took in sorted(times.items(), key=lambda item: (item[0][1], item[0][0])):
        half = times.get((steps // 2, name)) if steps % 2 == 0 else None
        ratio = (
            f"{statistics.median(a / b for a, b in zip(took, half, strict=True)):.2f}"
            if half
            else ""
        )
        error = deviation(steps, results[steps, name])
        table.add_row(
            name, str(steps), f"{1e3 * statistics.median(took):.1f}", ratio, f"{error:.0e}"
        )
    Console().print(table)


if __name__ == "__main__":
    main()
