"""How far a step may go before the series of a softmax loss stops converging; a step controller.

Along a step the logits are z + a t to first order, and the partition function, the sum over k of
exp(z_k + a_k t), has zeros at complex t.  None is nearer than pi / (max a - min a): the ratio of a
step is its length over that, (max a - min a) / pi with a the change of logits by the whole step.

Source: Sao, Ghosts of Softmax: Complex Singularities That Limit Safe Step Sizes in Cross-Entropy
(arXiv 2603.13552).  Networks that are not analytic, as with ReLU, are outside of the theory.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from ...kernels.precision import as_given
from .zeros import nearest_radius

Tree = dict[str, Tensor]
NEGLIGIBLE = 1e-12  # a spread of logits that counts as none
MOST = 64  # classes for which zeros are searched


class RadiusInfo(NamedTuple):
    """The radius ``rho`` of a direction, the spread ``delta_a`` of the change of logits, the
    ``ratio`` of the step to the radius, and the sample ``argmax`` that sets them."""

    rho: Tensor
    delta_a: Tensor
    ratio: Tensor
    argmax: Tensor


def partition_radius(z: Tensor, a: Tensor, exact: bool = False) -> Tensor:
    """The distance [...] of zero from the zeros of sum_k exp(z_k + a_k t), or a lower bound of it.

    A class whose logit is -inf has no mass, whatever its a; where one class is left there are no
    zeros, and the distance is inf.

    Args:
        z, a: [..., k], of k >= 2 classes.
        exact: for two classes the closed form; for more, zeros are counted in circles until the
            nearest is found, which takes milliseconds for each sample.  Otherwise
            pi / (max a - min a).

    Errors:
        ValueError: fewer than two classes, or more than 64 for the exact radius.
        TypeError: z or a holds integers.
    """
    if not (z.is_floating_point() and a.is_floating_point()):
        raise TypeError(f"logits are floating point numbers, not {z.dtype}, {a.dtype}")
    if z.shape != a.shape or z.ndim == 0 or z.shape[-1] < 2:
        raise ValueError(f"[..., k] with k >= 2 is expected: {list(z.shape)}, {list(a.shape)}")
    spread = _spread(a, z == -math.inf)
    still = spread < NEGLIGIBLE
    safe = torch.where(still, torch.ones_like(spread), spread)
    if not exact:
        return torch.where(still, math.inf, math.pi / safe)
    if z.shape[-1] == 2:
        margin = torch.where(still, 0.0, z[..., 0] - z[..., 1])
        return torch.where(still, math.inf, (margin.square() + math.pi**2).sqrt() / safe)
    if z.shape[-1] > MOST:
        raise ValueError(f"the exact radius is for at most {MOST} classes, not {z.shape[-1]}")
    size = z.shape[-1]
    rows = zip(z.double().reshape(-1, size), a.double().reshape(-1, size), strict=True)
    radii = torch.stack([_row_radius(one, other) for one, other in rows])
    return radii.to(z.dtype).reshape(spread.shape)


def _spread(a: Tensor, massless: Tensor) -> Tensor:
    """max a - min a [...] over the classes that have mass; zero where there are none."""
    greatest = a.masked_fill(massless, -math.inf).amax(-1)
    least = a.masked_fill(massless, math.inf).amin(-1)
    return torch.where(massless.all(-1), 0.0, greatest - least)


def _row_radius(z: Tensor, a: Tensor) -> Tensor:
    """Of one partition function."""
    z, a = z[z != -math.inf], a[z != -math.inf]
    if not bool(z.isfinite().all() & a.isfinite().all()):
        return z.new_tensor(math.nan)
    if len(a) < 2 or bool(a.max() - a.min() < NEGLIGIBLE):
        return z.new_tensor(math.inf)
    return nearest_radius(z, a)


def _delta(change: Tensor, logits: Tensor) -> Tensor:
    """The spread [samples] of changes of logits [..., k]; sigmoids have [..., 1]."""
    if change.shape[-1] == 1:
        return torch.where(logits.isinf(), 0.0, change.abs()).flatten()
    return _spread(change, logits == -math.inf).flatten()


def softmax_radius(
    logit_fn: Callable[[Tree], Tensor],
    params: Tree,
    direction: Tree,
    *,
    reduction: Literal["max", "none", "quantile"] = "max",
    q: float = 1.0,
    method: Literal["jvp", "fd"] = "jvp",
) -> RadiusInfo:
    """The radius of logits along a direction, and the ratio of a step of that direction to it.

    Args:
        logit_fn: logits [..., k] by the parameters; [..., 1] are those of sigmoids.  A class whose
            logit is -inf has no mass.
        params, direction: tensors by name.
        reduction: the greatest ratio over the samples, all of them, or their quantile ``q``, which
            lets outliers go beyond their radius.
        method: one Jacobian-vector product, or one more evaluation ("fd": finite differences).

    Errors:
        ValueError: the direction does not fit the parameters, or a setting is unknown.
        TypeError: a parameter holds integers.
        FloatingPointError: the change of a sample's logits is not finite.
    """
    if set(params) != set(direction):
        raise ValueError(f"directions for {sorted(set(params) ^ set(direction))} do not fit")
    for name, p in params.items():
        if not p.is_floating_point():
            raise TypeError(f"{name} holds {p.dtype}")
        if p.shape != direction[name].shape:
            raise ValueError(f"{name}: {list(p.shape)} and {list(direction[name].shape)} differ")
    if reduction not in ("max", "none", "quantile") or not 0 < q <= 1:
        raise ValueError(f"unknown reduction {reduction!r}, or q {q} not in (0, 1]")
    length = torch.stack([d.square().sum() for d in direction.values()]).sum().sqrt()
    if method not in ("jvp", "fd"):
        raise ValueError(f"the method is 'jvp' or 'fd', not {method!r}")
    with as_given(length.device):
        if method == "jvp":
            both: Any = torch.func.jvp(logit_fn, (params,), (direction,))
            logits, change = both
        else:
            h = 1e-3 / length.clamp(min=1e-12)
            moved = {name: p + h * direction[name] for name, p in params.items()}
            logits = logit_fn(params)
            change = (logit_fn(moved) - logits) / h
    deltas = _delta(change, logits)
    finite = deltas.isfinite()
    if not bool(finite.all()):
        raise FloatingPointError(f"the logits of sample {int((~finite).int().argmax())} overflow")
    where = deltas.argmax()
    if reduction == "max":
        deltas = deltas[where]
    elif reduction == "quantile":
        deltas = deltas.quantile(q)
    still = deltas < NEGLIGIBLE * length.clamp(min=1.0)
    rho = torch.where(still, math.inf, math.pi * length / torch.where(still, 1.0, deltas))
    return RadiusInfo(rho, deltas, deltas / math.pi, where)


class SoftmaxRadiusController:
    """An optimiser whose steps are shortened to a ratio to the radius of the model's softmax.

    The optimiser makes its step; the change p of the parameters is then scaled by min(1, target /
    ratio), with the ratio taken at the parameters before.  What the optimiser remembers is left as
    it is, and inside it nothing needs to be known.

    Args:
        optimizer: of the model's parameters, of any kind.
        model: gives logits [..., k]; token models [b, n, k].
        mode: "cap" shortens steps; "set" gives every step the target ratio.
        target: the ratio, at most.
        every: steps between measurements; in between the last scale is kept.
        method: of :func:`softmax_radius`.

    Errors:
        ValueError: the target or ``every`` is not positive, or the mode unknown.

    A measurement costs a Jacobian-vector product, and two copies of the parameters.  Batch
    statistics are not measured: the model is in evaluation mode meanwhile.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        model: nn.Module,
        mode: Literal["cap", "set"] = "cap",
        target: float = 1.0,
        every: int = 1,
        method: Literal["jvp", "fd"] = "jvp",
    ) -> None:
        if not target > 0 or every < 1:
            raise ValueError(f"target and every are positive: {target}, {every}")
        if mode not in ("cap", "set"):
            raise ValueError(f"the mode is 'cap' or 'set', not {mode!r}")
        self.optimizer, self.model, self.mode = optimizer, model, mode
        self.target, self.every, self.method = target, every, method
        self.steps = 0
        self.ratio = math.nan
        self.applied = math.nan
        self._scale: Tensor | None = None

    def step(self, inputs: Any, closure: Callable[[], float] | None = None) -> float | None:
        """A step; the ratio is measured on the inputs, a tensor or a tuple of arguments.

        ``ratio`` is then that of the optimiser's own step, ``applied`` that of the one made.
        """
        params = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        old = {name: p.detach().clone() for name, p in params.items()}
        loss: Any = self.optimizer.step() if closure is None else self.optimizer.step(closure)  # type: ignore[func-returns-value]
        with torch.no_grad():
            change = {name: p - old[name] for name, p in params.items()}
            if self.steps % self.every == 0 or self._scale is None:
                self._scale = self._measured(inputs, old, change)
            if self.mode == "set" or float(self._scale) != 1:
                for name, p in params.items():
                    p.copy_(old[name] + self._scale * change[name])
        self.steps += 1
        return None if loss is None else float(loss)

    def _measured(self, inputs: Any, old: Tree, change: Tree) -> Tensor:
        args = inputs if isinstance(inputs, tuple) else (inputs,)
        modes = {module: module.training for module in self.model.modules()}
        if any(isinstance(m, nn.modules.dropout._DropoutNd) and m.training for m in modes):
            warnings.warn("dropout is off while the radius is measured", stacklevel=3)
        self.model.eval()
        try:
            info = softmax_radius(
                lambda p: torch.func.functional_call(self.model, p, args),
                old,
                change,
                method=self.method,
            )
        finally:
            for module, training in modes.items():
                module.training = training
        self.ratio = float(info.ratio)
        scale = self.target / max(self.ratio, 1e-300)
        if self.mode == "cap" or self.ratio == 0:
            scale = min(1.0, scale)
        self.applied = scale * self.ratio
        return torch.tensor(scale, dtype=torch.float64).to(next(iter(old.values())))

    def zero_grad(self, set_to_none: bool = True) -> None:
        """That of the optimiser."""
        self.optimizer.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """The optimiser's, the count of steps, and the last scale."""
        scale = None if self._scale is None else float(self._scale)
        return {"optimizer": self.optimizer.state_dict(), "steps": self.steps, "scale": scale}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.steps = state["steps"]
        self._scale = None if state["scale"] is None else torch.tensor(state["scale"])
