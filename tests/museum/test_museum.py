"""Each exhibit of the museum: the twin is accepted, the mutant rejected, and the page says so."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from .exhibit import Exhibit
from .page import PAGE, head, row, without_seconds
from .rooms import EXHIBITS

pytestmark = pytest.mark.usefixtures("double")


def parameter(exhibit: Exhibit) -> Any:
    return pytest.param(exhibit, id=str(exhibit), marks=[pytest.mark.slow] * exhibit.slow)


def rows() -> list[str]:
    """Of the page, without seconds."""
    return [without_seconds(line) for line in PAGE.read_text().splitlines() if line[:3] == "| M"]


@pytest.mark.parametrize("exhibit", [parameter(each) for each in EXHIBITS])
def test_the_twin_is_accepted_and_the_mutant_rejected(exhibit: Exhibit) -> None:
    twin, mutant = exhibit.verdicts()
    assert exhibit.problems(twin, mutant) == []
    line = without_seconds(row(exhibit, 0.0, twin.verdict, mutant.verdict))
    assert line in rows(), "the page says otherwise: renew it by museum.page"


def test_a_twin_in_place_of_a_mutant_is_reported() -> None:
    """A control of the test above."""
    exhibit = EXHIBITS[0]
    twins, mutants = replace(exhibit, mutant=exhibit.twin), replace(exhibit, twin=exhibit.mutant)
    assert "the mutant is not rejected" in twins.problems(*twins.verdicts())[0]
    assert "the twin is not accepted" in mutants.problems(*mutants.verdicts())[0]


def test_a_mutant_that_breaks_in_another_way_is_reported() -> None:
    exhibit = replace(EXHIBITS[0], mutant=lambda x: x[3])
    assert "for another reason" in exhibit.problems(*exhibit.verdicts())[0]


def test_the_page_has_these_exhibits_and_no_others() -> None:
    assert PAGE.read_text().startswith(head())
    assert [line.split()[1].strip("*") for line in rows()] == [str(each) for each in EXHIBITS]
    assert [each.number for each in EXHIBITS] == list(range(1, 71))
