"""Replay at first, compiled code later: by the step's number alone, and told where they disagree.

What is compiled is stood in for by the graph that it is made from; ``test_beside.py`` compiles.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.sizes import quick
from torch import Tensor

from pushforward import dist, observe, plate, sample
from pushforward.inference import Checkpoint
from pushforward.inference.vi import (
    SVI,
    MovingAverage,
    elbo,
    objective,
    reinforce,
    reparam,
    sample_trace,
)
from pushforward.inference.vi import back_ends as module
from pushforward.ppl.compile.beside import Beside

Y = torch.tensor([1.2, 0.4, 2.1])
AFTER = 15  # steps by replay


class Pretended:
    """A compiler beside the process, which takes its time, or fails to be there."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds, self.asked = seconds, 0

    def __call__(self, graph: Any, *example: Tensor, random: bool = False) -> Any:
        def call(notify: Any = None) -> Any:
            self.asked += 1
            time.sleep(self.seconds)
            return graph

        def stop() -> None:
            self.asked -= 100

        return SimpleNamespace(call=call, stop=stop)


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Pretended]:
    def use(seconds: float = 0.0) -> Pretended:
        made = Pretended(seconds)
        monkeypatch.setattr("pushforward.inference.vi.captured.Beside", made)
        monkeypatch.setattr(
            "pushforward.inference.vi.captured.compile_graph", lambda graph, *x, **named: graph
        )
        return made

    return use


class Mixed(torch.nn.Module):
    """Two choices by their scores, apart, one with a baseline, and one along its path."""

    def __init__(self) -> None:
        super().__init__()
        self.logit = torch.nn.Parameter(torch.zeros(2))
        self.loc = torch.nn.Parameter(torch.zeros(2))
        self.average = MovingAverage()

    def model(self, y: Tensor) -> None:
        k = sample("k", dist.Bernoulli(torch.tensor(0.4)))
        x = sample("x", dist.Normal(k, 1.0))
        observe("w", dist.Normal(sample("j", dist.Bernoulli(torch.tensor(0.3))), 1.0), y[0])
        with plate("n", len(y)):
            observe("y", dist.Normal(x, 1.0), y)

    def forward(self, y: Tensor) -> None:
        one, two = self.logit
        k = sample("k", reinforce(dist.Bernoulli(logits=one), baseline=self.average))
        sample("j", reinforce(dist.Bernoulli(logits=two)))
        sample("x", reparam(dist.Normal(self.loc[k.long()], 1.0)))


def fitted(steps: int = 25, batches: Any = None, **settings: Any) -> tuple[Tensor, Mixed, Any]:
    guide = Mixed()
    optimizer = torch.optim.Adam(guide.parameters(), lr=0.05)
    about = {"replayed": AFTER, "progress": False, **settings}
    checkpoint = about.pop("checkpoint", None)
    svi = SVI(elbo(guide.model, guide), optimizer, **about)
    given = {"batches": batches} if batches is not None else {}
    args = () if batches is not None else (Y,)
    result = svi.run(*args, steps=steps, seed=5, checkpoint=checkpoint, **given)
    return result.history, guide, svi


def test_the_first_steps_are_replay_and_the_others_are_not(compiler: Any) -> None:
    """Their scores weigh less in the graph, so that the gradients differ from there on."""
    made = compiler()
    changing = fitted()[0]
    replay, graph = fitted(compiled=False)[0], fitted(replayed=0)[0]
    assert torch.equal(changing[:AFTER], replay[:AFTER])
    assert not torch.equal(changing[AFTER:], replay[AFTER:])
    assert not torch.equal(graph[:AFTER], replay[:AFTER])
    assert made.asked == 1


def test_numbers_do_not_depend_on_how_long_it_takes(compiler: Any) -> None:
    compiler()
    soon = fitted()[0]
    compiler(seconds=0.3)
    assert torch.equal(fitted()[0], soon)


