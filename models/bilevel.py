"""Ready tasks of two levels for :class:`pushforward.nn.optim.BOREP`.

Each is a :class:`pushforward.nn.optim.BilevelProblem`: the upper level sees held-out data, the
lower one is strongly convex by its ridge, as long as what it fits is linear in its parameters.

Source of the tasks: Hao, Gong, Liu, Bilevel Optimization under Unbounded Smoothness: A New
Algorithm and Convergence Analysis (arXiv 2401.09587).
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from ..nn.optim import BilevelProblem


def _require_rows(x: Tensor, y: Tensor, what: str) -> None:
    if len(x) == 0 or len(x) != len(y):
        raise ValueError(f"{what}: as many rows as targets, and one at least: {len(x)}, {len(y)}")


def _require_ridge(ridge: float) -> None:
    if not ridge > 0:
        raise ValueError(f"a positive ridge makes the lower level strongly convex, not {ridge}")


class RidgeHPO(BilevelProblem):
    """How much ridge: |X w - y|^2 / 2n + sum_j e^(lambda_j) w_j^2 / 2 below, held-out error above.

    Args:
        x, y: [n, features] and [n] to fit; x_held, y_held to judge by, with |X w - y|^2 / 2n.
        log_ridge: lambda, where it begins: one number, or one for each feature.

    Errors:
        ValueError: sizes do not fit.
    """

    def __init__(
        self, x: Tensor, y: Tensor, x_held: Tensor, y_held: Tensor, log_ridge: Tensor | float = 0.0
    ) -> None:
        _require_rows(x, y, "data")
        _require_rows(x_held, y_held, "held-out data")
        start = torch.as_tensor(log_ridge, dtype=x.dtype, device=x.device).clone()
        if start.shape not in ((), x.shape[1:]):
            raise ValueError(f"one log_ridge, or {x.shape[1]}, not {list(start.shape)}")
        self.data, self.held = (x, y), (x_held, y_held)

        def upper(above: dict[str, Tensor], below: dict[str, Tensor], batch: object) -> Tensor:
            return (x_held @ below["weight"] - y_held).square().mean() / 2

        def lower(above: dict[str, Tensor], below: dict[str, Tensor], batch: object) -> Tensor:
            w = below["weight"]
            penalty = (above["log_ridge"].exp() * w.square()).sum()
            return (x @ w - y).square().mean() / 2 + penalty / 2

        super().__init__(
            upper, lower, {"log_ridge": nn.Parameter(start)}, {"weight": x.new_zeros(x.shape[1])}
        )

    def solution(self, log_ridge: Tensor) -> Tensor:
        """w* [features], by a linear solve."""
        x, y = self.data
        ridge = log_ridge.exp().expand(x.shape[1]).diag()
        found: Tensor = torch.linalg.solve(x.T @ x / len(x) + ridge, x.T @ y / len(x))
        return found

    def value(self, log_ridge: Tensor) -> Tensor:
        """The held-out error at w*."""
        return self.upper({}, {"weight": self.solution(log_ridge)}, None)


class HyperCleaning(BilevelProblem):
    """Which labels are wrong: data weigh sigmoid(lambda_i) in a fit that is judged by clean data.

    A lower batch is a tensor of rows, or None for all of them.

    Args:
        net: a classifier, linear for the theory to hold; its parameters begin the lower level.
        x, labels: data [n, ...] and classes [n], some of them wrong.
        x_held, labels_held: clean data.
        ridge: half of it, times the squares of the parameters, is added below.

    Errors:
        ValueError: sizes do not fit, or the ridge is not positive.
    """

    def __init__(
        self,
        net: nn.Module,
        x: Tensor,
        labels: Tensor,
        x_held: Tensor,
        labels_held: Tensor,
        ridge: float = 1e-2,
    ) -> None:
        _require_rows(x, labels, "data")
        _require_rows(x_held, labels_held, "clean data")
        _require_ridge(ridge)
        self.net = copy.deepcopy(net)

        def upper(above: dict[str, Tensor], below: dict[str, Tensor], batch: object) -> Tensor:
            return F.cross_entropy(functional_call(self.net, below, (x_held,)), labels_held)

        def lower(
            above: dict[str, Tensor], below: dict[str, Tensor], rows: Tensor | None
        ) -> Tensor:
            some = torch.arange(len(x), device=x.device) if rows is None else rows
            scores = functional_call(self.net, below, (x[some],))
            losses = F.cross_entropy(scores, labels[some], reduction="none")
            squares = sum(p.square().sum() for p in below.values())
            weights = above["logits"][some].sigmoid()
            total: Tensor = (weights * losses).mean() + ridge / 2 * squares
            return total

        start = {name: p.detach().clone() for name, p in self.net.named_parameters()}
        logits = torch.zeros(len(x), dtype=next(iter(start.values())).dtype, device=x.device)
        super().__init__(upper, lower, {"logits": nn.Parameter(logits)}, start)

    @property
    def weights(self) -> Tensor:
        """What each datum weighs [n], between 0 and 1."""
        return self.x["logits"].detach().sigmoid()

    def fitted(self, y: dict[str, Tensor]) -> nn.Module:
        """The classifier with parameters of the lower level, such as ``BOREP.y``."""
        net = copy.deepcopy(self.net)
        net.load_state_dict(y, strict=False)
        return net


class HyperRepresentation(BilevelProblem):
    """Features that many tasks share: an encoder above, a linear head for each task below.

    The lower loss is a sum over tasks, so that its steps need not know how many there are; the
    upper one is a mean.  A batch of either level is a tensor of tasks, or None for all of them.

    Args:
        encoder: [n, ...] to [n, features]; those of its parameters that require
            gradients are the upper level, and change.
        x, labels: to fit the heads, [tasks, n, ...] and [tasks, n].
        x_query, labels_query: to judge the encoder by, of the same tasks.
        classes: of every task.
        ridge: half of it, times the squares of a head, is added to its loss.

    Errors:
        ValueError: sizes do not fit, or the ridge is not positive.
    """

    def __init__(
        self,
        encoder: nn.Module,
        x: Tensor,
        labels: Tensor,
        x_query: Tensor,
        labels_query: Tensor,
        classes: int,
        ridge: float = 1e-2,
    ) -> None:
        _require_rows(x, labels, "tasks")
        _require_rows(x, x_query, "tasks and their queries")
        _require_rows(x_query, labels_query, "queries")
        _require_ridge(ridge)
        self.encoder, self.classes, self.ridge = encoder, classes, ridge

        def losses(
            above: dict[str, Tensor], heads: list[Tensor], x: Tensor, labels: Tensor
        ) -> Tensor:
            """Of each task [tasks]."""
            rows = functional_call(self.encoder, above, (x.flatten(0, 1),))
            scores = rows.unflatten(0, x.shape[:2]) @ heads[0] + heads[1][:, None]
            return F.cross_entropy(scores.movedim(-1, 1), labels, reduction="none").mean(1)

        def some(tasks: Tensor | None) -> Tensor:
            return torch.arange(len(x), device=x.device) if tasks is None else tasks

        def upper(
            above: dict[str, Tensor], below: dict[str, Tensor], tasks: Tensor | None
        ) -> Tensor:
            rows = some(tasks)
            heads = [below[name][rows] for name in ("weight", "bias")]
            return losses(above, heads, x_query[rows], labels_query[rows]).mean()

        def lower(
            above: dict[str, Tensor], below: dict[str, Tensor], tasks: Tensor | None
        ) -> Tensor:
            rows = some(tasks)
            heads = [below[name][rows] for name in ("weight", "bias")]
            squares = heads[0].square().sum() + heads[1].square().sum()
            return losses(above, heads, x[rows], labels[rows]).sum() + ridge / 2 * squares

        with torch.no_grad():
            like = encoder(x[0])
        heads = {
            "weight": like.new_zeros(len(x), like.shape[-1], classes),
            "bias": like.new_zeros(len(x), classes),
        }
        named = encoder.named_parameters()
        trained: dict[str, Tensor] = {name: p for name, p in named if p.requires_grad}
        super().__init__(upper, lower, trained, heads)

    def adapt(self, x: Tensor, labels: Tensor) -> nn.Linear:
        """The head of a new task, by minimising its loss on data [n, ...] and labels [n]."""
        _require_rows(x, labels, "a task")
        with torch.no_grad():
            features = self.encoder(x)
        about = {"device": features.device, "dtype": features.dtype}
        head = nn.Linear(features.shape[-1], self.classes, **about)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        optimizer = torch.optim.LBFGS(
            head.parameters(), max_iter=200, line_search_fn="strong_wolfe"
        )

        def closure() -> Tensor:
            optimizer.zero_grad()
            squares = head.weight.square().sum() + head.bias.square().sum()
            loss = F.cross_entropy(head(features), labels) + self.ridge / 2 * squares
            loss.backward()
            return loss

        optimizer.step(closure)
        return head
