"""Candidates that differentiate as they do when they are run, by autograd.

The class: estimators, maps, acceptances, weights and kernels with `backward` or `autograd.grad` in
them; they failed, right or wrong, since the judge ran them without gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from pushforward import dist, draw, program, sample
from pushforward.errors import UnsupportedDistributionError
from pushforward.semantics import check

pytestmark = pytest.mark.usefixtures("double")

AT = [0.3]
MASSES = [0.2, 0.3, 0.5]


def by_grad(loss: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    t = at.clone().requires_grad_()
    return torch.autograd.grad(loss(t), t)[0]


def by_backward(loss: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    t = at.clone().requires_grad_()
    loss(t).backward()
    assert t.grad is not None
    return t.grad


def by_parameter(loss: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    t = torch.nn.Parameter(at.clone())
    loss(t).backward()
    assert t.grad is not None
    return t.grad


WAYS = [by_grad, by_backward, by_parameter]

Loss = Callable[[Tensor], Tensor]


def of_law(law: Callable[[Tensor], Any], power: int = 1) -> Loss:
    """A power of a draw, which moves with the parameter."""
    return lambda t: draw(law(t[0])) ** power


# losses and their means, by hand
LOSSES: dict[str, tuple[Loss, Loss]] = {
    "noise": (
        lambda t: (t[0] + draw(dist.Normal(torch.zeros(()), 1.0)) - 1) ** 2,
        lambda t: ((t - 1) ** 2 + 1).sum(),
    ),
    "score": (lambda t: _score(t[0]), lambda t: torch.sigmoid(t).sum()),
    "normal": (of_law(lambda t: dist.Normal(t, 1.0), 2), lambda t: (t**2 + 1).sum()),
    "scale": (of_law(lambda t: dist.Normal(0.0, t), 2), lambda t: (t**2).sum()),
    "uniform": (of_law(lambda t: dist.Uniform(0.0, t), 2), lambda t: (t**2).sum() / 3),
    "exponential": (of_law(lambda t: dist.Exponential(1 / t), 2), lambda t: 2 * (t**2).sum()),
    "log-normal": (of_law(lambda t: dist.LogNormal(t, 0.5)), lambda t: (t + 0.125).exp().sum()),
    "two": (
        lambda t: draw(dist.Normal(draw(dist.Normal(t[0], 1.0)), t[0])) ** 2,
        lambda t: (2 * t**2 + 1).sum(),
    ),
}


def _score(logit: Tensor) -> Tensor:
    """The surrogate of the chance of one."""
    law = dist.Bernoulli(logits=logit)
    z = draw(law)
    return law.log_prob(z) * z


OTHER_WAYS = [(name, way) for name in ("normal", "score") for way in WAYS[1:]]


@pytest.mark.parametrize(("name", "way"), [(name, by_grad) for name in LOSSES] + OTHER_WAYS)
def test_estimators(name: str, way: Any) -> None:
    loss, objective = LOSSES[name]
    nodes = {"log-normal": 256, "two": 8}.get(name, 32)
    at = torch.tensor(AT)
    check.unbiased(lambda at: way(loss, at), objective, at, quadrature=nodes).require()
    other = lambda at: way(lambda t: loss(t) * t[0], at)  # noqa: E731
    wrong = check.unbiased(other, objective, at, quadrature=nodes)
    assert wrong.verdict == "fail" and "expectation" in wrong.counterexample


def test_values_that_cannot_follow_are_refused() -> None:
    """A draw of a beta law has a derivative by its parameters, and there is no formula for it."""
    with pytest.raises(UnsupportedDistributionError, match="cannot follow its parameters"):
        check.unbiased(
            lambda at: by_grad(lambda t: draw(dist.Beta(t[0], 2.0)), at),
            lambda t: (t / (t + 2)).sum(),
            torch.tensor(AT),
        )


def test_a_value_that_is_detached_does_not_move() -> None:
    """The score of a normal law."""

    def estimator(at: Tensor) -> Tensor:
        def surrogate(t: Tensor) -> Tensor:
            law = dist.Normal(t[0], 1.0)
            x = draw(law).detach()
            return law.log_prob(x) * x**2

        return by_grad(surrogate, at)

    check.unbiased(estimator, lambda t: (t**2 + 1).sum(), torch.tensor(AT)).require()


def leapfrog(sign: float) -> Callable[[Tensor], Tensor]:
    """One step in exp(-x^4), the force by autograd."""

    def step(rows: Tensor) -> Tensor:
        x, p = rows[:, :1], rows[:, 1:]
        p = p - 0.1 * by_grad(lambda at: (at**4).sum(), x.detach())
        x = x + 0.2 * p
        p = p - 0.1 * sign * by_grad(lambda at: (at**4).sum(), x.detach())
        return torch.cat([x, -p], 1)

    return step


def log_density(rows: Tensor) -> Tensor:
    return -(rows[:, 0] ** 4) - rows[:, 1] ** 2 / 2


def test_involutions() -> None:
    points = torch.cartesian_prod(torch.linspace(-1, 1, 5), torch.linspace(-2, 2, 5))
    for sign, verdict in ((1.0, "pass"), (-1.0, "fail")):
        step = leapfrog(sign)
        accept = lambda rows: (log_density(step(rows)) - log_density(rows)).exp().clamp(max=1.0)  # noqa: E731, B023
        assert check.involution(step, accept, log_density, points).verdict == verdict


def target() -> Tensor:
    return sample("x", dist.Categorical(torch.tensor(MASSES)))


def ratio(x: Tensor, y: Tensor) -> Tensor:
    """pi(y) / pi(x), each as the derivative of a line."""
    sums = [by_grad(lambda t, i=i: t[0] * torch.tensor(MASSES)[i], torch.zeros(1)) for i in (x, y)]
    return (sums[1] / sums[0])[0]


@pytest.mark.parametrize(("power", "verdict"), [(1, "pass"), (2, "fail")])
def test_kernels_and_weights(power: int, verdict: str) -> None:
    def kernel(x: Tensor) -> Tensor:
        y = draw(dist.Categorical(torch.ones(3)))
        taken = draw(dist.Bernoulli((ratio(x, y) ** power).clamp(max=1.0)))
        return torch.where(taken == 1, y, x)

    def weighted() -> tuple[Tensor, Tensor]:
        y = draw(dist.Categorical(torch.ones(3)))
        first = torch.tensor(0)
        return y, (3 * MASSES[0] * ratio(first, y) ** power).log()

    assert check.invariant(kernel, program(target)).verdict == verdict
    assert check.valid(weighted, program(target)).verdict == verdict
