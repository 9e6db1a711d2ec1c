"""Triton's kernels against their torch twins in float64, on a GPU or in Triton's interpreter.

Each test runs in a process of its own, since the interpreter is chosen when Triton is imported.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

TWINS = Path(__file__).parents[1] / "support" / "triton_twins.py"
PARTS = ("nala", "soft", "evonorm", "unified", "l1", "shiftquant")


def run(part: str, device: str, **environment: str) -> None:
    command = [sys.executable, str(TWINS), part, device]
    about = {**os.environ, **environment}
    done = subprocess.run(command, env=about, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert "compared" in done.stdout


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
@pytest.mark.parametrize("part", PARTS)
def test_in_the_interpreter(part: str) -> None:
    run(part, "cpu", TRITON_INTERPRET="1")


@pytest.mark.gpu
@pytest.mark.parametrize("part", PARTS)
def test_on_a_gpu(part: str) -> None:
    run(part, "cuda")
