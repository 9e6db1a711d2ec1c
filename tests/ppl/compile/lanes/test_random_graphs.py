"""Random tensor programs: in lane code, values and gradients are those of torch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from support.random_graphs import SIZE, random_program
from torch import Tensor
from torch.fx import GraphModule

from pushforward.ppl.compile.folding import fold
from pushforward.ppl.compile.lanes import emit, schedule
from pushforward.ppl.compile.lanes.function import LaneFunction
from pushforward.ppl.tensors.capture import capture_vector

pytestmark = pytest.mark.usefixtures("double")


def graph_of(seeds: range) -> GraphModule:
    """The sum of several programs, each of a vector of its own."""
    programs = [random_program(seed) for seed in seeds]

    def density(u: Tensor) -> Tensor:
        parts = u.reshape(len(programs), SIZE)
        return torch.stack([p(part) for p, part in zip(programs, parts, strict=True)]).sum()

    return fold(capture_vector(density, torch.zeros(len(programs) * SIZE)))


def points(seeds: range, chains: int) -> Tensor:
    generator = torch.Generator().manual_seed(seeds.start)
    return torch.randn(chains, len(seeds) * SIZE, generator=generator)


def wrong(seeds: range, chains: int = 3) -> list[int]:
    """The programs whose gradient, or value if they are one, is not that of torch."""
    u = points(seeds, chains)
    value, gradient = LaneFunction(graph_of(seeds), u)(u)
    rows = [torch.func.grad_and_value(_sum(seeds))(row) for row in u]
    by_torch = [torch.stack(parts) for parts in zip(*rows, strict=True)]
    off = (gradient - by_torch[0]).abs() / by_torch[0].abs().amax(-1, keepdim=True).clamp(min=1.0)
    bad = (off.reshape(chains, len(seeds), SIZE) > 1e-11).any(-1).any(0)
    if not bool((value - by_torch[1]).abs().max() < 1e-10):
        return [seed for seed in seeds if len(seeds) == 1 or wrong(range(seed, seed + 1), chains)]
    return [seed for seed, b in zip(seeds, bad.tolist(), strict=True) if b]


def _sum(seeds: range) -> Callable[[Tensor], Tensor]:
    programs = [random_program(seed) for seed in seeds]
    return lambda u: torch.stack(
        [p(part) for p, part in zip(programs, u.reshape(-1, SIZE), strict=True)]
    ).sum()


@pytest.mark.parametrize("block", range(4))
def test_random_programs_have_the_gradients_of_torch(block: int) -> None:
    assert wrong(range(5 * block, 5 * block + 5)) == []


def test_code_in_many_functions_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emit, "PART", 3)
    assert wrong(range(10, 15)) == []


@pytest.mark.slow
@pytest.mark.parametrize("block", range(2, 102))
def test_a_thousand_more_programs(block: int) -> None:
    assert wrong(range(10 * block, 10 * block + 10)) == []


def test_fusing_what_is_not_in_step_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: with every two loops of one length taken for loops in step."""
    monkeypatch.setattr(schedule, "_in_step", lambda *_: True)
    monkeypatch.setattr(schedule, "_part", lambda *_: None)
    assert wrong(range(2))
