"""Momentum optimisers that leave out the radial part of a step on scale-invariant weights.

Where a loss does not depend on the length of a weight, as in front of a normalisation, momentum
only makes the weight longer and the steps on the sphere shorter.  Such weights are found by a test:
their gradient is orthogonal to them.

Source: Heo et al., AdamP: Slowing Down the Slowdown for Momentum Optimizers on Scale-invariant
Weights (arXiv 2006.08217); the order of the tests, by channel and then by layer, is that of the
public code.
"""

from __future__ import annotations

import functools
import math
from abc import abstractmethod
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from ...kernels.precision import widened
from .stepping import Stepping

Mode = Literal["auto", "channel", "layer", "off"]
MODES = ("auto", "channel", "layer", "off")
VIEWS = ("none", "channel", "layer")


class Projection(NamedTuple):
    """Of weights with rows, all together: ``along`` [rows] is the share of w that is taken from the
    step, ``ratio`` [weights] that of the decay, ``view`` [weights] 0 for none, 1 for channels, 2
    for the layer, ``cosine`` [weights] the greatest in that view."""

    along: Tensor
    ratio: Tensor
    view: Tensor
    cosine: Tensor


Rows = tuple[list[Tensor], list[Tensor], list[Tensor]]


def _products(a: list[Tensor], b: list[Tensor]) -> Tensor:
    """Inner products of all rows [rows, k] of matrices; of several through one piece of memory."""
    if len(a) == 1:
        return (a[0] * b[0]).sum(1)
    memory = a[0].new_empty(max(x.numel() for x in a))
    return torch.cat(
        [
            torch.mul(x, y, out=memory[: x.numel()].view(x.shape)).sum(1)
            for x, y in zip(a, b, strict=True)
        ]
    )


def _norms(a: list[Tensor]) -> Tensor:
    return torch.cat([torch.linalg.vector_norm(x, dim=1) for x in a])


