"""Drivers that are killed go on as if they had not been; islands in other processes; places."""

from __future__ import annotations

import signal
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from support import killed
from support.evidences import normal_mean
from support.executors import InTurn
from support.fits import equal
from support.killed import KERNEL, OBSERVED, QUIET, RUNS, X, line, walk

from pushforward.errors import DataError, ProgramError, ZeroMassError
from pushforward.inference import MCMC, SMC, Checkpoint, hmc, importance, nuts, particle_filter, smc
from pushforward.inference.kernels import single_site
from pushforward.ppl import condition, factor, program, sample
from pushforward.ppl.tasks.checkpoint import stream
from pushforward.ppl.tensors.keys import fingerprint
from pushforward.semantics import check, denote

# ------------------------------------------------------------------------------------------- killed


@pytest.mark.parametrize(
    ("kind", "steps"),
    [
        ("nuts", 17),
        ("nuts", 55),
        ("traces", 5),
        ("traces", 21),
        ("tempered", 5),
        ("tempered", 9),
        ("filter", 3),
    ],
)
def test_a_killed_run_ends_as_if_it_had_not_been(kind: str, steps: int, tmp_path: Path) -> None:
    path = tmp_path / "run"
    order = [sys.executable, killed.__file__, kind, str(path), str(steps)]
    assert subprocess.run(order, check=False).returncode == -signal.SIGKILL
    assert path.exists(), "something was kept"
    done: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(killed.Progress, "advance", lambda self, n=1, **figures: done.append(n))
        resumed = RUNS[kind](path)
    assert equal(resumed, RUNS[kind](None))
    assert done[0] > 1, "it began anew"


@pytest.mark.parametrize("kind", RUNS)
def test_a_finished_run_is_read(kind: str, tmp_path: Path) -> None:
    first = RUNS[kind](tmp_path / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(killed.Progress, "say", lambda *args: None)
        again = RUNS[kind](str(tmp_path / "run"))
    assert equal(first, again)
    assert not list(tmp_path.glob("*.new"))


def test_other_runs_are_refused(tmp_path: Path) -> None:
    path, driver = tmp_path / "run", MCMC(nuts(), chains=2, draws=4, warmup=0, **QUIET)
    driver.run(OBSERVED, X, checkpoint=path)
    with pytest.raises(DataError, match="of another run: seed 0 is now 1"):
        driver.run(OBSERVED, X, seed=1, checkpoint=path)
    with pytest.raises(DataError, match="of another run: program, data or kernel"):
        driver.run(OBSERVED, X + 1, checkpoint=path)
    other = condition(line, {"y": torch.zeros(3)})
    with pytest.raises(DataError, match="of another run: program, data or kernel"):
        driver.run(other, X, checkpoint=path)
    with pytest.raises(DataError, match="method NUTS is now"):
        MCMC(single_site(), chains=2, draws=4, warmup=0, progress=False).run(
            OBSERVED, X, checkpoint=path
        )


def test_a_broken_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(DataError, match="is no checkpoint"):
        RUNS["nuts"](path)


def test_writing_takes_no_randomness_and_waits(tmp_path: Path) -> None:
    often, seldom = tmp_path / "often", tmp_path / "seldom"
    fits = [RUNS["nuts"](Checkpoint(often, 0.0)), RUNS["nuts"](Checkpoint(seldom, 1e9))]
    assert equal(*fits)


def test_fingerprints_last() -> None:
    code = "from support.killed import OBSERVED\n"
    code += "from pushforward.ppl.tensors.keys import fingerprint\n"
    code += "print(fingerprint((OBSERVED, {'a', 'b', 'c'})))"
    order, where = [sys.executable, "-c", code], Path(__file__).parents[2]
    there = subprocess.run(order, check=True, cwd=where, capture_output=True, text=True).stdout
    assert there.strip() == fingerprint((OBSERVED, {"a", "b", "c"}))


def test_streams_differ() -> None:
    assert len({stream(seed, i) for seed in range(50) for i in range(50)}) == 2500


# ------------------------------------------------------------------------------------------ islands


def test_islands_in_other_processes_are_the_same(tmp_path: Path) -> None:
    driver = SMC(20, 3, particle_filter, **QUIET)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as executor:
        there = driver.run(walk, X, seed=2, executor=executor, checkpoint=tmp_path / "run")
    assert equal(there, driver.run(walk, X, seed=2))
    assert equal(there, driver.run(walk, X, seed=2, checkpoint=tmp_path / "run"))


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"adaptive": True}, {"waste_free": True}])
def test_tempered_islands_in_other_processes_are_the_same(options: dict[str, bool]) -> None:
    driver = SMC(20, 2, **options, **QUIET)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        there = driver.run(normal_mean, X, seed=2, executor=executor)
    assert equal(there, driver.run(normal_mean, X, seed=2))


