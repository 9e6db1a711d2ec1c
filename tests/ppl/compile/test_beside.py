"""Compiling in another process: graphs travel whole, and code that disagrees is not used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx import GraphModule

from pushforward.ppl.compile import beside, worker
from pushforward.ppl.compile.beside import Beside
from pushforward.ppl.compile.folding import fold
from pushforward.ppl.compile.loops import trace

TABLE = torch.linspace(-1.0, 1.0, 12).reshape(3, 4)


def draws(x: Tensor) -> tuple[Tensor, ...]:
    """Draws without inputs, which a second run of the graph's text would make constants."""
    z = torch.randn(3) + torch.empty(3).exponential_()
    return (x * z, torch.bernoulli(torch.sigmoid(x)))


def constants(x: Tensor) -> tuple[Tensor, ...]:
    return (TABLE @ torch.cat([x, x[:1]]), x.masked_fill(x > 0, float("-inf")))


def parts(x: Tensor) -> tuple[Tensor, ...]:
    low, high = torch.stack([x, 2 * x]).split(1)
    return (low.sum(dtype=torch.float64), high.argmax(-1), torch.nn.functional.logsigmoid(x))


@pytest.mark.parametrize("function", [draws, constants, parts])
def test_a_graph_is_the_same_after_its_journey(
    function: Callable[..., tuple[Tensor, ...]],
) -> None:
    import pickle

    x = torch.tensor([0.3, -0.2, 0.8])
    graph = fold(trace(function, x))
    targets = {str(n.target) for n in graph.graph.nodes if n.op == "get_attr"}
    sent = pickle.loads(pickle.dumps(worker.packed(graph)))
    made = worker.unpacked(sent, {name: getattr(graph, name) for name in targets})
    for seed in range(3):
        torch.manual_seed(seed)
        found = made(x + seed)
        torch.manual_seed(seed)
        for a, b in zip(found, graph(x + seed), strict=True):
            assert torch.equal(a, b)


def test_what_is_no_operation_is_not_sent() -> None:
    graph = torch.fx.symbolic_trace(torch.nn.Sequential(torch.nn.Linear(2, 2)))
    graph.graph.call_function(len, ([],))
    with pytest.raises(ValueError, match="no operation of torch"):
        worker.packed(graph)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> list[GraphModule]:
    """What is compiled in this process."""
    asked: list[GraphModule] = []

    def compile_graph(graph: GraphModule, *example: Tensor, **named: Any) -> Any:
        asked.append(graph)
        return graph

    monkeypatch.setattr(beside, "compile_graph", compile_graph)
    return asked


def test_the_other_process_compiles(here: list[GraphModule], double: None) -> None:
    """With the precision of this one, which draws of no stated dtype have."""
    x = torch.tensor([0.3, -0.2, 0.8])
    graph = fold(trace(draws, x))
    state = torch.get_rng_state()
    other = Beside(graph, x, random=True)
    call = other.call()
    assert torch.equal(torch.get_rng_state(), state)
    assert not here
    assert not other.job.parent.exists()
    torch.manual_seed(1)
    found = call(x)
    torch.manual_seed(1)
    torch.testing.assert_close(tuple(found), tuple(graph(x)))


@pytest.mark.parametrize(
    "broken", ["import sys; sys.exit(1)", "import os; os.kill(os.getpid(), 9)", ""]
)
def test_a_process_that_fails_is_done_without(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: list[GraphModule]
) -> None:
    file = tmp_path / "worker.py"
    file.write_text(broken)
    monkeypatch.setattr(worker, "__file__", str(file))
    graph, x = fold(trace(parts, torch.ones(3))), torch.ones(3)
    assert Beside(graph, x).call() is graph
    assert here == [graph]


def test_code_of_another_graph_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: list[GraphModule]
) -> None:
    """A seeded fault: the code adds one."""
    file = tmp_path / "worker.py"
    done = "pathlib.Path(sys.argv[1]).with_suffix('.done')"
    monkeypatch.setattr(worker, "__file__", str(file))
    x = torch.ones(3)
    graph = fold(trace(lambda x: (x + 2.0,), x))
    for shift, taken in ((2.0, True), (1.0, False)):
        code = tmp_path / f"adding_{shift}.py"  # Python keeps a file's code by its second and size
        code.write_text(f"def call(args):\n    return (args[-1] + {shift},)\n")
        file.write_text(f"import pathlib, sys\n{done}.write_text({str(code)!r})")
        here.clear()
        call = Beside(graph, x).call()
        assert (call is not graph) is taken
        assert bool(here) is not taken


def test_a_compiler_that_is_not_waited_for_is_ended() -> None:
    graph, x = fold(trace(parts, torch.ones(3))), torch.ones(3)
    other = Beside(graph, x)
    assert other.process is not None
    other.stop()
    assert other.process.poll() is not None
    assert not other.job.parent.exists()
