"""The flat real vector of a program's latents: where each lies in it, and what it stands for."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions.constraints import Constraint
from torch.distributions.transforms import Transform
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from ..errors import DataError, SupportError, located
from ..types.bijections import PlaneToCircle, bijection, log_abs_det, unsupported


@dataclass(frozen=True)
class Block:
    """The place of one site in the flat vector: entries ``start`` to ``stop``."""

    name: str
    shape: torch.Size
    free_shape: torch.Size
    dtype: torch.dtype
    constraint: Constraint
    transform: Transform
    start: int
    stop: int


class Layout:
    """A bijection between flat real vectors [d] and dicts of constrained values.

    ``sites`` maps each name to (constraint, shape of the constrained value, dtype); the vector
    holds them in that order, in the widest of their dtypes.  Angles in the sites of ``turning`` are
    the directions of points of the plane, whose distances from the origin are further coordinates.
    """

    def __init__(
        self,
        sites: Mapping[str, tuple[Constraint, Sequence[int], torch.dtype]],
        turning: Collection[str] = (),
    ) -> None:
        blocks, start, dtype = [], 0, torch.float32 if sites else torch.get_default_dtype()
        for name, (constraint, shape, site_dtype) in sites.items():
            if not site_dtype.is_floating_point:
                raise unsupported(f"{site_dtype} cannot be unconstrained", name, "use floats")
            own = PlaneToCircle() if name in turning else None
            transform = own or bijection(constraint, name, site_dtype)
            shape = torch.Size(shape)
            free_shape = transform.inverse_shape(shape)  # type: ignore[no-untyped-call]
            if transform.forward_shape(free_shape) != shape:  # type: ignore[no-untyped-call]
                raise DataError(located(f"{list(shape)} does not fit {constraint}", site=name))
            place = start, start + free_shape.numel()
            blocks.append(Block(name, shape, free_shape, site_dtype, constraint, transform, *place))
            start, dtype = place[1], torch.promote_types(dtype, site_dtype)
        self.blocks = tuple(blocks)
        self.size: int = start
        self.dtype = dtype

    def unpack(self, u: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Split ``u`` [d] into constrained values, with log |det d values / d u| (a scalar).

        For angles that turn, the log density of their distances, over these, stands in for it.
        """
        values, log_det = {}, u.new_zeros(())
        for block in self.blocks:
            free = u[block.start : block.stop].reshape(block.free_shape).to(block.dtype)
            value = block.transform(free).to(block.dtype)
            values[block.name] = value
            log_det = log_det + log_abs_det(block.transform, free, value).sum().to(u.dtype)
        return values, log_det

    def pack(self, values: Mapping[str, Any]) -> Tensor:
        """The vector [d] that ``unpack`` sends to ``values``.

        Errors:
            DataError: a site is missing, unknown, or of another shape.
            SupportError: a value lies outside its support or on the boundary (not decided for
                values that are being traced or vmapped).
        """
        names = [block.name for block in self.blocks]
        if set(values) != set(names):
            missing, unknown = sorted(set(names) - set(values)), sorted(set(values) - set(names))
            raise DataError(located(f"sites missing: {missing}, unknown: {unknown}"))
        parts = [self._free(block, torch.as_tensor(values[block.name])) for block in self.blocks]
        return torch.cat(parts) if parts else torch.zeros(0, dtype=self.dtype)

    def _free(self, block: Block, value: Tensor) -> Tensor:
        if value.shape != block.shape:
            what = f"a value of shape {list(value.shape)} where {list(block.shape)} is needed"
            raise DataError(located(what, site=block.name))
        try:
            free: Tensor = block.transform.inv(value.to(block.dtype))
            inside = not _readable(value) or (
                bool(free.isfinite().all()) and _close(block.transform(free), value)
            )
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
            inside = False
        if not inside:
            what = f"the value {shown(value)} is not in the interior of {block.constraint}"
            raise SupportError(located(what, site=block.name))
        return free.reshape(-1).to(self.dtype)

    def coordinate_names(self) -> list[str]:
        """One name for each entry of the vector: ``tau``, ``z[3]``, ``w[1, 2]``."""
        return [
            block.name + (str(list(index)) if index else "")
            for block in self.blocks
            for index in itertools.product(*map(range, block.free_shape))
        ]

    def site_of(self, coordinate: int) -> str:
        """The site that owns entry ``coordinate`` of the vector."""
        return next(block.name for block in self.blocks if coordinate < block.stop)


def _close(actual: Tensor, wanted: Tensor) -> bool:
    """Whether two tensors agree to half of the digits of their dtype, on the scale of the whole."""
    scale = wanted.abs().amax().clamp(min=1.0) if wanted.numel() else 1.0
    return bool(((actual - wanted).abs() <= scale * torch.finfo(actual.dtype).eps ** 0.5).all())


def _readable(tensor: Tensor) -> bool:
    """Whether Python may look at the values of ``tensor``: it is not abstract, lane or proxy."""
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor(tensor)
    return not (wrapped or tensor.is_meta or get_proxy_mode() is not None)


def shown(value: Tensor) -> str:
    """At most four entries of a tensor, for messages."""
    entries = ", ".join(f"{x:.4g}" for x in value.flatten()[:4].tolist())
    return entries if value.ndim == 0 else f"[{entries}{', ...' if value.numel() > 4 else ''}]"
