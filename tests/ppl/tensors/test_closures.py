"""Keys of functions: what they close over, also where it has no value yet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pushforward import dist, program, sample
from pushforward.inference.vi import objective, reinforce, sample_trace
from pushforward.inference.vi.objective import estimator
from pushforward.ppl.tensors.keys import Contents, Keys, closed_over, fingerprint
from pushforward.semantics import check, denote
from pushforward.spaces import P, Positive


def maker(scaled: bool, by: float = 2.0) -> Callable[[Tensor], Tensor]:
    if scaled:
        scale = by

    def times(x: Tensor) -> Tensor:
        return x * scale if scaled else x

    return times


def test_a_variable_without_a_value_is_told_apart_from_one_that_has_one() -> None:
    for key in (Keys(), Contents(), fingerprint):
        assert key(maker(False)) == key(maker(False))
        assert key(maker(False)) != key(maker(True))
        assert key(maker(True)) != key(maker(True, 3.0))
    assert [getattr(x, "__name__", x) for x in closed_over(maker(False))] == ["Unassigned", False]


def test_an_exact_check_takes_a_closure_over_a_variable_without_a_value(double: None) -> None:
    def make(scaled: bool) -> Any:
        if scaled:
            scale = 2.0

        def cost(p: Tensor) -> Tensor:
            x = sample_trace(lambda: sample("b", reinforce(dist.Bernoulli(p[0])))).choices["b"]
            return x * scale if scaled else x

        return lambda p: objective(lambda: cost(p))().surrogate()

    at = torch.tensor([0.3])
    check.unbiased(estimator(make(False)), lambda p: p.sum(), at).require()
    check.unbiased(estimator(make(True)), lambda p: 2 * p.sum(), at).require()


def test_annotations_are_read_where_a_variable_has_no_value() -> None:
    def make(scaled: bool) -> Any:
        if scaled:
            scale = 2.0

        @program
        def rate() -> P[Positive]:
            x = sample("x", dist.Bernoulli(0.5))
            return 1 + (scale * x if scaled else x)

        return rate

    assert [float(v) for v, _ in denote(make(False)).items()] == [1.0, 2.0]
