"""Drivers over Dask: one result whoever does the tasks, and whoever is killed on the way."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from distributed import Client, LocalCluster
from support.cluster import killing, two_workers
from support.fits import equal
from support.sizes import quick
from torch import Tensor

from pushforward.errors import ProgramError
from pushforward.inference import MCMC, SMC, Exact, Fit, nuts, particle_filter
from pushforward.inference.kernels import single_site
from pushforward.ppl import condition, observe, plate, program, sample, scan
from pushforward.ppl.tasks.workers import Workers
from pushforward.semantics import check

QUIET: dict[str, Any] = {"progress": False}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with two_workers(str(tmp_path_factory.mktemp("dask"))) as client:
        yield client


def walk(steps: int) -> tuple[Any, Tensor]:
    """A program of this function's own, with its data."""

    @program
    def walked(ys: Tensor) -> Tensor:
        rate = sample("rate", dist.Beta(torch.tensor(2.0), 2.0))

        def step(x: Tensor, y: Tensor) -> tuple[Tensor, None]:
            x = x + sample("up", dist.Bernoulli(rate))
            observe("y", dist.Normal(x, 1.0), y)
            return x, None

        return scan(step)(torch.tensor(0.0), ys)[0]

    return walked, torch.linspace(0.0, steps / 2, steps)


def line(points: int) -> tuple[Any, Tensor]:
    """Another, for gradients."""
    x = torch.linspace(-1.0, 1.0, points)

    @program
    def lined(x: Tensor) -> None:
        a, b = (sample(name, dist.Normal(x.new_zeros(()), 1.0)) for name in ("a", "b"))
        with plate("points", points):
            sample("y", dist.Normal(a + b * x, 1.0))

    return condition(lined, {"y": x.sin()}), x


def test_islands_are_the_same(client: Client) -> None:
    driver, (model, ys) = SMC(20, 3, particle_filter, compiled=False, **QUIET), walk(5)
    there = driver.run(model, ys, seed=2, executor=client)
    assert equal(there, driver.run(model, ys, seed=2))
    assert not equal(there, driver.run(model, ys, seed=3))


@pytest.mark.parametrize("tasks", [None, 2, 3])
def test_chains_of_nuts_are_the_same(client: Client, tasks: int | None) -> None:
    driver, (model, x) = MCMC(nuts(), 3, 40, 60, cores=tasks, **QUIET), line(9)
    there = driver.run(model, x, seed=2, executor=client)
    assert equal(there, driver.run(model, x, seed=2))
    assert not equal(there, driver.run(model, x, seed=3))


def test_chains_on_traces_are_the_same(client: Client) -> None:
    driver, (model, ys) = MCMC(single_site(), 3, 8, 2, **QUIET), walk(3)
    assert equal(driver.run(model, ys, seed=2, executor=client), driver.run(model, ys, seed=2))


def test_a_campaign_of_simulations_is_the_same(client: Client) -> None:
    @program
    def coins() -> None:
        which = sample("which", dist.Categorical(torch.tensor([0.2, 0.3, 0.5])))
        with plate("throws", 4):
            sample("heads", dist.Bernoulli(torch.tensor([0.1, 0.5, 0.9])[which.long()]))

    exact = Exact(draws=20).run
    about: dict[str, Any] = {"simulations": 4, "draws": 20, "progress": False}
    there, here = (
        check.sbc(coins, exact, ["heads"], executor=executor, **about)
        for executor in (client, None)
    )
    assert there.ranks.keys() == here.ranks.keys() and there.verdict == here.verdict
    assert all(torch.equal(there.ranks[name], here.ranks[name]) for name in here.ranks)


def islands(executor: Client | None) -> Fit:
    driver, (model, ys) = SMC(200, 20, particle_filter, compiled=False, **QUIET), walk(20)
    return driver.run(model, ys, seed=4, executor=executor)


def chains(executor: Client | None) -> Fit:
    driver, (model, x) = MCMC(nuts(), 20, 200, 100, cores=20, **QUIET), line(8_000)
    return driver.run(model, x, seed=4, executor=executor)


@pytest.mark.parametrize(
    ("run", "kills"), quick(2, [(islands, 2), (chains, 1), (islands, 8), (chains, 8)])
)
def test_a_run_of_twenty_whose_workers_are_killed_loses_nothing(
    client: Client, run: Any, kills: int
) -> None:
    with killing(client, kills, seed=kills) as killed:
        for _ in range(5):  # a run may be over before enough of them are killed
            there = run(client)
            if len(killed) == kills:
                break
    assert len(killed) == kills, f"only {killed} were killed"
    assert equal(there, run(None))


def test_large_data_are_sent_without_a_warning(client: Client) -> None:
    data = torch.arange(3_000_000.0)
    sent = Workers(client, lambda i: data[i].item())
    assert dict(sent.results({i: (i,) for i in range(30)})) == {i: float(i) for i in range(30)}


def test_a_task_that_kills_its_workers_is_given_up(client: Client) -> None:
    """Dask begins it again so many times; here none."""

    def fatal(x: int) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    scheduler = client.cluster.scheduler
    before, scheduler.allowed_failures = scheduler.allowed_failures, 0
    try:
        with pytest.raises(ProgramError, match="gave up a task: KilledWorker"):
            list(Workers(client, fatal).results({0: (1,)}))
    finally:
        scheduler.allowed_failures = before


def test_threads_of_a_cluster_in_this_process_are_refused() -> None:
    about: dict[str, Any] = {"n_workers": 1, "processes": False, "dashboard_address": ":0"}
    with (
        LocalCluster(**about) as cluster,
        Client(cluster) as client,
        pytest.raises(ProgramError, match="cannot run in threads"),
    ):
        list(Workers(client, float).results({0: (1,)}))
