"""Bilevel optimisation: the minimum over x of f(x, y*(x)), where y*(x) minimises g(x, y).

The hypergradient is grad_x f - grad_xy g z with grad_yy g z = grad_y f.  z takes one gradient step
on that linear system in every iteration, y some steps on g in every few, and x a normalised step of
momentum, whose length is known: y* can only move so far.

Source: Hao, Gong, Liu, Bilevel Optimization under Unbounded Smoothness: A New Algorithm and
Convergence Analysis (arXiv 2401.09587).  The constants of the refinement of the start are choices.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .second import require_second
from .smoothness import conjugate_gradients
from .stepping import Resuming

Tree = dict[str, Tensor]
Loss = Callable[[Tree, Tree, Any], Tensor]
Solver = Literal["sgd", "cg", "exact"]
REMEDY = "run recurrent layers under torch.backends.cudnn.flags(enabled=False)"


@dataclass
class BilevelProblem:
    """An ``upper`` and a ``lower`` loss of (x, y, batch), and where x and y begin, by name.

    The lower loss is strongly convex in y.

    Errors:
        ValueError: x and y share a tensor, or one of them is empty.
    """

    upper: Loss
    lower: Loss
    x: Tree
    y: Tree

    def __post_init__(self) -> None:
        if not self.x or not self.y:
            raise ValueError("both levels have parameters")
        if {id(t) for t in self.x.values()} & {id(t) for t in self.y.values()}:
            raise ValueError("the levels share a parameter")


def _leaves(tree: Tree) -> Tree:
    return {name: t.detach().requires_grad_() for name, t in tree.items()}


def _flat(tensors: Any) -> Tensor:
    return torch.cat([t.flatten() for t in tensors])


def _tree(flat: Tensor, like: Tree) -> Tree:
    parts = flat.split([t.numel() for t in like.values()])
    return {
        name: part.reshape(t.shape) for (name, t), part in zip(like.items(), parts, strict=True)
    }


def _gradients(loss: Tensor, *trees: Tree, graph: bool = False) -> list[Tensor]:
    """Flat gradients by each of the trees; zeros where the loss does not depend."""
    inputs = [t for tree in trees for t in tree.values()]
    if not loss.requires_grad:
        raise ValueError("the loss depends on no parameter")
    found = torch.autograd.grad(
        loss, inputs, create_graph=graph, materialize_grads=True, retain_graph=True
    )
    result, at = [], 0
    for tree in trees:
        result.append(_flat(found[at : at + len(tree)]))
        at += len(tree)
    return result


class _Point:
    """Losses' derivatives at (x, y) by y and those of x that are not ``frozen``; ``first`` looks
    for functions that have one only."""

    def __init__(
        self,
        problem: BilevelProblem,
        x: Tree,
        y: Tree,
        upper: Any,
        lower: Any,
        first: bool = True,
        frozen: frozenset[str] = frozenset(),
    ) -> None:
        every, self.y = _leaves(x), _leaves(y)
        self.x = {name: t for name, t in every.items() if name not in frozen}
        f = problem.upper(every, self.y, upper)
        self.value = f.detach()
        self.f_x, self.f_y = (g.detach() for g in _gradients(f, self.x, self.y))
        g = problem.lower(every, self.y, lower)
        (self.g_y,) = _gradients(g, self.y, graph=True)
        if first:
            require_second(g, self.g_y, REMEDY)
        if not self.g_y.requires_grad:
            raise ValueError("the lower loss is no curved function of y")

    def products(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """grad_xy g z and grad_yy g z."""
        try:
            cross, bent = _gradients(self.g_y @ z, self.x, self.y)
        except RuntimeError as error:
            raise RuntimeError(f"the loss has no second derivatives: {REMEDY}") from error
        return cross, bent


def _names(group: dict[str, Any]) -> list[str]:
    """Names of the parameters of a group.

    Errors:
        ValueError: one has none.
    """
    params = group["params"]
    pairs = [params] if isinstance(params, Tensor) else list(params)
    if all(isinstance(pair, tuple) for pair in pairs):
        group["params"] = pairs
        return [name for name, _ in pairs]
    raise ValueError("parameters of BOREP have names: {'params': [('name', tensor)]}")


def _solved(point: _Point, solver: str, tol: float) -> Tensor:
    """z with grad_yy g z = grad_y f."""
    if solver == "cg":
        most = 10 * len(point.f_y)
        z = conjugate_gradients(lambda v: point.products(v)[1], point.f_y, tol, most)
        if z is None:
            raise RuntimeError("negative curvature: the lower loss is not strongly convex in y")
        return z
    eye = torch.eye(len(point.f_y), dtype=point.f_y.dtype, device=point.f_y.device)
    hessian = torch.stack([point.products(row)[1] for row in eye])
    solved: Tensor = torch.linalg.solve(hessian, point.f_y)
    return solved


def hypergradient(
    problem: BilevelProblem,
    x: Tree,
    y: Tree,
    upper_batch: Any = None,
    lower_batch: Any = None,
    solver: Literal["cg", "exact"] = "cg",
    tol: float = 1e-10,
) -> tuple[Tree, Tree]:
    """The hypergradient by x, and z, at x and y = y*(x), by implicit differentiation.

    Errors:
        RuntimeError: the lower loss has negative curvature, or no second derivatives.
        ValueError: a loss depends on nothing, or the solver is unknown.
    """
    if solver not in ("cg", "exact"):
        raise ValueError(f"the solver is 'cg' or 'exact', not {solver!r}")
    point = _Point(problem, x, y, upper_batch, lower_batch)
    z = _solved(point, solver, tol)
    return _tree(point.f_x - point.products(z)[0], x), _tree(z, y)


class BOREP(Resuming):
    """Normalised momentum for x, with a lower level that is updated now and then.

    Args:
        problem: its x are the parameters; y is kept in ``y``.  An ``nn.Parameter`` that asks for no
            gradient stays.  Groups that are added have names, {"params": [("name", tensor)]}, by
            which the losses find them in x.
        lr: the length of every step of x.  Near a solution x keeps moving: let it decay.
        momentum: of hypergradients.
        lower_lr, z_lr: steps for y and z.
        period, lower_steps: how often y is updated, and with how many steps.
        ball: how far y may go in one update.
        average: take the mean of the steps of an update, as in the paper; else the last one.
        solver: of z: one step ("sgd"), or solved anew ("cg", "exact").
        normalize: else steps are lr times the momentum.
        z_first: move z before the hypergradient, as in the public code.

    Errors:
        ValueError: a setting is out of range, a group that is added lacks names or has a known
            one, or all of x is frozen.
        RuntimeError: z is not finite for a second time.

    A step costs one gradient of each loss and one product with second derivatives.
    """

    carried = (
        "problem", "lower_lr", "z_lr", "period", "lower_steps", "ball", "average", "solver",
        "normalize", "z_first",
    )  # fmt: skip

    def __init__(
        self,
        problem: BilevelProblem,
        lr: float = 1e-2,
        momentum: float = 0.9,
        *,
        lower_lr: float,
        z_lr: float,
        period: int = 2,
        lower_steps: int = 3,
        ball: float = math.inf,
        average: bool = False,
        solver: Solver = "sgd",
        normalize: bool = True,
        z_first: bool = False,
    ) -> None:
        if not (lr > 0 and lower_lr > 0 and z_lr > 0 and ball > 0) or not 0 <= momentum < 1:
            raise ValueError("steps and the ball are positive, and the momentum is in [0, 1)")
        if period < 1 or lower_steps < 1:
            raise ValueError(f"period and lower_steps are positive: {period}, {lower_steps}")
        if solver not in ("sgd", "cg", "exact"):
            raise ValueError(f"the solver is 'sgd', 'cg' or 'exact', not {solver!r}")
        super().__init__(list(problem.x.items()), {"lr": lr, "momentum": momentum})
        self.problem, self.lower_lr, self.z_lr = problem, lower_lr, z_lr
        self.period, self.lower_steps, self.ball = period, lower_steps, ball
        self.average, self.solver, self.normalize = average, solver, normalize
        self.z_first = z_first
        like_x, like_y = _flat(problem.x.values()).detach(), _flat(problem.y.values()).detach()
        self._own.update(
            y=like_y.clone(), z=torch.zeros_like(like_y), m=torch.zeros_like(like_x), step=0,
            resets=0,
        )  # fmt: skip

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        known = set(self.x)
        names = _names(param_group)
        if len(known | set(names)) < len(known) + len(names):
            what = f"parameters of BOREP have names of their own, beside {sorted(known)}"
            raise ValueError(f"{what}: {{'params': [('name', tensor)]}}")
        super().add_param_group(param_group)
        if known:
            own, added = self._own, _flat(self.param_groups[-1]["params"])
            own["m"] = torch.cat([own["m"], torch.zeros_like(added)])

    @property
    def _own(self) -> dict[str, Any]:
        """What is known of both levels; it stands with the first parameter."""
        own: dict[str, Any] = self.state[self.param_groups[0]["params"][0]]
        return own

    @property
    def x(self) -> Tree:
        """All parameters by name."""
        return {
            name: p
            for group in self.param_groups
            for name, p in zip(group["param_names"], group["params"], strict=True)
        }

    @property
    def y(self) -> Tree:
        """Where the lower level is."""
        return _tree(self._own["y"], self.problem.y)

    def _lower(
        self, start: Tensor, batches: Iterator[Any], lr: float, steps: int, ball: float
    ) -> Tensor:
        y, total = start, torch.zeros_like(start)
        for _ in range(steps):
            leaves = _leaves(_tree(y, self.problem.y))
            x = {name: t.detach() for name, t in self.x.items()}
            (slope,) = _gradients(self.problem.lower(x, leaves, next(batches)), leaves)
            away = y - lr * slope - start
            y = start + away * min(1.0, ball / max(float(away.norm()), 1e-300))
            total = total + y
        return total / steps if self.average else y

    def refine(
        self, batches: Iterator[Any], epochs: int = 4, steps: int = 10, radius: float = math.inf
    ) -> None:
        """Bring y near y*(x) before x moves.

        In every epoch the step is half as great as before, there are twice as many, and they stay
        in a ball smaller by sqrt(2) about the start of the epoch.
        """
        state = self._own
        for epoch in range(epochs):
            lr, ball = self.lower_lr / 2**epoch, radius / 2 ** (epoch / 2)
            state["y"] = self._lower(state["y"], batches, lr, steps * 2**epoch, ball)

    def step(  # type: ignore[override]
        self, upper_batch: Any = None, lower_batch: Any = None
    ) -> dict[str, float]:
        """A step of x; the upper loss, and the norms of the momentum and of the lower gradient.

        A lower batch may be a function that draws one: every step of y then has its own.
        """
        drawn = lower_batch if callable(lower_batch) else lambda: lower_batch
        state, x = self._own, self.x
        frozen = frozenset(
            name for name, p in x.items() if isinstance(p, nn.Parameter) and not p.requires_grad
        )
        if len(frozen) == len(x):
            raise ValueError("all parameters of the upper level are frozen")
        if state["step"] and state["step"] % self.period == 0:
            repeated = iter(drawn, object())
            state["y"] = self._lower(
                state["y"], repeated, self.lower_lr, self.lower_steps, self.ball
            )
        about = (self.problem, x, self.y, upper_batch, drawn())
        point = _Point(*about, first=state["step"] == 0, frozen=frozen)
        z = state["z"]
        if self.z_first or self.solver != "sgd":
            z = self._moved(point, z, point.products(z)[1])
        cross, bent = point.products(z)
        slope = point.f_x - cross
        state["z"] = z if self.z_first or self.solver != "sgd" else self._moved(point, z, bent)
        length = self._move(x, _tree(slope, point.x))
        state["step"] += 1
        lower = float(point.g_y.detach().norm())
        return {"upper": float(point.value), "momentum": length, "lower_gradient": lower}

    @torch.no_grad()
    def _move(self, x: Tree, slopes: Tree) -> float:
        """Move x along the momentum of the hypergradient, and return the length of that."""
        means = _tree(self._own["m"], x)
        for group in self.param_groups:
            momentum = group["momentum"]
            for name in slopes.keys() & set(group["param_names"]):
                means[name] = momentum * means[name] + (1 - momentum) * slopes[name]
        self._own["m"] = _flat(means.values())
        length = float(_flat(means[name] for name in slopes).norm())
        for group in self.param_groups:
            scale = group["lr"] / (length + 1e-10) if self.normalize else group["lr"]
            for name in slopes.keys() & set(group["param_names"]):
                x[name].sub_(scale * means[name])
        return length

    def _moved(self, point: _Point, z: Tensor, bent: Tensor) -> Tensor:
        new = (
            z - self.z_lr * (bent - point.f_y)
            if self.solver == "sgd"
            else _solved(point, self.solver, 1e-10)
        )
        if bool(new.isfinite().all()):
            return new
        state = self._own
        state["resets"] += 1
        if state["resets"] > 1:
            raise RuntimeError("z is not finite again: take a smaller z_lr")
        warnings.warn("z is not finite, and begins at zero again", stacklevel=3)
        return torch.zeros_like(z)
