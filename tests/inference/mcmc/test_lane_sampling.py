"""Warm-up and sampling by the engine: what they learn, and that nothing but the seed matters."""

from __future__ import annotations

import itertools
import math
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.engine import chains_at, engine
from torch import Tensor

from pushforward import condition, dist, factor, observe, plate, program, sample
from pushforward.inference import MCMC, mala, nuts
from pushforward.inference.kernels import single_site
from pushforward.inference.mcmc.lanes import sampling
from pushforward.inference.mcmc.lanes.engine import Engine, Metric, cores_for, step_sizes
from pushforward.inference.mcmc.lanes.warmup import (
    first_root_mass,
    learnt_metric,
    learnt_root_mass,
    settled,
    stranded,
    windows,
)
from pushforward.ppl.tasks.checkpoint import Store

pytestmark = pytest.mark.usefixtures("double")


def f(x: Any) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


def starts(n: int) -> Tensor:
    return torch.linspace(-1.0, 1.5, 2 * n, dtype=torch.float64).reshape(n, 2)


def test_a_chain_is_the_same_alone_and_among_others() -> None:
    runner, metric = engine("banana", 6), Metric.diagonal(f([1.0, 0.7]))
    chains = chains_at("banana", starts(5), torch.full((5,), 0.3))
    together = runner.advance(chains, metric, 40, target=0.8)
    for k in range(5):
        one = chains._replace(
            **{n: getattr(chains, n)[k : k + 1] for n in chains._fields if n != "step_sizes"},
            step_sizes=type(chains.step_sizes)(*(x[k : k + 1] for x in chains.step_sizes)),
        )
        alone = runner.advance(one, metric, 40, target=0.8)
        assert torch.equal(alone.draws[0], together.draws[k])
        assert torch.equal(alone.chains.random[0], together.chains.random[k])


@pytest.mark.parametrize("cores", [2, 3, 9])
def test_chains_are_the_same_on_any_cores(cores: int) -> None:
    fits = [
        MCMC(progress=False, warmup=80, draws=30, chains=5, cores=n).run(scaled, seed=6)
        for n in (1, cores)
    ]
    assert torch.equal(fits[0]["x"], fits[1]["x"])
    for name, found in fits[1].stats.items():
        assert torch.equal(fits[0].stats[name], found)


def test_cores_have_whole_vectors() -> None:
    has = len(os.sched_getaffinity(0))
    assert [cores_for(n, 8) for n in (1, 4, 8)] == [1, 1, 1]
    assert cores_for(16 * has, 16) == has == cores_for(10_000, 4)


def test_pieces_make_the_whole() -> None:
    runner, metric = engine("correlated", 6), Metric.diagonal(f([1.0, 1.0]))
    chains = chains_at("correlated", starts(3), torch.full((3,), 0.3))
    whole = runner.advance(chains, metric, 30, target=0.8)
    first = runner.advance(chains, metric, 7, target=0.8)
    second = runner.advance(first.chains, metric, 23, target=0.8)
    assert torch.equal(torch.cat([first.draws, second.draws], 1), whole.draws)
    for one, other in zip(second.chains, whole.chains, strict=True):
        pairs = zip(one, other, strict=True) if isinstance(one, tuple) else [(one, other)]
        assert all(torch.equal(*pair) for pair in pairs)


def test_chains_of_other_seeds_differ_and_the_given_ones_are_left_alone() -> None:
    runner, metric = engine("correlated", 6), Metric.diagonal(f([1.0, 1.0]))
    chains = chains_at("correlated", starts(1).expand(3, 2).clone(), torch.full((3,), 0.3))
    before = chains.position.clone()
    draws = runner.advance(chains, metric, 20).draws
    assert torch.equal(chains.position, before)
    assert len(torch.unique(draws[:, -1], dim=0)) == 3


