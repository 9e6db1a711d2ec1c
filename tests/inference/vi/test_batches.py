"""Batches of arrays in files: all rows alike, each once an epoch, none kept."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from pushforward.errors import DataError
from pushforward.inference.vi import Batches


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Two arrays of 23 rows, of which each tells its place."""
    x, y = tmp_path / "x.npy", tmp_path / "y.npy"
    np.save(x, np.arange(23, dtype=np.float32)[:, None] + np.zeros(3, dtype=np.float32))
    np.save(y, np.arange(23))
    return [x, y]


def shared(files: list[Path], processes: int, **about: int) -> list[Batches]:
    """What each process of a group would make."""
    made = [Batches(*files, **about) for _ in range(processes)]
    for i, batches in enumerate(made):
        batches.process, batches.processes = i, processes
    return made


@pytest.mark.parametrize(("size", "together"), [(4, 1), (4, 2), (4, 4), (6, 3), (23, 1)])
def test_rows_are_read_whole_and_no_row_comes_twice_in_an_epoch(
    files: list[Path], size: int, together: int
) -> None:
    batches = Batches(*files, size=size, together=together)
    steps = 23 // together * together // size
    stream = iter(batches)
    for _ in range(3):
        rows = []
        for x, y in islice(stream, steps):
            assert x.shape == (size, 3) and x.dtype == torch.float32
            assert bool((x == y[:, None]).all())
            rows += y.tolist()
        assert len(rows) == len(set(rows)) == steps * size


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize(("size", "together"), [(4, 1), (4, 2), (6, 3)])
def test_all_rows_have_the_same_chance(
    files: list[Path], size: int, together: int, processes: int
) -> None:
    """Over all places to start from, whatever the order; and with one of them they have not."""
    group = shared(files, processes, size=size, together=together)
    order = torch.randperm(23 // together, generator=torch.Generator().manual_seed(1))
    counts = [
        Counter(
            int(row)
            for batches in group
            for places in batches.epoch(start, order)
            for row in places
        )
        for start in range(23)
    ]
    assert all(max(each.values()) == 1 for each in counts), "processes share no row"
    whole = sum(counts, Counter())
    assert len(whole) == 23 and len(set(whole.values())) == 1
    assert len(counts[0]) < 23, "with one start alone some rows never come"


def test_the_order_is_that_of_the_seed(files: list[Path]) -> None:
    def first(seed: int) -> list[int]:
        return [int(r) for _, y in islice(Batches(*files, size=4, seed=seed), 12) for r in y]

    assert first(1) == first(1) != first(2)
    assert first(1)[:20] != first(1)[20:40], "epochs differ"


def test_a_loader_reads_ahead_in_the_same_order(files: list[Path]) -> None:
    batches = Batches(*files, size=4)
    loader = DataLoader(batches, batch_size=None, num_workers=2)
    for (_, here), (_, there) in zip(islice(batches, 7), loader, strict=False):
        assert torch.equal(here, there)


def test_many_rows_are_ordered_by_runs(tmp_path: Path) -> None:
    file = tmp_path / "many.npy"
    np.lib.format.open_memmap(file, "w+", np.int8, (2**25,))
    assert Batches(file, size=64).together == 8
    assert Batches(file, size=3).together == 3
    assert Batches(file, size=64, together=64).together == 64


def test_what_does_not_fit_is_refused(files: list[Path], tmp_path: Path) -> None:
    other = tmp_path / "other.npy"
    np.save(other, np.zeros(22))
    with pytest.raises(DataError, match="must have one length"):
        Batches(*files, other, size=2)
    with pytest.raises(DataError, match="are no batch of 24"):
        Batches(*files, size=24)
    with pytest.raises(ValueError, match="runs of 3 rows do not make a batch of 4"):
        Batches(*files, size=4, together=3)
    with pytest.raises(DataError, match="no array that can be read"):
        Batches(tmp_path / "none.npy", size=4)
    (tmp_path / "text.npy").write_text("1, 2")
    with pytest.raises(DataError, match=r"numpy\.save"):
        Batches(tmp_path / "text.npy", size=4)
