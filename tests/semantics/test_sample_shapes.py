"""Samplers that are wrong in some sample shapes only.

The class: what a sampler does to the axes of its draws, in shapes with an axis of length one or
with two axes, where it is right for a row of draws.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from pushforward import dist
from pushforward.semantics import check

pytestmark = pytest.mark.usefixtures("double")

LAWS: dict[str, Callable[[], Any]] = {
    "beta": lambda: dist.Beta(torch.tensor(2.0), torch.tensor(3.0)),
    "categorical": lambda: dist.Categorical(torch.tensor([0.2, 0.3, 0.5])),
    "Poisson": lambda: dist.Poisson(torch.tensor(3.0)),
}


def last_is_one(shape: tuple[int, ...]) -> bool:
    return len(shape) > 1 and shape[-1] == 1


def first_is_one(shape: tuple[int, ...]) -> bool:
    return len(shape) > 1 and shape[0] == 1


def two_axes(shape: tuple[int, ...]) -> bool:
    return len(shape) > 1


WHERE = [last_is_one, first_is_one, two_axes]


def the_first(drawn: Tensor) -> Tensor:
    """All draws are the first of them."""
    return drawn[:1, :1].expand_as(drawn)


def no_numbers(drawn: Tensor) -> Tensor:
    return drawn * torch.nan if drawn.is_floating_point() else torch.zeros_like(drawn)


def one_axis(drawn: Tensor) -> Tensor:
    return drawn.flatten(0, 1)


FAULTS = {"the first": the_first, "no numbers": no_numbers, "one axis": one_axis}


def mistaken(law: Any, where: Callable[..., bool], fault: Callable[[Tensor], Tensor]) -> Any:
    """The law, whose sampler has a fault in some shapes."""
    right = law.sample

    def sample(sample_shape: Any = torch.Size()) -> Tensor:
        drawn: Tensor = right(torch.Size(sample_shape))
        return fault(drawn) if where(tuple(sample_shape)) else drawn

    law.sample = sample
    return law


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("name", LAWS)
def test_a_fault_in_a_shape_is_found(name: str, where: Any, fault: str) -> None:
    report = check.density(mistaken(LAWS[name](), where, FAULTS[fault]), draws=20_000)
    assert report.verdict == "fail", report
    told = "gives shape" if fault == "one axis" else "in the sample shapes"
    assert told in report.counterexample or "nan" in report.counterexample


@pytest.mark.parametrize("name", LAWS)
def test_right_samplers_pass(name: str) -> None:
    check.density(LAWS[name](), draws=20_000).require()


def test_vectors() -> None:
    law = lambda: dist.MultivariateNormal(torch.zeros(2), torch.eye(2))  # noqa: E731
    check.density(law(), draws=20_000, quadrature=48).require()
    report = check.density(mistaken(law(), last_is_one, the_first), 20_000, quadrature=48)
    assert report.verdict == "fail" and "in the sample shapes" in report.counterexample
