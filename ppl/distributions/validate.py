"""Checks of data against the distributions that they are observed under."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pyro
import torch
from torch import Tensor
from torch.distributions import constraints
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from ..errors import DataError, PrecisionError, ProgramError, SupportError, located, named_rows
from ..tensors.hidden import is_hidden, is_known
from ..types import space_of
from ..types.supports import support_of
from .data import as_numbers
from .masks import core, counted, is_of_batch, over_events


def check_data(name: str, distribution: Any, value: Any, mask: Any = None) -> None:
    """Raise unless ``value`` has the shape of the site, no NaN, and lies in its support."""
    if isinstance(value, Tensor) and hasattr(distribution, "batch_shape"):
        check_shape(name, distribution, value)
        check_values(name, distribution, value, mask=mask, given=True)


def check_shape(name: str, distribution: Any, value: Any) -> None:
    """Raise unless ``value`` or the site has the shape of both, and the events are as they are."""
    if not isinstance(value, Tensor) or not hasattr(distribution, "batch_shape"):
        return
    shape = distribution.batch_shape + distribution.event_shape
    try:
        fits = torch.broadcast_shapes(value.shape, shape)
    except RuntimeError:
        fits = None
    event = _event_of(distribution, value)
    both = fits not in (None, shape, value.shape)  # [3] with [8, 1] would be scored 24 times
    if (
        fits is None
        or both
        or (event and tuple(value.shape[len(value.shape) - len(event) :]) != event)
    ):
        raise DataError(
            located(
                f"data of shape {tuple(value.shape)} do not fit the shape {tuple(shape)}",
                site=name,
                hint="transpose or index the data, or put the site in a plate",
            )
        )


def _event_of(distribution: Any, value: Tensor) -> tuple[int, ...]:
    """The shape of an event; of a law of series of any length, as they are in the data.

    Such are Pyro's hidden Markov models whose steps are all alike, if no ``duration`` is given.
    """
    event = tuple(distribution.event_shape)
    any_length = event[:1] == (1,) and getattr(core(distribution), "duration", 1) is None
    if not any_length or value.ndim < len(event):
        return event
    return (value.shape[value.ndim - len(event)], *event[1:])


def check_values(
    name: str,
    distribution: Any,
    value: Any,
    *,
    fixed: bool = False,
    given: bool = False,
    mask: Any = None,
) -> None:
    """Raise on NaN that count, and on values outside the support.

    NaN count unless a ``mask`` of the site drops them, or one of its law, or the law itself.

    Where the support has tensors for bounds they may depend on a random choice, and a value outside
    has probability zero on this path (see ``possible``); it is an error only if they are ``fixed``.
    Within ``impossible_data`` it is none, unless the value is ``given`` from outside the program.
    """
    if is_hidden(value) or not isinstance(value, Tensor) or get_proxy_mode() is not None:
        return
    value = as_numbers(value, core(distribution))
    nan = torch.isnan(value)
    if value.is_floating_point() and (found := _counting(distribution, nan, mask)):
        raise DataError(
            located(
                f"observed data hold {found}",
                site=name,
                hint="drop them, mask the site, or sample the missing entries",
            )
        )
    support = _support(distribution)
    if support is None:
        return
    moved = _has_tensor_bounds(support) or (_IMPOSSIBLE and not given)
    if moved and not fixed:
        return
    inside = _inside(support, value)
    if inside is None:
        return
    missing = nan.flatten(inside.ndim).any(-1) if nan.ndim > inside.ndim else nan
    inside = inside | missing  # those that count were refused above
    if bool(inside.all()):
        return
    worst = value[~inside.expand(value.shape[: inside.ndim])] if inside.ndim else value
    raise SupportError(
        located(
            f"observed value {worst.flatten()[0].item():g} is outside the support {support}",
            site=name,
            hint=f"{type(distribution).__name__} gives it no mass",
        )
    )


def _counting(distribution: Any, nan: Tensor, mask: Any) -> str:
    """How many of the NaN of data count, and in which rows, as far as masks are known."""
    if not bool(nan.any()):
        return ""
    found = counted(distribution, nan)
    if mask is not None and is_of_batch(torch.as_tensor(mask), distribution, nan):
        found = found & over_events(mask, len(distribution.event_shape), nan)
    if not is_known(found) or not bool(found.any()):
        return ""
    rows = torch.nonzero(found.reshape(len(found), -1).any(1))[:, 0].tolist() if found.ndim else []
    return f"{int(found.sum())} NaN{f', in {named_rows(rows)}' if rows else ''}"


_IMPOSSIBLE: list[bool] = []


@contextmanager
def impossible_data() -> Iterator[None]:
    """Within, observed values outside their support are no mistake: a choice moves one of both."""
    _IMPOSSIBLE.append(True)
    try:
        yield
    finally:
        _IMPOSSIBLE.pop()


def possible(distribution: Any, value: Tensor) -> Tensor | None:
    """Which events lie in a support that is told number by number; None if all are known to."""
    support = _support(distribution)
    core_of = support
    while isinstance(core_of, constraints.independent):
        core_of = core_of.base_constraint
    if core_of is None or isinstance(core_of, _NOT_ASKED) or core_of.event_dim:
        return None
    inside: Any = support.check(value)
    if type(inside) is not Tensor:
        return None  # abstract
    return inside if is_hidden(inside) or not bool(inside.all()) else None


_NOT_ASKED = (type(constraints.dependent), type(constraints.real))


def _support(distribution: Any) -> Any:
    try:
        return support_of(distribution)
    except (NotImplementedError, AttributeError):
        return None


def _has_tensor_bounds(support: Any) -> bool:
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return any(isinstance(bound, Tensor) for bound in vars(support).values())


def _inside(support: Any, value: Tensor) -> Tensor | None:
    """Which events lie in a support; None where that cannot be told: it is unknown, or random."""
    try:
        inside: Tensor = support.check(value)
        return None if is_hidden(inside) or type(inside) is not Tensor else inside
    except (NotImplementedError, RuntimeError, ValueError):
        return None


def check_parameters(name: str | None, distribution: Any) -> None:
    """Raise if a parameter whose value is known violates its constraint."""
    for owner, parameter, constraint, value, valid in constrained(distribution):
        if is_known(value) and is_known(valid) and not bool(valid.all()):
            worst = value[~valid.expand(value.shape[: valid.ndim])].flatten()[:3].tolist()
            raise ProgramError(
                located(
                    f"parameter {parameter} of {type(owner).__name__} violates {constraint}:"
                    f" it is {worst[0] if len(worst) == 1 else worst}",
                    site=name,
                    hint="check the arguments of the distribution",
                )
            )


def constrained(distribution: Any) -> Iterator[tuple[Any, str, str, Tensor, Tensor]]:
    """Of a distribution and those inside it: whose parameter, its name, its constraint, its value,
    and where that is as it must be."""
    fields = vars(distribution)
    for parameter, constraint in _constraints(distribution).items():
        if isinstance(value := fields.get(parameter), Tensor):
            with suppress(RuntimeError, NotImplementedError, TypeError, ValueError):
                valid = torch.as_tensor(constraint.check(value))
                yield distribution, parameter, str(constraint), value, valid
    if isinstance(distribution, torch.distributions.Uniform):
        low, high = distribution.low, distribution.high
        yield distribution, "high", "more than low", high, low < high
    for part in fields.values():
        if isinstance(part, torch.distributions.Distribution):
            yield from constrained(part)


def _constraints(distribution: Any) -> dict[str, constraints.Constraint]:
    """Of the parameters of a class and of those that it derives from: Chi2 is a Gamma."""
    found: dict[str, constraints.Constraint] = {}
    for kind in reversed(type(distribution).__mro__):
        own = vars(kind).get("arg_constraints")
        found |= own if isinstance(own, dict) else {}
    return found


def check_alike(name: str, distribution: Any, data: Any = None) -> None:
    """Raise unless the parameters of a site and its data share one device and one precision.

    The data of a discrete site are whole numbers, which any precision holds.
    """
    parts = dict(_parameters(distribution))
    if isinstance(data, Tensor):
        parts["the data"] = data
    _require_one(
        DataError,
        name,
        "devices",
        {part: str(x.device) for part, x in parts.items()},
        "x.to(device)",
    )
    if isinstance(data, Tensor) and not space_of(distribution).smooth:
        del parts["the data"]
    dtypes = {part: x.dtype for part, x in parts.items() if x.is_floating_point()}
    shown = {part: str(dtype).removeprefix("torch.") for part, dtype in dtypes.items()}
    _require_one(
        PrecisionError,
        name,
        "precisions",
        shown,
        "x.to(dtype), or choose by torch.set_default_dtype",
    )


def _require_one(
    kind: type[DataError], name: str, what: str, found: dict[str, str], how: str
) -> None:
    if len(set(found.values())) > 1:
        first, *others = found.items()
        other = next(item for item in others if item[1] != first[1])
        raise kind(
            located(
                f"{what} are mixed: {first[0]} is {first[1]}, {other[0]} {other[1]}",
                site=name,
                hint=f"convert one of them by {how}",
            )
        )


def _parameters(distribution: Any) -> Iterator[tuple[str, Tensor]]:
    """The parameters of a distribution and of those inside it, by name."""
    fields = vars(distribution)
    for parameter in getattr(distribution, "arg_constraints", {}):
        if isinstance(value := fields.get(parameter), Tensor):
            yield parameter, value
    for part in fields.values():
        if isinstance(part, torch.distributions.Distribution):
            yield from _parameters(part)


def spoilt(distribution: Any, value: Any) -> Any:
    """A drawn value, NaN where the parameters violate their constraints.

    Where Python cannot look at them, in lanes or in code that is traced, this takes the place of an
    error: a branch that is not taken may have such parameters, and elsewhere NaN is an error later.
    """
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return value
    valid = _valid(distribution)
    if valid is None:
        return value
    shaped = valid.reshape((*valid.shape, *(1 for _ in distribution.event_shape)))
    return torch.where(shaped, value, torch.nan)


def _valid(distribution: Any) -> Tensor | None:
    """Which batch elements have valid parameters, as far as that is told number by number."""
    base = getattr(distribution, "base_dist", None)
    if base is not None:
        inner = _valid(base)
        more = len(base.batch_shape) - len(distribution.batch_shape)
        if inner is None or more <= 0:
            return inner
        return inner.expand(base.batch_shape).flatten(-more).all(-1)
    found: Tensor | None = None
    for parameter, constraint in getattr(distribution, "arg_constraints", {}).items():
        value = vars(distribution).get(parameter)
        if not isinstance(value, Tensor) or not isinstance(constraint, _ELEMENTWISE):
            continue
        valid = constraint.check(value)
        if len(valid.shape) <= len(distribution.batch_shape):  # else it has parts of its own
            found = valid if found is None else found & valid
    return found


_ELEMENTWISE = tuple(
    type(each)
    for each in (
        constraints.positive,
        constraints.nonnegative,
        constraints.unit_interval,
        constraints.less_than(1.0),
        constraints.independent(constraints.positive, 1),
    )
)


@contextmanager
def no_validation() -> Iterator[None]:
    """Within, Pyro and torch do not validate arguments: values may be lanes, traced or abstract."""
    before = torch.distributions.Distribution._validate_args
    with pyro.validation_enabled(False):
        torch.distributions.Distribution.set_default_validate_args(False)
        try:
            yield
        finally:
            torch.distributions.Distribution.set_default_validate_args(before)
