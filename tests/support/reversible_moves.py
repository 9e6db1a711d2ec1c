"""Involutive moves of many kinds with their Jacobians by hand, and ways to lose a derivative."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pushforward import dist, sample

Choices = dict[str, Tensor]
Lost = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Move:
    """A model, auxiliary choices, a map written with a loss of derivatives in it, and log |det|.

    ``starts`` are pairs of choices and of auxiliary ones, on both sides of the map.
    """

    model: Callable[[], Any]
    auxiliary: Callable[[Choices], Any]
    map: Callable[[Lost, Choices, Choices], tuple[Choices, Choices]]
    log_det: Callable[[Choices, Choices], float]
    starts: tuple[tuple[dict[str, float], dict[str, float]], ...]


def normal(name: str, scale: float = 1.0) -> Tensor:
    return sample(name, dist.Normal(torch.tensor(0.0), torch.tensor(scale)))


def coin(name: str) -> Tensor:
    return sample(name, dist.Bernoulli(torch.tensor(0.5)))


def _positive() -> None:
    sample("r", dist.Gamma(torch.tensor(2.0), torch.tensor(1.0)))


def _scaling(lost: Lost, c: Choices, o: Choices) -> tuple[Choices, Choices]:
    return {"r": lost(c["r"] * o["u"].exp())}, {"u": -o["u"]}


def _shear(lost: Lost, c: Choices, o: Choices) -> tuple[Choices, Choices]:
    sign = 2 * o["s"] - 1
    return {"x": c["x"] + sign * lost(o["u"].sin())}, {"u": o["u"], "s": 1 - o["s"]}


def _spread(lost: Lost, c: Choices, o: Choices) -> tuple[Choices, Choices]:
    """x -> x + s sin(x) / 2 and back by Newton's method, as code that is no formula."""
    if o["s"] == 1:
        return {"x": lost(c["x"] + c["x"].sin() / 2)}, {"s": 1 - o["s"]}
    x = c["x"]
    for _ in range(60):
        x = x - (x + x.sin() / 2 - c["x"]) / (1 + x.cos() / 2)
    return {"x": lost(x)}, {"s": 1 - o["s"]}


def _spread_size(c: Choices, o: Choices) -> float:
    if o["s"] == 1:
        return math.log(1 + math.cos(float(c["x"])) / 2)
    low, high = -20.0, 20.0
    for _ in range(200):
        middle = (low + high) / 2
        below = middle + math.sin(middle) / 2 < float(c["x"])
        low, high = (middle, high) if below else (low, middle)
    return -math.log(1 + math.cos(low) / 2)


def _swap(lost: Lost, c: Choices, o: Choices) -> tuple[Choices, Choices]:
    return {"x": lost(o["u"].sinh())}, {"u": c["x"].asinh()}


def _one_or_two() -> None:
    if coin("two") == 1:
        normal("a"), normal("b", 2.0)
    else:
        normal("m")


def _difference(choices: Choices) -> None:
    if choices["two"] == 0:
        normal("u", 0.5)


def _split(lost: Lost, c: Choices, o: Choices) -> tuple[Choices, Choices]:
    if c["two"] == 0:
        m, u = c["m"], o["u"]
        return {"two": 1 - c["two"], "a": lost(m - u), "b": m + 2 * u}, {}
    a, b = c["a"], c["b"]
    return {"two": 1 - c["two"], "m": lost((2 * a + b) / 3)}, {"u": (b - a) / 3}


def _part_or_whole() -> None:
    if coin("two") == 1:
        for name in "ab":
            sample(name, dist.Gamma(torch.tensor(2.0), torch.tensor(1.0)))
    else:
        sample("w", dist.Gamma(torch.tensor(3.0), torch.tensor(1.0)))


def _share(choices: Choices) -> None:
    if choices["two"] == 0:
        sample("v", dist.Beta(torch.tensor(2.0), torch.tensor(2.0)))


def _divide(lost: Lost, c: Choices, o: Choices) -> tuple[Choices, Choices]:
    if c["two"] == 0:
        return {"two": 1 - c["two"], "a": lost(c["w"] * o["v"]), "b": c["w"] * (1 - o["v"])}, {}
    whole = c["a"] + c["b"]
    return {"two": 1 - c["two"], "w": lost(whole)}, {"v": c["a"] / whole}


def _line_or_half() -> None:
    if coin("half") == 1:
        sample("y", dist.Exponential(torch.tensor(1.0)))
    else:
        normal("x")


