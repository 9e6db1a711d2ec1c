"""The effects of a program, as messages of Pyro's runtime.

``sample``, ``observe``, ``factor``, ``deterministic`` and ``plate`` are Pyro's own effects, so
every Pyro model is a program.  ``draw`` is ours: the anonymous randomness of an algorithm, which
obeys plates and is visible to every interpretation, but is no part of a trace.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, cast

import pyro
import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import _PYRO_STACK, apply_stack
from pyro.poutine.subsample_messenger import _Subsample
from pyro.poutine.trace_messenger import TraceMessenger
from torch import Tensor
from torch.distributions import constraints

from .errors import NoDensityError, located
from .validate import possible

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


def sample(name: str, distribution: Any, *, obs: Any = None, infer: Any = None) -> Tensor:
    """A named latent choice (or, with ``obs``, an observation) of shape batch + event."""
    if obs is not None:
        return observe(name, distribution, obs)
    return pyro.sample(name, distribution, infer=infer)


def observe(name: str, distribution: Any, value: Any) -> Tensor:
    """Score ``value`` by the density of ``distribution``, and return it."""
    if not stack():
        return cast(Tensor, value)
    return pyro.sample(name, distribution, obs=value)


def factor(name: str, log_weight: Tensor | float) -> None:
    """Multiply the weight of this path by ``exp(log_weight)``."""
    if stack():
        pyro.factor(name, torch.as_tensor(log_weight))


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


class Repeated(dist.TorchDistribution):  # type: ignore[misc]
    """``shape`` independent draws of one distribution, without expanding its parameters."""

    arg_constraints: dict[str, Any] = {}

    def __init__(self, base: Any, shape: tuple[int, ...]) -> None:
        self.base, self.sizes = base, shape
        self.has_rsample = base.has_rsample
        batch = torch.Size(shape) + base.batch_shape
        super().__init__(batch, base.event_shape, validate_args=False)

    @property
    def support(self) -> Any:
        return self.base.support

    @property
    def has_enumerate_support(self) -> bool:  # type: ignore[override]
        return bool(self.base.has_enumerate_support)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        values = self.base.enumerate_support(expand=expand)
        split = values.shape[:1] + (1,) * len(self.sizes) + values.shape[1:]
        values = values.reshape(split)
        if expand:
            values = values.expand(split[:1] + self.batch_shape + self.event_shape)
        return cast(Tensor, values)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        return cast(Tensor, self.base.sample(torch.Size(sample_shape) + torch.Size(self.sizes)))

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        return cast(Tensor, self.base.rsample(torch.Size(sample_shape) + torch.Size(self.sizes)))

    def log_prob(self, value: Tensor) -> Tensor:
        return cast(Tensor, self.base.log_prob(value))

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        return dist.ExpandedDistribution(self, batch_shape)

    def expanded(self) -> Any:
        """The same law as one distribution of the base's own family."""
        return self.base.expand(self.batch_shape)


class Subsets(dist.TorchDistribution):  # type: ignore[misc]
    """``size`` choose ``k`` indices in random order, independently for each batch element."""

    arg_constraints: dict[str, Any] = {}
    support = constraints.independent(constraints.nonnegative_integer, 1)
    has_enumerate_support = True

    def __init__(self, size: int, k: int, batch_shape: Sequence[int]) -> None:
        self.size, self.k = size, k
        super().__init__(torch.Size(batch_shape), torch.Size((k,)), validate_args=False)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        shape = torch.Size(sample_shape) + self.batch_shape
        return torch.rand((*shape, self.size)).argsort(-1)[..., : self.k]

    def enumerate_support(self, expand: bool = True) -> Tensor:
        values = torch.tensor(list(itertools.permutations(range(self.size), self.k)))
        shape = (1,) * len(self.batch_shape) if not expand else tuple(self.batch_shape)
        ones = values.reshape(-1, *(1,) * len(shape), self.k)
        return ones.expand(-1, *shape, self.k)

    def log_prob(self, value: Tensor) -> Tensor:
        count = math.perm(self.size, self.k)
        return torch.full(value.shape[:-1], -math.log(count), dtype=torch.float64)


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
    return bool(message["infer"] and message["infer"].get("_deterministic"))


def log_density(distribution: Any, value: Tensor) -> Tensor:
    """``distribution.log_prob(value)``, exact at probability zero.

    torch clamps the probabilities of Bernoulli and categorical distributions away from 0 and 1, so
    that an impossible event keeps a mass of about 1e-16 (1e-7 in float32).
    """
    if isinstance(distribution, Repeated):
        return log_density(distribution.base, value)
    if not torch.distributions.Distribution._validate_args:
        distribution = unvalidated(distribution)
    if isinstance(distribution, torch.distributions.Independent):
        inner = log_density(distribution.base_dist, value)
        dims = distribution.reinterpreted_batch_ndims
        return inner.sum(tuple(range(-dims, 0))) if dims else inner
    by_probs = vars(distribution).get("_param") is vars(distribution).get("probs", False)
    if by_probs and isinstance(distribution, torch.distributions.Bernoulli):
        p = distribution.probs
        chance: Tensor = torch.where(value == 1, p, 1 - p)
        return chance.log()
    if by_probs and isinstance(distribution, torch.distributions.Categorical):
        index, p = torch.broadcast_tensors(value.long()[..., None], distribution.probs)
        chosen: Tensor = p.gather(-1, index[..., :1])[..., 0]
        return chosen.log()
    if isinstance(distribution, torch.distributions.Multinomial):
        log_prob = _multinomial(distribution, value)
    else:
        log_prob = distribution.log_prob(value)
    inside = possible(distribution, value)
    return log_prob if inside is None else log_prob.masked_fill(~inside, -math.inf)


def unvalidated(distribution: Any) -> Any:
    """The same law without checks of its arguments, which a distribution keeps when it expands."""
    changed: dict[str, Any] = {"_validate_args": False} if _validates(distribution) else {}
    for name, part in vars(distribution).items():
        if isinstance(part, torch.distributions.Distribution):
            inner = unvalidated(part)
            if inner is not part:
                changed[name] = inner
    if not changed:
        return distribution
    new = copy.copy(distribution)
    vars(new).update(changed)
    return new


def _validates(distribution: Any) -> bool:
    return bool(vars(distribution).get("_validate_args"))


def _multinomial(distribution: Any, value: Tensor) -> Tensor:
    """The log density of counts, without the indexing by a mask that lanes do not allow."""
    terms = torch.where(value == 0, 0.0, value * distribution.logits) - torch.lgamma(value + 1)
    total: Tensor = torch.lgamma(value.sum(-1) + 1) + terms.sum(-1)
    return total


def scaled_log_prob(message: Message, log_prob: Tensor | None = None) -> Tensor:
    """The log density of a site, masked, scaled by every enclosing plate and scale, and summed."""
    if log_prob is None:
        log_prob = log_density(message["fn"], message["value"])
    mask, scale = message["mask"], message["scale"]
    if mask is False:
        return torch.zeros((), dtype=log_prob.dtype, device=log_prob.device)
    if mask is not None and mask is not True:
        log_prob = torch.where(mask, log_prob, torch.zeros_like(log_prob))
    if not (isinstance(scale, float) and scale == 1.0):
        log_prob = log_prob * scale
    return log_prob.sum()
