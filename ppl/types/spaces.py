"""Spaces: the sets of values of single sites, how they print, compare and list their values."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

import torch
from pyro import distributions as dist
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions.constraints import Constraint
from torch.distributions.constraints import MixtureSameFamilyConstraint as _OfMixture
from torch.distributions.transforms import Transform

from ..errors import BranchError, InfiniteSupportError, UnsupportedDistributionError, located
from .bijections import bijection, bound_values
from .points_of_mass import WithPoints
from .supports import support_of
from .zero_sum import zero_sum

# A number, one number per element, or None where it depends on a random value (printed `?`).
Parameter = int | float | tuple[float, ...] | None

# Supports whose events are vectors or square matrices: kind and number of event dimensions.
_SIZED: dict[type[Constraint], tuple[str, int]] = {
    type(constraints.simplex): ("Simplex", 1),
    type(constraints.ordered_vector): ("Ordered", 1),
    type(constraints.positive_ordered_vector): ("PositiveOrdered", 1),
    type(constraints.sphere): ("Sphere", 1),
    type(zero_sum): ("ZeroSum", 1),
    type(constraints.one_hot): ("OneHot", 1),
    constraints.multinomial: ("Multinomial", 1),
    type(constraints.corr_cholesky): ("CorrCholesky", 2),
    type(constraints.corr_matrix): ("CorrMatrix", 2),
    type(constraints.lower_cholesky): ("LowerCholesky", 2),
    type(constraints.softplus_lower_cholesky): ("LowerCholesky", 2),
    type(constraints.unit_lower_cholesky): ("UnitLowerCholesky", 2),
    type(constraints.positive_definite): ("PositiveDefinite", 2),
    type(constraints.positive_semidefinite): ("PositiveDefinite", 2),
}
EVENT_DIMS = dict(_SIZED.values())
# Supports of scalars.  End points have no mass under a density, so open and closed are one space.
_SCALAR: dict[type[Constraint], str] = {
    type(constraints.real): "Real",
    type(constraints.positive): "GreaterThan",
    type(constraints.nonnegative): "GreaterThan",
    type(constraints.softplus_positive): "GreaterThan",
    constraints.less_than: "LessThan",
    constraints.interval: "Interval",
    constraints.half_open_interval: "Interval",
    type(constraints.boolean): "Bool",
    type(constraints.integer): "Int",
    constraints.integer_interval: "IntInterval",
    type(constraints.nonnegative_integer): "IntAtLeast",
    WithPoints: "Mixed",
}
_SPECIAL: dict[tuple[str, tuple[Parameter, ...]], str] = {
    ("GreaterThan", (0,)): "Positive",
    ("Interval", (0, 1)): "UnitInterval",
    ("IntAtLeast", (0,)): "Nat",
}
_DISCRETE = {"Bool", "Int", "IntInterval", "IntAtLeast", "Nat", "Fin", "OneHot", "Multinomial"}
_CIRCULAR = (dist.VonMises, dist.SineBivariateVonMises, dist.SineSkewed)
TURN = constraints.interval(-torch.pi, torch.pi)  # type: ignore[no-untyped-call]
_WRAPPERS = (torch.distributions.Independent, dist.MaskedDistribution, dist.ExpandedDistribution)


@dataclass(frozen=True, repr=False)
class Space:
    """The set of values of one site: a kind with its parameters, repeated over a tensor.

    ``shape`` is that of the whole tensor (batch + event), ``constraint`` the support of one event.
    Spaces are equal if kind, parameters and shape are.
    """

    kind: str
    parameters: tuple[Parameter, ...] = ()
    shape: tuple[int, ...] = ()
    constraint: Constraint = field(default=constraints.dependent, compare=False)

    @property
    def name(self) -> str:
        """The space of one event, without the batch shape: ``Real``, ``Interval(0, 2)``."""
        inside = ", ".join(map(_printed, self.parameters))
        return f"{self.kind}({inside})" if inside else self.kind

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The shape of ``shape`` that repeats one event."""
        return self.shape[: len(self.shape) - EVENT_DIMS.get(self.kind, 0)]

    def __repr__(self) -> str:
        return self.name + (str(list(self.batch_shape)) if self.batch_shape else "")

    @property
    def smooth(self) -> bool:
        """Whether values are real numbers, which may be differentiated but not branched on."""
        return self.kind not in _DISCRETE

    @property
    def finite(self) -> bool:
        """Whether ``enumerate`` can list the values of one event."""
        listed = self.kind in {"Bool", "Fin", "IntInterval", "OneHot", "Multinomial"}
        return listed and all(isinstance(p, int) for p in self.parameters)

    def enumerate(self) -> Tensor:
        """The values of one event in canonical order, as integers of shape [n, *event shape].

        Errors:
            InfiniteSupportError: the space is not finite, or differs between elements.
        """
        if not self.finite:
            raise InfiniteSupportError(located(f"{self.name} cannot be enumerated"))
        sizes = [p for p in self.parameters if isinstance(p, int)]
        match self.kind:
            case "OneHot":
                return torch.eye(*sizes, dtype=torch.int64)
            case "Multinomial":
                return _compositions(*sizes)
            case "IntInterval":
                return torch.arange(sizes[0], sizes[1] + 1)
        return torch.arange(*(sizes or [2]))

    def contains(self, value: Any) -> Tensor | bool:
        """Whether each event of ``value`` lies in the space (a bool for a Python number).

        Errors:
            UnsupportedDistributionError: the support is unknown or depends on a random value.
        """
        if None in self.parameters or isinstance(self.constraint, type(constraints.dependent)):
            raise UnsupportedDistributionError(located(f"what lies in {self.name} is not known"))
        tensor, event = _tensor(value), self.shape[len(self.batch_shape) :]
        if tensor.shape[tensor.ndim - len(event) :] != event:
            return False
        inside: Tensor = self.constraint.check(tensor)  # type: ignore[no-untyped-call]
        if self.kind == "Multinomial":  # torch only checks that the counts do not exceed the total
            inside = inside & (tensor.sum(-1) == self.parameters[0])
        return inside if isinstance(value, Tensor) else bool(inside.all())

    def bijection(self) -> Transform:
        """The bijection from unconstrained coordinates of one event (``ppl.types.bijections``)."""
        return bijection(self.constraint)

    def random(self, count: int, seed: int) -> Tensor:
        """``count`` values of one event in float64, for tests; their law is of no meaning.

        Finite spaces are drawn from uniformly, others through the bijection.  The shape is
        [count, *event shape], or [count, *shape] where the bounds differ between elements.

        Errors:
            UnsupportedDistributionError: the support is unknown or depends on a random value.
        """
        generator = torch.Generator().manual_seed(seed)
        varied = any(isinstance(p, tuple) for p in self.parameters)
        event = self.shape if varied else self.shape[len(self.batch_shape) :]
        if self.finite:
            values: Tensor = self.enumerate().double()
            return values[torch.randint(len(values), (count,), generator=generator)]
        if None in self.parameters:
            raise UnsupportedDistributionError(located(f"what lies in {self.name} is not known"))
        size = (count, *event)
        noise = torch.randn(size, generator=generator, dtype=torch.float64)
        match self.kind:
            case "Int":
                return (3 * noise).round()
            case "Nat" | "IntAtLeast":
                low = _double(getattr(self.constraint, "lower_bound", 0))
                return low + (3 * noise).abs().floor()
            case "IntInterval":
                low, high = map(_double, vars(self.constraint).values())
                width = high - low + 1
                share = torch.rand(size, generator=generator, dtype=torch.float64)
                return low + (share * width).floor().minimum(width - 1)
            case "Sphere":
                return torch.nn.functional.normalize(noise, dim=-1)
        transform = bijection(self.constraint, dtype=torch.float64)
        shape = transform.inverse_shape(torch.Size(size))  # type: ignore[no-untyped-call]
        free = torch.randn(shape, generator=generator, dtype=torch.float64)
        inside: Tensor = transform(free)
        return inside

    def key(self, value: Any) -> tuple[tuple[int, ...], bytes]:
        """A hashable form, equal for equal values: exact bits, whatever the dtype and device."""
        tensor = _tensor(value).detach().cpu()
        wide = tensor.to(torch.float64) + 0.0 if self.smooth else tensor.to(torch.int64)
        return tuple(tensor.shape), wide.numpy().tobytes()


