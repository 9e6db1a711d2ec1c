"""Where a driver computes, and in which precision."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from ...ppl import condition
from ...ppl.distributions.data import as_arguments
from ...ppl.errors import PrecisionError, PushforwardError
from ...ppl.interpretations.abstract_run import abstract_run
from ...ppl.language.combinators import Conditioned
from ...ppl.language.handlers import Sealed
from ...ppl.language.program import Callback, program_name
from ...ppl.tensors.keys import Contents

Device = torch.device | str | None
F = TypeVar("F")  # fits: no result is known here

_ALONE = threading.RLock()


@contextmanager
def placed(device: Device, dtype: torch.dtype | None) -> Iterator[None]:
    """Within, new tensors are made on this device and in this precision, if they are given.

    One thread at a time: handlers, generators and default types are those of the process.
    """
    with _ALONE:
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype or before)
        try:
            if device is None:
                yield
            else:
                with torch.device(device):
                    yield
        finally:
            torch.set_default_dtype(before)


def moved(value: Any, device: Device, dtype: torch.dtype | None) -> Any:
    """A tree of data on this device, its floating point tensors in this precision."""

    def one(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        return x.to(device=device, dtype=dtype if x.is_floating_point() else None)

    return tree_map(one, value)


def with_data_there(p: Callback, device: Device, dtype: torch.dtype | None) -> Callback:
    """A program with the data that it is conditioned on moved; what it closes over stays."""
    if not isinstance(p, Conditioned) or (device is None and dtype is None):
        return p
    return condition(p.base, moved(p.data, device, dtype), p.missing)


def both_there(
    p: Callback, args: tuple[Any, ...], device: Device, dtype: torch.dtype | None
) -> tuple[Callback, tuple[Any, ...]]:
    """A program with its data, and its arguments, as tensors, moved."""
    return with_data_there(p, device, dtype), moved(as_arguments(args), device, dtype)


class Place(NamedTuple):
    """What a driver is to run, and in which precision."""

    program: Callback
    args: tuple[Any, ...]
    dtype: torch.dtype
    notes: tuple[str, ...]


def settled(
    p: Callback,
    args: tuple[Any, ...],
    device: Device = None,
    dtype: torch.dtype | None = None,
    besides: Any = None,
) -> Place:
    """A program and its arguments moved to where a driver computes, in the precision of the run.

    That is ``dtype`` if it is given.  Or else it is double on the CPU: densities of many data are
    sums of many terms, and covariances need more digits than single precision has.  On other
    devices, which are made for single precision, it is torch's default.  So it is, with a note,
    where the program holds tensors of its own, such as a network, that keep it from running in
    double precision.

    Args:
        besides: what is run beside the program, such as an algorithm.
    """
    own = torch.get_default_dtype()

    def at(precision: torch.dtype, *notes: str) -> Place:
        return Place(*both_there(p, args, device, precision), precision, notes)

    if dtype is not None or own == torch.float64 or not _on_cpu(device, args):
        return at(dtype or own)
    double = at(torch.float64)
    with placed(device, torch.float64):
        held = _lower(double) or _holds_lower(besides)
    if not held:
        return double
    what = f"{program_name(p)} was run in {_name(own)}, as it holds tensors of that precision"
    return at(own, f"{what} ({held}): make them float64, or say dtype={own}")


def run_settled(
    run: Callable[[Callback, tuple[Any, ...]], F],
    p: Callback,
    args: tuple[Any, ...],
    device: Device = None,
    dtype: torch.dtype | None = None,
) -> F:
    """The fit by ``run`` of what is ``settled``, which tells its notes too."""
    place = settled(p, args, device, dtype)
    with placed(device, place.dtype):
        fit: Any = run(place.program, place.args)
    told: F = replace(fit, notes=(*place.notes, *fit.notes))
    return told


def _on_cpu(device: Device, args: tuple[Any, ...]) -> bool:
    devices = {x.device.type for x in tree_leaves(args) if isinstance(x, Tensor)}
    devices.add((torch.get_default_device() if device is None else torch.device(device)).type)
    return devices == {"cpu"}


def _lower(place: Place) -> str:
    """What of a program is not in double precision when all that it is given is."""
    try:
        with Sealed():
            run, _ = abstract_run(place.program, *place.args)
    except PrecisionError:
        return "torch refuses to mix them"
    except PushforwardError:
        return ""  # the run itself says what is wrong
    low = [name for name, dtype in run.precisions.items() if dtype.itemsize < 8]
    return f"in the law of '{low[0]}'" if low else ""


class _Floating(Contents):
    """Notes the precisions of the tensors that it keys."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[torch.dtype] = set()

    def __call__(self, value: Any) -> Hashable:
        tensors = [value] if isinstance(value, Tensor) else []
        if isinstance(value, torch.nn.Module):
            tensors += [*value.parameters(), *value.buffers()]
        self.found |= {x.dtype for x in tensors if x.is_floating_point()}
        return super().__call__(value)


def _holds_lower(value: Any) -> str:
    """Whether anything that a function closes over is in a lower precision than double."""
    floating = _Floating()
    floating(value)
    low = [dtype for dtype in floating.found if dtype.itemsize < 8]
    return f"what runs it holds {_name(low[0])}" if low else ""


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
