"""The effects of a program, as messages of Pyro's runtime.

``sample``, ``observe``, ``factor``, ``deterministic`` and ``plate`` are Pyro's own effects, so
every Pyro model is a program.  ``draw`` is ours: the anonymous randomness of an algorithm, which
obeys plates and is visible to every interpretation, but is no part of a trace.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias, cast

import pyro
import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import _DIM_ALLOCATOR, _PYRO_STACK, apply_stack
from pyro.poutine.subsample_messenger import _Subsample
from pyro.poutine.trace_messenger import TraceMessenger
from torch import Tensor

from ..distributions.data import as_data, fitted, has_dtype
from ..distributions.densities import log_density
from ..distributions.masks import is_unscored_point, lies_in, unmasked
from ..distributions.points import filled
from ..distributions.repeated import Repeated
from ..distributions.subsets import Subsets
from ..errors import DataError, NoDensityError, ProgramError, located
from ..tensors.keys import settled

# A message of Pyro's runtime: a mutable mapping, with our own types and entries beside Pyro's.
Message: TypeAlias = Any

plate = pyro.plate


def stack() -> list[Messenger]:
    """The handlers in force, outermost first."""
    return _PYRO_STACK


def emit(
    kind: str,
    fn: Callable[..., Any],
    args: Sequence[Any] = (),
    *,
    name: str | None = None,
    infer: dict[str, Any] | None = None,
) -> Any:
    """Send a message outward through the handlers; unhandled, it means ``fn(*args)``."""
    if not stack():
        return fn(*args)
    message: Message = {
        "type": kind,
        "name": name or kind,
        "fn": fn,
        "is_observed": False,
        "args": tuple(args),
        "kwargs": {},
        "value": None,
        "infer": infer or {},
        "scale": 1.0,
        "mask": None,
        "cond_indep_stack": (),
        "done": False,
        "stop": False,
        "continuation": None,
    }
    apply_stack(cast(Any, message))
    return message["value"]


@contextmanager
def outside(handler: Messenger) -> Iterator[None]:
    """Within, messages go to the handlers outside this one only, and no plate in it is seen."""
    handlers = stack()
    depth = handlers.index(handler)
    inner, plates = handlers[depth:], _DIM_ALLOCATOR._stack
    del handlers[depth:]
    _DIM_ALLOCATOR._stack = []
    try:
        yield
    finally:
        handlers.extend(inner)
        _DIM_ALLOCATOR._stack = plates


def _require_law(distribution: Any, name: str) -> None:
    """Those of ``torch.distributions`` lack what Pyro's add, and fail later without a word."""
    if not hasattr(distribution, "log_prob"):
        kind = getattr(distribution, "__name__", type(distribution).__name__)
        what = f"{kind} is no distribution"
        hint = "give a law, such as dist.Normal(0.0, 1.0)"
        raise ProgramError(located(what, site=name, hint=hint))
    if not callable(distribution):
        kind = type(distribution)
        raise ProgramError(
            located(
                f"{kind.__module__.split('.')[0]}'s {kind.__name__} is no distribution of Pyro",
                site=name,
                hint="use the class of that name in pushforward.dist",
            )
        )


def sample(name: str, distribution: Any, *, obs: Any = None, infer: Any = None) -> Tensor:
    """A named latent choice (or, with ``obs``, an observation) of shape batch + event."""
    _require_law(distribution, name)
    if obs is not None:
        return observe(name, distribution, obs)
    return pyro.sample(name, distribution, infer=infer)


def observe(name: str, distribution: Any, value: Any) -> Tensor:
    """Score ``value`` by the density of ``distribution``, and return it."""
    _require_law(distribution, name)
    value = settled(value)
    if not isinstance(value, Tensor):
        value = fitted(as_data(name, value), distribution, exact=has_dtype(value))
    if not stack():
        return cast(Tensor, value)
    return pyro.sample(name, distribution, obs=value)


def factor(name: str, log_weight: Tensor | float) -> None:
    """Multiply the weight of this path by ``exp(log_weight)``."""
    if stack():
        pyro.factor(name, torch.as_tensor(settled(log_weight)))


def deterministic(name: str, value: Tensor, event_dim: int | None = None) -> Tensor:
    """Record a derived value under a name; it does not change the measure."""
    if not stack():
        return value
    return pyro.deterministic(name, value, event_dim=event_dim)


