"""The gradient estimators of single choices, one for each strategy.

Each tells the outcome of a new choice (or forks), and the value that an outcome stands for.  K is
the continuation, box the factor of ``replay``; p may move with parameters, sg holds constant.
"""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from ....ppl.distributions import strategies as named
from ....ppl.distributions.densities import log_density
from ....ppl.distributions.pytrees import flatten
from ....ppl.distributions.strategies import inner_law
from ....ppl.distributions.support import finite_support
from ....ppl.errors import StrategyError, located
from .baselines import as_baseline
from .dependence import mark_of_infinity
from .paths import Path, by_cdf, detached, path
from .replay import (
    ESTIMATORS,
    Continuation,
    Estimator,
    Fork,
    Outcome,
    Run,
    Score,
    Site,
    cancelled,
    site_of,
)


def choose(run: Run, name: str, distribution: Any) -> Any:
    """The value of a choice in a run, of shape batch + event.

    Errors:
        StrategyError: its strategy is missing, illegal for its law, biased or of too low an order.
    """
    return run.choose(site_of(name, distribution))


def _drawn(run: Run, site: Site) -> Tensor:
    return run.draw(detached(site.law), site.name)


def _as_it_is(run: Run, site: Site, outcome: Tensor) -> Tensor:
    return outcome


def _total(law: Any, value: Tensor) -> Tensor:
    """The log density [] of a value, the elements of a batch together."""
    return log_density(law, value).sum()


# -------------------------------------------------------------------------------------------- paths
# S = K(function(noise))


def _path_of(site: Site) -> Path:
    use_cdf = isinstance(site.strategy, named.Implicit) and not named.is_gamma(site.law)
    return by_cdf(site.law) if use_cdf else path(site.law)


def _noise(run: Run, site: Site) -> tuple[Tensor, ...]:
    """The noise of a path; that of gammas depends on parameters, and cannot be shared."""
    laws = _path_of(site).noise
    if named.is_gamma(site.law) or isinstance(site.strategy, named.Implicit):
        return tuple(run.draw(law, site.name) for law in laws)
    return tuple(run.shared(site.name, law, i) for i, law in enumerate(laws))


def _along(run: Run, site: Site, noise: tuple[Tensor, ...]) -> Tensor:
    return _path_of(site).function(*noise)


def _path_order(site: Site) -> int | None:
    return _path_of(site).order


# ------------------------------------------------------------------------------------------- scores
# S = box K - (box - 1) b


def _by_score(run: Run, site: Site, value: Tensor) -> Tensor:
    if run.forward:
        return value
    elements = log_density(site.law, value)
    score = Score(site.name, value, elements, as_baseline(site.strategy.baseline))
    if site.strategy.control is not None:
        function, score.mean = site.strategy.control
        score.control = function(value)
    run.scores.append(score)
    return value


# -------------------------------------------------------------------------------------- enumeration
# S = sum_k p(k) K(k)


def _enumerated(run: Run, site: Site) -> Outcome:
    def combine(follow: Continuation) -> Tensor:
        values, log_probs = finite_support(site.law, limit=run.settings.budget, impossible=True)
        probs = log_probs.reshape(len(values), -1).sum(1).exp()
        terms = (_times(p, follow(x)) for p, x in zip(probs, values, strict=True))
        return sum(terms, torch.zeros(()))

    raise Fork(site.name, combine)


def _times(p: Tensor, cost: Tensor) -> Tensor:
    """p K, zero where p is zero and K is infinite."""
    never = mark_of_infinity((p == 0) & ~cost.isfinite())
    return p * torch.where(never, torch.zeros_like(cost), cost)


# ----------------------------------------------------------------------- measure-valued derivatives
# S = K(x) + sum_i (w_i - sg w_i) (K(x_i) - K(x)), with dp = sum_i dw_i delta(x_i) at all orders for
# one element of a finite law, at the first otherwise.


def _differences(run: Run, site: Site) -> Outcome:
    kind = type(inner_law(site.law)).__name__
    alternatives = {"Poisson": _next_count, "Normal": _displaced}.get(kind, _other_values)
    value, others = alternatives(run, site)

    def combine(follow: Continuation) -> Tensor:
        after = follow(value)
        total = after
        further = run.settings.order > 1
        for weight, other, against in others:
            if further:
                gap = follow(other) - after
            else:
                base = after.detach() if against is None else follow.value(against)
                gap = follow.value(other) - base
            total = total + cancelled(weight) * gap
        return total

    raise Fork(site.name, combine)


