"""The driver of variational inference: optimisers, batches, stopping, checkpoints, processes."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pushforward import dist, factor, observe, plate, program, sample
from pushforward.inference.vi import (
    SVI,
    Learned,
    MovingAverage,
    elbo,
    enum,
    fivo,
    mvd,
    objective,
    over,
    posterior,
    reinforce,
    reparam,
    sample_trace,
)
from pushforward.inference.vi.captured import Captured, Replayed
from pushforward.ppl.errors import DataError, ObjectiveError, ProgramError

QUIET: dict[str, Any] = {"progress": False}
Y = torch.tensor([1.2, 0.4, 2.1, 1.7, 0.9, 1.4])


@program
def normal_mean(y: Tensor) -> None:
    mu = sample("mu", dist.Normal(0.0, 2.0))
    with plate("n", len(y)):
        observe("y", dist.Normal(mu, 1.0), y)


VARIANCE = 1 / (1 / 4 + 6)
MEAN = VARIANCE * float(Y.sum())
EVIDENCE = float(
    dist.MultivariateNormal(torch.zeros(6), torch.eye(6) + 4 * torch.ones(6, 6)).log_prob(Y)
)


class Normal(torch.nn.Module):
    """A normal guide of mu."""

    def __init__(self) -> None:
        super().__init__()
        self.loc = torch.nn.Parameter(torch.zeros(()))
        self.log_scale = torch.nn.Parameter(torch.zeros(()))

    def forward(self, y: Tensor) -> None:
        sample("mu", reparam(dist.Normal(self.loc, self.log_scale.exp())))


def fitted(guide: Normal, **settings: Any) -> Any:
    about = {"samples": 8, "compiled": False, **QUIET, **settings}
    steps = about.pop("steps", 400)
    optimizer = about.pop("optimizer", None) or torch.optim.Adam(guide.parameters(), lr=0.05)
    return SVI(elbo(normal_mean, guide), optimizer, **about).run(Y, steps=steps, seed=1)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_conjugate_model(compiled: bool) -> None:
    """The guide has the posterior in its family, and then every estimate is the log evidence."""
    guide = Normal()
    settings = {"optimizer": torch.optim.Adam(guide.parameters(), lr=0.03)}
    result = fitted(guide, compiled=compiled, steps=1500, **settings)
    assert guide.loc.item() == pytest.approx(MEAN, abs=0.02)
    assert guide.log_scale.exp().item() == pytest.approx(math.sqrt(VARIANCE), abs=0.02)
    assert result.value == pytest.approx(EVIDENCE, abs=0.01)
    assert "elbo(normal_mean, Normal)> after 1500 steps" in repr(result)
    assert set(result.noise) == {"Normal.loc", "Normal.log_scale"}
    fit = result.posterior(draws=500)
    assert fit.log_evidence == pytest.approx(EVIDENCE, abs=0.02)
    assert fit["mu"].shape == (1, 500)
    assert float(fit.stats["k_hat"][0, 0]) < 0.7
    assert not fit.warnings()
    assert fit.to_arviz().posterior["mu"].shape == (1, 500)


def test_a_guide_that_misses_tails_is_told() -> None:
    def heavy() -> None:
        sample("x", dist.Cauchy(0.0, 3.0))

    def light() -> None:
        sample("x", dist.Normal(0.0, 0.2))

    fit = posterior(heavy, light, draws=2000)
    assert any("k-hat" in warning for warning in fit.warnings())


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, lr=0.005, momentum=0.9),
        lambda p: torch.optim.RMSprop(p, lr=0.02),
        lambda p: torch.optim.AdamW(p, lr=0.05, weight_decay=0.0),
    ],
)
def test_any_optimizer(make: Any) -> None:
    guide = Normal()
    fitted(guide, optimizer=make(guide.parameters()), steps=500)
    assert guide.loc.item() == pytest.approx(MEAN, abs=0.1)


def test_an_optimizer_that_asks_again(double: None) -> None:
    """LBFGS calls the objective several times a step; enumerated, it has no noise."""
    logits, joint = torch.nn.Parameter(torch.zeros(3)), torch.tensor([0.1, 0.25, 0.05])

    def model() -> None:
        z = sample("z", dist.Categorical(torch.ones(3) / 3))
        factor("data", (3 * joint)[z].log())

    def guide() -> None:
        sample("z", enum(dist.Categorical(logits=logits)))

    optimizer = torch.optim.LBFGS([logits], max_iter=5)
    result = SVI(elbo(model, guide), optimizer, compiled=False, **QUIET).run(steps=10)
    assert float(result.history[-1]) == pytest.approx(math.log(0.4), abs=1e-6)
    torch.testing.assert_close(logits.softmax(0).detach(), joint / 0.4, atol=1e-4, rtol=0)


def test_a_schedule_and_parameter_groups() -> None:
    guide = Normal()
    groups = [{"params": [guide.loc], "lr": 0.1}, {"params": [guide.log_scale], "lr": 0.01}]
    optimizer = torch.optim.Adam(groups)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.99)
    fitted(guide, optimizer=optimizer, schedule=schedule, steps=100)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * 0.99**100)


def test_it_stops_when_the_objective_rises_no_more() -> None:
    result = fitted(Normal(), patience=60, window=30, steps=5000)
    assert result.stopped
    assert len(result.history) < 3000
    assert "stopped early" in repr(result)


def test_batches_of_a_loader() -> None:
    """Each batch stands for all data: its likelihood is scaled up by the plate."""

    @program
    def part(rows: Tensor) -> None:
        mu = sample("mu", dist.Normal(0.0, 2.0))
        with plate("n", len(Y), subsample=torch.arange(len(rows))):
            observe("y", dist.Normal(mu, 1.0), rows)

    guide = Normal()
    optimizer = torch.optim.Adam(guide.parameters(), lr=0.02)
    loader = torch.utils.data.DataLoader(Y, batch_size=2, shuffle=True)
    svi = SVI(elbo(part, guide), optimizer, samples=4, compiled=False, **QUIET)
    result = svi.run(batches=loader, steps=1200)
    assert len(result.history) == 1200
    assert guide.loc.item() == pytest.approx(MEAN, abs=0.15)
    with pytest.raises(ObjectiveError, match="no batches"):
        svi.run(batches=[], steps=3)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_plate_that_subsamples(compiled: bool) -> None:
    """Guide and model get the same indices; the bound is unbiased, so the fit is the same."""

    @program
    def part(y: Tensor) -> None:
        mu = sample("mu", dist.Normal(0.0, 2.0))
        with plate("n", len(y), subsample_size=3) as index:
            observe("y", dist.Normal(mu, 1.0), y[index])

    guide = Normal()
    optimizer = torch.optim.Adam(guide.parameters(), lr=0.02)
    bound = elbo(part, guide)
    bound.check(Y)
    SVI(bound, optimizer, samples=4, compiled=compiled, **QUIET).run(Y, steps=1000)
    assert guide.loc.item() == pytest.approx(MEAN, abs=0.15)


def test_an_interrupted_run_keeps_what_it_has() -> None:
    guide = Normal()
    met = iter(range(10**6))

    def model(y: Tensor) -> None:
        if next(met) == 40:
            raise KeyboardInterrupt
        normal_mean(y)

    optimizer = torch.optim.Adam(guide.parameters(), lr=0.05)
    svi = SVI(elbo(model, guide), optimizer, compiled=False, **QUIET)
    result = svi.run(Y, steps=400)
    assert result.interrupted
    assert 30 < len(result.history) < 41
    assert guide.loc.item() != 0.0


def test_a_number_that_is_not_finite_is_an_error() -> None:
    guide = Normal()

    @objective
    def broken() -> Tensor:
        return sample_trace(guide, Y).choices["mu"].sqrt() + math.nan

    with pytest.raises(ProgramError, match="not finite at step 0"):
        SVI(broken(), torch.optim.Adam(guide.parameters()), compiled=False, **QUIET).run()


def test_seeds() -> None:
    runs = []
    for _ in range(2):
        guide = Normal()
        runs.append(fitted(guide, steps=20).history)
    assert torch.equal(*runs)
    state = torch.get_rng_state()
    fitted(Normal(), steps=2)
    assert torch.equal(state, torch.get_rng_state())


# ---------------------------------------------------------------------------------------- back ends


@pytest.mark.parametrize("samples", [1, 5])
@pytest.mark.parametrize("strategy", [enum, reinforce, mvd], ids=["enum", "reinforce", "mvd"])
def test_the_graph_is_what_replay_does(strategy: Any, samples: int, double: None) -> None:
    """Draw by draw, and for other parameters and data than it was traced for."""
    table = torch.nn.Parameter(torch.tensor([0.2, -0.4]))
    loc = torch.nn.Parameter(torch.tensor([0.1, 0.3]))

    def model(y: Tensor) -> None:
        k = sample("k", dist.Bernoulli(torch.tensor(0.4)))
        x = sample("x", dist.Normal(k, 1.0))
        observe("y", dist.Normal(x, 0.5), y)

    def guide(y: Tensor) -> None:
        k = sample("k", strategy(dist.Bernoulli(logits=table[0] + table[1] * y)))
        sample("x", reparam(dist.Normal(loc[k.long()] + y, 0.7)))

    bound, parameters = elbo(model, guide), [table, loc]
    y = torch.tensor(0.6)
    graph = Captured(bound, parameters, samples, y, compiled=False)
    replay = Replayed(bound, parameters, samples)
    for shift in (0.0, 0.5):
        with torch.no_grad():
            table += shift
        torch.manual_seed(3)
        first = graph(y + shift)
        torch.manual_seed(3)
        second = replay(y + shift)
        torch.testing.assert_close(first.values, second.values)
        if strategy is not reinforce:  # whose scores weigh less in the graph
            torch.testing.assert_close(first.by, second.by)
    assert "def forward" in graph.code


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("made", [lambda x: 2 * x, lambda x: x + 1.0], ids=["saves", "saves none"])
def test_what_was_computed_beforehand_is_refused(made: Any, compiled: bool) -> None:
    loc = torch.nn.Parameter(torch.tensor(0.3))
    before = made(loc)

    def guide(y: Tensor) -> None:
        sample("mu", reparam(dist.Normal(before, 1.0)))

    optimizer = torch.optim.Adam([loc], lr=0.1)
    with pytest.raises(ObjectiveError, match="computed from parameters before"):
        SVI(elbo(normal_mean, guide), optimizer, compiled=compiled, **QUIET).run(Y, steps=2)
    with pytest.raises(ObjectiveError, match="computed from parameters before"):
        Captured(elbo(normal_mean, guide), [loc], 1, Y, compiled=False)


def test_parameters_of_others_are_followed_and_not_moved() -> None:
    """A parameter that the optimiser has not may change between steps."""
    guide, scale = Normal(), torch.nn.Parameter(torch.tensor(1.0))

    def model(y: Tensor) -> None:
        mu = sample("mu", dist.Normal(0.0, 2.0))
        with plate("n", len(y)):
            observe("y", dist.Normal(mu, scale), y)

    graph = Captured(elbo(model, guide), [guide.loc, guide.log_scale], 1, Y, compiled=False)
    torch.manual_seed(0)
    before = graph(Y).values
    with torch.no_grad():
        scale.fill_(3.0)
    torch.manual_seed(0)
    after = graph(Y).values
    torch.manual_seed(0)
    replay = Replayed(elbo(model, guide), [guide.loc, guide.log_scale], 1)(Y).values
    assert float(before) != float(after)
    torch.testing.assert_close(after, replay)


def test_python_control_flow_runs_by_replay_and_is_told() -> None:
    p = torch.nn.Parameter(torch.tensor(0.4))

    def model() -> None:
        b = sample("b", dist.Bernoulli(0.3))
        observe("y", dist.Normal(1.0 if b else -1.0, 1.0), torch.tensor(1.2))

    def guide() -> None:
        sample("b", reinforce(dist.Bernoulli(logits=p)))

    svi = SVI(elbo(model, guide), torch.optim.Adam([p], lr=0.05), replayed=2, **QUIET)
    with pytest.warns(RuntimeWarning, match="run by replay"):
        result = svi.run(steps=5)
    assert len(result.history) == 5


@pytest.mark.parametrize("compiled", [False, True])
def test_baselines_learn(compiled: bool) -> None:
    """The variance of the gradient falls: the cost is about 100, and so is the baseline soon."""
    logits = torch.nn.Parameter(torch.zeros(3))
    cost = torch.tensor([100.0, 101.0, 99.5])
    net = torch.nn.Linear(1, 1)

    def run(baseline: Any) -> float:
        with torch.no_grad():
            logits.zero_()

        def guide() -> None:
            made = baseline() if callable(baseline) else baseline
            sample("z", reinforce(dist.Categorical(logits=logits), baseline=made))

        @objective
        def mean() -> Tensor:
            return cost[sample_trace(guide).choices["z"]]

        groups = [{"params": [logits], "lr": 1e-4}, {"params": net.parameters(), "lr": 5.0}]
        settings = {"window": 30, "compiled": compiled, "replayed": 0, **QUIET}
        svi = SVI(mean(), torch.optim.SGD(groups), **settings)
        if baseline is not None and callable(baseline):
            groups[1]["lr"] = 0.1
            svi = SVI(mean(), torch.optim.Adam(groups), **settings)
        return svi.run(steps=200).noise["parameter 0"][0]

    plain, average = run(None), MovingAverage(0.9)
    assert run(average) < plain / 10
    assert float(average.mean) == pytest.approx(100.0, abs=1.5)
    if not compiled:
        with torch.no_grad():
            net.bias.fill_(50.0)
        ones = torch.ones(1)
        assert run(lambda: Learned(lambda x: net(x).sum(), ones)) < plain


# -------------------------------------------------------------------------------------- checkpoints


@pytest.mark.parametrize("compiled", [False, True])
def test_the_noise_of_each_site(compiled: bool, double: None) -> None:
    """One flip by its score, one by its sum: only the first has a derivative that varies."""
    a, b = (torch.nn.Parameter(torch.tensor(0.3)) for _ in range(2))

    def guide() -> Tensor:
        one = sample("noisy", reinforce(dist.Bernoulli(logits=a)))
        return 5.0 * one + 3.0 * sample("exact", enum(dist.Bernoulli(logits=b)))

    @objective
    def mean() -> Tensor:
        return sample_trace(guide).value

    optimizer = torch.optim.SGD([a, b], lr=1e-12)
    svi = SVI(mean(), optimizer, window=400, monitor=True, compiled=compiled, **QUIET)
    result = svi.run(steps=1500)
    p = torch.sigmoid(torch.tensor(0.3)).item()
    sd, size = result.site_noise["exact"]
    assert size == pytest.approx(3 * p * (1 - p), rel=1e-6)
    assert sd < 1e-3
    assert result.site_noise["noisy"][0] > 1.0
    assert "at site noisy" in repr(result)
    assert set(result.noise) == {"parameter 0", "parameter 1"}


def near_at(loc: Tensor) -> Any:
    """-E (x - 1)^2 of a normal law at ``loc``: no density, so that only its values move."""
    law = lambda: sample("x", reparam(dist.Normal(loc, 0.7)))  # noqa: E731
    return objective(lambda: -((sample_trace(law).value - 1.0) ** 2))()


def filter_at(loc: Tensor) -> Any:
    def step(t: int, state: Any, y: Tensor) -> None:
        observe("y", dist.Normal(sample("x", dist.Normal(0.0, 1.0)), 1.0), y)

    def propose(t: int, state: Any, y: Tensor) -> Tensor:
        return sample("x", reparam(dist.Normal(loc, 0.7)))

    return fivo(step, propose, 3, [torch.tensor(1.0)])


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("kind", ["near", "over", "fivo"])
def test_sites_in_lanes_are_followed(kind: str, samples: int, double: None) -> None:
    """Lanes of samples, of rows and of particles: the derivative at a site, by a parameter of its
    law that is one of the guide and moves nothing else, is that of the guide."""
    loc = torch.nn.Parameter(torch.tensor(0.3))
    rows = objective(lambda given: over(lambda row: near_at(loc), given))()
    bound, args = {
        "near": (near_at(loc), ()),
        "over": (rows, (torch.zeros(4),)),
        "fivo": (filter_at(loc), ()),
    }[kind]
    about = bound, [loc], samples
    graph = Captured(*about, *args, compiled=False, monitor=True)
    for step in (Replayed(*about, monitor=True), graph):
        found = step(*args)
        (by_site,) = (x for name, x in found.sites if name == "x")
        assert by_site.shape == () and float(by_site.abs()) > 1e-6
        if kind != "fivo":  # where the density of the proposal moves too
            torch.testing.assert_close(-by_site, found.by[0])


SCRIPT = """
import os, signal, sys, torch
from pushforward import dist, factor, observe, sample
from pushforward.inference import Checkpoint
from pushforward.inference.vi import SVI, MovingAverage, elbo, reinforce, reparam

