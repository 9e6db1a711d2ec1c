"""Index maps never say less than there is: what moves with an entry of an input looks at it."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from support.moves import STEPS, N, Step
from torch import Tensor

from pushforward.ppl.tensors import origins
from pushforward.ppl.tensors.origins import SEVERAL, Origins

pytestmark = pytest.mark.usefixtures("double")


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
        ("columns, summed", [1, 2, 3, 4]),
        ("entries of a table", [1, 2, 3, 4]),
        ("places apart, kept", [1, 2, 3, 4]),
        ("gathered", [1, 2, 3, 4]),
        ("norm of columns", [1, 2, 3, 4]),
        ("filled", [4, 3, 2, 1]),
        ("filled by a view", [3, 4, 0, 0]),
        ("filled where", [1, 2, 3, 4]),
        ("log sigmoid", [1, 2, 3, 4]),
        ("solved apart", [1, 2, 3, 4]),
        ("factors apart", [1, 2, 3, 4]),
        ("solved", [SEVERAL] * 4),
        ("columns solved", [1, 2, 3, 4]),
        ("rows solved", [1, 2, 3, 4]),
        ("by factors", [1, 2, 3, 4]),
        ("inverted apart", [1, 2, 3, 4]),
        ("spread of columns", [1, 2, 3, 4]),
        ("rows of a table", [SEVERAL] * 4),
        ("norm of rows", [SEVERAL] * 4),
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
