"""A small evolution of layers, with cheap tests that throw most of them away.

Aging evolution: of a few members drawn from the population, one that no other beats on all anchor
networks has a child, and the oldest member dies.

Source: Liu, Brock, Simonyan, Le, Evolving Normalization-Activation Layers (arXiv 2004.02967);
thresholds are recalled, sizes of populations and tournaments are choices.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.progress import track
from torch import Tensor, nn

from .graph import Graph, mutate, random_graph, to_module

Make = Callable[[int], nn.Module]
Anchor = Callable[[Make], nn.Module]


@dataclass(frozen=True)
class Data:
    """Inputs and labels to train on, and to validate on."""

    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor


@dataclass(frozen=True)
class Candidate:
    """A graph and its accuracy on each anchor."""

    graph: Graph
    scores: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean accuracy."""
        return sum(self.scores) / len(self.scores)


@dataclass(frozen=True)
class Training:
    """How networks are trained: steps of Adam on random batches; channels are in ``groups``."""

    steps: int = 60
    rate: float = 1e-2
    batch: int = 64
    groups: int = 8
    seed: int = 0


def _network(graph: Graph, anchor: Anchor, how: Training) -> nn.Module:
    return anchor(lambda features: to_module(graph, features, groups=how.groups))


def accuracy(graph: Graph, anchor: Anchor, data: Data, how: Training) -> float:
    """On the validation data, after training; zero if the loss is not finite."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(how.seed)
        net = _network(graph, anchor, how)
        optimizer = torch.optim.Adam(net.parameters(), lr=how.rate)
        for _ in range(how.steps):
            rows = torch.randint(len(data.x), (how.batch,))
            loss = nn.functional.cross_entropy(net(data.x[rows]), data.y[rows])
            if not math.isfinite(float(loss.detach())):
                return 0.0
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            return float((net(data.x_test).argmax(1) == data.y_test).double().mean())


def reject_quality(
    graph: Graph,
    anchors: Sequence[Anchor],
    data: Data,
    how: Training | None = None,
    threshold: float = 0.2,
) -> bool:
    """Whether a short training (100 steps unless said otherwise) fails on some anchor."""
    short = Training(steps=100) if how is None else how
    return any(accuracy(graph, anchor, data, short) < threshold for anchor in anchors)


def reject_stability(
    graph: Graph,
    anchors: Sequence[Anchor],
    data: Data,
    steps: int = 100,
    limit: float = 1e8,
    how: Training | None = None,
) -> bool:
    """Whether weights moved to raise the norm of the loss's gradient bring it beyond a limit.

    A loss or a norm that is not finite counts as beyond it.
    """
    how = how or Training()
    return any(_explodes(graph, anchor, data, steps, limit, how) for anchor in anchors)


def _explodes(
    graph: Graph, anchor: Anchor, data: Data, steps: int, limit: float, how: Training
) -> bool:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(how.seed)
        net = _network(graph, anchor, how)
        weights = [p for p in net.parameters() if p.requires_grad]
        ascent = torch.optim.Adam(weights, lr=how.rate, maximize=True)
        for _ in range(steps):
            rows = torch.randint(len(data.x), (how.batch,))
            loss = nn.functional.cross_entropy(net(data.x[rows]), data.y[rows])
            gradients: Any = torch.autograd.grad(
                loss, weights, create_graph=True, allow_unused=True
            )
            norm = sum((g**2).sum() for g in gradients if g is not None) + torch.zeros(())
            size = (
                math.sqrt(float(norm.detach())) if math.isfinite(float(norm.detach())) else math.inf
            )
            if not size <= limit or not math.isfinite(float(loss.detach())):
                return True
            if not norm.requires_grad:
                return False
            ascent.zero_grad()
            norm.clamp(min=1e-30).log().backward()  # type: ignore[no-untyped-call]
            ascent.step()
    return False


def dominates(one: Candidate, other: Candidate) -> bool:
    """Whether one is nowhere worse and somewhere better."""
    pairs = list(zip(one.scores, other.scores, strict=True))
    return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)


def pareto_front(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those that no other dominates."""
    return [c for c in candidates if not any(dominates(other, c) for other in candidates)]


def search(
    anchors: Sequence[Anchor],
    data: Data,
    budget: int,
    seed: int = 0,
    *,
    population: int = 32,
    tournament: int = 5,
    noise: float = 0.5,
    batch_free: bool = False,
    nodes: int = 10,
    how: Training | None = None,
    quality: Training | None = None,
    stability_steps: int = 100,
    progress: bool = True,
) -> list[Candidate]:
    """Evolve layers; all that survived the tests, best first.

    An interruption by the keyboard gives what has been found so far.  At small budgets evolution
    need not do better than the random graphs that it begins with.

    Args:
        anchors: networks, made from a function that makes the layer for a number of channels.
        budget: graphs that are tried, ``population`` of them random.
        noise: how often a child is a random graph, in place of a mutation.
        batch_free: leave moments over the batch out.
        how, quality: the trainings for the score, and for the test of quality.
        stability_steps: steps of the test of stability; 0 for none.

    Errors:
        ValueError: there is no anchor, or the budget is not positive.
    """
    if not anchors or budget < 1:
        raise ValueError(f"an anchor and a budget are needed: {len(anchors)}, {budget}")
    rng = random.Random(seed)
    how = how or Training()
    alive: deque[Candidate] = deque(maxlen=population)
    found: list[Candidate] = []
    try:
        for tried in track(range(budget), "evolving layers", disable=not progress):
            if tried < population or not alive or rng.random() < noise:
                graph = random_graph(rng, batch_free, nodes)
            else:
                drawn = rng.sample(list(alive), min(tournament, len(alive)))
                graph = mutate(rng.choice(pareto_front(drawn)).graph, rng, batch_free)
            if reject_quality(graph, anchors, data, quality):
                continue
            if stability_steps and reject_stability(graph, anchors, data, stability_steps, how=how):
                continue
            scores = tuple(accuracy(graph, anchor, data, how) for anchor in anchors)
            alive.append(Candidate(graph, scores))
            found.append(alive[-1])
    except KeyboardInterrupt:
        pass
    return sorted(found, key=lambda candidate: -candidate.mean)