torch.manual_seed(5)
loc, p = torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(()))
average = MovingAverage()
kill = int(sys.argv[2])

def model():
    k = sample("k", dist.Bernoulli(torch.tensor(0.4)))
    x = sample("x", dist.Normal(k, 1.0))
    observe("y", dist.Normal(x, 0.5), torch.tensor(0.7))

def guide():
    k = sample("k", reinforce(dist.Bernoulli(logits=p), baseline=average))
    sample("x", reparam(dist.Normal(loc[k.long()], 1.0)))

optimizer = torch.optim.Adam([loc, p], lr=0.05)
schedule = torch.optim.lr_scheduler.StepLR(optimizer, 10, 0.9)

class Killing:
    def __iter__(self):
        for i in range(1000):
            if i == kill:
                os.kill(os.getpid(), signal.SIGKILL)
            yield ()

svi = SVI(elbo(model, guide), optimizer, schedule, samples=2, compiled=False, progress=False)
result = svi.run(batches=Killing(), steps=60, seed=3, checkpoint=Checkpoint(sys.argv[1], seconds=0))
print(loc.tolist(), p.item(), result.history.tolist(), float(average.mean))
"""


def started(path: Path, kill: int) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", SCRIPT, str(path), str(kill)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(words, capture_output=True, text=True, check=False, env=environment)


def test_a_killed_run_goes_on_to_the_same_end(tmp_path: Path) -> None:
    whole = started(tmp_path / "whole", -1)
    assert whole.returncode == 0, whole.stderr
    killed = started(tmp_path / "part", 25)
    assert killed.returncode == -signal.SIGKILL
    assert started(tmp_path / "part", -1).stdout == whole.stdout


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    guide, path = Normal(), tmp_path / "run"
    optimizer = torch.optim.Adam(guide.parameters(), lr=0.05)
    svi = SVI(elbo(normal_mean, guide), optimizer, compiled=False, **QUIET)
    svi.run(Y, steps=3, checkpoint=path)
    with pytest.raises(DataError, match="another run"):
        svi.run(Y, steps=3, checkpoint=path, seed=9)
    with pytest.raises(DataError, match="another run"):
        svi.run(Y + 1, steps=3, checkpoint=path)


# ---------------------------------------------------------------------------------------- processes

PARALLEL = """
import sys, torch
from pushforward import dist, factor, observe, plate, sample
from pushforward.inference.vi import SVI, elbo, reparam