Alternative = tuple[Tensor, Tensor, Tensor | None]  # weight, value, what it is compared with
Alternatives = tuple[Tensor, list[Alternative]]


def _lanes_of(law: Any) -> tuple[int, int]:
    """The shape of the independent elements of a law, and the width of the value of one."""
    inner = inner_law(law)
    width = inner.event_shape.numel()
    return (law.batch_shape + law.event_shape).numel() // width, width


def _replaced(value: Tensor, lane: int, by: Tensor, width: int) -> Tensor:
    """The value with one of its elements replaced."""
    rows = value.reshape(-1, width)
    here = (torch.arange(len(rows), device=value.device) == lane)[:, None]
    return torch.where(here, by.reshape(-1, width), rows).reshape(value.shape)


def _other_values(run: Run, site: Site) -> Alternatives:
    """All other values of each element of a finite law, by their probabilities."""
    value = _drawn(run, site)
    law = inner_law(site.law)
    lanes, width = _lanes_of(site.law)
    kind = type(law).__name__
    count = 2 if kind == "Bernoulli" else law.probs.shape[-1]
    others: list[Alternative] = []
    for shift in range(1, count):
        if kind == "Bernoulli":
            moved = 1 - value
        elif kind == "Categorical":
            moved = (value + shift) % count
        else:
            moved = value.roll(shift, -1)
        probs = _elementwise(site.law, moved).exp().reshape(-1)
        others += [(probs[i], _replaced(value, i, moved, width), None) for i in range(lanes)]
    return value, others


def _elementwise(law: Any, value: Tensor) -> Tensor:
    """The log density of each element, events of several elements taken apart."""
    while type(law).__name__ == "Independent":
        law = law.base_dist
    return log_density(law, value)


def _next_count(run: Run, site: Site) -> Alternatives:
    """d Poisson(r) = dr (Poisson(r) + 1 - Poisson(r))."""
    value = _drawn(run, site)
    lanes, width = _lanes_of(site.law)
    rates = inner_law(site.law).rate.expand(value.shape).reshape(-1)
    return value, [(rates[i], _replaced(value, i, value + 1, width), None) for i in range(lanes)]


def _displaced(run: Run, site: Site) -> Alternatives:
    """d Normal(m, s): Weibull differences for m, a double-sided Maxwell law for s.

    Source: Mohamed et al. (arXiv 1906.10652), table 1.
    """
    law = inner_law(site.law)
    value = _drawn(run, site)
    lanes, width = _lanes_of(site.law)
    loc, scale = law.loc.detach(), law.scale.detach()
    ones = torch.ones_like(value)
    others: list[Alternative] = []
    if named.is_followed(law.loc):
        w = run.draw(dist.Weibull(math.sqrt(2.0) * ones, 2.0 * ones), f"{site.name}/weibull")
        weights = (law.loc / (scale * math.sqrt(2 * math.pi))).expand(value.shape).reshape(-1)
        for i in range(lanes):
            above, below = (_replaced(value, i, loc + side * scale * w, width) for side in (1, -1))
            others.append((weights[i], above, below))
    if named.is_followed(law.scale):
        g = run.draw(dist.Gamma(1.5 * ones, 0.5 * ones), f"{site.name}/maxwell")
        side = 2 * run.draw(dist.Bernoulli(0.5 * ones), f"{site.name}/side") - 1
        weights = (law.scale / scale).expand(value.shape).reshape(-1)
        wide = loc + scale * side * g.sqrt()
        others += [(weights[i], _replaced(value, i, wide, width), None) for i in range(lanes)]
    return value, others


def _mvd_order(site: Site) -> int | None:
    finite = type(inner_law(site.law)).__name__ in named.FINITE
    return None if finite and _lanes_of(site.law)[0] == 1 else 1


# ----------------------------------------------------------------------------------- several values
# S = mean_k [box_k K_k - (box_k - 1) mean_{j != k} sg K_j]