def draw(distribution: Any, shape: Sequence[int] = (), *, label: str = "draw") -> Tensor:
    """Anonymous randomness of an algorithm, of shape ``shape`` + batch + event.

    Errors:
        NoDensityError: an algorithm of Pyro asks for the density of this program.  A program that
            draws has none: its traces leave the drawn values out.
    """
    if any(isinstance(handler, TraceMessenger) for handler in stack()[-1:]):
        raise NoDensityError(
            located(
                "a program with anonymous randomness (draw) has no exact density",
                hint="name the choice with sample(...) if it is part of the model",
            )
        )
    _require_law(distribution, label)
    if shape:
        distribution = Repeated(distribution, tuple(shape))
    return cast(
        Tensor,
        emit(
            "sample",
            distribution,
            name=label,
            infer={"draw": True, "_do_not_trace": True, "is_auxiliary": True},
        ),
    )


def is_draw(message: Message) -> bool:
    """Whether a sample message is anonymous randomness."""
    return bool(message["infer"] and message["infer"].get("draw"))


def is_latent(message: Message) -> bool:
    """Whether a message is a named latent choice, and so part of the trace type."""
    return message["type"] == "sample" and not (
        message["is_observed"] or is_draw(message) or is_subsample(message)
    )


def is_subsample(message: Message) -> bool:
    """Whether a message asks for the indices of a subsampled plate."""
    return isinstance(message["fn"], _Subsample | Subsets)


def is_deterministic(message: Message) -> bool:
    """Whether a message records a derived value."""
    noted = bool(message["infer"] and message["infer"].get("_deterministic"))
    return noted or (message["is_observed"] and is_unscored_point(message["fn"]))


def is_masked(message: Message) -> bool:
    """Whether masks concern a site: they do not count scores, and leave the law of a latent alone.

    A latent whose value is given or recorded stays one.
    """
    return bool(message["is_observed"]) and not message["infer"].get("latent")


def law_of(message: Message) -> Any:
    """The law of a site: that of a latent is the whole law, whatever masks it."""
    return message["fn"] if is_masked(message) else unmasked(message["fn"])


def scored_value(message: Message) -> Any:
    """The value of a site, with numbers in place of the NaN that a mask drops."""
    if message["mask"] is None or not is_masked(message):
        return message["value"]
    return filled(message["value"], message["mask"], message["fn"])


def taken_by(message: Message) -> Any:
    """Where the branch of a site is taken, if it scores there only; None if it scores anywhere."""
    scores = is_masked(message) or message["infer"].get("only_taken")
    return message["infer"].get("taken") if scores else None


def _without_ones(shape: torch.Size) -> torch.Size:
    """A shape without the leading ones, which broadcast to nothing more."""
    return torch.Size(itertools.dropwhile(lambda size: size == 1, shape))


def masked_log_prob(message: Message, log_prob: Tensor | None = None) -> Tensor:
    """The log densities [*batch] of a site, zero where a score is masked or its branch not taken.

    Errors:
        DataError: the mask is wider than the site, which would count data several times.
    """
    if log_prob is None:
        log_prob = log_density(law_of(message), scored_value(message))
    for mask in (message["mask"] if is_masked(message) else None, taken_by(message)):
        if mask is None or mask is True:
            continue
        mask = torch.as_tensor(mask, device=log_prob.device)
        if not lies_in(mask.shape, log_prob.shape):
            what = f"a mask of shape {list(mask.shape)} on a site of batch {list(log_prob.shape)}"
            hint = "give one truth value for each event (a missing part of an event is a latent)"
            raise DataError(located(what, site=message["name"], hint=hint))
        log_prob = torch.where(mask, log_prob, torch.zeros_like(log_prob))
    return log_prob


def scaled_log_prob(message: Message, log_prob: Tensor | None = None) -> Tensor:
    """The log density of a site, masked, scaled by every enclosing plate and scale, and summed.

    A latent of a branch that is not taken has its prior law, whatever the scale.

    Errors:
        DataError: the mask or scale is wider than the site, which would count data several times.
    """
    log_prob, scale = masked_log_prob(message, log_prob), message["scale"]
    if isinstance(scale, Tensor) and not lies_in(_without_ones(scale.shape), log_prob.shape):
        what = f"a scale of shape {list(scale.shape)} on a site of batch {list(log_prob.shape)}"
        raise DataError(
            located(what, site=message["name"], hint="give one factor for each event of the site")
        )
    if not (isinstance(scale, float) and scale == 1.0):
        taken = (message["infer"] or {}).get("taken")
        if taken is not None and not is_masked(message):
            scale = torch.where(torch.as_tensor(taken), scale, 1.0)
        log_prob = log_prob * scale
    return log_prob.sum()


def whole_indices(message: Message) -> Tensor | None:
    """The indices of a plate that does not subsample: it draws nothing.  None if it does."""
    fn = message["fn"]
    taken = fn.k if isinstance(fn, Subsets) else fn.subsample_size
    if taken is not None and taken < fn.size:
        return None
    return torch.arange(fn.size, device=getattr(fn, "device", None))
