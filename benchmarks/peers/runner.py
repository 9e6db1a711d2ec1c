"""What all runners share: the fit that is asked for, CPU seconds between marks, what is reported.

A runner is called as ``python -m peers.NAME POSTERIOR SEED FOLDER``.  FOLDER/start.npy holds the
points [4, d] from which chains start; the runner writes the draws [4, 1000, k] of the parameters to
FOLDER/draws.npy, and prints its figures as one line of JSON.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

CHAINS, WARMUP, DRAWS = 4, 1000, 1000
STAGES = ("import", "compile", "run", "results")


def cpu() -> float:
    """Seconds of this process and of what it has waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def peak() -> float:
    """The greatest resident size of this process, in MiB."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


class Job:
    """One fit, from the arguments of the command to the line that it prints."""

    def __init__(self) -> None:
        self.name, seed, folder = sys.argv[1:]
        self.seed, self.folder = int(seed), Path(folder)
        self.marks = [0.0]

    def mark(self) -> None:
        """The end of a stage: there are four, and the import is the first."""
        self.marks.append(cpu())

    @property
    def start(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        found: np.ndarray[Any, np.dtype[np.float64]] = np.load(self.folder / "start.npy")
        return found

    def report(self, draws: Any, gradients: int, divergences: int) -> None:
        """After the last stage."""
        pairs = zip(STAGES, self.marks[:-1], self.marks[1:], strict=True)
        figures = {stage: end - begin for stage, begin, end in pairs}
        figures |= {"gradients": gradients, "divergences": divergences, "MiB": peak()}
        np.save(self.folder / "draws.npy", draws)
        print(json.dumps(figures))
