"""Lane code travels between processes as text and tables, and computes there what it did here."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pushforward.ppl.compile.folding import fold
from pushforward.ppl.compile.lanes.function import LaneFunction
from pushforward.ppl.tensors.capture import capture_vector

TABLE = torch.linspace(-2.0, 2.0, 301)

THERE = """
import pickle, sys, torch
function, u = pickle.loads(open(sys.argv[1], "rb").read())
open(sys.argv[1], "wb").write(pickle.dumps(function(u)))
"""


def regression(u: Tensor) -> Tensor:
    """A density with data, which are a table."""
    return -((u[0] + u[1] * TABLE - TABLE.sin()) ** 2).sum() - u.square().sum()


def smooth(u: Tensor) -> Tensor:
    """One without."""
    return (u[0] * u[1]).sin() - u.square().sum()


def made(density: Callable[[Tensor], Tensor]) -> tuple[LaneFunction, Tensor]:
    u = torch.randn(5, 2, generator=torch.Generator().manual_seed(1))
    return LaneFunction(fold(capture_vector(density, u[0])), u), u


@pytest.mark.parametrize("density", [regression, smooth])
def test_copies_compute_the_same(density: Callable[[Tensor], Tensor]) -> None:
    function, u = made(density)
    wanted = function(u)
    copies = [pickle.loads(pickle.dumps(function)), copy.deepcopy(function)]
    del function  # with the memory of its tables
    for each in copies:
        assert all(map(torch.equal, each(u), wanted))


def test_another_process_computes_the_same(tmp_path: Path) -> None:
    function, u = made(regression)
    file = tmp_path / "function"
    file.write_bytes(pickle.dumps((function, u)))
    subprocess.run([sys.executable, "-c", THERE, str(file)], check=True)
    assert all(map(torch.equal, pickle.loads(file.read_bytes()), function(u)))
