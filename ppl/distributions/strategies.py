"""Strategies: how the gradient of an expected value goes through a random choice.

A strategy is attached to a distribution, ``reparam(dist.Normal(loc, scale))``, and changes nothing
about the law.  What each one does is in ``inference.vi.estimators``; here are their names, and the
laws that they are legal for.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._C import _functorch as functorch
from torch.distributions import constraints

from ..errors import StrategyError, located
from ..tensors.abstract_tensor import marks_of
from ..types import included, space_of
from ..types.supports import support_of
from .pytrees import flatten
from .support import lists_values

LAW = torch.distributions.Distribution


@dataclass(frozen=True)
class Strategy:
    """How a choice is differentiated.

    ``smooth``: the value carries a derivative, so nothing may be decided by it; the values of other
    strategies may be compared, rounded and branched on.  ``biased``: the expected gradient is not
    the gradient.
    """

    smooth = False
    biased = False

    @property
    def name(self) -> str:
        return type(self).__name__.lower()


@dataclass(frozen=True)
class Reparam(Strategy):
    """A function of noise and parameters: the derivative of the path."""

    smooth = True


@dataclass(frozen=True)
class Implicit(Strategy):
    """The derivative of the path by that of the distribution function."""

    smooth = True


@dataclass(frozen=True)
class Reinforce(Strategy):
    """The score times what follows, less a baseline; ``control`` is a function of known mean."""

    baseline: Any = None
    control: tuple[Callable[[Tensor], Tensor], Tensor] | None = None


@dataclass(frozen=True)
class Enum(Strategy):
    """The sum over all values."""


@dataclass(frozen=True)
class Mvd(Strategy):
    """Differences between what follows from this value and from others."""


@dataclass(frozen=True)
class LeaveOneOut(Strategy):
    """Several values; each has the mean of the others for baseline."""

    copies: int = 2

    @property
    def name(self) -> str:
        return "leave_one_out"


@dataclass(frozen=True)
class Importance(Strategy):
    """Values of another law, weighted."""

    proposal: Any = None


@dataclass(frozen=True)
class Rejection(Strategy):
    """The path of an accepted proposal, and the score of its acceptance."""

    smooth = True


@dataclass(frozen=True)
class StraightThrough(Strategy):
    """The value of the law, with the derivative of its mean."""

    smooth, biased = True, True

    @property
    def name(self) -> str:
        return "straight_through"


@dataclass(frozen=True)
class GumbelSoftmax(Strategy):
    """The value of the law, with the derivative of a relaxed one."""

    smooth, biased = True, True
    temperature: float | Tensor = 1.0

    @property
    def name(self) -> str:
        return "gumbel_softmax"


# ----------------------------------------------------------------------------------------- wrapping


def _given(distribution: Any, strategy: Strategy) -> Any:
    """The law with a strategy, which is its only one."""
    before = strategy_of(distribution) if isinstance(distribution, LAW) else None
    if before is not None:
        what = f"a law that goes by {before.name} is given the strategy {strategy.name}"
        raise StrategyError(located(what, hint="give a choice one strategy"))
    return annotated(distribution, strategy)


def reparam(distribution: Any) -> Any:
    """Differentiate along the path: the value is a smooth function of noise.  Lowest variance.

    For laws with a location and scale, their transforms, the gamma family and Dirichlet, whose
    derivative is implicit, good to 1e-8, and exists to first order.  The value may not be compared
    or rounded.

    Source: Kingma, Welling (arXiv 1312.6114); Figurnov, Mohamed, Mnih (arXiv 1805.08498).
    """
    return _given(distribution, Reparam())


def implicit(distribution: Any) -> Any:
    """Differentiate along the path by dx = -dF(x) / p(x), with F the distribution function.

    For the gamma family and Dirichlet, and for univariate laws with a ``cdf``, mixtures too.  First
    order.

    Source: Figurnov, Mohamed, Mnih (arXiv 1805.08498).
    """
    return _given(distribution, Implicit())


def reinforce(
    distribution: Any,
    baseline: Any = None,
    *,
    control: tuple[Callable[[Tensor], Tensor], Tensor] | None = None,
) -> Any:
    """Differentiate by the score: for any law whose support stays where it is, to all orders.

    Args:
        baseline: a number, or an object of ``inference.vi.baselines``, that is subtracted from
            what follows; it must not depend on the value.
        control: a function of the value, and its mean under the law as a differentiable tensor; it
            is subtracted as a baseline that may depend on the value, and its mean is added.

    Source: Williams (1992); Foerster et al. (arXiv 1802.05098) for all orders.
    """
    return _given(distribution, Reinforce(baseline, control))


def enum(distribution: Any) -> Any:
    """Differentiate the sum over all values: exact, to all orders, for finite laws."""
    return _given(distribution, Enum())


def mvd(distribution: Any) -> Any:
    """Differentiate by measure-valued derivatives: differences of what follows from two values.

    For Bernoulli, categorical (all orders), Poisson and normal laws (first order).

    Source: Heidergott, Vazquez-Abad (2008); Mohamed et al. (arXiv 1906.10652), section 6.
    """
    return _given(distribution, Mvd())


def leave_one_out(distribution: Any, copies: int) -> Any:
    """Differentiate by the scores of several values, each less the mean of what the others give.

    Source: Kool, van Hoof, Welling (2019), Buy 4 REINFORCE samples, get a baseline for free.
    """
    if copies < 2:
        raise StrategyError(located(f"leave_one_out needs at least two copies, not {copies}"))
    return _given(distribution, LeaveOneOut(copies))


def importance(distribution: Any, proposal: Any) -> Any:
    """Draw from ``proposal``, which no parameter moves, and weight by the ratio of densities.

    The proposal must cover the law, and have its shape.  All orders.
    """
    return _given(distribution, Importance(proposal))


def rejection(distribution: Any) -> Any:
    """Differentiate a gamma law along its accepted proposals, with a correction by their score.

    Source: Naesseth, Ruiz, Linderman, Blei (arXiv 1610.05683).
    """
    return _given(distribution, Rejection())


def straight_through(distribution: Any) -> Any:
    """Biased: the value of a Bernoulli or one-hot law, with the derivative of its mean.

    Source: Bengio, Leonard, Courville (arXiv 1308.3432).
    """
    return _given(distribution, StraightThrough())


def gumbel_softmax(distribution: Any, temperature: float | Tensor = 1.0) -> Any:
    """Biased: the value of a Bernoulli or one-hot law, with the derivative of a relaxed value.

    Source: Jang, Gu, Poole (arXiv 1611.01144), the straight-through form.
    """
    return _given(distribution, GumbelSoftmax(temperature))


class Strategic:
    """A distribution that knows its strategy, which outlives ``expand`` and what is built on it."""

    strategy: Strategy

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        return annotated(plain(self).expand(batch_shape), self.strategy)

    def __reduce__(self) -> Any:
        return annotated, (plain(self), self.strategy)


def annotated(distribution: Any, strategy: Strategy) -> Any:
    """The same law with a strategy, in place of any that it has."""
    if not isinstance(distribution, torch.distributions.Distribution):
        raise StrategyError(
            located(f"{strategy.name} goes on a distribution, not a {type(distribution).__name__}")
        )
    new = _retyped(distribution, _strategic(_law(type(distribution))))
    new.strategy = strategy
    return new


def plain(distribution: Any) -> Any:
    """The law itself, without strategy or mask."""
    if isinstance(distribution, Strategic):
        distribution = _retyped(distribution, _law(type(distribution)))
        vars(distribution).pop("strategy")
    base = vars(distribution).get("base_dist")
    if type(distribution).__name__ == "MaskedDistribution":
        return plain(base)
    if isinstance(base, torch.distributions.Distribution) and (bare := plain(base)) is not base:
        distribution = _retyped(distribution, type(distribution))
        distribution.base_dist = bare
    return distribution


def strategy_of(distribution: Any) -> Strategy | None:
    """The strategy of a law, of the law that it is a batch or an event of, or None."""
    while not isinstance(distribution, Strategic):
        distribution = vars(distribution).get("base_dist")
        if distribution is None:
            return None
    return distribution.strategy


def _retyped(distribution: Any, kind: type) -> Any:
    new: Any = object.__new__(kind)
    vars(new).update(vars(distribution))
    return new


def _law(kind: type) -> type:
    return kind.__bases__[1] if issubclass(kind, Strategic) else kind


@functools.cache
def _strategic(kind: type) -> type:
    """A class of the same name and place, so that whatever goes by these treats it alike."""
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    return type(kind.__name__, (Strategic, kind), names)


# ----------------------------------------------------------------------------------------- legality

GAMMAS = ("Gamma", "Chi2", "Beta", "Dirichlet", "StudentT", "FisherSnedecor")
PATHS = (
    *("Normal", "Laplace", "Cauchy", "Logistic", "Exponential", "Uniform", "Delta"),
    *("MultivariateNormal", "LowRankMultivariateNormal", "GaussianMarkov", "PlanarFlow"),
)
FINITE = ("Bernoulli", "Categorical", "OneHotCategorical")


def is_gamma(law: Any) -> bool:
    """Whether the values of a law, or of what it is made of, are their own noise."""
    law = inner_law(law)
    if isinstance(law, torch.distributions.TransformedDistribution):
        return is_gamma(law.base_dist)
    return type(law).__name__ in GAMMAS


def inner_law(distribution: Any) -> Any:
    """The law inside batches and events of it."""
    while type(distribution).__name__ in ("Independent", "ExpandedDistribution"):
        distribution = distribution.base_dist
    return distribution


def faults(distribution: Any, strategy: Strategy) -> Iterator[str]:
    """Why a strategy is not legal for a law; nothing if it is."""
    law = inner_law(plain(distribution))
    kind = type(law).__name__
    if isinstance(strategy, Reparam) and not has_path(law):
        yield f"{kind} has no differentiable path from noise to value"
    if isinstance(strategy, Implicit) and not is_gamma(law) and not has_cdf(law):
        yield f"{kind} has no distribution function to differentiate"
    if isinstance(strategy, Reinforce | LeaveOneOut | Importance) and support_moves(law):
        yield "its support moves with a parameter, so that the score leaves out what moves"
    if isinstance(strategy, Importance) and not _covers(strategy.proposal, distribution):
        yield "its proposal does not reach all of its values, which the estimate would leave out"
    if isinstance(strategy, Enum) and not lists_values(law):
        yield f"{kind} has no finite support to enumerate"
    if isinstance(strategy, Mvd) and kind not in (*FINITE, "Poisson", "Normal"):
        yield f"no measure-valued derivative of {kind} is known here"
    if isinstance(strategy, Rejection) and kind != "Gamma":
        yield f"no rejection sampler of {kind} is known here"
    one_hot = kind in ("OneHotCategorical", "Bernoulli")
    if isinstance(strategy, StraightThrough | GumbelSoftmax) and not one_hot:
        yield f"{kind} has no values with a mean between them (use OneHotCategorical)"


def _covers(proposal: Any, distribution: Any) -> bool:
    """Whether a proposal may give all values of a law, as far as that is known."""
    if proposal is None:
        return True
    return included(space_of(distribution), space_of(proposal)) is not False


def require_legal(name: str, distribution: Any, strategy: Strategy) -> None:
    """Raise unless the strategy is legal for the law of a site."""
    for fault in faults(distribution, strategy):
        raise StrategyError(
            located(f"{strategy.name} is not legal: {fault}", site=name, hint=_others(distribution))
        )


def require_strategy(name: str, distribution: Any) -> None:
    """Raise if the law of a site that has no strategy depends on a parameter."""
    if any(map(is_followed, flatten(distribution)[0])):
        raise StrategyError(
            located(
                "the law depends on a parameter and has no strategy",
                site=name,
                hint=_others(distribution),
            )
        )


def _others(distribution: Any) -> str:
    names = [s.name for s in _ALL if not any(faults(distribution, s))]
    return f"legal here: {', '.join(names)}" if names else "no strategy is legal here"


_ALL = (
    Reparam(),
    Implicit(),
    Reinforce(),
    LeaveOneOut(),
    Enum(),
    Mvd(),
    Rejection(),
    StraightThrough(),
    GumbelSoftmax(),
)


def has_path(law: Any) -> bool:
    """Whether a law is a differentiable function of noise."""
    kind = type(law).__name__
    if isinstance(law, torch.distributions.TransformedDistribution):
        return has_path(inner_law(law.base_dist))
    return kind in PATHS or kind in GAMMAS


def has_cdf(law: Any) -> bool:
    """Whether a univariate continuous law tells its distribution function."""
    if law.event_shape or lists_values(law) or support_of(law).is_discrete:
        return False
    if isinstance(law, torch.distributions.MixtureSameFamily):
        return has_cdf(law.component_distribution)
    return type(law).cdf is not torch.distributions.Distribution.cdf


def support_moves(law: Any) -> bool:
    """Whether a bound of the support depends on a parameter."""
    support = support_of(law)
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return any(is_followed(bound) for bound in vars(support).values())


def is_followed(value: Any) -> bool:
    """Whether a tensor carries a derivative, also behind the walls of lanes."""
    if not isinstance(value, Tensor):
        return False
    while functorch.is_functorch_wrapped_tensor(value):
        if value.requires_grad:
            return True
        value = functorch.get_unwrapped(value)
    return value.requires_grad or any(mark.smooth for mark in marks_of(value))
