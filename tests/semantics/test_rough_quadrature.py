"""Right algorithms with continuous results pass by as many nodes as their own measure needs.

The class: where half the nodes tell neither the mass of the model nor a few fast waves, which once
was an error, or left the verdict open.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.sizes import quick
from torch import Tensor

from pushforward import dist, draw, observe, program, sample
from pushforward.errors import ConvergenceError
from pushforward.inference import importance
from pushforward.semantics import check, denote
from pushforward.semantics.checks import validity

pytestmark = pytest.mark.usefixtures("double")

COVARIANCE = [[2.0, -0.6], [-0.6, 0.5]]


def one(x: float) -> Tensor:
    return torch.tensor(x)


def pair() -> Tensor:
    return sample("x", dist.MultivariateNormal(torch.zeros(2), torch.tensor(COVARIANCE)))


def by_root(turned: bool) -> Any:
    """Noise through a root of the covariance, or its transpose."""
    root = torch.linalg.cholesky(torch.tensor(COVARIANCE, dtype=torch.float64))

    def run() -> tuple[Tensor, Tensor]:
        z = sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        return (root.mT if turned else root) @ z, one(0.0)

    return program(run)


def seen() -> Tensor:
    x = sample("x", dist.Normal(one(1.0), one(2.0)))
    observe("y", dist.Normal(x, one(0.7)), one(3.0))
    return x


def conjugate(wrong: bool) -> Any:
    """The posterior in closed form, with the evidence."""
    precision = 1 / 4 + 1 / 0.49
    law = dist.Normal(
        one((1 / 4 + 3 / 0.49) / precision), one((1.01 if wrong else 1) / precision**0.5)
    )
    evidence = dist.Normal(one(1.0), one((4 + 0.49) ** 0.5)).log_prob(one(3.0))
    return program(lambda: (sample("x", law), evidence))


def stationary() -> Tensor:
    return sample("x", dist.Normal(one(0.0), one(1.0)))


def metropolis(wrong: bool) -> Any:
    """A random walk, from its target: the acceptance has a kink."""

    def run() -> tuple[Tensor, Tensor]:
        x, z = draw(dist.Normal(one(0.0), one(1.0))), draw(dist.Normal(one(0.0), one(1.0)))
        y = x + 1.2 * z
        ratio = ((x**2 - y**2) / (1 if wrong else 2)).exp()
        taken = draw(dist.Bernoulli(ratio.clamp(max=1.0)))
        return torch.where(taken == 1, y, x), one(0.0)

    return run


CASES: dict[str, tuple[Callable[[bool], Any], Any, int]] = {
    "a normal pair": (by_root, program(pair), 32),
    "a conjugate law": (conjugate, program(seen), 40),
    "a random walk": (metropolis, program(stationary), 32),
}


@pytest.mark.parametrize("name", CASES)
def test_right_ones_pass_and_wrong_ones_fail(name: str) -> None:
    made, model, nodes = CASES[name]
    check.valid(made(False), model, quadrature=nodes).require()
    assert check.valid(made(True), model, quadrature=nodes).verdict == "fail"


def test_too_few_nodes_are_said_to_be_too_few() -> None:
    """Not that the law has no rule of its own."""
    with pytest.raises(ConvergenceError, match="raise quadrature="):
        denote(pair, quadrature=8)


@pytest.mark.parametrize("sd", [0.03, 0.003, 0.001])
def test_a_spike_between_the_nodes_of_the_algorithm_is_no_fault_of_it(sd: float) -> None:
    """The model is integrated about its mode, importance sampling by the nodes of the prior."""

    def spike() -> Tensor:
        x = sample("x", dist.Normal(one(0.0), one(1.0)))
        observe("y", dist.Normal(x, one(sd)), one(0.7))
        return x

    model = program(spike)
    assert check.valid(importance(model, 1), model, quadrature=64).verdict == "unknown"


def test_an_atom_is_no_spike() -> None:
    collapsed = lambda: (one(0.0), one(0.0))  # noqa: E731
    assert check.valid(collapsed, program(stationary), quadrature=32).verdict == "fail"


# ------------------------------------------------------------------ estimators whose noise is rough


def rough(function: Callable[[Tensor, Tensor], Tensor], law: Callable[[], Any]) -> Any:
    return lambda t: function(t, draw(law()))


ROUGH: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Callable[[], Any], Any]] = {
    "a jump": (
        lambda t, z: (t + z > 0).double(),
        lambda: dist.Normal(one(0.0), one(1.0)),
        lambda t: (t * torch.special.ndtr(t) + (-(t**2) / 2).exp() / (2 * torch.pi) ** 0.5).sum(),
    ),
    "a peak of the noise": (
        lambda t, z: 3 * (t + z) ** 2,
        lambda: dist.Laplace(one(0.0), one(0.3)),
        lambda t: (t**3 + 6 * t * 0.09).sum(),
    ),
    "a long tail": (
        lambda t, z: z**2 * t,
        lambda: dist.StudentT(one(5.0), one(0.0), one(1.0)),
        lambda t: (t**2 / 2 * 5 / 3).sum(),
    ),
}


@pytest.mark.parametrize("name", ROUGH)
@pytest.mark.parametrize("nodes", [16, 32, 64])
def test_right_estimators_do_not_fail(name: str, nodes: int) -> None:
    function, law, objective = ROUGH[name]
    at = torch.tensor([0.3])
    try:
        verdict = check.unbiased(rough(function, law), objective, at, quadrature=nodes).verdict
    except ConvergenceError:
        verdict = "unknown"
    assert verdict != "fail"
    doubled = rough(lambda t, z: 3 * function(t, z), law)
    wrong = check.unbiased(doubled, objective, at, quadrature=128)
    assert wrong.verdict == "fail"


def turned(angle: float, slope: float, shift: float, slip: float = 1.0) -> tuple[Any, Any]:
    """A normal law of two numbers, and the same law by noise that is turned by an angle."""
    root = torch.tensor([[1.0, 0.0], [slope, 0.6]], dtype=torch.float64)
    c, s = math.cos(angle), math.sin(angle)
    turn = torch.tensor([[c, -s], [s, c]], dtype=torch.float64)

    def value(root: Tensor) -> Tensor:
        return root @ draw(dist.Normal(torch.zeros(2), 1.0).to_event(1)) + shift

    return program(lambda: value(root)), program(lambda: (value(slip * root @ turn), one(0.0)))


TURNS = [
    ((0.665, -0.186, -0.017), (8,)),
    ((2.395, 0.891, 1.266), (10, 14)),
    *(((0.7 * i, 1.0 - 0.4 * i, 0.5 * i - 1.0), range(4, 17)) for i in range(1, 5)),
]


@pytest.mark.parametrize(("turn", "numbers"), quick(2, TURNS))
def test_a_right_algorithm_fails_by_no_number_of_nodes(turn: Any, numbers: Any) -> None:
    model, algorithm = turned(*turn)
    for nodes in numbers:
        assert check.valid(algorithm, model, quadrature=nodes).verdict != "fail"


def test_half_the_nodes_may_meet_a_gap_by_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    """So they do here, and only other numbers of nodes tell."""
    model, algorithm = turned(*TURNS[0][0])
    monkeypatch.setattr(validity, "other_numbers", lambda nodes: ())
    assert check.valid(algorithm, model, quadrature=8).verdict == "fail"


def test_a_wrong_algorithm_still_fails() -> None:
    model, algorithm = turned(0.3, 0.2, 0.0, slip=1.02)
    assert check.valid(algorithm, model, quadrature=32).verdict == "fail"
