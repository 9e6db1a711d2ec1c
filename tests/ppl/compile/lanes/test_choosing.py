"""Indices that each lane chooses: values and gradients are those of torch."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pushforward.ppl.compile.folding import fold
from pushforward.ppl.compile.lanes import choosing
from pushforward.ppl.compile.lanes.function import LaneFunction
from pushforward.ppl.compile.lanes.translation import Unsupported
from pushforward.ppl.tensors.capture import Unread, capture_vector, value_and_gradient

pytestmark = pytest.mark.usefixtures("double")

D = 6  # numbers, and behind them four that say where
TABLE = torch.linspace(-1.0, 2.0, 24, dtype=torch.float64).reshape(4, 3, 2)


def at(v: Tensor) -> Tensor:
    return v[D:].to(torch.int64)


# How a vector is read at places that it holds; each is a scalar.
READS: dict[str, Callable[[Tensor], Tensor]] = {
    "one": lambda v: v[:D].exp()[at(v)[0]],
    "several": lambda v: (v[:D].exp()[at(v)] * torch.arange(1.0, 5.0)).sum(),
    "rows": lambda v: (v[:D].reshape(3, 2)[at(v)].sin() * torch.arange(8.0).reshape(4, 2)).sum(),
    "columns": lambda v: (v[:D].reshape(2, 3).exp()[:, at(v)] * torch.arange(4.0)).sum(),
    "pairs": lambda v: (v[:D].reshape(3, 2).exp()[at(v), at(v).clamp(max=1)] * v[:4]).sum(),
    "with known": lambda v: v[:D].reshape(2, 3).exp()[torch.tensor([0, 1, 1, 0]), at(v)].prod(),
    "of data": lambda v: (TABLE[at(v)].sum((1, 2)) * v[:4]).sum(),
    "from the end": lambda v: v[:D].exp()[at(v) - 3].sum(),
    "gather": lambda v: v[:D].reshape(2, 3).log_softmax(-1).gather(1, at(v).reshape(2, 2)).sum(),
    "a law": lambda v: torch.distributions.Categorical(
        logits=v[:3], validate_args=False
    ).log_prob(at(v)).sum(),
    "of laws": lambda v: torch.distributions.Categorical(
        logits=v[:D].reshape(2, 3)[torch.tensor([0, 1, 0, 1])], validate_args=False
    ).log_prob(at(v)).sum(),
    "chained": lambda v: v[:D].exp()[TABLE[:3, 0, 0].to(torch.int64)[at(v)] + 1].sum(),
    "select": lambda v: v[:D].exp().index_select(0, at(v)).square().sum(),
    "the largest": lambda v: v[:D].exp()[v[:D].reshape(2, 3).argmax(1)].sum(),
    "one hot": lambda v: v[:3].log_softmax(0)[
        (at(v)[:, None] == torch.arange(3)).double().max(1)[1]
    ].sum(),
    "also elsewhere": lambda v: v[:D].exp()[at(v)].sum() * v[:D].sum() + v[:D][at(v)[0]],
}  # fmt: skip


def points() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randn(9, D, generator=generator)
    places = torch.randint(0, 3, (9, 4), generator=generator)
    return torch.cat([numbers, places.double()], 1)


def in_lanes(read: Callable[[Tensor], Tensor]) -> LaneFunction:
    def density(v: Tensor) -> Tensor:
        with Unread():
            return read(v)

    return LaneFunction(fold(capture_vector(density, points()[0])), points())


def off(read: Callable[[Tensor], Tensor]) -> float:
    """How far value and gradient are from torch's, at nine points whose places differ."""
    u = points()
    code = in_lanes(read)
    exact = [torch.stack(x) for x in zip(*(value_and_gradient(read, x) for x in u), strict=True)]
    return max(float((a - b).abs().max()) for a, b in zip(code(u), exact, strict=True))


@pytest.mark.parametrize("name", READS)
def test_reads(name: str) -> None:
    assert off(READS[name]) < 1e-13


def test_a_wrong_place_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    right = choosing._equal
    monkeypatch.setattr(choosing, "_equal", lambda asked, p, size: right(asked, (p + 1) % 3, size))
    assert off(READS["several"]) > 1e-3


def test_out_of_range_is_undefined() -> None:
    u = points()
    u[:, D] = 7.0
    assert bool(in_lanes(READS["one"])(u)[0].isnan().all())


def test_many_places_are_left_to_others() -> None:
    def wide(v: Tensor) -> Tensor:
        return (v[:D].sum() * torch.arange(100.0))[at(v)].sum()

    with pytest.raises(Unsupported, match="among 100"):
        off(wide)
    assert choosing.MOST >= 64 and math.isfinite(off(READS["one"]))