rank, size = int(sys.argv[1]), int(sys.argv[2])
torch.distributed.init_process_group(
    "gloo", f"file://{sys.argv[3]}", rank=rank, world_size=size
)
y = torch.tensor([1.2, 0.4, 2.1, 1.7])[rank::size]
loc = torch.nn.Parameter(torch.zeros(()))

def model(rows):
    mu = sample("mu", dist.Normal(0.0, 2.0))
    with plate("n", 4, subsample=torch.arange(len(rows))):
        observe("y", dist.Normal(mu, 1.0), rows)

def guide(rows):
    sample("mu", reparam(dist.Normal(loc, 0.4)))

svi = SVI(elbo(model, guide), torch.optim.Adam([loc], lr=0.05), compiled=False, progress=False)
svi.run(y, steps=400)
still = SVI(elbo(model, guide), torch.optim.SGD([loc], lr=0.0), patience=20, window=10,
            compiled=False, progress=False)
print(len(still.run(y, steps=5000).history), loc.item())
"""


def test_two_processes_share_their_gradients(tmp_path: Path) -> None:
    """Each has half of the data; both end at the same place, near the mean given all.

    They stop at the same step: one that waits for gradients of the other would wait for ever.
    """
    meeting = str(tmp_path / "meeting")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    words = [[sys.executable, "-c", PARALLEL, str(rank), "2", meeting] for rank in range(2)]
    runs = [subprocess.Popen(w, stdout=subprocess.PIPE, text=True, env=environment) for w in words]
    told = [run.communicate(timeout=120)[0].split() for run in runs]
    assert told[0] == told[1]
    assert int(told[0][0]) < 5000
    found = [float(loc) for _, loc in told]
    exact = float(torch.tensor([1.2, 0.4, 2.1, 1.7]).sum()) / (4 + 1 / 4)
    assert found[0] == pytest.approx(exact, abs=0.15)


def test_pyro_models_are_fitted() -> None:
    import pyro

    def model(y: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
        with pyro.plate("n", len(y)):
            pyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    guide = Normal()
    optimizer = torch.optim.Adam(guide.parameters(), lr=0.05)
    SVI(elbo(model, guide), optimizer, samples=8, compiled=False, **QUIET).run(Y, steps=400)
    assert guide.loc.item() == pytest.approx(MEAN, abs=0.1)


@pytest.mark.parametrize("strategy", [enum, mvd, reinforce], ids=["enum", "mvd", "reinforce"])
def test_networks_in_lanes(strategy: Any, double: None) -> None:
    """Layers of single rows write in place on their way: graphs keep what is written apart."""
    torch.manual_seed(0)
    encoder, decoder = torch.nn.Linear(4, 1), torch.nn.Linear(1, 4)
    parameters = [*encoder.parameters(), *decoder.parameters()]
    x = (torch.rand(5, 4) < 0.3).double()

    def model(row: Tensor) -> None:
        on = sample("on", dist.Bernoulli(torch.tensor(0.5)))
        z = sample("z", dist.Normal(0.0, 1.0))
        observe("x", dist.Bernoulli(logits=decoder((on * z)[None])).to_event(1), row)

    def guide(row: Tensor) -> None:
        sample("on", strategy(dist.Bernoulli(logits=encoder(row)[0])))
        sample("z", reparam(dist.Normal(encoder(row)[0], 0.5)))

    @objective
    def rows(data: Tensor) -> Any:
        return over(lambda row: elbo(model, guide, row), data, size=20)

    rows().check(x)
    graph, replay = Captured(rows(), parameters, 2, x), Replayed(rows(), parameters, 2)
    torch.manual_seed(4)
    found = graph(x)
    torch.manual_seed(4)
    wanted = replay(x)
    torch.testing.assert_close(found.values, wanted.values)
    if strategy is not reinforce:
        torch.testing.assert_close(found.by, wanted.by)
