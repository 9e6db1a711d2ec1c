"""Which nodes of a graph keep the elements of a choice apart: never one that mixes them.

The class: values of a plate that are moved, broadcast or reduced, where another dimension has the
size of the plate.  Members are random functions of a choice; a node that is said to keep the
elements apart changes, for each element of the choice, at that element only.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
from support.moves import STEPS
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.passes.shape_prop import ShapeProp

from pushforward.inference.vi.gradients import dependence

pytestmark = pytest.mark.usefixtures("double")

# Functions of a batch [4, 4], or of [4, 4, 4], which keep that shape.
BATCHES: dict[str, Callable[[Tensor], Tensor]] = {
    **STEPS,
    "in front": lambda x: x.expand(4, *x.shape).sum(1),
    "behind": lambda x: x[..., None].expand(*x.shape, 4).sum(-1),
    "turned": lambda x: x.transpose(-1, -2) if x.ndim > 1 else x,
    "rows": lambda x: x.sum(0, keepdim=True).expand(x.shape),
    "squeezed": lambda x: x[None].squeeze(0),
    "unsqueezed": lambda x: x[None].expand(4, *x.shape)[0],
    "product": lambda x: x @ torch.ones(4, 4) if x.ndim > 1 else x,
    "sum with turned": lambda x: x + x.flip(0),
    "reshaped": lambda x: x.reshape(-1).flip(0).reshape(x.shape),
}
UNTRACED = {"lanes", "write", "in place", "filled", "filled by a view", "filled where"}


class Values(Interpreter):  # type: ignore[misc]
    """What every node of a graph computes."""

    def __init__(self, graph: GraphModule) -> None:
        super().__init__(graph)
        self.found: dict[Node, object] = {}

    def run_node(self, n: Node) -> object:
        self.found[n] = super().run_node(n)
        return self.found[n]


def values(graph: GraphModule, x: Tensor) -> dict[Node, object]:
    run = Values(graph)
    run.run(x)
    return run.found


def require_apart(graph: GraphModule, x: Tensor, rank: int) -> int:
    """Perturb each element; the number of nodes that were said to keep them apart."""
    ShapeProp(graph).propagate(x)  # type: ignore[no-untyped-call]
    choice = next(node for node in graph.graph.nodes if node.op == "placeholder")
    kept = dependence._alignments(graph, choice, rank)
    base = values(graph, x)
    apart = [node for node, each in kept.items() if each and isinstance(base[node], Tensor)]
    for index in [tuple(i.tolist()) for i in torch.ones(x.shape[:rank]).nonzero()]:
        other = x.clone()
        other[index] += 0.37
        after = values(graph, other)
        for node, before in base.items():
            if not isinstance(before, Tensor) or before is x:
                continue
            now = after[node]
            changed = (~torch.isclose(before, now, rtol=0, atol=0, equal_nan=True)).nonzero()
            assert node in kept or not len(changed), f"{node} changes, and is said not to depend"
            if node in apart:
                mine = (changed[:, :rank] == torch.tensor(index)).all(1)
                assert bool(mine.all()), f"{node} at {index} changes {changed.tolist()}"
    return len(apart)


def composed(names: list[str]) -> Callable[[Tensor], Tensor]:
    def function(x: Tensor) -> Tensor:
        for name in names:
            x = BATCHES[name](x)
        return x

    return function


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("block", range(2))
def test_what_is_kept_apart_moves_apart(block: int, rank: int) -> None:
    names, found = sorted(BATCHES.keys() - UNTRACED), 0
    for number in range(60 * block, 60 * block + 60):
        draw = random.Random(number)
        chosen = [draw.choice(names) for _ in range(draw.randint(1, 4))]
        x = torch.tensor([draw.uniform(-2, 2) for _ in range(4**rank)]).reshape((4,) * rank)

        found += require_apart(make_fx(composed(chosen))(x), x, rank)
    assert found > 60, "few members have nodes that keep elements apart"


def test_a_rule_that_takes_new_dimensions_for_old_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The negative control: what expand puts in front counts as the plate."""
    x = torch.arange(4.0)
    graph = make_fx(lambda x: x.expand(4, 4).sin())(x)
    require_apart(graph, x, 1)
    monkeypatch.setattr(dependence, "_keeps", lambda *args: True)
    with pytest.raises(AssertionError, match="changes"):
        require_apart(graph, x, 1)
