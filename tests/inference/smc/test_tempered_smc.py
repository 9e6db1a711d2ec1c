"""The default SMC, end to end: evidences that are known, options, and what a run says of itself."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pyro import distributions as dist
from scipy import stats
from support.evidences import KNOWN, Known
from torch import Tensor

from pushforward.errors import ZeroMassError
from pushforward.inference import SMC, Fit, importance
from pushforward.inference.drivers.islands import ByTempering
from pushforward.inference.smc.pilot import pilot
from pushforward.ppl import factor, program, sample

RUNS = 100


def run(known: Known, seed: int = 0, **options: Any) -> Fit:
    return SMC(progress=False, **options).run(known.program, *known.args, seed=seed)


def missed(fit: Fit, known: Known) -> float:
    assert fit.log_evidence is not None
    return fit.log_evidence - known.log_evidence


def covers(fit: Fit, known: Known, shift: float = 0.0) -> bool:
    """Whether the interval of 95 % by Student's law holds the exact log evidence."""
    assert fit.log_evidence_error is not None
    quantile = stats.t.ppf(0.975, fit.chains - 1)
    return abs(missed(fit, known) + shift) <= quantile * fit.log_evidence_error


# --- evidences ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", KNOWN)
def test_intervals_cover_evidences_that_are_known(name: str) -> None:
    """Level 1e-6 for each: coverage, evidences without bias, and hardly a warning.

    Of 100 intervals of 95 % not fewer cover than binomial numbers hardly would; the mean of 400
    estimates over the exact evidence is 1 in 4.9 standard errors; of 100 runs 5 % may warn.
    """
    known = KNOWN[name]()
    fits = [run(known, seed, particles=500) for seed in range(RUNS)]
    covered = sum(covers(fit, known) for fit in fits)
    assert stats.binom.cdf(covered, RUNS, 0.95) > 1e-6
    logs = torch.cat([fit.history["log_evidence"] for fit in fits]).reshape(RUNS, -1)
    ratios = (logs - known.log_evidence).exp().mean(1)
    assert abs(float(ratios.mean()) - 1.0) < 4.9 * float(ratios.std()) / math.sqrt(RUNS)
    assert stats.binom.sf(sum(bool(fit.warnings()) for fit in fits) - 1, RUNS, 0.05) > 1e-6


@pytest.fixture(scope="module")
def small() -> list[tuple[Fit, Known]]:
    found = []
    for name in ("normal mean", "coin", "5 slopes"):
        known = KNOWN[name]()
        found += [(run(known, seed, particles=100), known) for seed in range(8)]
    return found


def test_small_runs_cover_too(small: list[tuple[Fit, Known]]) -> None:
    """Level 1e-6, as above, of 24 runs of 100 particles."""
    covered = sum(covers(fit, known) for fit, known in small)
    assert stats.binom.cdf(covered, len(small), 0.95) > 1e-6


def test_evidences_that_are_off_would_be_noticed(small: list[tuple[Fit, Known]]) -> None:
    """Negative control: the test above rejects evidences that are 0.4 nats too high."""
    covered = sum(covers(fit, known, 0.4) for fit, known in small)
    assert stats.binom.cdf(covered, len(small), 0.95) < 1e-6


@pytest.mark.parametrize("options", [{"adaptive": True}, {"waste_free": True}, {"stages": 30}])
def test_options_find_the_evidence(options: dict[str, Any]) -> None:
    known = KNOWN["5 slopes"]()
    fit = run(known, particles=500, **options)
    assert abs(missed(fit, known)) < 0.4
    assert fit.warnings() == []


def test_a_funnel_on_the_way_is_no_trap() -> None:
    """A ladder of fixed powers and moves loses hundreds of nats here."""
    known = KNOWN["scaled regression"]()
    fit = run(known, particles=500)
    assert abs(missed(fit, known)) < 1.0
    assert fit.warnings() == []
    precision = known.args[0].mT @ known.args[0]
    exact = torch.linalg.solve(precision, known.args[0].mT @ known.args[1])
    sd = torch.linalg.inv(precision).diagonal().sqrt()
    assert float(((fit["slopes"].flatten(0, 1).mean(0) - exact) / sd).abs().max()) < 0.3


# --- what a run says of itself --------------------------------------------------------------------


@program
def cells() -> None:
    """A checkerboard of cells without density, which trajectories end in as often as not."""
    x = sample("x", dist.Normal(torch.zeros(4), 1.0).to_event(1))
    factor("cells", -50.0 * torch.remainder(torch.floor(100.0 * x), 2.0).sum() - 2.0 * x.sum())


@program
def parabola() -> None:
    """A bent line so thin that no step is short enough."""
    x = sample("x", dist.Normal(torch.zeros(2), 3.0).to_event(1))
    factor("near", -0.5 * ((x[1] - x[0] ** 2) / 0.001) ** 2)


def said(fit: Fit, what: str) -> bool:
    return any(what in warning for warning in fit.warnings())


def test_a_ladder_of_few_powers_is_told() -> None:
    fit = run(KNOWN["10 slopes"](), particles=200, stages=3)
    assert said(fit, "the ladder is too coarse")


