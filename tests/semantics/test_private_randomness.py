"""Candidates with randomness that no effect sees never pass, and its source is named if it can be.

The class: every check, with every source of numbers that are another each time.
"""

from __future__ import annotations

import pytest
from support.impurities import CHECKS, GENERATORS, OTHERS, Source, happening

pytestmark = pytest.mark.usefixtures("double")


@pytest.mark.parametrize("name", CHECKS)
def test_without_it_they_pass(name: str) -> None:
    CHECKS[name](lambda: False).require()


@pytest.mark.parametrize("name", CHECKS)
@pytest.mark.parametrize("source", GENERATORS)
def test_a_generator_is_named_however_seldom_it_matters(name: str, source: str) -> None:
    found: Source = GENERATORS[source]
    report = CHECKS[name](happening(found.make(), 0.02))
    assert report.verdict == "fail"
    reasons = "ImpureProgramError", "no detailed balance"  # the second, if runs happened to agree
    assert any(reason in report.counterexample for reason in reasons), report
    assert found.told in report.counterexample, report


@pytest.mark.parametrize("name", CHECKS)
@pytest.mark.parametrize("source", OTHERS)
def test_what_is_no_generator_is_seen_by_running_again(name: str, source: str) -> None:
    report = CHECKS[name](happening(OTHERS[source].make(), 0.5))
    assert report.verdict == "fail"
    assert "ImpureProgramError" in report.counterexample, report