def _log_exp(lost: Lost, c: Choices, o: Choices) -> tuple[Choices, Choices]:
    if c["half"] == 0:
        return {"half": 1 - c["half"], "y": lost(c["x"].exp())}, o
    return {"half": 1 - c["half"], "x": lost(c["y"].log())}, o


def _nothing(choices: Choices) -> None:
    del choices


def _of_both(c: Choices, o: Choices) -> float:
    return math.log(math.cosh(float(o["u"]))) - math.log(1 + float(c["x"]) ** 2) / 2


def _two(choices: Choices) -> None:
    normal("u"), coin("s")


MOVES = {
    "scaling": Move(
        _positive,
        lambda choices: normal("u", 0.5) and None,
        _scaling,
        lambda c, o: float(o["u"]),
        (({"r": 0.3}, {"u": 1.1}), ({"r": 4.0}, {"u": -0.7}), ({"r": 1e-9}, {"u": 2.0})),
    ),
    "shear": Move(
        lambda: normal("x"),
        _two,
        _shear,
        lambda c, o: 0.0,
        (({"x": 0.2}, {"u": 0.4, "s": 1.0}), ({"x": -1.0}, {"u": 2.0, "s": 0.0})),
    ),
    "spread": Move(
        lambda: normal("x"),
        lambda choices: coin("s"),
        _spread,
        _spread_size,
        (({"x": 0.7}, {"s": 1.0}), ({"x": -1.3}, {"s": 0.0})),
    ),
    "swap": Move(
        lambda: normal("x"),
        lambda choices: normal("u"),
        _swap,
        _of_both,
        (({"x": 0.7}, {"u": 1.5}), ({"x": -1.3}, {"u": 0.0})),
    ),
    "split": Move(
        _one_or_two,
        _difference,
        _split,
        lambda c, o: math.log(3) if c["two"] == 0 else -math.log(3),
        (({"two": 0.0, "m": 0.4}, {"u": 0.3}), ({"two": 1.0, "a": 0.4, "b": -1.0}, {})),
    ),
    "division": Move(
        _part_or_whole,
        _share,
        _divide,
        lambda c, o: math.log(c["w"]) if c["two"] == 0 else -math.log(c["a"] + c["b"]),
        (({"two": 0.0, "w": 2.5}, {"v": 0.1}), ({"two": 1.0, "a": 0.4, "b": 3.0}, {})),
    ),
    "log and exp": Move(
        _line_or_half,
        _nothing,
        _log_exp,
        lambda c, o: float(c["x"]) if c["half"] == 0 else -math.log(c["y"]),
        (({"half": 0.0, "x": 2.0}, {}), ({"half": 1.0, "y": 0.01}, {})),
    ),
}


# ------------------------------------------------------------------------------- ways to lose it


class _NoBackward(torch.autograd.Function):
    """The identity, whose derivative nobody wrote."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()


class _WrongBackward(torch.autograd.Function):
    """The identity, with a derivative of two."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return 2 * grads[0]


def _without_grad(x: Tensor) -> Tensor:
    with torch.no_grad():
        return x * 1.0


def _in_part(x: Tensor) -> Tensor:
    """The value is whole; autograd sees three tenths of it."""
    return 0.3 * x + 0.7 * x.detach()


def _nan_in_the_dead_branch(x: Tensor) -> Tensor:
    return torch.where(x > -1e9, x, (x - 2e9).sqrt())


LOSSES: dict[str, Lost] = {
    "none": lambda x: x,
    "detach": lambda x: x.detach(),
    "item": lambda x: torch.tensor(x.item(), dtype=x.dtype),
    "numpy of a detached": lambda x: torch.as_tensor(x.detach().numpy() * 1.0).to(x.dtype),
    "numpy": lambda x: torch.as_tensor(x.numpy() * 1.0).to(x.dtype),
    "tolist": lambda x: torch.tensor(x.tolist(), dtype=x.dtype),
    "no_grad": _without_grad,
    "no derivative": lambda x: _NoBackward.apply(x),  # type: ignore[no-untyped-call]
    "a wrong derivative": lambda x: _WrongBackward.apply(x),  # type: ignore[no-untyped-call]
    "in part": _in_part,
    "a branch of NaN": _nan_in_the_dead_branch,
    "fixed point": lambda x: (x * 2.0**40).long() / 2.0**40,
    "coarse fixed point": lambda x: (x * 2.0**21).round() / 2.0**21,
    "single precision": lambda x: x.float().double(),
}
