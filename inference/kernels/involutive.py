"""Involutive Metropolis-Hastings: a deterministic map of choices and auxiliary choices.

Neklyudov, Welling, Egorov and Vetrov, arXiv 2006.16653; Cusumano-Towner, Lew and Mansinghka,
arXiv 2007.09871.  Reversible-jump moves (Green 1995) are among them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pyro import distributions as dist
from torch import Tensor
from torch.distributions.transforms import Transform, identity_transform

from ...ppl.distributions.masks import core
from ...ppl.errors import ProgramError, located
from ...ppl.language.effects import Message, is_latent
from ...ppl.language.handlers import Proposing, Sampling, Untracing, Weighing
from ...ppl.language.program import Callback, program_name
from ...ppl.tensors.jacobians import CONVERGED, log_volume
from ...ppl.types import space_of
from ...ppl.types.bijections import log_abs_det
from ...ppl.types.spaces import Space
from .kernel import Acceptance, Moved, TraceKernel, decide, metropolis
from .traces import Laws, Traced, fresh, traced

Choices = dict[str, Tensor]
Involution = Callable[[Choices, Choices], tuple[Choices, Choices]]
Size = Callable[[Choices, Choices], Any]

_BETWEEN = {"Positive", "GreaterThan", "LessThan", "Interval", "UnitInterval"}
TOLERANCE = 1e-6  # of the round trip, relative to one plus the value


def involutive(
    auxiliary: Callback,
    involution: Involution,
    accept: Acceptance = metropolis,
    jacobian: Size | None = None,
) -> TraceKernel:
    """Draw auxiliary choices, map (choices, auxiliary choices) by an involution, and accept.

    ``auxiliary(choices, *args)`` is a program of latents; ``involution`` maps two dictionaries to
    two, and is its own inverse, which is checked at every step.  It may change which choices there
    are.

    The Jacobian is that of the real coordinates.  Automatic differentiation does not see what is
    detached, or computed outside torch: so its answer is held against a finite difference at every
    step, and finite differences of all coordinates stand in where the two disagree.
    ``jacobian(choices, others)`` gives |det| instead, and is believed; ``check.invariant`` tells if
    it is wrong.

    Errors:
        ProgramError: the round trip does not return, the results are not the choices of a run, the
            number of real coordinates changes, or the Jacobian is not known.
    """
    name = program_name(involution)

    def step(run: Traced, p: Callback, *args: Any) -> Moved:
        with Untracing(), _Auxiliary() as there, Sampling():
            auxiliary(run.choices, *args)
        choices, others = involution(_own(run.choices), _own(there.choices))
        _require_return(name, involution(_own(choices), _own(others)), (run.choices, there.choices))
        proposed = traced(p, choices, {}, *args, draws=fresh(run))
        if proposed is None:
            return decide(run, None, torch.zeros(()), accept, name)
        if proposed.choices.keys() != choices.keys() or proposed.drawn:
            wrong = sorted((proposed.choices.keys() ^ choices.keys()) | proposed.drawn)
            what = f"{name} leads to no run: {wrong} are not the choices of one"
            raise ProgramError(located(what, hint="map to all the choices of a run"))
        with Untracing(), Weighing(given=others) as back, _Auxiliary() as extra, Sampling():
            auxiliary(proposed.choices, *args)
        if extra.choices.keys() - others.keys() or others.keys() - back.used:
            what = f"{name} leads to auxiliary choices that {program_name(auxiliary)} cannot make"
            raise ProgramError(located(what, hint="map to all of them"))
        here = _End((run.choices, there.choices), (run.laws, there.laws))
        end = _End((proposed.choices, others), (proposed.laws, extra.laws))
        ratio = (
            proposed.log_density
            - run.log_density
            + torch.as_tensor(back.log_weight)
            - torch.as_tensor(there.log_density)
            + _log_volume(name, involution, jacobian, here, end)
        )
        return decide(run, proposed, ratio, accept, name)

    return TraceKernel(step, f"involutive({name})")


def _own(choices: Choices) -> Choices:
    """Copies, which a map may change in place."""
    return {name: torch.as_tensor(value).clone() for name, value in choices.items()}


def _require_return(name: str, found: Any, wanted: tuple[Choices, Choices]) -> None:
    for ours, theirs in zip(found, wanted, strict=True):
        if ours.keys() == theirs.keys() and all(_near(ours[n], theirs[n]) for n in theirs):
            continue
        what = f"{name} is no involution: twice applied it does not return"
        raise ProgramError(located(what, hint="swap or negate what tells the two directions apart"))


def _near(a: Tensor, b: Tensor) -> bool:
    a, b = torch.as_tensor(a), torch.as_tensor(b)
    return a.shape == b.shape and bool(((a - b).abs() <= TOLERANCE * (1 + b.abs())).all())


class _Auxiliary(Proposing):
    """Auxiliary choices and their laws."""

    def __enter__(self) -> Any:
        self.laws: dict[str, Any] = Laws()
        return super().__enter__()

    def state(self) -> Any:
        return super().state(), Laws(self.laws)

    def restore(self, state: Any) -> None:
        super().restore(state[0])
        self.laws = Laws(state[1])

    def _process_message(self, msg: Message) -> None:
        super()._process_message(msg)
        if msg["type"] == "sample" and is_latent(msg):
            self.laws[msg["name"]] = msg["fn"]


class _End:
    """One end of the map: choices and auxiliary choices, and those that are real coordinates.

    Real numbers between bounds are taken without them, x = T(u), so that differences stay inside.
    """

    def __init__(self, choices: tuple[Choices, Choices], laws: tuple[dict[str, Any], ...]) -> None:
        self.choices = choices
        self.spaces = [
            (part, name, space_of(law))
            for part, among in enumerate(laws)
            for name, law in sorted(among.items())
            if space_of(law).smooth and not isinstance(core(law), dist.Delta)
        ]

    def bound(self) -> list[str]:
        """The choices with fewer degrees of freedom than coordinates, as in a simplex."""
        return [name for _, name, space in self.spaces if space.constraint.event_dim > 0]

    def coordinates(self, choices: tuple[Choices, Choices], dtype: torch.dtype) -> Tensor:
        """The real numbers [k] that these choices have in place of those at the end, unbounded.

        NaN if they are those of another end.
        """
        parts = []
        for part, name, space in self.spaces:
            like = torch.as_tensor(self.choices[part][name])
            value = torch.as_tensor(choices[part].get(name, torch.nan)).to(dtype)
            if value.shape != like.shape:
                value = torch.full_like(like, torch.nan, dtype=dtype)
            parts.append(_unbounded(space).inv(value).reshape(-1))
        return torch.cat(parts) if parts else torch.zeros(0, dtype=dtype)

    def at(self, coordinates: Tensor) -> tuple[Choices, Choices]:
        """The choices with the real ones at unbounded coordinates [k]."""
        given, start = (_own(self.choices[0]), _own(self.choices[1])), 0
        for part, name, space in self.spaces:
            shape = self.choices[part][name].shape
            u = coordinates[start : start + shape.numel()].reshape(shape)
            given[part][name], start = _unbounded(space)(u), start + shape.numel()
        return given

    def log_stretch(self, dtype: torch.dtype) -> Tensor:
        """The sum of log T'(u) of all coordinates."""
        total = torch.zeros((), dtype=dtype)
        for part, name, space in self.spaces:
            y = torch.as_tensor(self.choices[part][name]).to(dtype)
            transform = _unbounded(space)
            total = total + log_abs_det(transform, transform.inv(y), y).sum()
        return total