@functools.lru_cache(maxsize=256)
def _layout(
    shapes: tuple[tuple[int, int], ...], device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Which weight owns a row, and the roots of the lengths of rows and of whole weights."""
    sizes = torch.tensor(shapes, device=device)
    owner = torch.arange(len(shapes), device=device).repeat_interleave(sizes[:, 0])
    return owner, sizes[:, 1].sqrt(), sizes.prod(1).sqrt()


def _projection(
    rows: Rows,
    delta: float,
    wd_ratio: float,
    eps: float,
    mode: str,
) -> Projection:
    """Of weights, gradients and steps as rows [rows, k]; both tests are made on the device."""
    w, g, u = rows
    shapes = tuple((x.shape[0], x.shape[1]) for x in w)
    owner, root_of_row, root_of_layer = _layout(shapes, w[0].device)

    def whole(rows: Tensor) -> Tensor:
        """Sums of rows by their weights."""
        return rows.new_zeros(len(w)).index_add_(0, owner, rows)

    wg, wu, size, slope = _products(w, g), _products(w, u), _norms(w), _norms(g)
    by_row = wg.abs() / (size.clamp(min=eps) * slope.clamp(min=eps))
    row_cosine = by_row.new_zeros(len(w)).scatter_reduce_(0, owner, by_row, "amax")
    length = whole(size.square()).sqrt()
    bottom = length.clamp(min=eps) * whole(slope.square()).sqrt().clamp(min=eps)
    layer_cosine = whole(wg).abs() / bottom
    channel = row_cosine < delta / root_of_row
    layer = ~channel & (layer_cosine < delta / root_of_layer)
    if mode != "auto":
        channel = torch.full_like(channel, mode == "channel")
        layer = torch.full_like(layer, mode == "layer")
    of_row, of_layer = wu / (size + eps).square(), whole(wu) / (length + eps).square()
    along = torch.where(channel[owner], of_row, torch.where(layer, of_layer, 0.0)[owner])
    ratio = torch.where(channel | layer, wd_ratio, 1.0).to(along.dtype)
    view = channel.to(torch.int8) + 2 * layer.to(torch.int8)
    return Projection(along, ratio, view, torch.where(layer, layer_cosine, row_cosine))


@torch.no_grad()
def project_radial(
    w: Tensor,
    g: Tensor,
    u: Tensor,
    delta: float = 0.1,
    wd_ratio: float = 0.1,
    eps: float = 1e-8,
    mode: Mode = "auto",
) -> tuple[Tensor, Tensor, Tensor]:
    """The step without its radial part, the ratio of the decay, and the view that was used.

    Args:
        w, g, u: weight, gradient and proposed step of one shape, the channels first.
        delta: rows count as orthogonal if their cosine is below delta / sqrt(length).
        wd_ratio: the ratio of the decay where the step was projected.
        mode: "auto" tests rows, then the whole; "channel", "layer" and "off" say what holds.

    Returns:
        the step; the ratio; 0 for no projection, 1 by channel, 2 by layer.

    Errors:
        ValueError: there is no such mode.
    """
    if mode not in MODES:
        raise ValueError(f"the projection is one of {', '.join(MODES)}, not {mode!r}")
    if mode == "off" or w.ndim <= 1 or w.numel() == 0:
        return u, w.new_ones(()), torch.zeros((), dtype=torch.int8, device=w.device)
    matrix, gradient, move = (each.reshape(len(w), -1) for each in (w, g, u))
    found = _projection(([matrix], [gradient], [move]), delta, wd_ratio, eps, mode)
    q = move - found.along[:, None] * matrix
    return q.reshape(u.shape), found.ratio[0], found.view[0]


def _require(defaults: dict[str, Any]) -> None:
    for name, value in defaults.items():
        if name in ("lr", "delta", "wd_ratio", "weight_decay") and not value >= 0:
            raise ValueError(f"{name} is not negative, which {value} is")
    if not defaults["eps"] > 0:
        raise ValueError(f"eps is positive, which {defaults['eps']} is not")
    if defaults["projection"] not in MODES:
        what = f"the projection is one of {', '.join(MODES)}"
        raise ValueError(f"{what}, not {defaults['projection']!r}")


def _gradients(params: list[Tensor], group: dict[str, Any]) -> list[Tensor]:
    """In float32 at least, turned round to maximise."""
    given = [p.grad for p in params if p.grad is not None]
    return [widened(-g if group["maximize"] else g) for g in given]


class _Projected(Stepping):
    """What AdamP and SGDP share: a proposed step of every parameter, and its projection."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        _require(self.param_groups[-1])
        for p in self.param_groups[-1]["params"]:
            if p.is_complex():
                raise TypeError(f"the cosine of complex parameters is not defined: {p.dtype}")

    def _loaded(self, saved: Any, p: Tensor) -> Any:
        loaded = super()._loaded(saved, p)
        return widened(loaded) if isinstance(loaded, Tensor) else loaded

    def _move_all(self) -> None:
        for group in self.param_groups:
            with_grad = [p for p in group["params"] if p.grad is not None]
            if any(p.grad.is_sparse for p in with_grad):
                raise RuntimeError(f"{type(self).__name__} takes no sparse gradients")
            kinds: dict[Any, list[Tensor]] = {}
            for i, p in enumerate(with_grad):
                made = self.state[p].get("step", 0)
                kind = (p.device, p.dtype, made) if group["foreach"] is not False else i
                kinds.setdefault(kind, []).append(p)
            for params in kinds.values():
                self._step_together(params, group)

    @abstractmethod
    def _step_together(self, params: list[Tensor], group: dict[str, Any]) -> None: ...

    def _apply(
        self,
        params: list[Tensor],
        grads: list[Tensor],
        moves: list[Tensor],
        rate: float,
        decay: float,
        group: dict[str, Any],
    ) -> None:
        """w <- w (1 - decay ratio) - rate (u - along w), in float32 at least."""
        wide = [widened(p) for p in params]
        mode = group["projection"]
        seen = [i for i, w in enumerate(wide) if mode != "off" and w.ndim > 1 and w.numel()]
        others = [w for i, w in enumerate(wide) if i not in seen]
        if seen:
            factors = self._factors(params, (wide, grads, moves), seen, rate, decay, group)
            torch._foreach_mul_([wide[i] for i in seen], factors)
        if others and decay:
            torch._foreach_mul_(others, 1 - decay)
        torch._foreach_add_(wide, moves, alpha=-rate)
        for p, x in zip(params, wide, strict=True):
            if x is not p:
                p.copy_(x)

    def _factors(
        self,
        params: list[Tensor],
        all_rows: Rows,
        seen: list[int],
        rate: float,
        decay: float,
        group: dict[str, Any],
    ) -> list[Tensor]:
        """By what channels are multiplied: 1 - decay ratio + rate along."""
        axis = group["channel_axis"]
        w, g, u = ([each[i].movedim(axis, 0).flatten(1) for i in seen] for each in all_rows)
        about = (group["delta"], group["wd_ratio"], group["eps"], group["projection"])
        found = _projection((w, g, u), *about)
        kept = 1 - decay * found.ratio
        counts = [len(each) for each in w]
        owner = _layout(tuple((x.shape[0], x.shape[1]) for x in w), w[0].device)[0]
        factors = torch.add(kept[owner], found.along, alpha=rate).split(counts)
        views, cosines = found.view.unbind(), found.cosine.unbind()
        shaped = []
        for j, i in enumerate(seen):
            self.state[params[i]]["projection"] = (views[j], cosines[j])
            shape = [1] * params[i].ndim
            shape[axis] = -1
            shaped.append(factors[j].view(shape))
        return shaped

    def projection_report(self) -> dict[str, dict[str, Any]]:
        """Of each parameter ("group.index"): the view last used, its cosine, and the norm."""
        report = {}
        for i, group in enumerate(self.param_groups):
            for j, p in enumerate(group["params"]):
                view, cosine = self.state[p].get("projection", (0, math.nan))
                report[f"{i}.{j}"] = {
                    "view": VIEWS[int(view)],
                    "cosine": float(cosine),
                    "norm": float(p.detach().norm()),
                }
        return report


class AdamP(_Projected):
    """Adam with decoupled decay, and without the radial part of steps on scale-invariant weights.

    Args:
        lr, betas, eps, weight_decay, foreach, maximize: as in ``torch.optim.AdamW``, with other
            defaults; half precision is updated in float32.
        delta, wd_ratio, projection: of :func:`project_radial`.  Variational locations and scales
            are not scale-invariant: give them projection="off".
        nesterov: look one step ahead in the momentum.
        channel_axis: the dimension of the channels.

    Errors:
        ValueError: a setting is out of range.
        TypeError: a parameter is complex.
        RuntimeError: a gradient is sparse.

    A step costs four inner products more than one of AdamW; no value leaves the device.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        delta: float = 0.1,
        wd_ratio: float = 0.1,
        nesterov: bool = False,
        projection: Mode = "auto",
        channel_axis: int = 0,
        foreach: bool | None = None,
        maximize: bool = False,
    ) -> None:
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas are in [0, 1), which {betas} are not")
        defaults = {
            "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "delta": delta,
            "wd_ratio": wd_ratio, "nesterov": nesterov, "projection": projection,
            "channel_axis": channel_axis, "foreach": foreach, "maximize": maximize,
        }  # fmt: skip
        super().__init__(params, defaults)

    def _step_together(self, params: list[Tensor], group: dict[str, Any]) -> None:
        beta1, beta2 = group["betas"]
        for p in params:
            state = self.state[p]
            if "step" not in state:
                state["step"] = 0
                state["exp_avg"] = torch.zeros_like(widened(p))
                state["exp_avg_sq"] = torch.zeros_like(widened(p))
            state["step"] += 1
        grads = _gradients(params, group)
        means = [self.state[p]["exp_avg"] for p in params]
        squares = [self.state[p]["exp_avg_sq"] for p in params]
        torch._foreach_lerp_(means, grads, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, grads, grads, 1 - beta2)
        t = self.state[params[0]]["step"]
        unbiased = math.sqrt(1 - beta2**t)
        moves = torch._foreach_sqrt(squares)
        torch._foreach_add_(moves, group["eps"] * unbiased)
        torch._foreach_reciprocal_(moves)  # memory that is new costs more than a pass
        ahead = torch._foreach_lerp(means, grads, 1 - beta1) if group["nesterov"] else means
        torch._foreach_mul_(moves, ahead)
        rate = group["lr"] * unbiased / (1 - beta1**t)
        decay = group["lr"] * group["weight_decay"]
        self._apply(params, grads, list(moves), float(rate), float(decay), group)


class SGDP(_Projected):
    """SGD with momentum, without the radial part of steps on scale-invariant weights.

    The decay is decoupled, with the rate lr weight_decay / (1 - momentum) of the public code: it is
    not that of ``torch.optim.SGD``.  The first momentum is (1 - dampening) g.

    Args:
        lr, momentum, dampening, weight_decay, nesterov, foreach, maximize: as in
            ``torch.optim.SGD``.
        delta, wd_ratio, projection, eps, channel_axis: of :class:`AdamP`.

    Errors:
        ValueError: a setting is out of range; Nesterov's momentum without momentum, or dampened.
        TypeError: a parameter is complex.
        RuntimeError: a gradient is sparse.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        *,
        nesterov: bool = False,
        eps: float = 1e-8,
        delta: float = 0.1,
        wd_ratio: float = 0.1,
        projection: Mode = "auto",
        channel_axis: int = 0,
        foreach: bool | None = None,
        maximize: bool = False,
    ) -> None:
        if not 0 <= momentum < 1:
            raise ValueError(f"the momentum is in [0, 1), which {momentum} is not")
        if nesterov and (momentum == 0 or dampening != 0):
            raise ValueError("Nesterov's momentum needs momentum, and no dampening")
        defaults = {
            "lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay,
            "nesterov": nesterov, "eps": eps, "delta": delta, "wd_ratio": wd_ratio,
            "projection": projection, "channel_axis": channel_axis, "foreach": foreach,
            "maximize": maximize,
        }  # fmt: skip
        super().__init__(params, defaults)

    def _step_together(self, params: list[Tensor], group: dict[str, Any]) -> None:
        momentum, lr = group["momentum"], float(group["lr"])
        for p in params:
            state = self.state[p]
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(widened(p))
        grads = _gradients(params, group)
        buffers = [self.state[p]["momentum"] for p in params]
        torch._foreach_mul_(buffers, momentum)
        torch._foreach_add_(buffers, grads, alpha=1 - group["dampening"])
        moves = torch._foreach_add(grads, buffers, alpha=momentum) if group["nesterov"] else buffers
        decay = lr * group["weight_decay"] / (1 - momentum)
        self._apply(params, grads, list(moves), lr, decay, group)