@pytest.mark.parametrize("warmup", [0, 1, 2, 5, 10, 19, 20, 60, 150, 1000, 5000])
def test_windows_fill_warm_up(warmup: int) -> None:
    lengths = windows(warmup)
    assert sum(lengths) == warmup and all(n > 0 for n in lengths)
    if warmup >= 500:
        assert lengths[0] == 10 and lengths[-1] == 50 and lengths[:-1] == sorted(lengths[:-1])


def test_the_metric_of_a_normal_law_is_exact_from_any_draws() -> None:
    scales = f([0.01, 1.0, 40.0])
    draws = torch.randn(2, 9, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    draws = draws * f([1e-3, 2.0, 3.0]) + f([5.0, 0.0, -1.0])  # not yet where the law is
    gradients = -draws / scales.square()
    found = learnt_root_mass(draws, gradients, torch.ones(3))
    torch.testing.assert_close(found, scales, rtol=1e-12, atol=0.0)
    spread = draws.flatten(0, 1).std(0)  # negative control: the draws alone do not tell
    assert not torch.isclose(spread, scales, rtol=0.2).any()


def test_a_correlated_normal_law_becomes_round() -> None:
    """One direction of variance 25, one of 1/25, in coordinates of other scales."""
    axes = torch.linalg.qr(f([[1.0, 2.0, 0.5], [0.0, 1.0, -1.0], [1.0, 0.0, 3.0]]))[0]
    scales = f([0.1, 1.0, 10.0])
    covariance = scales[:, None] * (axes * f([25.0, 1.0, 0.04]) @ axes.mT) * scales
    draws = torch.randn(4, 50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    draws = draws * scales  # not the law itself
    gradients = -draws @ torch.linalg.inv(covariance)
    metric = learnt_metric(draws, gradients, torch.ones(3), 0.5)
    stretched = torch.eye(3) + metric.directions.mT * metric.stretch @ metric.directions
    whitening = torch.linalg.inv(torch.diag(metric.root) @ stretched)
    left = torch.linalg.eigvalsh(whitening @ covariance @ whitening.mT)
    assert float(left.min()) > 1 / 16.1 and float(left.max()) < 16.1
    diagonal = torch.linalg.eigvalsh(covariance / metric.root / metric.root[:, None])
    assert float(diagonal.max() / diagonal.min()) > 50  # negative control: the diagonal alone
    assert len(metric.stretch) >= 1
    few = learnt_metric(draws[:1, :20], gradients[:1, :20], torch.ones(3), 0.5)
    early = learnt_metric(draws, gradients, torch.ones(3), 0.02)
    assert len(few.stretch) == len(early.stretch) == 0


def test_a_chain_that_does_not_move_says_nothing() -> None:
    scales = f([0.1, 3.0])
    moving = torch.randn(1, 20, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    stuck = torch.full((1, 20, 2), 1e6, dtype=torch.float64)
    draws = torch.cat([moving, stuck])
    gradients = torch.cat([-moving / scales.square(), torch.full_like(stuck, 1e9)])
    found = learnt_root_mass(draws, gradients, torch.ones(2))
    torch.testing.assert_close(found, scales, rtol=1e-6, atol=0.0)
    before = f([7.0, 8.0])
    assert torch.equal(learnt_root_mass(stuck, gradients[1:], before), before)


def test_the_first_metric_takes_gradients_for_reciprocal_scales() -> None:
    gradients = f([[2.0, -1e30, 0.0], [-6.0, 1e30, 0.0]])
    assert first_root_mass(gradients).tolist() == pytest.approx([0.5, 1e-5, 1.0])


def test_the_step_size_that_is_settled_on_is_the_median() -> None:
    sizes = step_sizes(f([1.0, 1.0, 1.0]))._replace(log_average=f([1e-9, 0.2, 0.3]).log())
    assert settled(sizes).tolist() == pytest.approx([0.2] * 3)


def test_stranded_chains_are_where_there_is_no_mass() -> None:
    """Not where a density is low, but holds in a wide place what others hold in a narrow one."""
    g = torch.Generator().manual_seed(0)
    z = torch.randn(4, 200, 3, generator=g, dtype=torch.float64)
    sd = f([1.0, 1.0, 1e-9, 1.0])[:, None, None]
    lp = -0.5 * z.square().sum(-1) - 3 * sd[..., 0].log()
    assert stranded(z * sd, lp).tolist() == [False] * 4
    lower = lp - f([0.0, 10.0, 0.0, 40.0])[:, None]
    assert stranded(z * sd, lower).tolist() == [False, False, False, True]
    still = z.clone()
    still[1] = 0.3
    assert stranded(still, lp).tolist()[1]
    assert not stranded(torch.zeros_like(z), lp).any()  # nothing is better than nothing
    assert not stranded((z * sd)[:, :6], lower[:, :6]).any()  # six draws tell no volume


def test_modes_of_other_shapes_are_left_alone() -> None:
    """Half of the mass in one of 20 coordinates on their own, half where they are correlated."""
    g = torch.Generator().manual_seed(0)
    z = torch.randn(6, 400, 20, generator=g, dtype=torch.float64)
    covariance = torch.full((20, 20), 0.99).fill_diagonal_(1.0).double()
    root = torch.linalg.cholesky(covariance)
    draws = torch.cat([z[:3], z[3:] @ root.mT])
    lp = -0.5 * z.square().sum(-1)
    lp[3:] -= root.diagonal().log().sum()
    assert float(lp[3:].mean() - lp[:3].mean()) > 40.0
    assert not stranded(draws, lp).any()
    lp[0] -= 200.0
    assert stranded(draws, lp).tolist() == [True] + [False] * 5


@program
def two_modes(log_share: Tensor) -> None:
    x = sample("x", dist.Normal(torch.zeros(2), 3.0).to_event(1))
    left, right = (dist.Normal(m, 0.02).log_prob(x[0]) for m in (-1.2, 1.2))
    factor("modes", torch.logaddexp(left, right + log_share))


@pytest.mark.parametrize(("log_share", "moved"), [(0.0, False), (-3.0, False), (-60.0, True)])
def test_a_chain_in_a_mode_without_mass_is_moved(log_share: float, moved: bool) -> None:
    fit = MCMC(progress=False, chains=6, warmup=300, draws=20).run(two_modes, f(log_share), seed=0)
    right = (fit["x"][..., 0] > 0).any(1)
    assert bool(right.any()) is not moved
    assert any("warm-up moved chain" in warning for warning in fit.warnings()) is moved


@program
def scaled() -> None:
    with plate("coordinate", 4):
        sample("x", dist.Normal(f([0.0, 1.0, -5.0, 100.0]), f([1e-3, 1.0, 20.0, 5.0])))


@program
def ridge() -> None:
    x = sample("x", dist.Normal(torch.zeros(2), f([1.0, 1.0])).to_event(1))
    observe("sum", dist.Normal(x.sum(), 0.01), f(0.0))


def test_a_ridge_is_stretched_and_a_run_of_it_goes_on() -> None:
    fit = MCMC(progress=False, draws=300).run(ridge, seed=1)
    assert fit.state["stretch"].numel() >= 1
    assert float(fit.stats["n_steps"].double().mean()) < 8
    more = MCMC(progress=False, draws=300).run(ridge, resume=fit)
    assert more["x"].shape == (4, 600, 2)
    assert float(more.stats["n_steps"][:, 300:].double().mean()) < 8
    spread = float((more["x"][..., 0] - more["x"][..., 1]).std())
    assert spread == pytest.approx(math.sqrt(2.0), rel=0.15)


def test_trajectories_that_are_cut_off_are_told() -> None:
    fit = MCMC(nuts(1), progress=False, warmup=50, draws=50).run(scaled, seed=0)
    assert any("cut off at max_depth=1" in warning for warning in fit.warnings())
    free = MCMC(progress=False, warmup=200, draws=50).run(scaled, seed=0)
    assert not any("cut off" in warning for warning in free.warnings())


def test_warm_up_reports_what_it_did() -> None:
    fit = MCMC(progress=False, warmup=300, draws=20).run(ridge, seed=1)
    assert len(fit.report) == len(windows(300))
    ends = [int(line.split()[0]) for line in fit.report]
    assert ends == list(itertools.accumulate(windows(300)))
    assert "diagonal metric and" in fit.report[-1] and "directions" in fit.report[-1]
    step = float(fit.report[-1].split("step size ")[1].split(",")[0])
    assert step == pytest.approx(float(fit.stats["step_size"][0, 0]), rel=1e-2)
    assert MCMC(progress=False, warmup=0, draws=5).run(ridge).report == ()


@pytest.mark.parametrize("target", [0.7, 0.85, 0.95])
def test_the_acceptance_aimed_at_is_reached(target: float) -> None:
    fit = MCMC(target=target, progress=False, draws=500).run(scaled, seed=3)
    rate = float(fit.stats["acceptance_rate"].mean())
    assert abs(rate - target) < 0.07
    assert not bool(fit.stats["diverging"].any())


@program
def pair() -> None:
    covariance = torch.eye(6)
    covariance[0, 1] = covariance[1, 0] = 0.99
    sample("x", dist.MultivariateNormal(torch.zeros(6), covariance))


def test_the_form_of_the_metric() -> None:
    fits = {
        form: MCMC(progress=False, draws=200, warmup=300, metric=form).run(pair, seed=1)
        for form in ("auto", "diagonal", "dense")
    }
    d = fits["auto"].state["position"].shape[1]
    found = {form: len(fit.state.get("stretch", ())) for form, fit in fits.items()}
    assert found["diagonal"] == 0 < found["auto"] < d == found["dense"]
    steps = {form: float(fit.stats["n_steps"].double().mean()) for form, fit in fits.items()}
    assert steps["dense"] < steps["diagonal"]
    with pytest.raises(ValueError, match="compiled NUTS alone"):
        MCMC(progress=False, metric="dense", compiled=False).run(ridge)
    with pytest.raises(ValueError, match="metric is one of"):
        MCMC(metric="full")  # type: ignore[arg-type]


@program
def neck() -> None:
    """A funnel: its neck is narrower than steps that suit its mouth."""
    v = sample("v", dist.Normal(0.0, 2.5))
    sample("x", dist.Normal(torch.zeros(6), (v / 2).exp()).to_event(1))


def test_the_target_is_raised_where_transitions_diverge() -> None:
    """And nowhere else, and not if one is given."""
    fit = MCMC(progress=False).run(neck, seed=1)
    calm = MCMC(progress=False).run(scaled, seed=3)
    given = MCMC(progress=False, target=0.85).run(neck, seed=1)
    raised = [i for i, line in enumerate(fit.report) if "target 0.95" in line]
    ends = [int(line.split()[0]) for line in fit.report]
    assert raised and min(ends[i] for i in raised) > 400 and raised[-1] == len(ends) - 1
    assert not any("target" in line for line in (*calm.report, *given.report))
    assert 2 * fit.divergences < given.divergences
    assert float(fit.stats["acceptance_rate"].mean()) > 0.9


def test_a_normal_law_is_sampled() -> None:
    """Means and variances within 5 standard errors of what is exact: a level of 6e-7 for each."""
    fit = MCMC(progress=False, draws=2000).run(scaled, seed=4)
    x = (fit["x"] - f([0.0, 1.0, -5.0, 100.0])) / f([1e-3, 1.0, 20.0, 5.0])
    blocks = x.reshape(4 * 20, 100, 4)
    for statistic, exact in ((blocks.mean(1), 0.0), (blocks.square().mean(1), 1.0)):
        error = statistic.std(0) / math.sqrt(len(statistic))
        assert bool(((statistic.mean(0) - exact).abs() < 5 * error).all())


def test_fits_do_not_depend_on_how_often_a_run_is_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    draws = []
    for piece in (1e-9, 10.0):
        monkeypatch.setattr(Engine, "piece", piece)
        fit = MCMC(progress=False, warmup=60, draws=30, chains=3).run(scaled, seed=5)
        draws.append(fit["x"])
    assert torch.equal(*draws)


# ---------------------------------------------------------------------------------------- thinning


def test_a_thinned_run_is_the_run_with_what_was_told_of_it() -> None:
    every = MCMC(progress=False, warmup=60, draws=150, thin=1).run(ridge, seed=2)
    third = MCMC(progress=False, warmup=60, draws=50, thin=3).run(ridge, seed=2)
    assert torch.equal(third["x"], every["x"][:, 2::3])
    steps, depth, rate, diverging = (
        every.stats[name].unflatten(1, (50, 3))
        for name in ("n_steps", "tree_depth", "acceptance_rate", "diverging")
    )
    assert torch.equal(third.stats["n_steps"], steps.sum(-1))
    assert torch.equal(third.stats["tree_depth"], depth.amax(-1))
    assert torch.equal(third.stats["diverging"], diverging.any(-1))
    torch.testing.assert_close(third.stats["acceptance_rate"], rate.mean(-1))
    assert torch.equal(third.stats["lp"], every.stats["lp"][:, 2::3])


@program
def slow() -> None:
    """A funnel: chains go slowly in and out of its neck."""
    v = sample("v", dist.Normal(f(0.0), 2.0))
    sample("x", dist.Normal(torch.zeros(3), (v / 2).exp()).to_event(1))


def test_draws_that_are_not_enough_are_thinned() -> None:
    found = MCMC(progress=False, draws=400).run(slow, seed=0)
    once = MCMC(progress=False, draws=400, thin=1).run(slow, seed=0)
    assert not sampling.enough(torch.cat([once["v"][..., None], once["x"]], -1))
    by = [k for k in (2, 4, 8) if torch.equal(found["v"], fit_by(slow, k)["v"])]
    assert len(by) == 1
    easy = MCMC(progress=False, draws=1000).run(scaled, seed=0)
    assert torch.equal(easy["x"], MCMC(progress=False, draws=1000, thin=1).run(scaled)["x"])


def fit_by(p: Any, thin: int, draws: int = 400) -> Any:
    return MCMC(progress=False, draws=draws, thin=thin).run(p, seed=0)


@pytest.mark.parametrize(("thin", "draws"), [(1, 400), (None, 401)])
def test_a_run_goes_on_from_wherever_it_was_kept(
    thin: int | None, draws: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also from the end of a window of warm-up, which is kept after it was learnt from."""
    monkeypatch.setattr(Engine, "piece", 1e-3)
    driver = MCMC(progress=False, warmup=60, draws=draws, chains=2, thin=thin)
    kept = list[dict[str, Any]]()
    monkeypatch.setattr(Store, "offer", lambda self, make: kept.append(make()))
    whole = driver.run(slow, seed=0, checkpoint=tmp_path / "seen")
    monkeypatch.undo()
    ends = list(itertools.accumulate(windows(60)))
    at_ends = [c for c in kept if c["done"] in ends]
    assert {c["done"] for c in at_ends} == set(ends)
    made = Store.__init__
    between = [c for c in kept if c["done"] in (60 + draws, 61 + draws)]  # where thinning begins
    for content in [*at_ends, *between, *kept[:: max(1, len(kept) // 6)]]:

        def restored(self: Store, *args: Any, content: dict[str, Any] = content) -> None:
            made(self, *args)
            self.content = content

        monkeypatch.setattr(Store, "__init__", restored)
        again = driver.run(slow, seed=0)
        monkeypatch.undo()
        assert torch.equal(again["v"], whole["v"]), content["done"]
        assert again.report == whole.report


@pytest.mark.parametrize("draws", [401, 403])
def test_odd_numbers_of_draws_are_all_there(draws: int) -> None:
    fit = MCMC(progress=False, draws=draws).run(slow, seed=0)
    assert fit["v"].shape == (4, draws)
    by = [k for k in (2, 4, 8) if torch.equal(fit["v"], fit_by(slow, k, draws)["v"])]
    assert len(by) == 1


def test_chains_far_apart_are_not_waited_for() -> None:
    x = torch.randn(4, 500, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert sampling.enough(x)
    drifting = x + 0.3 * torch.randn(4, 1, 2, generator=torch.Generator().manual_seed(1))
    assert not sampling.enough(drifting)
    assert sampling.enough(x + 10.0 * torch.arange(4.0)[:, None, None])
    assert sampling.enough(drifting[:, :300])  # of so few draws little can be told


def test_other_kernels_are_thinned_and_those_on_traces_refuse() -> None:
    every = MCMC(mala(), progress=False, warmup=20, draws=40, thin=1).run(scaled, seed=2)
    third = MCMC(mala(), progress=False, warmup=20, draws=13, thin=3).run(scaled, seed=2)
    assert torch.equal(third["x"], every["x"][:, 2:39:3])
    with pytest.raises(ValueError, match="not thinned"):
        MCMC(single_site(), progress=False, thin=2).run(scaled)


@program
def wide(y: Tensor) -> None:
    loc = sample("loc", dist.Normal(torch.zeros(3), 10.0).to_event(1))
    with plate("data", len(y)):
        sample("y", dist.MultivariateNormal(loc, torch.eye(3)))


def test_interrupted_in_warm_up_and_after(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was drawn is kept, and the fit says that it was stopped."""
    y = torch.randn(5, 3, generator=torch.Generator().manual_seed(2))
    p = condition(wide, {"y": y})
    monkeypatch.setattr(Engine, "piece", 1e-9)
    for stop, kept in ((10, 0), (45, 9)):  # the first piece is of five transitions
        calls = 0

        def interrupt(self: Any, *args: Any, stop: int = stop, **kwargs: Any) -> None:
            nonlocal calls
            calls += 1
            if calls == stop:
                raise KeyboardInterrupt

        monkeypatch.setattr("pushforward.inference.runs.progress.Progress.advance", interrupt)
        fit = MCMC(progress=False, warmup=40, draws=20).run(p, y, seed=0)
        assert fit.interrupted and fit["loc"].shape == (4, kept, 3)


def test_ctrl_c_is_heard_while_the_engine_runs() -> None:
    runner, metric = engine("banana", 10), Metric.diagonal(f([1.0, 1.0]))
    chains = chains_at("banana", starts(4), torch.full((4,), 0.01))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # not ignored, as in a job
    try:
        for cores in (1, 2):
            threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
            with pytest.raises(KeyboardInterrupt):
                replace(runner, cores=cores).advance(chains, metric, 1_000_000)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_two_threads_draw_what_each_draws_alone() -> None:
    def run(seed: int) -> Tensor:
        return MCMC(progress=False, warmup=50, draws=20).run(scaled, seed=seed)["x"]

    alone = [run(seed) for seed in (1, 2)]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(run, (1, 2)))
    assert all(map(torch.equal, alone, together))


def test_in_float32() -> None:
    def model() -> None:
        sample("x", dist.Normal(torch.zeros(2), torch.tensor([1.0, 3.0])).to_event(1))

    fit = MCMC(nuts(5), progress=False, warmup=100, draws=200, dtype=torch.float32).run(model)
    assert fit["x"].dtype == torch.float32
    assert fit["x"].flatten(0, 1).std(0).tolist() == pytest.approx([1.0, 3.0], rel=0.25)
