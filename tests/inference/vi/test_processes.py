"""Variational inference in two processes of ``torchrun``, on data larger than memory too."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import large_rows, two_processes

PAGE = Path(__file__).parents[3] / "docs" / "clusters.md"


def torchrun(*words: str | Path, cwd: Path, processes: int = 2) -> str:
    """What so many processes print; without the variable their second life meets addresses of
    the first (``findings/torchrun_restart_gloo.sh``).
    """
    order = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}"]
    order += ["--standalone", "--max-restarts=1", *map(str, words)]
    own = {"OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    environment = {**os.environ, **own}
    done = subprocess.run(
        order, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A thousand numbers of mean 3 and standard deviation 2."""
    path = tmp_path_factory.mktemp("data") / "y.npy"
    shares = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    y = torch.special.ndtri(shares)
    np.save(path, (3.0 + 2.0 * y / y.std()).float().numpy())
    return path


@pytest.fixture(scope="module")
def found(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of the two processes found."""
    folder = tmp_path_factory.mktemp("found")
    torchrun(two_processes.__file__, rows, folder, cwd=folder)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def test_processes_that_begin_apart_end_at_one_place(found: list[dict[str, Any]]) -> None:
    first, second = found
    for kind in first:
        assert first[kind]["parameters"] == second[kind]["parameters"]
        assert first[kind]["history"] == second[kind]["history"]


def test_a_run_with_a_killed_process_ends_as_if_it_had_not_been(
    found: list[dict[str, Any]],
) -> None:
    for each in found:
        assert [each[kind]["found"] for kind in ("whole", "resumed", "read")] == [0, 12, 30]
        for what in ("parameters", "history"):
            assert each["whole"][what] == each["resumed"][what] == each["read"][what]
        assert len(each["whole"]["history"]) == 30 and each["whole"]["held"]


def test_each_process_holds_a_part_of_the_optimiser(found: list[dict[str, Any]]) -> None:
    """Adam holds two numbers for each parameter, and a count for each of the three tensors."""
    assert sum(each["whole"]["held"] for each in found) == 2 * 66 + 3
    assert all(0 < each["whole"]["held"] < 2 * 66 for each in found)


def test_the_page_is_run(rows: Path, tmp_path: Path) -> None:
    """Its fit of a normal law, by data whose mean and standard deviation are 3 and 2.

    A process that dies as it leaves is started again, goes on from the end, and prints it again.
    """
    blocks = re.findall(r"^```py\n((?:.*\n)*?)^```$", PAGE.read_text(), re.MULTILINE)
    (script,) = (block for block in blocks if "init_process_group" in block)
    (tmp_path / "fit.py").write_text(script)
    (tmp_path / "y.npy").write_bytes(rows.read_bytes())
    mean, scale = map(float, torchrun("fit.py", cwd=tmp_path).split()[-2:])
    assert mean == pytest.approx(3.0, abs=0.3)
    assert scale == pytest.approx(2.0, abs=0.3)


@pytest.mark.slow
def test_a_file_of_four_gigabytes_needs_less_than_one_of_memory(tmp_path: Path) -> None:
    """A sixteenth of the rows is 1; what reads the file whole is seen to need more."""
    path = tmp_path / "large.npy"
    large_rows.write(path, 2**28)
    assert path.stat().st_size > 4 * 2**30
    printed = torchrun(large_rows.__file__, path, cwd=tmp_path).split()
    for mean, spread, peak in zip(*(map(float, printed[k::3]) for k in range(3)), strict=True):
        assert mean == pytest.approx(1 / 16, abs=0.02) and spread < 1e-3
        assert peak < 2**30
    whole = torchrun(large_rows.__file__, path, "whole", cwd=tmp_path, processes=1).split()
    assert float(whole[2]) > 4 * 2**30
