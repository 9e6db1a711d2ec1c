"""Tensors indexed by a traced whole number, among whatever else: the entries are torch's."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import Tensor

from pushforward.ppl.tensors import capture
from pushforward.ppl.tensors.capture import Unread, capture_vector

pytestmark = pytest.mark.usefixtures("double")

SHAPE = (3, 3, 3, 3)
TABLE = torch.arange(81.0, dtype=torch.float64).reshape(SHAPE).cos()
PLACE = "place"  # stands for the number


def random_index(seed: int) -> tuple[Any, ...]:
    """Of at most four dimensions, with the number at one or two of them."""
    rng = random.Random(seed)
    pieces: list[Any] = [PLACE]
    for _ in range(rng.randint(0, 3)):
        pieces.append(
            rng.choice(
                (PLACE, 1, -1, slice(None), slice(1, None), slice(None, None, 2), "tensor", "mask")
            )
        )
    rng.shuffle(pieces)
    if rng.random() < 0.4:
        pieces.insert(rng.randint(0, len(pieces)), Ellipsis)
    for _ in range(rng.randint(0, 2)):
        pieces.insert(rng.randint(0, len(pieces)), None)
    made = {"tensor": torch.tensor([2, 0]), "mask": torch.tensor([True, False, True])}
    return tuple(made.get(p, p) if isinstance(p, str) else p for p in pieces)


def entries(index: tuple[Any, ...], z: Any) -> Tensor:
    at = tuple(z if isinstance(p, str) else p for p in index)
    found = TABLE[at if len(at) > 1 else at[0]]
    return (found * torch.arange(1.0, found.numel() + 1).reshape(found.shape).sin()).sum()


def wrong(index: tuple[Any, ...]) -> bool:
    def density(v: Tensor) -> Tensor:
        with Unread():
            return entries(index, v[1].to(torch.int64)) * v[0]

    graph = capture_vector(density, torch.tensor([1.0, 1.0]))
    places = (-3.0, -1.0, 0.0, 2.0)
    return any(
        not torch.allclose(graph(torch.tensor([1.0, z]))[0], entries(index, int(z))) for z in places
    )


@pytest.mark.parametrize("block", range(6))
def test_random_indices(block: int) -> None:
    bad = [seed for seed in range(25 * block, 25 * block + 25) if wrong(random_index(seed))]
    assert not bad


def test_a_dimension_forgotten_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "_dims", lambda index: 1)
    assert any(wrong(random_index(seed)) for seed in range(20))


def test_a_place_out_of_range_is_an_error() -> None:
    def density(v: Tensor) -> Tensor:
        with Unread():
            return TABLE[..., v[1].to(torch.int64)].sum() * v[0]

    graph = capture_vector(density, torch.tensor([1.0, 1.0]))
    with pytest.raises((IndexError, RuntimeError)):
        graph(torch.tensor([1.0, 3.0]))