def test_a_short_run_is_not_compiled(compiler: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler()
    expected = fitted(compiled=False, steps=AFTER)[0]
    monkeypatch.setattr(module, "Captured", None)
    assert torch.equal(fitted(steps=AFTER)[0], expected)
    with pytest.raises(TypeError):  # a seeded fault: one step more is
        fitted(steps=AFTER + 1)


@pytest.mark.parametrize("broken", quick(1, [AFTER, 4, AFTER - 1, AFTER + 4]))
def test_a_resumed_run_changes_at_the_same_step(compiler: Any, tmp_path: Path, broken: int) -> None:
    compiler()
    whole, guide, _ = fitted()
    file = Checkpoint(tmp_path / "run", seconds=0)

    class Breaking:
        def __iter__(self) -> Iterator[Any]:
            for i in range(10**6):
                if i == broken:
                    raise ArithmeticError
                yield (Y,)

    with pytest.raises(ArithmeticError):
        fitted(checkpoint=file, batches=Breaking())
    endless = iter(lambda: (Y,), None)
    rest, again, _ = fitted(checkpoint=file, batches=endless)
    assert torch.equal(rest, whole)
    assert torch.equal(again.loc, guide.loc)
    assert torch.equal(again.average.mean, guide.average.mean)


def test_each_kind_of_arguments_changes_for_itself(compiler: Any) -> None:
    """Batches of three and of two in turn: each kind is replayed so often."""
    made = compiler()
    batches = [(Y,), (Y[:2],)]
    changing = fitted(steps=2 * AFTER + 2, batches=batches)[0]
    replay = fitted(steps=2 * AFTER + 2, batches=batches, compiled=False)[0]
    assert torch.equal(changing[: 2 * AFTER], replay[: 2 * AFTER])
    assert made.asked == 2


def test_runs_of_one_driver_are_alike_and_compile_once(compiler: Any) -> None:
    made = compiler()
    first, guide, svi = fitted()
    with torch.no_grad():
        for x in (guide.logit, guide.loc, guide.average.mean, guide.average.weight):
            x.zero_()
    svi.optimizer.state.clear()
    assert torch.equal(svi.run(Y, steps=25, seed=5).history, first)
    assert made.asked == 1


def changing_scale(scale: list[float]) -> Any:
    """An objective that is closed over a number."""
    loc = torch.nn.Parameter(torch.zeros(()))

    def guide() -> None:
        sample("x", reparam(dist.Normal(loc, 1.0)))

    @objective
    def scaled() -> Tensor:
        return -scale[0] * (sample_trace(guide).choices["x"] - 1.0) ** 2

    return loc, scaled()


def test_what_changes_in_a_run_is_told_and_followed(compiler: Any) -> None:
    """A number that falls step by step: the graph holds the one of the trace."""
    compiler()

    def run(changes: bool, **settings: Any) -> Tensor:
        scale = [1.0]
        loc, bound = changing_scale(scale)

        class Falling:
            def __iter__(self) -> Iterator[Any]:
                while True:
                    scale[0] *= 0.97 if changes else 1.0
                    yield ()

        optimizer = torch.optim.SGD([loc], lr=0.01)
        svi = SVI(bound, optimizer, progress=False, **settings)
        return svi.run(batches=Falling(), steps=40).history

    with pytest.warns(RuntimeWarning, match="has changed since it was traced"):
        found = run(True, replayed=AFTER)
    assert torch.equal(found, run(True, compiled=False))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(False, replayed=AFTER)


def test_what_changes_between_runs_is_traced_anew(compiler: Any) -> None:
    compiler()
    scale = [1.0]
    loc, bound = changing_scale(scale)
    svi = SVI(bound, torch.optim.SGD([loc], lr=0.0), replayed=AFTER, progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before = svi.run(steps=30).history
        scale[0] = 3.0
        after = svi.run(steps=30).history
    torch.testing.assert_close(after, 3 * before)


def test_a_run_that_ends_early_ends_its_compiler(compiler: Any) -> None:
    made = compiler()

    class Ending:
        def __iter__(self) -> Iterator[Any]:
            for _ in range(AFTER - 2):
                yield (Y,)
            raise KeyboardInterrupt

    fitted(batches=Ending())
    assert made.asked == -100


# ------------------------------------------------------------------------- memory of the gradients


def sums(p: list[Tensor], x: Tensor) -> Tensor:
    return (p[0] + p[1] + p[2]).sum()


def products(p: list[Tensor], x: Tensor) -> Tensor:
    return (p[0] * x).sum() + (p[1] * x).sum() + p[2].sum() * 3


def views(p: list[Tensor], x: Tensor) -> Tensor:
    return torch.dot(torch.cat([p[0], p[1]]), torch.cat([x, x])) + (p[2].expand(4, 3)).sum()


@pytest.mark.parametrize("function", [sums, products, views])
@pytest.mark.parametrize("compiled", [False, True], ids=["replay", "graph"])
def test_gradients_have_memory_of_their_own(compiler: Any, function: Any, compiled: bool) -> None:
    """An optimiser may write into them; data and other gradients stay as they are."""
    compiler()
    parameters = [torch.nn.Parameter(torch.full((3,), 0.5)) for _ in range(3)]
    x, kept = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 2.0, 3.0])
    expected = torch.autograd.grad(function(parameters, x), parameters)

    class Writing(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            loss = closure()
            for p, g in zip(parameters, expected, strict=True):
                torch.testing.assert_close(p.grad, -g)
                p.grad.mul_(7.0).add_(1.0)
            return loss

    @objective
    def value(data: Tensor) -> Tensor:
        return function(parameters, data)

    optimizer = Writing(parameters, lr=0.0)
    svi = SVI(value(), optimizer, compiled=compiled, replayed=0, progress=False)
    svi.run(x, steps=3)
    assert torch.equal(x, kept)


@pytest.mark.slow
def test_another_process_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pretence: the run goes on by what another process has made."""
    loaded: list[Any] = []
    load = Beside._loaded

    def noted(self: Beside, process: Any) -> Any:
        loaded.append(load(self, process))
        return loaded[-1]

    monkeypatch.setattr(Beside, "_loaded", noted)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    history = fitted()[0]
    assert torch.equal(torch.get_rng_state(), state)
    assert len(loaded) == 1
    assert loaded[0] is not None
    monkeypatch.undo()
    monkeypatch.setattr(Beside, "_loaded", lambda self, process: self.graph)
    torch.testing.assert_close(fitted()[0], history, rtol=1e-4, atol=1e-4)
