"""Involutive kernels take the right Jacobian, or none, however the map hides its derivative.

The class: scalings, shears, swaps, reversible jumps, pairs of log and exp, each written so that
autograd sees all, a part, nothing, or something else.  Jacobians are by hand.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from pyro.poutine.messenger import Messenger
from support.reversible_moves import LOSSES, MOVES, Choices, Move, normal
from torch import Tensor

from pushforward import dist, draw, sample
from pushforward.errors import ProgramError
from pushforward.inference.kernels import barker, involutive
from pushforward.inference.kernels.traces import Point, at
from pushforward.ppl.tensors import jacobians
from pushforward.semantics import Report, check

ROUNDED = ("fixed point", "coarse fixed point", "single precision")  # too coarse, perhaps
JUMP = MOVES["log and exp"]
REFUSED = "the Jacobian of .* is not known"


class Given(Messenger):  # type: ignore[misc]
    """Gives values to auxiliary choices, and accepts."""

    def __init__(self, values: dict[str, float]) -> None:
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"] and msg["value"] is None:
            msg["value"] = torch.tensor(self.values.get(msg["name"], 1.0))
            msg["done"] = True


def ratio(move: Move, loss: str, start: int, **settings: Any) -> float:
    """The log of the acceptance ratio of a step from a start."""
    choices, others = move.starts[start]
    seen: list[Tensor] = []

    def accept(log_ratio: Tensor) -> Tensor:
        seen.append(log_ratio)
        return barker(log_ratio)

    kernel = involutive(move.auxiliary, partial(move.map, LOSSES[loss]), accept, **settings)
    run = at(move.model, Point({name: torch.tensor(value) for name, value in choices.items()}))
    with Given(others):
        kernel.step(run, move.model)
    return float(seen[0])


def cases() -> list[tuple[str, int]]:
    return [(name, i) for name, move in MOVES.items() for i in range(len(move.starts))]


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(("name", "start"), cases())
@pytest.mark.parametrize("loss", LOSSES)
def test_the_jacobian_is_right_or_refused(name: str, start: int, loss: str) -> None:
    """Its log is what a step takes beyond one with a Jacobian of one."""
    move = MOVES[name]
    tensors = [{n: torch.tensor(v) for n, v in part.items()} for part in move.starts[start]]
    coarse = loss in ROUNDED
    try:
        found = ratio(move, loss, start) - ratio(move, loss, start, jacobian=lambda c, o: 1.0)
    except ProgramError:
        if not coarse:
            raise
        return
    assert found == pytest.approx(move.log_det(*tensors), abs=1e-4 if coarse else 1e-8)


@pytest.mark.parametrize("name", MOVES)
@pytest.mark.parametrize("loss", ["none", "detach", "in part"])
def test_models_in_single_precision(name: str, loss: str) -> None:
    """The map is differentiated in double precision, which its numbers then have."""
    move = MOVES[name]
    tensors = [{n: torch.tensor(v) for n, v in part.items()} for part in move.starts[0]]
    found = ratio(move, loss, 0) - ratio(move, loss, 0, jacobian=lambda c, o: 1.0)
    assert found == pytest.approx(move.log_det(*tensors), abs=1e-5)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("side", [-1.0, 1.0])
@pytest.mark.parametrize("distance", [1.0, 1e-3, 1e-5, 1e-7, 1e-9, 1e-12, 0.0])
@pytest.mark.parametrize("lost", ["none", "detach"])
def test_edges_of_a_map(side: float, distance: float, lost: str) -> None:
    """x -> 2 x on the right and x / 2 on the left, turned about: a slope on each side."""

    def folded(how: Any, c: Choices, o: Choices) -> tuple[Choices, Choices]:
        x = c["x"]
        return {"x": how(torch.where(x > 0, -2 * x, -x / 2))}, o

    starts: Any = (({"x": side * distance}, {}),)
    move = Move(MOVES["shear"].model, JUMP.auxiliary, folded, lambda c, o: 0.0, starts)
    if lost == "detach" and distance < 1e-4:
        with pytest.raises(ProgramError, match=REFUSED):
            ratio(move, lost, 0)
        return
    found = ratio(move, lost, 0) - ratio(move, lost, 0, jacobian=lambda c, o: 1.0)
    size = 2.0 if side > 0 and distance > 0 else 0.5
    assert found == pytest.approx(math.log(size), abs=1e-8)


@pytest.mark.usefixtures("double")
def test_a_map_may_change_its_arguments_in_place() -> None:
    def scaled(lost: Any, c: Choices, o: Choices) -> tuple[Choices, Choices]:
        c["r"] *= o["u"].exp()
        o["u"].neg_()
        return c, o

    plain = MOVES["scaling"]
    move = Move(plain.model, plain.auxiliary, scaled, plain.log_det, plain.starts)
    for start in range(2):
        assert ratio(move, "none", start) == pytest.approx(ratio(plain, "none", start), rel=1e-12)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("x", [1e-9, 0.3])
def test_where_the_other_kind_of_run_is_near(x: float) -> None:
    """Which choices there are is decided by a real number, which differences may move."""

    def model() -> None:
        if normal("x") > 0:
            normal("more")

    def fold(lost: Any, c: Choices, o: Choices) -> tuple[Choices, Choices]:
        if c["x"] > 0:
            return {"x": -2 * c["x"]}, {"u": c["more"]}
        return {"x": -c["x"] / 2, "more": o["u"]}, {}

    def auxiliary(choices: Choices) -> None:
        if choices["x"] <= 0:
            normal("u")

    starts: Any = (({"x": x, "more": 0.5}, {}), ({"x": -x}, {"u": 0.5}))
    move = Move(model, auxiliary, fold, lambda c, o: 0.0, starts)
    for start, size in enumerate((2.0, 0.5)):
        found = ratio(move, "none", start) - ratio(move, "none", start, jacobian=lambda c, o: 1.0)
        assert found == pytest.approx(math.log(size), abs=1e-8)


def test_a_map_that_autograd_sees_is_hardly_asked_again() -> None:
    asked = []

    def counted(c: Choices, o: Choices) -> tuple[Choices, Choices]:
        asked.append(1)
        return MOVES["split"].map(LOSSES["none"], c, o)

    run = at(MOVES["split"].model, Point({"two": torch.tensor(0.0), "m": torch.tensor(0.4)}))
    with Given({"u": 0.3}):
        involutive(MOVES["split"].auxiliary, counted).step(run, MOVES["split"].model)
    assert len(asked) <= 12


# -------------------------------------------------------------------------------------- the judge


@pytest.mark.usefixtures("double")
def test_points_are_no_coordinates() -> None:
    """A site that repeats another is not one degree of freedom more."""

    def twice() -> None:
        r = sample("r", dist.Gamma(torch.tensor(2.0), torch.tensor(1.0)))
        sample("copy", dist.Delta(r))

    def scaled(lost: Any, c: Choices, o: Choices) -> tuple[Choices, Choices]:
        r = c["r"] * o["u"].exp()
        return {"r": r, "copy": r}, {"u": -o["u"]}

    starts = (({"r": 0.3, "copy": 0.3}, {"u": 1.1}),)
    move = Move(twice, MOVES["scaling"].auxiliary, scaled, lambda c, o: 0.0, starts)
    found = ratio(move, "none", 0) - ratio(move, "none", 0, jacobian=lambda c, o: 1.0)
    assert found == pytest.approx(1.1)


@pytest.mark.parametrize("lost", ["none", "detach"])
def test_maps_that_want_single_precision(lost: str) -> None:
    """(x, u) -> (M u, M^-1 x) with a matrix in float32: |det| is one, and found or refused."""
    matrix = torch.tensor([[2.0, 1.0], [1.0, 3.0]])

    def mixed(how: Any, c: Choices, o: Choices) -> tuple[Choices, Choices]:
        return {"x": how(matrix @ o["u"])}, {"u": matrix.inverse() @ c["x"]}

    two = dist.Normal(torch.zeros(2), 1.0).to_event(1)
    starts: Any = (({"x": [0.3, -1.0]}, {"u": [0.5, 2.0]}),)
    move = Move(
        lambda: sample("x", two), lambda c: sample("u", two), mixed, lambda c, o: 0.0, starts
    )
    if lost == "none":
        found = ratio(move, lost, 0) - ratio(move, lost, 0, jacobian=lambda c, o: 1.0)
        assert found == pytest.approx(0.0, abs=1e-5)
        return
    with pytest.raises(ProgramError, match=REFUSED):
        ratio(move, lost, 0)


# -------------------------------------------------------------------------------------- the judge

LINE = torch.tensor([-1.5, 1.1], dtype=torch.float64)


def judged(lost: str, power: float | None = None) -> Report:
    """The check of log and exp on the orbits {x, e^x} of some x.

    The model's measure there has the weights p(x) and p(e^x) e^x: that is the measure that a right
    kernel keeps.  With a power it is given that power of |det|.
    """
    size = None if power is None else lambda c, o: math.exp(power * JUMP.log_det(c, o))
    kernel = involutive(JUMP.auxiliary, partial(JUMP.map, LOSSES[lost]), jacobian=size)
    half = LINE.exp()
    weights = torch.cat([-(LINE**2) / 2 - math.log(2 * math.pi) / 2, -half + LINE])

    def orbits() -> Tensor:
        return draw(dist.Categorical(logits=weights))

    def step(state: Tensor) -> Tensor:
        place = state % len(LINE)
        start = {"half": torch.tensor(0.0), "x": LINE[place]}
        if state >= len(LINE):
            start = {"half": torch.tensor(1.0), "y": half[place]}
        moved = kernel.step(at(JUMP.model, Point(start)), JUMP.model)
        return place + len(LINE) * moved.run.choices["half"].long()

    return check.invariant(step, orbits)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("lost", ["none", "numpy", "in part", "a wrong derivative"])
def test_the_judge_passes_kernels_however_the_derivative_is_lost(lost: str) -> None:
    judged(lost).require()


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("power", [-1.0, 0.0, 0.5, 1.0, 2.0])
def test_the_judge_rejects_wrong_jacobians(power: float) -> None:
    assert judged("numpy", power).verdict == ("pass" if power == 1 else "fail")


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("lost", ["in part", "a wrong derivative"])
def test_the_judge_rejects_autograd_alone(lost: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jacobians, "_confirmed", lambda *args: True)
    assert judged(lost).verdict == "fail"