def test_islands_in_threads_are_refused() -> None:
    with ThreadPoolExecutor(2) as executor, pytest.raises(ProgramError, match="threads"):
        SMC(20, 3, particle_filter, **QUIET).run(walk, X, executor=executor)


# --------------------------------------------------------------------------------------- executors

NUTS = MCMC(nuts(), chains=3, draws=40, warmup=30, cores=3, progress=False)
AT_WORKERS: dict[str, Any] = {
    "nuts": lambda **how: NUTS.run(OBSERVED, X, seed=5, **how),
    "traces": lambda **how: MCMC(KERNEL, chains=3, draws=12, warmup=3, **QUIET).run(
        walk, X, seed=5, **how
    ),
    "filter": lambda **how: SMC(20, 3, particle_filter, **QUIET).run(walk, X, seed=5, **how),
    "tempered": lambda **how: SMC(20, 3, stages=4, **QUIET).run(OBSERVED, X, seed=5, **how),
}


@pytest.mark.parametrize("kind", AT_WORKERS)
def test_what_is_done_when_a_worker_is_lost_is_gone_on_from(kind: str, tmp_path: Path) -> None:
    run, path = AT_WORKERS[kind], Checkpoint(tmp_path / "run", 0.0)
    before, after, whole = InTurn(frozenset({4 if kind == "nuts" else 1})), InTurn(), InTurn()
    with pytest.raises(ProgramError, match="gave up a task"):
        run(executor=before, checkpoint=path)
    resumed = run(executor=after, checkpoint=path)
    assert equal(resumed, run()) and equal(resumed, run(executor=whole))
    assert before.done and len(after.sizes) < len(whole.sizes), "it began anew"
    if kind != "nuts":
        assert after.done == 1
    assert equal(resumed, run(checkpoint=path)), "a finished run is read"


