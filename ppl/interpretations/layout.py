"""The flat real vector of a program's latents: where each lies in it, and what it stands for."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions.constraints import Constraint
from torch.distributions.transforms import Transform
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from ..errors import DataError, SupportError, located
from ..language.handlers import split_name
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


@dataclass(frozen=True)
class Run:
    """Blocks of one kind at equal distances in the vector, as those of a loop's steps are."""

    blocks: tuple[Block, ...]

    def free(self, u: Tensor) -> Tensor:
        """Their unconstrained values, [blocks, *free_shape]."""
        first, last, n = self.blocks[0], self.blocks[-1], len(self.blocks)
        size, shape = first.stop - first.start, (n, *first.free_shape)
        if size * n == last.stop - first.start:
            return u[first.start : last.stop].reshape(shape).to(first.dtype)
        step = self.blocks[1].start - first.start
        return u[first.start : last.stop].unfold(0, size, step).reshape(shape).to(first.dtype)

    def values(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Their values [blocks, *shape], and log |det d values / d u|."""
        block, free = self.blocks[0], self.free(u)
        value = block.transform(free).to(block.dtype)
        return value, log_abs_det(block.transform, free, value).sum().to(u.dtype)


class Values(Mapping[str, Tensor]):
    """Values by name, taken out of the runs that they are in when they are asked for.

    ``beside`` are others, which are in no run.
    """

    def __init__(
        self,
        places: Mapping[str, tuple[int, int]],
        runs: Sequence[Tensor],
        beside: Mapping[str, Tensor] | None = None,
    ) -> None:
        self._places, self._runs, self._beside = places, runs, beside or {}

    def beside(self, others: Mapping[str, Tensor]) -> Values:
        """These values and others."""
        return Values(self._places, self._runs, others)

    def __getitem__(self, name: str) -> Tensor:
        if name in self._beside:
            return self._beside[name]
        run, k = self._places[name]
        return self._runs[run][k]

    def __iter__(self) -> Iterator[str]:
        yield from self._places
        yield from self._beside

    def __len__(self) -> int:
        return len(self._places) + len(self._beside)

    def stacked(self, names: Sequence[str]) -> Tensor:
        """The values of several names, [names, ...]."""
        if found := self._slice(names):
            run, places = found
            return self._runs[run][places]
        values = [self[name] for name in names]
        if any(value.shape != values[0].shape for value in values):
            raise ValueError("the values have different shapes")
        return torch.stack(values)

    def _slice(self, names: Sequence[str]) -> tuple[int, slice] | None:
        """The run in which all of them are at equal distances, and where."""
        if not all(name in self._places for name in names):
            return None
        runs, places = zip(*(self._places[name] for name in names), strict=True)
        step = places[1] - places[0] if len(places) > 1 else 1
        even = step > 0 and all(b - a == step for a, b in itertools.pairwise(places))
        return (
            (runs[0], slice(places[0], places[-1] + 1, step))
            if even and len({*runs}) == 1
            else None
        )


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
        self.runs = tuple(map(Run, _runs(blocks)))
        places = {
            block.name: (r, k)
            for r, run in enumerate(self.runs)
            for k, block in enumerate(run.blocks)
        }
        self._places = {block.name: places[block.name] for block in blocks}
        self.size: int = start
        self.dtype = dtype

    def unpack(self, u: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Split ``u`` [d] into constrained values, with log |det d values / d u| (a scalar).

        For angles that turn, the log density of their distances, over these, stands in for it.
        """
        values, log_det = self.values(u)
        return dict(values), log_det

    def values(self, u: Tensor) -> tuple[Values, Tensor]:
        """The same, for those who may not ask for all."""
        runs, log_det = list[Tensor](), u.new_zeros(())
        for run in self.runs:
            value, more = run.values(u)
            runs.append(value)
            log_det = log_det + more
        return Values(self._places, runs), log_det

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


RUN = 8  # blocks of one kind are a run, if they are as many


def _runs(blocks: Sequence[Block]) -> Iterator[tuple[Block, ...]]:
    """All blocks, those of steps of a loop together where they lie at equal distances."""
    families: dict[str, list[Block]] = {}
    for block in blocks:
        families.setdefault(split_name(block.name)[0], []).append(block)
    for family in families.values():
        run: list[Block] = []
        for block in family:
            if run and not _continues(run, block):
                yield from _apart(run)
                run = []
            run.append(block)
        yield from _apart(run)


def _apart(run: list[Block]) -> Iterator[tuple[Block, ...]]:
    yield from [tuple(run)] if len(run) >= RUN else ((block,) for block in run)


def _continues(run: list[Block], block: Block) -> bool:
    first, last = run[0], run[-1]
    step = run[1].start - first.start if len(run) > 1 else block.start - first.start
    kinds = ((b.shape, b.free_shape, b.dtype, type(b.transform)) for b in (first, block))
    return (
        len(set(kinds)) == 1
        and block.start - last.start == step
        and _same(first.constraint, block.constraint)
    )


def _same(one: Any, other: Any) -> bool:
    """Whether two constraints, or what they are made of, are equal."""
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        one, other = torch.as_tensor(one), torch.as_tensor(other)
        return one.shape == other.shape and bool((one == other).all())
    if isinstance(one, Constraint):
        return type(one) is type(other) and _same(vars(one), vars(other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(x, other[k]) for k, x in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)


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
