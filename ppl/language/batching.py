"""Batched meaning of ``vmap``: one outer message for each inner site.

The lanes run together under ``torch.func.vmap``.  A site inside them cannot simply send its message
outward, since its tensors are abstract lanes.  So each site is one custom operation whose batching
rule runs *outside* that level of vmap, where the parameters are ordinary tensors with a lane axis:
the rule rebuilds the distribution with the lane axis as its leftmost batch dimension and sends that
message to the handlers outside.  Nested lanes nest the same way, one level at a time.  An argument
that is mapped at every level (the token) makes sure that the rule runs even if no parameter is
mapped, so that lanes never share a draw.

Data may be wider than their site, which scores all their entries.  Their further dimensions stand
between the lanes and those of the site, so that no entry is taken for a lane.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pyro.poutine.indep_messenger import CondIndepStackFrame
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import _DIM_ALLOCATOR, apply_stack
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from ..distributions.pytrees import batch, flatten
from ..distributions.subsets import Subsets
from ..distributions.validate import no_validation, spoilt
from ..errors import DataError, ProgramError, implemented, located
from ..tensors.capture import is_tracing, refusing
from .effects import Message, is_subsample, stack, whole_indices

_INSIDE = ("vmap", "loop", "call", "cond", "fix", "memo", "normalize")


def run_batched(
    fn: Callable[..., Any], args: tuple[Any, ...], mapped: tuple[bool, ...], size: int
) -> Any:
    """Run ``fn`` once per lane under ``torch.func.vmap``; tensors of the result are stacked."""
    leaves, args_spec = tree_flatten(args)
    flags = [on for arg, on in zip(args, mapped, strict=True) for _ in tree_flatten(arg)[0]]
    lane_leaves = [
        i
        for i, (leaf, on) in enumerate(zip(leaves, flags, strict=True))
        if on and isinstance(leaf, Tensor)
    ]
    result_spec: Any = None
    empty: list[int] = []

    def lane(token: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        nonlocal result_spec, empty
        inner = list(leaves)
        for i, tensor in zip(lane_leaves, tensors, strict=True):
            inner[i] = tensor
        with no_validation(), Boundary(token, size):
            result = fn(*tree_unflatten(inner, args_spec))
        outputs, result_spec = tree_flatten(result)
        empty = [i for i, output in enumerate(outputs) if output is None]
        return tuple(_as_output(output) for output in outputs if output is not None)

    token = torch.zeros(size)
    with refusing(), implemented():
        mapped_leaves = [_met(leaves[i]) for i in lane_leaves]
        outputs: list[Tensor | None] = list(torch.func.vmap(lane)(token, *mapped_leaves))
    for i in empty:
        outputs.insert(i, None)
    return tree_unflatten(outputs, result_spec)


def _met(tensor: Tensor) -> Tensor:
    """The tensor by an operation, which a trace sees; lanes are none."""
    return tensor.view_as(tensor) if is_tracing() else tensor


def _as_output(output: Any) -> Tensor:
    if isinstance(output, Tensor):
        return output
    if isinstance(output, bool | int | float):
        return torch.as_tensor(output)
    raise ProgramError(
        located(
            f"a program under vmap returned a {type(output).__name__}",
            hint="return tensors, numbers, or tuples, lists and dicts of them",
        )
    )


class Boundary(Messenger):  # type: ignore[misc]
    """The edge of a vmapped function: messages of its lanes cross it batched."""

    def __init__(self, token: Tensor, size: int) -> None:
        super().__init__()
        self.token, self.size = token, size

    def _process_message(self, msg: Message) -> None:
        if msg["type"] == "sample":
            if is_subsample(msg):
                self._cross_subsample(msg)
            else:
                self._cross(msg)
            msg["stop"] = True
        elif msg["type"] == "absorbed":
            self._ask_outside(msg)
            msg["stop"] = True
        elif msg["type"] in _INSIDE:
            msg["stop"] = True

    def _ask_outside(self, msg: Message) -> None:
        """Collect the scale, mask and plates of the handlers outside, without sending a site."""
        outer = self._context(msg)
        _require_by_lane(outer, _rank(msg))
        _merge_context(msg, outer)

    def _context(self, msg: Message) -> Message:
        """A message as it would come to the outside, without a score of its own."""
        infer = {"absorber": None, **(msg["infer"] or {})}
        outer = {**msg, "type": "absorbed", "scale": 1.0, "mask": None, "infer": infer}
        outer["done"] = True
        _outside(self, outer)
        return outer

    def _cross_subsample(self, msg: Message) -> None:
        """Every lane subsamples its plate on its own."""
        fn = msg["fn"]
        if msg["value"] is not None:
            return
        if (whole := whole_indices(msg)) is not None:
            msg["value"], msg["done"] = whole, True
            return
        if isinstance(fn, Subsets):
            fn = Subsets(fn.size, fn.k, (self.size, *fn.batch_shape))
        else:
            fn = Subsets(fn.size, fn.subsample_size, (self.size,))

        def rule(in_dims: Any, tensors: Any) -> tuple[Tensor, int]:
            outer = {**msg, "fn": fn, "infer": {}}
            _outside(self, outer)
            return outer["value"], 0

        msg["value"], msg["done"] = _Crossing.apply(rule, self.token), True

    def _cross(self, msg: Message) -> None:
        crossing = {key: msg[key] for key in ("value", "scale", "mask")}
        crossing["taken"] = msg["infer"].get("taken")
        extra = [key for key, item in crossing.items() if isinstance(item, Tensor)]
        events = len(msg["fn"].event_shape)
        site = rank = _rank(msg)
        if "value" in extra:
            rank = max(site, msg["value"].ndim - events)
        lane_fn = _padded(msg["fn"], rank)
        leaves, spec = flatten(lane_fn)
        outer: dict[str, Any] = {}

        def rule(
            in_dims: tuple[int | None, ...], tensors: tuple[Tensor, ...]
        ) -> tuple[Tensor, int]:
            if rank > site:
                _require_by_lane(self._context(msg), site)
            params, dims = tensors[: len(leaves)], in_dims[: len(leaves)]
            fn = batch(spec, list(params), list(dims), self.size)
            outer.update(msg)
            outer.update(fn=fn, scale=1.0, mask=None, infer=dict(msg["infer"] or {}))
            for key, item, dim in zip(
                extra, tensors[len(leaves) :], in_dims[len(leaves) :], strict=True
            ):
                width = rank + (events if key == "value" else 0)
                holder = outer["infer"] if key == "taken" else outer
                holder[key] = _lead(item, dim, width, self.size)
            if "scale" not in extra:
                outer["scale"] = msg["scale"]
            frame = CondIndepStackFrame(f"lanes{rank}", -rank - 1, self.size, 0)
            outer["cond_indep_stack"] = (frame, *msg["cond_indep_stack"])
            _outside(self, outer)
            _require_wide_lanes(outer)
            value = outer["value"]
            if not msg["is_observed"]:
                value = spoilt(fn, value)
            return value.expand((self.size, *value.shape[1:])), 0

        tensors = [_met(x) for x in (*leaves, *(crossing[key] for key in extra))]
        value = _Crossing.apply(rule, self.token, *tensors)
        if not msg["is_observed"]:
            msg["value"] = value
        msg["done"] = True
        self._context_after(msg, outer)

    def _context_after(self, msg: Message, outer: Message) -> None:
        """Let handlers inside see the scale and plates of those outside."""
        if not isinstance(msg["scale"], Tensor) and not isinstance(outer["scale"], Tensor):
            msg["scale"] = outer["scale"]


def _rank(msg: Message) -> int:
    """How many batch dimensions a site has in its lane, by its law and its plates."""
    return max(len(msg["fn"].batch_shape), len(_DIM_ALLOCATOR._stack))


def _require_by_lane(context: Message, rank: int) -> None:
    """Raise if a scale or mask outside has entries for lanes where these cannot be told apart."""
    for what in ("scale", "mask"):
        item = context[what]
        if isinstance(item, Tensor) and item.ndim > rank:
            shape = list(item.shape)
            raise DataError(
                located(
                    f"a {what} of shape {shape} around lanes whose scores become values, or whose"
                    " data are wider than their site",
                    site=context["name"],
                    hint=f"give each lane its {what} as an argument of vmap",
                )
            )


def _require_wide_lanes(site: Message) -> None:
    """Raise if data from outside are wider than a site of all lanes: they would shift its lanes."""
    batch, value = list(site["fn"].batch_shape), site["value"]
    if value.ndim - len(site["fn"].event_shape) > len(batch):
        raise DataError(
            located(
                f"data of shape {list(value.shape)} for a site of batch {batch} in lanes",
                site=site["name"],
                hint="put the site into a plate, or observe the data inside the lanes",
            )
        )


def _merge_context(msg: Message, outer: Message) -> None:
    msg["scale"] = msg["scale"] * outer["scale"]
    if outer["mask"] is not None:
        msg["mask"] = outer["mask"] if msg["mask"] is None else outer["mask"] & msg["mask"]
    msg["cond_indep_stack"] = outer["cond_indep_stack"]


def _outside(boundary: Boundary, message: Message) -> None:
    """Send a message to the handlers outside the boundary only."""
    handlers = stack()
    depth = handlers.index(boundary)
    inner = handlers[depth:]
    del handlers[depth:]
    try:
        apply_stack(message)  # type: ignore[arg-type]
    finally:
        handlers.extend(inner)


def _padded(distribution: Any, rank: int) -> Any:
    """Put singleton batch dimensions in front, for the plates outside to expand."""
    missing = rank - len(distribution.batch_shape)
    return (
        distribution.expand((1,) * missing + tuple(distribution.batch_shape))
        if missing
        else distribution
    )


def _lead(tensor: Tensor, dim: int | None, rank: int, size: int) -> Tensor:
    """Move the lane axis of a tensor to the front of ``rank`` further dimensions."""
    lanes = tensor.movedim(dim, 0) if dim is not None else tensor.expand(size, *tensor.shape)
    return lanes.reshape(size, *(1,) * (rank - (lanes.ndim - 1)), *lanes.shape[1:])


class _Crossing(torch.autograd.Function):
    """An operation whose batching rule is given at the call."""

    generate_vmap_rule = False

    @staticmethod
    def forward(rule: Any, token: Tensor, *tensors: Tensor) -> Tensor:
        raise RuntimeError("a lane's message left its vmap without a batched token")

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def vmap(info: Any, in_dims: Any, rule: Any, token: Tensor, *tensors: Tensor) -> Any:
        return rule(in_dims[2:], tensors)