@pytest.mark.parametrize("kind", AT_WORKERS)
def test_the_bar_is_full_at_the_end_and_not_before(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bars, totals, counts = list[Any](), list[int](), list[int]()
    made = killed.Progress.__init__

    def started(self: Any, total: int, *about: Any, **more: Any) -> None:
        made(self, total, *about, **more)
        bars.append(self)  # the first is the caller's, and others are silent
        totals.append(total) if len(bars) == 1 else None

    def noting(to: list[int]) -> Any:
        return lambda bar, n=1, **figures: to.append(n) if bar is bars[0] else None

    monkeypatch.setattr(killed.Progress, "__init__", started)
    monkeypatch.setattr(killed.Progress, "lengthen", noting(totals))
    monkeypatch.setattr(killed.Progress, "advance", noting(counts))
    AT_WORKERS[kind](executor=InTurn())
    assert sum(counts) == totals[-1] and len([n for n in counts if n]) > 2


def test_a_campaign_goes_on_and_is_made_longer(tmp_path: Path) -> None:
    fits: list[int] = []

    def fit(posterior: Any) -> dict[str, torch.Tensor]:
        fits.append(1)
        return {"mean": torch.randn(50)}

    @program
    def number() -> None:
        sample("y", dist.Normal(sample("mean", dist.Normal(0.0, 1.0)), 1.0))

    path = Checkpoint(tmp_path / "campaign", 0.0)
    about: dict[str, Any] = {"draws": 50, "progress": False}
    with pytest.raises(ProgramError, match="gave up a task"):
        check.sbc(
            number,
            fit,
            ["y"],
            simulations=4,
            executor=InTurn(frozenset({2})),
            checkpoint=path,
            **about,
        )
    fits.clear()
    longer = check.sbc(number, fit, ["y"], simulations=6, checkpoint=path, **about)
    assert len(fits) == 3, "the lost one, and two more"
    anew = check.sbc(number, fit, ["y"], simulations=6, **about)
    assert all(torch.equal(longer.ranks[name], anew.ranks[name]) for name in anew.ranks)
    assert len(longer.ranks["mean"]) == 6


def test_the_first_simulation_that_breaks_is_told_whoever_is_first() -> None:
    def fit(posterior: Any) -> dict[str, torch.Tensor]:
        if torch.rand(()) < 0.5:
            raise ArithmeticError("broken")
        return {"mean": torch.randn(50)}

    @program
    def number() -> None:
        sample("y", dist.Normal(sample("mean", dist.Normal(0.0, 1.0)), 1.0))

    about: dict[str, Any] = {"simulations": 9, "draws": 50, "seed": 3, "progress": False}
    here, there = (check.sbc(number, fit, ["y"], executor=e, **about) for e in (None, InTurn()))
    assert here.verdict == there.verdict == "fail"
    assert here.counterexample == there.counterexample


def test_a_chain_travels_without_the_others() -> None:
    few, many = InTurn(), InTurn()
    for executor, n in ((few, 2), (many, 64)):
        driver = MCMC(nuts(), chains=n, draws=5, warmup=10, cores=n, progress=False)
        driver.run(OBSERVED, X, executor=executor)
    assert max(many.sizes) < min(few.sizes) + 500


@pytest.mark.parametrize("driver", [MCMC(hmc(4), **QUIET), MCMC(nuts(), **QUIET)])
def test_chains_that_move_as_one_batch_stay(driver: MCMC) -> None:
    with pytest.raises(ProgramError, match="if NUTS moves them in lane code"):
        driver.run(OBSERVED, X, executor=InTurn())


@pytest.mark.parametrize("algorithm", [importance, particle_filter, smc])
def test_any_algorithm_gives_draws_and_evidence(algorithm: Any) -> None:
    """Level 1e-5: the evidence and a mean within 4.5 standard errors of the exact ones."""

    @program
    def coin() -> torch.Tensor:
        return walk.fn(X[:2])

    exact = denote(coin, quadrature=32)
    n = 100 if algorithm is smc else 400
    fit = SMC(n, 40, algorithm, **QUIET).run(coin, seed=1)
    assert fit["up"].shape == (40, n, 2)
    assert fit["rate"].shape == (40, n)
    assert fit.latents == ("rate", "up[0]", "up[1]")
    assert fit.log_evidence is not None and fit.log_evidence_error is not None
    gap = fit.log_evidence - torch.tensor(exact.mass()).log()
    assert abs(float(gap)) < 4.5 * fit.log_evidence_error + 1e-6
    mean = exact.expect(lambda x: float(x)) / exact.mass()
    islands = fit["up"].sum(-1).mean(1)
    assert abs(float(islands.mean()) - mean) < 4.5 * float(islands.std()) / 40**0.5 + 0.01
    assert fit.summary().shape[0] == 3
    assert "SMC" in repr(fit)


def test_a_population_that_rests_on_one_particle_is_told() -> None:
    @program
    def sharp() -> None:
        x = sample("x", dist.Normal(0.0, 1.0))
        factor("f", -1e6 * (x - 3.0) ** 2)

    fit = SMC(50, 2, importance, **QUIET).run(sharp)
    assert any("effective sample size falls to 1.0" in note for note in fit.warnings())
    fit = SMC(50, 2, importance, **QUIET).run(OBSERVED, X)
    assert not any("effective sample size" in note for note in fit.warnings())


def test_no_particle_of_positive_weight_is_an_error() -> None:
    @program
    def impossible() -> None:
        x = sample("x", dist.Normal(0.0, 1.0))
        factor("f", torch.where(x < 9.0, -torch.inf, 0.0))

    with pytest.raises(ZeroMassError, match="no particle has positive weight"):
        SMC(50, 2, importance, **QUIET).run(impossible)


# ------------------------------------------------------------------------------------------- places


@program
def plain(x: torch.Tensor) -> None:
    a = sample("a", dist.Normal(0.0, 1.0))
    sample("y", dist.Normal(a * x, 1.0).to_event(1))


@pytest.mark.parametrize(
    "driver",
    [
        MCMC(nuts(), chains=1, draws=3, warmup=0, dtype=torch.float64, device="cpu", **QUIET),
        MCMC(single_site(), chains=1, draws=3, dtype=torch.float64, **QUIET),
        SMC(4, 1, stages=2, dtype=torch.float64, **QUIET),
        SMC(4, 1, importance, dtype=torch.float64, **QUIET),
    ],
    ids=["nuts", "traces", "tempered", "importance"],
)
def test_the_precision_may_be_chosen(driver: Any) -> None:
    y = torch.tensor([0.2, -0.1, 1.0], dtype=torch.float32)
    fit = driver.run(condition(plain, {"y": y}), X)
    assert fit["a"].dtype == torch.float64
    assert torch.get_default_dtype() == torch.float32
