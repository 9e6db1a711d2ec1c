"""Tensors read at a traced whole number, by indices and functions: the entries are torch's."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from pushforward import dist, factor, program, sample
from pushforward.inference import MCMC
from pushforward.inference.mcmc import with_gibbs
from pushforward.ppl.compile.potential import Potential
from pushforward.ppl.errors import BranchError
from pushforward.ppl.interpretations.abstract_run import abstract_run
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


# ------------------------------------------------------------------- functions that read at a place

Reader = Callable[[Tensor, Any], Tensor]


def random_read(seed: int) -> Reader:
    """A function of torch that reads a table of random shape at a number of 0, 1 or 2."""
    rng = random.Random(seed)
    shape = tuple(rng.choice((3, 4)) for _ in range(rng.randint(1, 3)))
    dim = rng.randrange(-len(shape), len(shape))
    kind = rng.choice(("take", "select", "index_select", "several", "gather"))
    method, keywords = rng.random() < 0.5, rng.random() < 0.3
    size = torch.Size(shape).numel()

    def read(table: Tensor, z: Any) -> Tensor:
        x = table.flatten()[:size].reshape(shape)
        if kind == "several":
            return x.take(torch.stack([z, 2 - z, z - 1]))
        if kind == "gather":
            return x.flatten().gather(0, z)
        function = getattr(x if method else torch, kind)
        first = () if method else (x,)
        if kind == "take":
            return function(*first, index=z) if keywords else function(*first, z)
        if keywords:
            return function(*first, dim=dim, index=z)
        return function(*first, dim, z)

    return read


def off_by(read: Reader, moving: bool) -> bool:
    """Whether the graph, its derivative, or lanes read otherwise than torch does at each number."""

    def at(v: Tensor, z: Tensor) -> Tensor:
        found = read(TABLE * v[0] if moving else TABLE, z)
        weights = torch.arange(1.0, found.numel() + 1).reshape(found.shape).sin()
        return (found * weights).sum() * v[0]

    def density(v: Tensor) -> Tensor:
        with Unread():
            return at(v, v[1].to(torch.int64))

    points = torch.tensor([[1.3, 0.0], [0.4, 1.0], [-0.7, 2.0]])
    exact = torch.stack([at(v, torch.tensor(int(v[1]))) for v in points])
    slope = (2.0 if moving else 1.0) * exact / points[:, 0]
    graph = capture_vector(density, points[1])
    in_graph = [graph(v)[:2] for v in points]
    lanes = torch.func.vmap(torch.func.grad_and_value(density))(points)
    compiled = Potential(density, points, compiled=True)(points)
    ways = (
        (torch.stack([x for x, _ in in_graph]), torch.stack([g for _, g in in_graph])),
        (lanes[1], lanes[0]),
        compiled,
    )
    return not all(
        torch.allclose(value, exact) and torch.allclose(gradient[:, 0], slope)
        for value, gradient in ways
    )


@pytest.mark.parametrize("block", range(4))
def test_functions_that_read_at_a_place(block: int) -> None:
    seeds = range(6 * block, 6 * block + 6)
    assert [seed for seed in seeds if off_by(random_read(seed), seed % 2 == 0)] == []


def test_a_read_along_another_dimension_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        capture._READS, "select", lambda x, dim, index: capture._selected(x, dim - 1, index)
    )
    square = TABLE[0, 0]
    assert off_by(lambda table, z: (table[0, 0] + 0 * square).select(0, z), True)


@pytest.mark.parametrize("way", ["take", "select"])
@pytest.mark.parametrize("compiled", [True, False])
def test_finite_latents_are_read_at(way: str, compiled: bool) -> None:
    """The chance of each value is a third times its weight, by hand."""
    weights = torch.tensor([0.1, 0.3, 0.6])

    @program
    def p() -> None:
        z = sample("z", dist.Categorical(torch.ones(3)))
        factor("f", weights.log().take(z) if way == "take" else weights.log().select(0, z))

    fit = MCMC(with_gibbs(), draws=500, warmup=0, compiled=compiled, progress=False).run(p)
    share = (fit["z"][..., None] == torch.arange(3)).double().mean((0, 1))
    error = (weights * (1 - weights) / 2000).sqrt()  # of 2000 independent draws
    assert bool(((share - weights).abs() < 5.0 * error).all())


@pytest.mark.parametrize(
    "count",
    [
        lambda x, z: x.repeat_interleave(z),
        lambda x, z: torch.repeat_interleave(x, repeats=z),
        lambda x, z: torch.repeat_interleave(z.expand(2)),
    ],
)
def test_a_repetition_as_often_as_a_latent_says_is_refused(count: Reader) -> None:
    @program
    def p() -> None:
        z = sample("z", dist.Categorical(torch.ones(3)))
        factor("f", count(torch.arange(3.0), z).sum())

    with pytest.raises(BranchError, match=r"a shape depends on .*'z'.*test_entries_by_places"):
        abstract_run(p)


def test_a_repetition_of_latents_is_not() -> None:
    @program
    def p() -> None:
        z = sample("z", dist.Categorical(torch.ones(3)))
        x = sample("x", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        factor("f", x.repeat_interleave(2).sum() + x.repeat_interleave(repeats=2).sum() * z)

    assert set(abstract_run(p)[0].sites) == {"z", "x"}
