"""Keys of states: equal up to the last digits, at whatever scale.

The class: programs whose states or results lie on a small scale, or near each other relative to
others.  Members are programs of the suite's kind at scales from 1e-300 to 1e300: what merges, and
every weight, is the same at each.
"""

from __future__ import annotations

import math
import random
from collections.abc import Hashable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pushforward import dist, factor, program, sample, scan
from pushforward.ppl.tensors import keys
from pushforward.ppl.tensors.keys import Contents, Keys
from pushforward.semantics import check, denote

pytestmark = pytest.mark.usefixtures("double")


def walk(scale: float, steps: list[float], length: int) -> object:
    """A walk whose state is scaled; its weights ask for the state."""

    @program
    def p() -> Tensor:
        def step(x: Tensor, _: Tensor) -> tuple[Tensor, None]:
            z = sample("z", dist.Categorical(torch.ones(len(steps))))
            x = x + scale * torch.tensor(steps)[z]
            factor("f", -(x / scale).abs() / 3)
            return x, None

        return scan(step)(torch.tensor(0.0), torch.zeros(length))[0]

    return p


@pytest.mark.parametrize("block", range(5))
def test_scale_changes_no_measure(block: int) -> None:
    for number in range(50 * block, 50 * block + 50):
        draw = random.Random(number)
        steps = [draw.choice([1.0, -1.0, 0.5, 3.0]) for _ in range(2)]
        scale = 10.0 ** draw.choice([-300, -40, -14, -13, 3, 14, 300])
        plain, scaled = (denote(walk(s, steps, 3)) for s in (1.0, scale))  # type: ignore[arg-type]
        assert len(plain) == len(scaled)
        for value, weight in plain.items():
            near = [w for v, w in scaled.items() if math.isclose(v, value * scale, rel_tol=1e-9)]
            assert len(near) == 1 and near[0] == pytest.approx(weight, rel=1e-9), (steps, scale)


def test_sums_in_another_order_merge_and_other_values_do_not() -> None:
    key = Keys()
    for scale in (1e-200, 1e-14, 1.0, 1e200):
        a, b = (0.1 + 0.2 + 0.3) * scale, (0.3 + 0.2 + 0.1) * scale
        assert a != b and key(a) == key(b)
        assert key(torch.tensor(a)) == key(torch.tensor(b))
        assert key(torch.full((20,), a)) == key(torch.full((20,), b))
        assert key(1.0 * scale) != key(1.000001 * scale)
        assert key(torch.tensor(scale)) != key(torch.tensor(3 * scale))
        assert key(torch.full((20,), scale)) != key(torch.full((20,), 3 * scale))
    assert key(0.0) == key(-0.0) and key(torch.tensor(0.0)) == key(torch.tensor(-0.0))
    assert key(0.0) != key(5e-324)
    assert key(math.inf) != key(-math.inf) and key(np.array([1.0])) == key(torch.tensor([1.0]))


def test_tiny_values_are_told_apart() -> None:
    @program
    def tiny() -> Tensor:
        return torch.where(sample("x", dist.Bernoulli(0.25)) == 1, 5e-14, 1e-14)

    assert denote(tiny).pmf() == {1e-14: 0.75, 5e-14: 0.25}
    assert check.valid(lambda: (torch.tensor(1e-14), torch.tensor(0.0)), tiny).verdict == "fail"


def test_an_absolute_quantum_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: thirteen decimals for all."""
    monkeypatch.setattr(keys, "_rounded", lambda x: round(x, 13) + 0.0)
    merged = denote(walk(1e-14, [1.0, -1.0], 3))  # type: ignore[arg-type]
    assert len(merged) < len(denote(walk(1.0, [1.0, -1.0], 3)))  # type: ignore[arg-type]


class Counted(Contents):
    """Keys that count the values they look into."""

    calls = 0

    def __call__(self, value: Any) -> Hashable:
        self.calls += 1
        return super().__call__(value)


def test_what_pytest_makes_of_asserts_is_no_content() -> None:
    """A function with a rewritten assert names pytest's modules, which hold all of its state."""

    def asserting(x: float) -> float:
        assert x == abs(x)
        return x

    assert "@pytest_ar" in asserting.__code__.co_names, "pytest has rewritten it"
    counted = Counted()
    counted(asserting)
    assert counted.calls < 50
