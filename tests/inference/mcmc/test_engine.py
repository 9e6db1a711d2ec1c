"""The compiled engine is the program: the same transitions by the same choices, on any target."""

from __future__ import annotations

import pytest
from support import engine as engines
from support.engine import (
    FAULTS,
    TARGETS,
    altered,
    engine,
    judged,
    slanted,
)

DEPTH = 6


def wrong(name: str, cases: int, seed: int, text: str | None = None) -> int:
    return engines.wrong(engine(name, DEPTH, text), name, cases, DEPTH, seed)


@pytest.mark.parametrize("name", TARGETS)
def test_with_the_same_choices_it_makes_the_transition_of_the_program(name: str) -> None:
    assert wrong(name, 100, 0) == wrong(name, 100, 1) == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_in_ten_thousand_cases(name: str) -> None:
    assert sum(wrong(name, 500, seed) for seed in range(1, 21)) == 0


@pytest.mark.parametrize(
    ("name", "size"), [("correlated", 0.15), ("correlated", 0.8), ("banana", 0.4), ("edge", 0.4)]
)
def test_it_preserves_the_weights_of_an_orbit(name: str, size: float) -> None:
    judged(name, size, 2).require()
    judged(name, size, 2, metric=slanted(TARGETS[name][1])).require()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), [("correlated", 0.4), ("banana", 0.4), ("edge", 0.4)])
def test_depth_3_preserves_the_weights_of_an_orbit(name: str, size: float) -> None:
    judged(name, size, 3).require()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_engine_is_rejected_on_an_orbit(fault: str) -> None:
    orbits = [("correlated", 0.8, 2), ("banana", 0.4, 2), ("correlated", 0.72, 3)]
    metric = slanted(2) if "stretched" in fault else None
    verdicts = (judged(*orbit, altered(*FAULTS[fault]), metric).verdict for orbit in orbits)
    assert any(verdict == "fail" for verdict in verdicts)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_engine_does_not_what_the_program_does(fault: str) -> None:
    assert sum(wrong(name, 200, k, altered(*FAULTS[fault])) for name in TARGETS for k in (0, 1)) > 0
