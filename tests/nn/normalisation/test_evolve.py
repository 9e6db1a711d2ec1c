"""The search for layers: acceptance checks of arXiv 2004.02967, section on the search."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from support.digits import digits
from torch import Tensor, nn

from pushforward.nn.normalisation import EvoNorm
from pushforward.nn.normalisation.evolve import (
    Candidate,
    Data,
    Make,
    Training,
    accuracy,
    pareto_front,
    reject_quality,
    reject_stability,
    search,
)
from pushforward.nn.normalisation.graph import (
    BINARY,
    NAMED,
    Graph,
    Node,
    mutate,
    operations,
    random_graph,
    to_module,
)


def anchor(make: Make) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False), make(8),
        nn.Conv2d(8, 8, 3, 2, padding=1, bias=False), make(8),
        nn.Conv2d(8, 8, 3, padding=1, bias=False), make(8),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10),
    )  # fmt: skip


def data() -> Data:
    x, x_test, y, y_test = digits()
    return Data(x, y, x_test, y_test)


@pytest.mark.parametrize("name", NAMED)
def test_named_graphs_are_the_layers(name: Any) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 8, 4, 5, dtype=torch.float64)
    layer = EvoNorm(8, name, groups=4, dtype=torch.float64)
    graph = to_module(NAMED[name], 8, groups=4, dtype=torch.float64)
    torch.testing.assert_close(graph(x), layer(x), rtol=0, atol=1e-12)
    assert NAMED[name].batch_free == name.startswith("S")


@pytest.mark.parametrize("op", operations(batch_free=False))
def test_every_operation_is_finite_and_keeps_the_shape(op: str) -> None:
    torch.manual_seed(0)
    graph = Graph((Node(op, (0, 1) if op in BINARY else (0,)),))
    module = to_module(graph, 6, groups=3)
    for shape in ((2, 6, 3, 2), (2, 6), (1, 6, 1)):
        x = torch.randn(shape)
        out = module(x)
        assert out.shape == x.shape and bool(out.isfinite().all())
        assert bool(module(torch.zeros(shape)).isfinite().all())


def test_moments_by_hand() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 4, 5, 2, dtype=torch.float64)
    for over, dims in (("bwh", (0, 2, 3)), ("whc", (1, 2, 3)), ("wh", (2, 3))):
        for moment in ("mean", "rms", "std"):
            module = to_module(Graph((Node(f"{moment}_{over}", (0,)),)), 4, groups=2, eps=1e-300)
            expected = {
                "mean": x.mean(dims, keepdim=True),
                "rms": (x**2).mean(dims, keepdim=True).sqrt(),
                "std": x.std(dims, correction=0, keepdim=True),
            }[moment]
            torch.testing.assert_close(module.double()(x), expected.expand_as(x))


def test_graphs_stay_graphs() -> None:
    rng = random.Random(0)
    for batch_free in (True, False):
        graph = random_graph(rng, batch_free)
        for _ in range(200):
            graph = mutate(graph, rng, batch_free)
            assert len(graph.nodes) == 10
            assert graph.batch_free or not batch_free
            assert Graph.from_json(graph.to_json()) == graph
    assert str(NAMED["S0"]) == "div(mul(x, sigmoid(mul(v1, x))), std_whg(x))"
    assert "div(mul(x" in repr(to_module(NAMED["S0"], 8))


def test_mutation_changes_one_node() -> None:
    rng = random.Random(1)
    graph = random_graph(rng)
    for _ in range(50):
        changed = sum(a != b for a, b in zip(graph.nodes, mutate(graph, rng).nodes, strict=True))
        assert changed <= 1


def test_rejections() -> None:
    how = Training(steps=20)
    burst = Graph((Node("exp", (0,)), Node("exp", (4,))))
    assert reject_stability(burst, [anchor], data())
    assert not reject_stability(NAMED["S0"], [anchor], data(), steps=20)
    zero = Graph((Node("mul", (0, 1)),))
    assert reject_quality(zero, [anchor], data(), how)
    assert not reject_quality(NAMED["S0"], [anchor], data(), Training(steps=40))


def test_pareto() -> None:
    graph = NAMED["S0"]
    a, b, c, d = (Candidate(graph, s) for s in ((0.5, 0.1), (0.1, 0.5), (0.1, 0.1), (0.5, 0.1)))
    assert pareto_front([a, b, c, d]) == [a, b, d]
    assert a.mean == pytest.approx(0.3)


def test_a_short_search() -> None:
    about: dict[str, Any] = {
        "population": 4, "nodes": 3, "how": Training(steps=5), "quality": Training(steps=5),
        "stability_steps": 2, "progress": False,
    }  # fmt: skip
    found = search([anchor], data(), 10, seed=3, **about)
    again = search([anchor], data(), 10, seed=3, **about)
    assert found == again
    assert [c.mean for c in found] == sorted((c.mean for c in found), reverse=True)


def test_an_interruption_keeps_what_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def interrupted(*given: Any) -> float:
        calls.append(given)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return 0.5

    monkeypatch.setattr("pushforward.nn.normalisation.evolve.accuracy", interrupted)
    found = search([anchor], data(), 10, stability_steps=0, progress=False)
    assert [c.scores for c in found] == [(0.5,)]


class Plain(nn.ReLU):
    def __init__(self, features: int) -> None:
        super().__init__()


@pytest.mark.slow
def test_the_layer_of_the_paper_on_digits() -> None:
    """Measured .752 after 60 steps."""
    assert accuracy(NAMED["S0"], anchor, data(), Training()) >= 0.60


@pytest.mark.slow
def test_random_graphs_and_evolution() -> None:
    """The test of quality rejects 37 of 40 random graphs; a search of 70 returns the best random
    one or a better one (.839 after .800 here, in 17 seconds)."""
    rng = random.Random(0)
    quality = Training(steps=20)
    rejected = sum(
        reject_quality(random_graph(rng, nodes=6), [anchor], data(), quality) for _ in range(40)
    )
    about: dict[str, Any] = {
        "population": 40, "nodes": 6, "quality": quality, "stability_steps": 0, "progress": False,
    }  # fmt: skip
    first = search([anchor], data(), 40, **about)
    found = search([anchor], data(), 70, noise=0.0, **about)
    assert 20 <= rejected <= 40
    assert found[0].mean >= first[0].mean


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: Graph(()), "has a node"),
        (lambda: Graph((Node("cos", (0,)),)), "no operation 'cos'"),
        (lambda: Graph((Node("add", (0,)),)), "does not take 1 inputs"),
        (lambda: Graph((Node("neg", (4,)),)), "not earlier nodes"),
        (lambda: Graph.from_json('[["neg", 9]]'), "not earlier nodes"),
        (lambda: to_module(NAMED["S0"], 6, groups=4), "4 groups do not divide 6"),
        (lambda: search([], data(), 3), "an anchor and a budget"),
    ],
)
def test_bad_input(call: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        call()


def test_gradients() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    for name in ("S0", "B0"):
        module = to_module(NAMED[name], 4, groups=2, dtype=torch.float64)

        def out(x: Tensor, module: nn.Module = module) -> Any:
            return module(x)

        assert torch.autograd.gradcheck(out, x)