def _tensor(value: Any) -> Tensor:
    """The value itself, or Python numbers without loss of precision."""
    return value if isinstance(value, Tensor) else torch.as_tensor(value, dtype=torch.float64)


def _double(bound: Any) -> Tensor:
    return torch.as_tensor(bound, dtype=torch.float64)


def _printed(parameter: Parameter) -> str:
    if parameter is None:
        return "?"
    if isinstance(parameter, tuple):
        shown = ", ".join(f"{p:g}" for p in parameter[:4])
        return f"[{shown}{', ...' if len(parameter) > 4 else ''}]"
    return str(parameter) if isinstance(parameter, int) else f"{parameter:g}"


def _compositions(n: int, k: int) -> Tensor:
    """All vectors of ``k`` counts with sum ``n`` in lexicographic order, [count, k]."""
    bars = itertools.combinations(range(n + k - 1), k - 1)
    edges = torch.tensor([(-1, *bar, n + k - 1) for bar in bars])
    return edges.diff(dim=-1) - 1


def space_of(distribution: Any) -> Space:
    """The space of the values of a distribution, with shape batch + event, without sampling."""
    shape = tuple(distribution.batch_shape + distribution.event_shape)
    core = distribution
    while isinstance(core, _WRAPPERS):
        core = core.base_dist
    if isinstance(core, dist.Unit):
        return Space("Unit", (), shape[:-1])
    if _circular(core):  # their stated support is the whole line, not one turn
        return Space("Circle", (), shape, TURN)
    try:
        support = support_of(distribution)
    except (NotImplementedError, BranchError):
        support = constraints.dependent
    return space_of_support(support, shape)


