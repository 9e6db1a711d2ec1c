"""Index maps never say less than there is: what moves with an entry of an input looks at it."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from pushforward.ppl.tensors import origins
from pushforward.ppl.tensors.origins import SEVERAL, Origins

pytestmark = pytest.mark.usefixtures("double")

N = 4  # entries of the input
TABLE = torch.linspace(-1.0, 2.0, 12).reshape(4, 3)
PLACES = torch.tensor([3, 0, 0, 2])

Step = Callable[[Tensor], Tensor]
# Steps from a tensor whose last dimension has N entries to another such one.
STEPS: dict[str, Step] = {
    "scale": lambda x: 2 * x + 1,
    "permute": lambda x: x[..., PLACES],
    "flip": lambda x: x.flip(-1),
    "roll": lambda x: x.roll(1, -1),
    "shift": lambda x: torch.cat([torch.zeros_like(x[..., :1]), x[..., :-1]], -1),
    "gather": lambda x: x.gather(-1, PLACES.expand(x.shape)),
    "select and spread": lambda x: x[..., 1:2].expand(x.shape),
    "outer": lambda x: (x[..., :, None] * torch.ones(3)).sum(-1),
    "transpose": lambda x: torch.stack([x, x.flip(-1)], -1).transpose(-1, -2)[..., 0, :],
    "where": lambda x: torch.where(torch.tensor([True, False, True, False]), x, x[..., :1]),
    "matrix": lambda x: x @ torch.diag(torch.tensor([1.0, 2.0, 3.0, 4.0])),
    "cumulate": lambda x: x.cumsum(-1),
    "normalise": lambda x: x.softmax(-1),
    "table": lambda x: TABLE[x.detach().abs().long() % 4][..., 1] + 0 * x,
    "lanes": lambda x: torch.func.vmap(lambda e: e.sin())(x),
    "write": lambda x: torch.zeros_like(x).index_copy(-1, PLACES[:2], x[..., :2]),
    "in place": lambda x: torch.zeros_like(x).add_(x),
    "select": lambda x: x.index_select(-1, PLACES),
    "unfold": lambda x: torch.nn.functional.pad(x, (1, 0)).unfold(-1, 2, 1)[..., 0],
    "masked": lambda x: x.masked_fill(torch.tensor([False, True, False, False]), 0.5),
}


def maps_of(function: Step, value: Tensor) -> Tensor:
    with torch.no_grad(), Origins() as tracked:
        result = function(tracked.follow("x", value, N))
        none = torch.zeros(result.shape, dtype=torch.int64)
        return tracked.of(result).get("x", none)


def moved(function: Step, value: Tensor) -> Tensor:
    """Which entry of the result [...] moves with which entry of the input: [..., N]."""
    base = function(value.clone())
    columns = []
    for i in range(N):
        changed = torch.zeros(base.shape, dtype=torch.bool)
        for by in (0.37, -1.91, 2.6):
            other = value.clone()
            other[i] += by
            changed |= function(other) != base
        columns.append(changed)
    return torch.stack(columns, -1)


def require_sound(function: Step, value: Tensor, what: Any) -> None:
    told, looks = maps_of(function, value), moved(function, value)
    for place in range(N):
        covered = (told == 1 + place) | (told >= SEVERAL)
        assert bool((covered | ~looks[..., place]).all()), f"{what}: entry {place}, told {told}"


@pytest.mark.parametrize("block", range(4))
def test_maps_of_random_functions_are_sound(block: int) -> None:
    for number in range(100 * block, 100 * block + 100):
        draw = random.Random(number)
        names = [draw.choice(sorted(STEPS)) for _ in range(draw.randint(1, 4))]
        value = torch.tensor([draw.uniform(-2, 2) for _ in range(N)])

        def function(x: Tensor, names: list[str] = names) -> Tensor:
            for name in names:
                x = STEPS[name](x)
            return x

        require_sound(function, value, names)


@pytest.mark.parametrize(
    ("step", "told"),
    [
        ("scale", [1, 2, 3, 4]),
        ("permute", [4, 1, 1, 3]),
        ("shift", [0, 1, 2, 3]),
        ("gather", [4, 1, 1, 3]),
        ("select and spread", [2, 2, 2, 2]),
        ("outer", [1, 2, 3, 4]),
        ("table", [1, 2, 3, 4]),
        ("lanes", [1, 2, 3, 4]),
        ("normalise", [SEVERAL] * 4),
    ],
)
def test_maps_of_single_steps_are_exact(step: str, told: list[int]) -> None:
    assert maps_of(STEPS[step], torch.tensor([0.3, -1.2, 0.8, 1.9])).tolist() == told


def test_maps_are_the_same_where_derivatives_are_taken() -> None:
    found: list[Tensor] = []

    def function(x: Tensor) -> Tensor:
        found.append(maps_of(STEPS["permute"], torch.arange(4.0)))
        return x.sum()

    torch.func.grad(function)(torch.zeros(2))
    assert found[0].tolist() == [4, 1, 1, 3]


def test_a_rule_that_forgets_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: a sum that is taken for an elementwise operation."""
    monkeypatch.setattr(origins, "_ALONG", set())
    monkeypatch.setattr(origins, "_unknown", origins._elementwise)
    with pytest.raises(AssertionError, match="cumulate"):
        require_sound(STEPS["cumulate"], torch.tensor([0.3, -1.2, 0.8, 1.9]), "cumulate")


def test_what_lies_in_memory_otherwise_is_followed_by_its_places() -> None:
    turned = maps_of(lambda x: x.reshape(2, 2).T.reshape(4), torch.arange(4.0))
    assert turned.tolist() == [1, 3, 2, 4]
    flat = maps_of(lambda x: x.view(2, 2).transpose(0, 1).flatten().flip(0), torch.arange(4.0))
    assert flat.tolist() == [4, 2, 3, 1]
    strided = maps_of(lambda x: x.as_strided((2,), (2,)), torch.arange(4.0))
    assert strided.tolist() == [SEVERAL] * 2
