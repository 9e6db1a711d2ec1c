"""Involutions whose Jacobian enters the acceptance are valid, and not where it is forgotten.

The class: swaps by any monotone map of the line, written so that autograd sees all of them, a part
or nothing.
"""

from __future__ import annotations

import pytest
import torch
from support.involutions import FORMS, SWAPS, Swap, log_density, points_for
from torch import Tensor

from pushforward.semantics import Report, check

pytestmark = pytest.mark.usefixtures("double")

VOLUME = [name for name in SWAPS if name != "shift"]


def judged(name: str, form: str, jacobian: str = "right", given: str = "") -> Report:
    """The check, where the acceptance takes a Jacobian, and the user perhaps gives one."""
    swap: Swap = SWAPS[name]
    jacobians = {
        "right": swap.jacobian,
        "forgotten": lambda rows: torch.ones(len(rows)),
        "inverted": lambda rows: 1 / swap.jacobian(rows),
        "squared": lambda rows: swap.jacobian(rows) ** 2,
    }
    return check.involution(
        FORMS[form](swap.map),
        lambda rows: swap.accept(rows, jacobians[jacobian]),
        log_density,
        points_for(name),
        jacobian=jacobians[given] if given else None,
    )


@pytest.mark.parametrize("name", SWAPS)
@pytest.mark.parametrize("form", FORMS)
def test_right_ones_pass(name: str, form: str) -> None:
    judged(name, form).require()
    report = judged(name, form, given="right").require()
    assert any("finite differences" in note for note in report.notes) == (form != "torch")


@pytest.mark.parametrize("name", VOLUME)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("wrong", ["forgotten", "inverted", "squared"])
def test_wrong_acceptances_fail(name: str, form: str, wrong: str) -> None:
    report = judged(name, form, wrong)
    assert report.verdict == "fail"
    assert "no detailed balance" in report.counterexample
    assert "the map changes volume: |det DF(x)| = " in report.counterexample


@pytest.mark.parametrize("name", VOLUME)
@pytest.mark.parametrize("wrong", ["forgotten", "inverted"])
def test_a_wrong_jacobian_is_told(name: str, wrong: str) -> None:
    report = judged(name, "torch", given=wrong)
    assert report.verdict == "fail"
    assert "the Jacobian is not that of the map" in report.counterexample


def test_an_acceptance_is_a_probability() -> None:
    """Twice the acceptance balances as well, where it is below one half."""
    swap, points = SWAPS["stretch"], points_for("stretch")
    report = check.involution(
        swap.map, lambda rows: 2 * swap.accept(rows, swap.jacobian), log_density, points
    )
    assert report.verdict == "fail" and "no probability" in report.counterexample


def test_points_without_mass_at_either_end_are_no_fault() -> None:
    def inside(rows: Tensor) -> Tensor:
        return torch.where(rows[:, 0].abs() < 1, 0.0, -torch.inf)

    points = torch.tensor([[0.5], [2.0]])
    ones = lambda rows: torch.ones(len(rows))  # noqa: E731
    check.involution(lambda rows: -rows, ones, inside, points).require()


def test_one_that_does_not_return_fails_whatever_its_volume() -> None:
    points = torch.tensor([[0.5], [2.0]])
    ones = lambda rows: torch.ones(len(rows))  # noqa: E731
    flat = lambda rows: 0 * rows[:, 0]  # noqa: E731
    report = check.involution(lambda rows: rows + 1, ones, flat, points)
    assert report.verdict == "fail" and "does not return" in report.counterexample


@pytest.mark.parametrize("digits", [2, 6, 12, 18])
def test_a_map_in_steps_is_not_believed(digits: int) -> None:
    """x and 3 x to so many binary digits: no differential, and differences are noise."""
    swap = SWAPS["stretch"]

    def stepped(rows: Tensor) -> Tensor:
        return (swap.map(rows) * 2.0**digits).round() / 2.0**digits

    points = (points_for("stretch") * 2.0**digits).round() / 2.0**digits
    report = check.involution(
        stepped, lambda rows: swap.accept(rows, swap.jacobian), log_density, points
    )
    assert report.verdict != "pass"
