"""Resampling schemes and filters of ``particles``: expected offspring and evidence, exactly.

Schemes in the manner of the library, and mutants of them, run wherever the tests do; the library
itself where it is installed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from support import schemes
from torch import Tensor

from pushforward import dist, observe, program, sample, scan
from pushforward.semantics import check, denote
from pushforward.validation.foreign import particles_filter, particles_scheme, with_numpy
from pushforward.validation.foreign.particles_code import ordered

pytestmark = pytest.mark.usefixtures("double")
WEIGHTS = torch.tensor([0.4, 0.1, 0.3, 0.2], dtype=torch.float64)
FEW = torch.tensor([0.625, 0.375], dtype=torch.float64)
WHY = "particles is an optional extra, which is not installed here"


@program
def index(weights: Tensor) -> Tensor:
    return sample("index", dist.Categorical(weights))


PAIRS: list[tuple[Any, Any]] = [
    (schemes.multinomial, schemes.multinomial_of_squares),
    (schemes.systematic, schemes.systematic_from_the_middle),
    (schemes.stratified, schemes.stratified_over_one_more),
    (schemes.searched, schemes.searched_without_the_last),
    (schemes.residual, schemes.residual_by_weights),
    (schemes.killing, schemes.killing_by_weights),
]


@pytest.mark.parametrize(("right", "wrong"), PAIRS, ids=lambda f: f.__name__)
def test_a_scheme_and_its_mutant(right: Any, wrong: Any) -> None:
    check.valid(particles_scheme(right), index, FEW).require()
    assert check.valid(particles_scheme(wrong), index, FEW).verdict == "fail"


def test_offspring_of_systematic_resampling() -> None:
    """By hand: the points (u + k) / 4 change their cells at u = 0.2 and 0.6."""
    offspring = denote(particles_scheme(schemes.systematic), WEIGHTS).map(
        lambda p: tuple(np.bincount(p.values.numpy(), minlength=4).tolist())
    )
    expected = {(2, 0, 2, 0): 0.2, (2, 0, 1, 1): 0.4, (1, 1, 1, 1): 0.4}
    assert offspring.pmf() == pytest.approx(expected, abs=1e-9)


def test_rounding_at_the_end_is_found_where_it_is_asked_for() -> None:
    """Ten tenths, added one by one, are less than one."""
    tenths = torch.full((10,), 0.1)
    check.valid(particles_scheme(schemes.systematic), index, tenths).require()
    report = check.valid(particles_scheme(schemes.systematic, end=1.0), index, tenths)
    assert report.verdict == "fail" and "IndexError" in report.counterexample


def test_what_stood_there_stands_there_again() -> None:
    before = np.random.rand, schemes.inverse_cdf, schemes.uniform_spacings
    denote(particles_scheme(schemes.systematic), WEIGHTS)
    assert (np.random.rand, schemes.inverse_cdf, schemes.uniform_spacings) == before


def test_numbers_in_order() -> None:
    """Of three, how many lie below a half: Binomial(3, 1/2); the middle is below 1/4: 10/64."""
    below = denote(lambda: sum(bool(x < 0.5) for x in ordered(3))).pmf()
    assert below == pytest.approx({0: 1 / 8, 1: 3 / 8, 2: 3 / 8, 3: 1 / 8})
    assert denote(lambda: bool(ordered(3)[1] < 0.25)).pmf()[True] == pytest.approx(10 / 64)


def test_numpys_global_functions() -> None:
    def by_names() -> int:
        fresh = np.random.default_rng().random() < 0.5
        return int(np.random.randint(2)) + 2 * int(np.random.uniform() < 0.25) + 4 * int(fresh)

    found = denote(with_numpy(by_names)).pmf()
    assert found[0] == pytest.approx(3 / 16) and found[7] == pytest.approx(1 / 16)


# ------------------------------------------------------------------------------- the library itself


@pytest.mark.parametrize(
    "name", ["multinomial", "systematic", "stratified", "residual", "ssp", "killing"]
)
def test_schemes_of_particles(name: str) -> None:
    rs = pytest.importorskip("particles.resampling", reason=WHY)
    scheme = getattr(rs, name)
    for taken in (4,) if name == "killing" else (4, 3, 6):
        check.valid(particles_scheme(scheme, taken), index, WEIGHTS).require()

    def tempered(weights: Any, taken: int) -> Any:
        return scheme(weights**0.5 / (weights**0.5).sum(), taken)

    assert check.valid(particles_scheme(tempered), index, WEIGHTS).verdict == "fail"


def wet_days(y: Tensor) -> Tensor:
    def emit(x: Tensor, wet: Tensor) -> None:
        observe("wet", dist.Bernoulli(torch.where(x == 1, 0.9, 0.2)), wet)

    def day(x: Tensor, wet: Tensor) -> tuple[Tensor, None]:
        x = sample("x", dist.Bernoulli(torch.where(x == 1, 0.625, 0.25)))
        emit(x, wet)
        return x, None

    x = sample("first", dist.Bernoulli(0.5))
    emit(x, y[0])
    last: Tensor = scan(day)(x, y[1:])[0]
    return last.long()


@pytest.mark.parametrize("scheme", ["systematic", "multinomial", "ssp"])
def test_the_evidence_of_a_filter_of_particles(scheme: str) -> None:
    particles = pytest.importorskip("particles", reason=WHY)
    from particles import distributions as laws
    from particles import state_space_models as ssm

    class Weather(ssm.StateSpaceModel):  # type: ignore[misc]
        def PX0(self) -> Any:
            return laws.Categorical(p=np.array([0.5, 0.5]))

        def PX(self, t: int, xp: Any) -> Any:
            return laws.Categorical(p=np.array([[0.75, 0.25], [0.375, 0.625]])[xp])

        def PY(self, t: int, xp: Any, x: Any) -> Any:
            return laws.Binomial(n=1, p=np.where(x == 1, 0.9, 0.2))

    class Blind(ssm.Bootstrap):  # type: ignore[misc]
        def logG(self, t: int, xp: Any, x: Any) -> Any:
            return super().logG(t, xp, x) * (t < 2)

    def filter(kind: Any) -> Any:
        return particles_filter(
            lambda y: particles.SMC(
                fk=kind(ssm=Weather(), data=y.numpy()), N=2, resampling=scheme, ESSrmin=1.0
            )
        )

    wet, days = torch.tensor([1.0, 0.0, 1.0]), program(wet_days)
    check.valid(filter(ssm.Bootstrap), days, wet).require()
    assert check.valid(filter(Blind), days, wet).verdict == "fail"