def _copies(run: Run, site: Site) -> Outcome:
    m = site.strategy.copies
    values = [_drawn(run, site) for _ in range(m)]

    def combine(follow: Continuation) -> Tensor:
        after = [follow.apart(value) for value in values]
        total = sum((each.detach() for each in after), torch.zeros(()))
        terms: list[Tensor] = []
        for value, each in zip(values, after, strict=True):
            box = torch.exp(cancelled(_total(site.law, value)))
            others = (total - each.detach()) / (m - 1)
            terms.append(box * each - (box - 1) * others)
        mean: Tensor = sum(terms, torch.zeros(())) / m
        return mean

    raise Fork(site.name, combine)


# ---------------------------------------------------------------------------- weights of other laws
# S = p(x) / q(x) K(x), x ~ q


def _proposed(run: Run, site: Site) -> Outcome:
    proposal = site.strategy.proposal
    if any(map(named.is_followed, flatten(proposal)[0])):
        what = "the proposal of importance depends on a parameter"
        raise StrategyError(located(what, site=site.name, hint="detach its parameters"))

    value = run.draw(proposal, site.name)

    def combine(follow: Continuation) -> Tensor:
        weight = (_total(site.law, value) - _total(proposal, value)).exp()
        return weight * follow(value)

    raise Fork(site.name, combine)


# ------------------------------------------------------------------------------- rejection sampling
# x = h(e) accepted: S = box K(h(e)), box of the density of e, p(h(e)) |dh/de|


def _accepted(run: Run, site: Site, value: Tensor) -> Any:
    """Marsaglia and Tsang's h(e; a) = (a - 1/3) (1 + e / sqrt(9 a - 3))^3, over the rate."""
    law = inner_law(site.law)
    a, rate = law.concentration.expand(value.shape), law.rate.expand(value.shape)
    fixed = a.detach()
    e = ((value * rate.detach() / (fixed - 1 / 3)) ** (1 / 3) - 1) * (9 * fixed - 3).sqrt()
    base = 1 + e / (9 * a - 3).sqrt()
    x = (a - 1 / 3) * base**3 / rate
    if run.forward:
        return value
    log_slope = (3 * (a - 1 / 3) * base**2 / (9 * a - 3).sqrt() / rate).log()
    run.scores.append(Score(site.name, value, _total(site.law, x) + log_slope.sum()))
    return x


# ------------------------------------------------------------------------------------------- biased


def _straight_through(run: Run, site: Site, value: Tensor) -> Tensor:
    return value + cancelled(inner_law(site.law).probs.expand(value.shape))


def _gumbel(run: Run, site: Site) -> Any:
    """The noise of a relaxed value, whose largest entry is the value."""
    law = inner_law(site.law)
    shape = site.law.batch_shape + site.law.event_shape
    zeros = law.probs.detach().new_zeros(shape)
    kind = dist.Logistic if type(law).__name__ == "Bernoulli" else dist.Gumbel
    return run.shared(site.name, kind(zeros, torch.ones_like(zeros), validate_args=False))


def _relaxed(run: Run, site: Site, noise: Tensor) -> Any:
    law, temperature = inner_law(site.law), site.strategy.temperature
    scores = law.logits.expand(noise.shape) + noise
    if type(law).__name__ == "Bernoulli":
        return (scores.detach() > 0).to(scores.dtype) + cancelled((scores / temperature).sigmoid())
    index = scores.detach().argmax(-1)
    values = torch.arange(scores.shape[-1], device=scores.device)
    hard = (index[..., None] == values).to(scores.dtype)
    return hard + cancelled((scores / temperature).softmax(-1))


ESTIMATORS |= {
    named.Reparam: Estimator(_noise, _along, _path_order),
    named.Implicit: Estimator(_noise, _along, _path_order),
    named.Reinforce: Estimator(_drawn, _by_score),
    named.Enum: Estimator(_enumerated, _as_it_is, forward=_drawn),
    named.Mvd: Estimator(_differences, _as_it_is, _mvd_order, forward=_drawn),
    named.LeaveOneOut: Estimator(_copies, _as_it_is, forward=_drawn),
    named.Importance: Estimator(_proposed, _as_it_is, forward=_drawn),
    named.Rejection: Estimator(_drawn, _accepted),
    named.StraightThrough: Estimator(_drawn, _straight_through, lambda site: 1),
    named.GumbelSoftmax: Estimator(_gumbel, _relaxed, lambda site: 1),
}
