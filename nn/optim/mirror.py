"""Mirror descent with a hint of the next gradient, for losses that come one by one.

A round starts from xh: x minimises <hint, x> + B(x, xh) and is played; then xh minimises <g, x> +
B(x, xh) for the gradient g at x.  With the last gradient as the hint, the regret grows with the
noise of the gradients and with their drift, rather than with their size.

Source: Chen, Zhang, Tu, Zhao, Zhang, Optimistic Online Mirror Descent for Bridging Stochastic and
Adversarial Online Convex Optimization (arXiv 2302.04552).  The constants of the strongly convex,
exp-concave and dynamic rules are recalled; the entropic rule is an instance of ours.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor

from .domains import Ball, Domain, Free, PositiveOrthant, Simplex
from .stepping import Stepping

Geometry = Literal["euclidean", "entropy", "quadratic"]
Rule = Literal["convex", "strongly_convex", "exp_concave", "constant"]
Hint = Literal["last", "zero"] | Callable[[Tensor], Tensor]
ENOUGH = 1e-9  # how far a start may be from its domain


def omd_play(
    xh: Tensor, hint: Tensor, eta: Tensor | float, geometry: Geometry, domain: Domain
) -> Tensor:
    """The minimiser of <hint, x> + B(x, xh) / eta over a domain; both steps of a round are such.

    Entropy is for the simplex and the positive orthant.
    """
    if geometry == "euclidean":
        return domain.project(xh - eta * hint)
    if isinstance(domain, Simplex):
        return (xh.log() - eta * hint).softmax(-1)
    return xh * torch.exp(-eta * hint)


State = dict[str, Any]
Group = dict[str, Any]


def _by_row(group: Group) -> bool:
    """Whether every row of the last dimension is a point of its own."""
    return isinstance(group["domain"], Simplex)


def _beta(group: Group) -> float:
    bound = 1 / (4 * group["grad_bound"] * group["diameter"])
    return float(min(bound, group["exp_concavity"]) / 2)


def _begin(start: Tensor, group: Group) -> State:
    """What a learner remembers: ``xh``, the hint, the sum of gradients times their factors, and the
    step of this round with its factor."""
    domain, geometry = group["domain"], group["geometry"]
    if geometry == "entropy" and not bool((start > 0).all()):
        raise ValueError("entropic steps start from positive numbers")
    inside = domain.project(start)
    far = max(ENOUGH, 8 * torch.finfo(start.dtype).eps)
    if bool((inside - start).abs().max() > far * (1 + start.abs().max())):
        warnings.warn(f"the start is outside of {domain}, and was projected", stacklevel=4)
    one = start.sum(-1, keepdim=True) if _by_row(group) else start.sum()
    state: State = {
        "xh": inside.clone(), "start": inside.clone(), "hint": torch.zeros_like(start),
        "total": torch.zeros_like(start), "variation": torch.zeros_like(one), "round": 1,
        "greatest": 0.0,
    }  # fmt: skip
    if geometry == "quadratic":
        scale = 1 + _beta(group) * group["grad_bound"] ** 2 / 2
        state["h"] = scale * torch.eye(start.numel(), dtype=start.dtype, device=start.device)
    state["eta"], state["factor"] = _eta(state, group), float(group["lr"])
    return state


def _eta(state: State, group: Group) -> Tensor | float:
    """The step of this round by its rule, for a factor of one."""
    if group["rule"] in ("constant", "exp_concave"):
        return 1.0
    if group["rule"] == "strongly_convex":
        return float(2 / (group["strong_convexity"] * state["round"]))
    entropic = group["geometry"] == "entropy"
    size = math.sqrt(math.log(max(2, state["xh"].shape[-1]))) if entropic else group["diameter"]
    bound = state["greatest"] if group["grad_bound"] == "max" else group["grad_bound"]
    eta: Tensor = size / (group["delta"] + 4 * bound**2 + state["variation"]).sqrt()
    return eta


def _play(state: State, group: Group) -> Tensor:
    """The point of this round."""
    if group["geometry"] == "quadratic":
        return _quadratic(state["hint"], state, group)
    if group["geometry"] == "entropy" and _by_row(group):
        ahead = state["total"] + state["factor"] * state["hint"]
        played: Tensor = (state["start"].log() - state["eta"] * ahead).softmax(-1)
        return played
    about = (group["geometry"], group["domain"])
    return omd_play(state["xh"], state["hint"], state["factor"] * state["eta"], *about)


def _quadratic(gradient: Tensor, state: State, group: Group) -> Tensor:
    step = torch.linalg.solve(state["h"], gradient.flatten())
    moved = state["xh"].flatten() - state["factor"] * step
    domain = group["domain"]
    inside = domain.project_in(state["h"], moved) if isinstance(domain, Ball) else moved
    point: Tensor = inside.reshape(state["xh"].shape)
    return point


def _learn(state: State, group: Group, gradient: Tensor, next_hint: Tensor) -> None:
    """Take the gradient at the point of this round, and the hint for the next."""
    away = (gradient - state["hint"]).abs()
    if _by_row(group):
        added = away.amax(-1, keepdim=True).square()
    else:
        entropic = group["geometry"] == "entropy"
        added = away.max().square() if entropic else away.square().sum()
    state["variation"] = state["variation"] + added
    if group["grad_bound"] == "max":
        size = float(torch.linalg.vector_norm(gradient))
        state["greatest"] = max(state["greatest"], size)
    if group["geometry"] == "quadratic":
        state["xh"] = _quadratic(gradient, state, group)
        flat = gradient.flatten()
        state["h"] = state["h"] + _beta(group) / 2 * torch.outer(flat, flat)
    else:
        about = (group["geometry"], group["domain"])
        step = state["factor"] * state["eta"]
        state["xh"] = omd_play(state["xh"], gradient, step, *about)
    state["total"] = state["total"] + state["factor"] * gradient
    state["hint"] = next_hint
    state["round"] += 1
    state["eta"], state["factor"] = _eta(state, group), float(group["lr"])


def _checked(group: dict[str, Any]) -> None:
    """Complete the settings of a group.

    Errors:
        ValueError: a constant that the rule needs is missing or out of range.
    """
    domain, rule, geometry = group["domain"], group["rule"], group["geometry"]
    if geometry not in ("euclidean", "entropy", "quadratic"):
        raise ValueError(f"the geometry is euclidean, entropy or quadratic, not {geometry!r}")
    if rule not in ("convex", "strongly_convex", "exp_concave", "constant"):
        raise ValueError(f"there is no rule {rule!r}")
    if geometry == "entropy" and not isinstance(domain, Simplex | PositiveOrthant):
        raise ValueError("entropy is for the simplex and the positive orthant")
    if (rule == "exp_concave") != (geometry == "quadratic"):
        raise ValueError("the exp-concave rule and the quadratic geometry go together")
    if group["lr"] is None and rule != "constant":
        group["lr"] = 1.0
    if group["diameter"] is None and math.isfinite(domain.diameter):
        group["diameter"] = domain.diameter
    needs = {
        "convex": ("diameter", "grad_bound"),
        "strongly_convex": ("strong_convexity",),
        "exp_concave": ("diameter", "grad_bound", "exp_concavity"),
        "constant": (),
    }[rule]
    for name in (*needs, "lr"):
        if name == "grad_bound" and rule == "convex" and group[name] == "max":
            continue
        if name == "diameter" and geometry == "entropy":
            continue
        value = group[name]
        if value is None or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise ValueError(f"the rule {rule!r} needs a positive {name}, not {value}")
    if group["delta"] is None:
        known = group["smoothness"] is not None and group["diameter"] is not None
        group["delta"] = 10 * group["diameter"] ** 2 * group["smoothness"] ** 2 if known else 1.0


class OptimisticMirrorDescent(Stepping):
    """Optimistic mirror descent; each parameter is a learner, which holds its next point.

    Compute the loss at the parameters, call ``backward``, and ``step``.

    Args:
        geometry: "euclidean"; "entropy", for the simplex and the positive orthant; "quadratic", for
            the exp-concave rule.
        domain: where parameters live.
        rule: of the step: "convex" D / sqrt(delta + 4 G^2 + V) with the variation V of gradients
            about their hints, "strongly_convex" 2 / (lambda t), "exp_concave", or "constant" lr.
        lr: the constant step; with another rule a factor of its steps, for schedulers: the bounds
            are for one.  The point of a round is played before a scheduler sets the next factor.
        diameter: D, that of the domain unless given; grad_bound: G, or "max" for the greatest norm
            so far, without guarantee; smoothness, strong_convexity, exp_concavity: of the losses.
        delta: 10 D^2 L^2 where the smoothness L is known, else 1.
        hint: of the next gradient: the "last", "zero", or a function of the last.

    Errors:
        ValueError: a constant is missing, or a start cannot be used.
        FloatingPointError: a gradient is not finite; nothing has changed then.
        RuntimeError: a gradient is sparse.

    A step costs O(d), or O(d^3) for the quadratic geometry.
    """

    carried = ("exceeded",)

    def __init__(
        self,
        params: Iterable[Any],
        *,
        geometry: Geometry = "euclidean",
        domain: Domain | None = None,
        rule: Rule = "convex",
        diameter: float | None = None,
        grad_bound: float | Literal["max"] | None = None,
        smoothness: float | None = None,
        strong_convexity: float | None = None,
        exp_concavity: float | None = None,
        delta: float | None = None,
        lr: float | None = None,
        hint: Hint = "last",
    ) -> None:
        defaults = {
            "geometry": geometry, "domain": domain or Free(), "rule": rule, "diameter": diameter,
            "grad_bound": grad_bound, "smoothness": smoothness,
            "strong_convexity": strong_convexity, "exp_concavity": exp_concavity, "delta": delta,
            "lr": lr, "hint": hint,
        }  # fmt: skip
        self.exceeded = 0
        super().__init__(params, defaults)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            if group["lr"] is None:
                group["lr"] = 1.0

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        for group in self.param_groups:
            for state in (self.state[p] for p in group["params"] if p in self.state):
                if state and "factor" not in state:  # saved before sums were of scaled gradients
                    state["factor"] = float(group["lr"])
                    if group["rule"] == "constant":
                        state["total"], state["eta"] = state["factor"] * state["total"], 1.0

    @torch.no_grad()
    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        _checked(group)
        for p in group["params"]:
            if p.numel():
                self.state[p].update(_begin(p.detach(), group))
                p.copy_(_play(self.state[p], group))

    def _move_all(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None and p.numel():
                    self._require(p.grad, group)
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None and p.numel():
                    state = self.state[p]
                    _learn(state, group, p.grad.clone(), _hint(group["hint"], p.grad))
                    p.copy_(_play(state, group))

    def _require(self, gradient: Tensor, group: dict[str, Any]) -> None:
        if gradient.is_sparse:
            raise RuntimeError("OptimisticMirrorDescent takes no sparse gradients")
        if not bool(gradient.isfinite().all()):
            raise FloatingPointError("a gradient is not finite; no state has changed")
        bound = group["grad_bound"]
        if isinstance(bound, int | float):
            entropic = group["geometry"] == "entropy"
            size = gradient.abs().max() if entropic else torch.linalg.vector_norm(gradient)
            if float(size) > bound * (1 + 1e-9):
                if not self.exceeded:
                    what = f"a gradient of size {float(size):.3g} exceeds the bound {bound}"
                    warnings.warn(f"{what}: the regret bound does not hold", stacklevel=4)
                self.exceeded += 1


def _hint(hint: Hint, gradient: Tensor) -> Tensor:
    if hint == "last":
        return gradient.clone()
    if hint == "zero":
        return torch.zeros_like(gradient)
    assert callable(hint)
    return hint(gradient)


class OnlineLearner:
    """A learner that is asked for a point, and then told the gradient there.

    Args:
        start: the first point, unless the hint moves it.
        settings: of :class:`OptimisticMirrorDescent`.
    """

    def __init__(self, start: Tensor, **settings: Any) -> None:
        self._point = torch.nn.Parameter(start.detach().clone())
        self._optimizer = OptimisticMirrorDescent([self._point], **settings)
        self.rounds = 0
        self._paid = 0.0
        self._total = torch.zeros_like(start)

    def predict(self) -> Tensor:
        """The point of this round."""
        return self._point.detach().clone()

    def update(self, loss: Tensor | Callable[[Tensor], Tensor]) -> None:
        """Learn the gradient at the point of this round, or a loss, whose gradient is taken."""
        if callable(loss):
            at = self.predict().requires_grad_()
            (gradient,) = torch.autograd.grad(loss(at), at)
        else:
            gradient = loss.detach()
        self._paid += float((gradient * self._point.detach()).sum())
        self._total += gradient
        self._point.grad = gradient
        self._optimizer.step()
        self.rounds += 1

    def regret(self, comparator: Tensor) -> float:
        """Of linearised losses: sum <g_t, x_t - comparator>, no less than that of convex ones."""
        return self._paid - float((self._total * comparator).sum())


class DynamicOptimisticMD:
    """Optimistic mirror descent against comparators that move: several steps, mixed.

    Every base learner has a constant step, and all learn from one gradient a round.  They are
    weighted exponentially by their linearised losses and movements.

    Args:
        start: of all base learners.
        domain: bounded.
        grad_bound, smoothness: of the losses.
        horizon: rounds to come; without it they are doubled from 64, and learning starts anew.

    Errors:
        ValueError: the domain is not bounded, or a constant is not positive.
        FloatingPointError: a gradient is not finite.
    """

    def __init__(
        self,
        start: Tensor,
        *,
        domain: Domain,
        grad_bound: float,
        smoothness: float,
        horizon: int | None = None,
        hint: Hint = "last",
    ) -> None:
        if not math.isfinite(domain.diameter):
            raise ValueError(f"{domain} is not bounded")
        if not (grad_bound > 0 and smoothness > 0) or (horizon is not None and horizon < 1):
            raise ValueError(f"not positive: {grad_bound}, {smoothness} or {horizon}")
        self.domain, self.grad_bound, self.smoothness = domain, grad_bound, smoothness
        self.hint: Hint = hint
        self._doubling = horizon is None
        self._begin(domain.project(start.detach().clone()), horizon or 64)

    def _begin(self, start: Tensor, horizon: int) -> None:
        d, g, smooth = self.domain.diameter, self.grad_bound, self.smoothness
        steps = 0.5 * math.log2(g**2 * horizon / (8 * smooth**2 * d**2))
        count = max(2, math.ceil(steps) + 1)
        first = math.sqrt(d**2 / (8 * g**2 * horizon))
        etas = [min(1 / (8 * smooth), first * 2**i) for i in range(count)]
        self._etas = start.new_tensor(etas).reshape(-1, *(1 for _ in start.shape))
        self._bases = start.expand(count, *start.shape).clone()
        self._last = self._bases.clone()
        self._losses = start.new_zeros(count)
        self._hint_now = torch.zeros_like(start)
        self._variation, self._rounds, self._horizon = 0.0, 0, horizon
        self._play()

    def _each(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        return torch.stack([function(row) for row in x])

    def _inner(self, gradient: Tensor, x: Tensor) -> Tensor:
        products: Tensor = (gradient * x).flatten(1).sum(1)
        return products

    def _play(self) -> None:
        self._points = self._each(self.domain.project, self._bases - self._etas * self._hint_now)
        moved = (self._points - self._last).square().flatten(1).sum(1)
        self._movement = 2 * self.smoothness * moved
        eps = 1 / (self.domain.diameter * math.sqrt(4 * self.grad_bound**2 + self._variation))
        foreseen = self._inner(self._hint_now, self._points) + self._movement
        self.weights = (-eps * (self._losses + foreseen)).softmax(0)

    def predict(self) -> Tensor:
        """The point of this round."""
        point: Tensor = torch.tensordot(self.weights, self._points, 1)
        return point

    def update(self, gradient: Tensor) -> None:
        """Learn the gradient at the point of this round."""
        if not bool(gradient.isfinite().all()):
            raise FloatingPointError("a gradient is not finite; no state has changed")
        if self._doubling and self._rounds == self._horizon:
            point, hint = self.predict(), self._hint_now
            self._begin(point, 2 * self._horizon)
            self._hint_now = hint
        gradient = gradient.detach()
        self._losses = self._losses + self._inner(gradient, self._points) + self._movement
        self._variation += float((gradient - self._hint_now).square().sum())
        self._bases = self._each(self.domain.project, self._bases - self._etas * gradient)
        self._last = self._points
        self._hint_now = _hint(self.hint, gradient)
        self._rounds += 1
        self._play()