def _unbounded(space: Space) -> Transform:
    return space.bijection() if space.kind in _BETWEEN else identity_transform


def _log_volume(
    name: str, involution: Involution, jacobian: Size | None, here: _End, there: _End
) -> Tensor:
    """log |det| of the derivative of the real coordinates, there, in the real ones, here."""
    if jacobian is not None:
        return torch.as_tensor(jacobian(*map(_own, here.choices))).log()
    bound = sorted({*here.bound(), *there.bound()})
    if bound:
        what = f"{name} moves {bound}, whose coordinates are not free"
        raise ProgramError(located(what, hint="use sites of Real, Positive or intervals"))
    try:
        log_size, error = _between(involution, here, there, torch.float64, name)
    except RuntimeError:  # the map wants the numbers in the precision that they have
        log_size, error = _between(involution, here, there, torch.get_default_dtype(), name)
    if error <= CONVERGED:
        return log_size
    what = f"the Jacobian of {name} is not known: autograd and finite differences disagree"
    hint = "write the map in torch, without detach or item, or give its |det| as jacobian="
    raise ProgramError(located(what, hint=hint))


def _between(
    involution: Involution, here: _End, there: _End, dtype: torch.dtype, name: str
) -> tuple[Tensor, float]:
    """log |det| between two ends, computed in a precision, and its error."""
    start, end = here.coordinates(here.choices, dtype), there.coordinates(there.choices, dtype)
    if len(start) != len(end):
        what = f"{name} maps {len(start)} real coordinates to {len(end)}"
        raise ProgramError(located(what, hint="draw as many auxiliary ones as are missing"))
    if not len(start):
        return torch.zeros(()), 0.0
    size = torch.where(end == 0, 1.0, end.abs())  # so that differences are relative to the image

    def flat(u: Tensor) -> Tensor:
        try:
            return there.coordinates(involution(*here.at(u)), dtype) / size
        except KeyError:  # beyond an edge, where the map wants the choices of another run
            return torch.full_like(end, torch.nan)

    log_size, error = log_volume(flat, start)
    change = there.log_stretch(dtype) - here.log_stretch(dtype) + size.log().sum()
    return log_size + change, error