def test_too_few_moves_are_told() -> None:
    fit = run(KNOWN["scaled regression"](), particles=200, moves=1)
    assert said(fit, "particles hardly move: after 1 moves")


def test_moves_that_are_rejected_are_told() -> None:
    fit = SMC(100, 2, stages=2, moves=2, progress=False).run(cells)
    assert said(fit, "moves are accepted with probability 0.0")


def test_moves_that_do_not_get_along_are_told() -> None:
    fit = SMC(100, 2, stages=6, moves=4, progress=False).run(parabola)
    assert said(fit, "particles hardly move: after 4 moves")


def test_particles_that_need_more_moves_than_there_may_be_are_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(pilot.__globals__, "MOST_MOVES", 3)
    fit = run(KNOWN["scaled regression"](), particles=200)
    assert said(fit, "particles hardly move: after 3 moves")


def test_few_families_are_told() -> None:
    fit = run(KNOWN["scaled regression"](), particles=20)
    assert said(fit, "descend from about")


def test_an_island_that_is_dead_is_named_and_left_out() -> None:
    @program
    def sharp() -> Tensor:
        x = sample("x", dist.Normal(torch.zeros(()), 1.0))
        factor("near", -5e3 * (x - 1.0) ** 2)
        return x

    fit = SMC(8, 4, importance, compiled=False, progress=False).run(sharp, seed=2)
    logs = fit.history["log_evidence"]
    dead = [i for i in range(4) if 4 * float(logs.softmax(0)[i]) < 0.01]
    assert dead and said(fit, str(dead if len(dead) > 1 else f"island {dead[0]}"))
    best = fit["x"][int(logs.argmax())]
    assert float((fit["x"] - best.mean()).abs().max()) < 0.1
    exact = math.log(math.sqrt(2 * math.pi / 1e4)) + float(
        dist.Normal(0.0, 1.0).log_prob(torch.tensor(1.0))
    )
    assert fit.log_evidence is not None and fit.log_evidence_error is not None
    assert abs(fit.log_evidence - exact) < 4.0 * fit.log_evidence_error


def test_an_island_without_a_particle_of_weight_counts_as_zero() -> None:
    """Its neighbours' draws stand in its place; it was an error."""

    @program
    def rare() -> None:
        x = sample("x", dist.Normal(torch.zeros(()), 1.0))
        factor("far", torch.where(x < 1.5, -torch.inf, 0.0))

    fit = SMC(8, 8, importance, compiled=False, progress=False).run(rare, seed=1)
    zero = [i for i, each in enumerate(fit.history["log_evidence"].tolist()) if each == -math.inf]
    assert 0 < len(zero) < 8 and said(fit, "next to none of the evidence")
    assert float(fit["x"].min()) >= 1.5
    assert fit.log_evidence is not None and fit.log_evidence_error is not None
    exact = float(1.0 - dist.Normal(0.0, 1.0).cdf(torch.tensor(1.5)))
    assert abs(math.exp(fit.log_evidence) / exact - 1.0) < 5.0 * fit.log_evidence_error
    with pytest.raises(ZeroMassError, match="no particle has positive weight"):
        SMC(1, 2, importance, compiled=False, progress=False).run(rare, seed=1)


def test_a_pilot_run_that_found_another_evidence_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    found = ByTempering.plan

    def other(self: ByTempering) -> Any:
        plan = found(self)
        return plan._replace(log_evidence=plan.log_evidence + 1.5)

    monkeypatch.setattr(ByTempering, "plan", other)
    assert said(run(KNOWN["normal mean"](), particles=200), "the pilot run found the log evidence")


def test_good_runs_say_nothing(small: list[tuple[Fit, Known]]) -> None:
    assert [fit.warnings() for fit, _ in small if fit.warnings()] == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"stages": [0.5, 0.4, 1.0]}, "stages must increase from above 0 to exactly 1"),
        ({"stages": [0.5]}, "exactly 1"),
        ({"stages": 0}, "at least one particle, island, stage and move"),
        ({"moves": 0}, "at least one particle, island, stage and move"),
        ({"waste_free": True, "adaptive": True}, "so adaptive=False"),
        ({"waste_free": True, "moves": 6}, "chains of 7 states do not divide 1000 particles"),
        ({"waste_free": True, "particles": 997}, "do not divide 997 particles"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        SMC(**options)


def test_a_run_says_what_it_is_and_what_its_pilot_run_found() -> None:
    powers = [0.1, 0.4, 1.0]
    fit = run(KNOWN["normal mean"](), particles=50, stages=powers, moves=2)
    assert [line.split(":")[0] for line in fit.report] == ["power 0.1", "power 0.4", "power 1"]
    assert all("2 moves of" in line for line in fit.report)
    assert "3 powers and 2 HMC moves at each, set by a pilot run; 4 islands" in repr(
        SMC(stages=powers, moves=2)
    )
    assert "waste-free chains of 20, set by a pilot run" in repr(SMC(waste_free=True))
    assert "powers and HMC moves, set by each island" in repr(SMC(adaptive=True))