def _circular(law: Any) -> bool:
    """Whether a law is of angles, or a mixture of such."""
    while True:
        if isinstance(law, torch.distributions.MixtureSameFamily):
            law = law.component_distribution
        elif isinstance(law, _WRAPPERS):
            law = law.base_dist
        else:
            return isinstance(law, _CIRCULAR)


def space_of_support(support: Constraint, shape: tuple[int, ...]) -> Space:
    """The space of a support, for a tensor of this shape (batch + event)."""
    mixed = False
    while isinstance(support, constraints.independent | _OfMixture):
        mixed |= isinstance(support, _OfMixture)
        support = support.base_constraint
    bounds = [vars(support)[n] for n in ("lower_bound", "upper_bound") if n in vars(support)]
    kind, event_dims = _SIZED.get(type(support), (_SCALAR.get(type(support), "Unknown"), 0))
    parameters = tuple(_parameter(bound, kind) for bound in bounds)
    if any(isinstance(bound, Tensor) for bound in bounds):
        entries = [bound_values(bound) or [] for bound in bounds]
        if all(len(set(numbers)) == 1 for numbers in entries):
            support = type(support)(*(numbers[0] for numbers in entries))
        elif mixed:  # the supports of the components differ
            return Space("Unknown", (), shape)
    if kind == "IntInterval" and isinstance(parameters[1], int) and parameters[0] == 0:
        kind, parameters = "Fin", (parameters[1] + 1,)
    elif (kind, parameters) in _SPECIAL:
        kind, parameters = _SPECIAL[kind, parameters], ()
    sizes = shape[-1:] if event_dims else ()
    return Space(kind, parameters + sizes, shape, support)


def _parameter(bound: Any, kind: str) -> Parameter:
    """A bound in canonical form: exact integers for discrete kinds, else six digits."""
    entries = bound_values(bound)
    if not entries:
        return None
    numbers = [int(x) if kind in _DISCRETE else float(f"{x:.6g}") for x in entries]
    return numbers[0] if len(set(numbers)) == 1 else tuple(numbers)
