"""What tests of variational objectives share: exact moments of estimators, and a small model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pushforward import dist, factor, program, sample
from pushforward.inference.vi import Objective, enum, mvd, objective, reinforce, sample_trace
from pushforward.inference.vi.captured import Captured
from pushforward.inference.vi.objective import estimator
from pushforward.semantics import denote

Build = Callable[[Tensor], Objective]
STRATEGIES: dict[str, Callable[[Any], Any]] = {"enum": enum, "reinforce": reinforce, "mvd": mvd}


def f(x: Any) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


def replayed(build: Build, at: Tensor, order: int = 1) -> Any:
    """The program of parameters that gives estimates by replay."""
    return estimator(lambda theta: build(theta).surrogate(order=order), order)


def captured(build: Build, at: Tensor) -> Any:
    """The program of parameters that gives the estimates of the captured graph."""
    theta = at.clone().requires_grad_()
    graph = Captured(build(theta), [theta], 1, compiled=False)

    def estimate(at: Tensor) -> tuple[Tensor, Tensor]:
        found = graph.drawing([at])
        return found.values.reshape(()), found.by[0]

    return program(estimate)


BACK_ENDS = {"replay": replayed, "graph": captured}


def moments(
    build: Build, at: Any, nodes: int | None = None, back_end: Any = replayed
) -> tuple[Tensor, Tensor]:
    """Exact mean and variance of (value, gradient)."""
    law = denote(back_end(build, f(at)), f(at), quadrature=nodes)
    row = lambda e: torch.cat([part.reshape(-1) for part in e])  # noqa: E731
    mean = law.expect(row)
    return mean, law.expect(lambda e: (row(e) - mean) ** 2)


def value_of(build: Build, nodes: int | None = None) -> Callable[[Tensor], float]:
    """The exact expected value of an objective, by its runs forward."""
    return lambda at: float(denote(program(build(at).value), quadrature=nodes).expect())


def slopes(value: Callable[[Tensor], float], at: Tensor, h: float = 1e-3) -> Tensor:
    """The gradient of a function of parameters [d], by five-point differences."""
    found = []
    for step in torch.eye(len(at), dtype=at.dtype) * h:
        near, far = value(at + step) - value(at - step), value(at + 2 * step) - value(at - 2 * step)
        found.append((8 * near - far) / (12 * h))
    return f(found)


def close(found: Tensor, expected: Any, tolerance: float = 1e-9) -> None:
    wanted = expected if isinstance(expected, Tensor) else f(expected)
    torch.testing.assert_close(found, wanted, rtol=0, atol=tolerance)


def mean_of(law: Callable[[Tensor], Any], function: Callable[[Tensor], Tensor]) -> Build:
    """E[function(x)] for x by a law with a strategy."""

    def build(theta: Tensor) -> Objective:
        @objective
        def mean() -> Tensor:
            return function(sample_trace(lambda: sample("x", law(theta))).choices["x"])

        return mean()

    return build


LOGITS = [0.2, -0.3, 0.5]
JOINT = f([0.10, 0.25, 0.05])  # of the three values of z with the data


def three() -> None:
    """A model with one choice of three values."""
    z = sample("z", dist.Categorical(logits=torch.zeros(3, dtype=torch.float64)))
    factor("joint", (3 * JOINT)[z].log())


def guided(make: Callable[[Callable[[], None]], Any], strategy: Callable[[Any], Any]) -> Build:
    """The objective ``make(guide)`` of a categorical guide by its logits."""

    def build(logits: Tensor) -> Objective:
        def guide() -> None:
            sample("z", strategy(dist.Categorical(logits=logits)))

        return make(guide)  # type: ignore[no-any-return]

    return build


Y = (1, 0)
FLIP = f([0.3, 0.8])  # the chance of a one after a zero, and after a one
SEEN = f([[0.7, 0.3], [0.2, 0.8]])  # p(y | x)


def chain_of_flips(theta: Tensor, strategy: Callable[[Any], Any] = reinforce) -> tuple[Any, Any]:
    """Step and proposal of a chain of two states, proposed by flips of parameters theta [2]."""

    def chance(state: Any) -> Tensor:
        return f(0.5) if state is None else FLIP[state.long()]

    def step(t: int, state: Any, y: int) -> None:
        x = sample("x", dist.Bernoulli(chance(state)))
        factor("y", SEEN[x.long(), y].log())

    def propose(t: int, state: Any, y: int) -> Tensor:
        return sample("x", strategy(dist.Bernoulli(theta[t].sigmoid())))

    return step, propose
