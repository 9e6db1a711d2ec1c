"""Families of responses: their laws as texts, and what their values may be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ...ppl.errors import DataError, located, named_rows
from .design import Array, Response
from .priors import short


@dataclass(frozen=True)
class Family:
    """A law of the response, given the linear predictor ``eta`` [rows].

    steps: lines that compute what the law needs.
    law: of a row.
    expected: of a row, as the program returns it.
    others: the priors of parameters besides, by site; ``{sd}`` is that of the response.
    location: where the intercept's prior is, from the responses; the scale is ``spread``.
    allowed: which responses there may be, and its name.
    """

    law: str
    expected: str
    allowed: Callable[[Array], Array]
    values: str
    steps: tuple[str, ...] = ()
    others: tuple[tuple[str, str], ...] = ()
    location: Callable[[Array], float] = lambda y: 0.0
    spread: Callable[[Array], float] = lambda y: 1.0
    has_intercept: bool = True


def _deviation(y: Array) -> float:
    return float(np.std(y))


def _log_mean(y: Array) -> float:
    """Of counts that may all be zero."""
    return float(np.log(max(float(np.mean(y)), 1 / (2 * len(y)))))


_ANY = (lambda y: np.isfinite(y), "real numbers")
_COUNT = (lambda y: (y >= 0) & (y == np.round(y)), "counts")
_SIGMA = ("sigma", "dist.Exponential(1 / {sd})")  # rstanarm
_SHAPE = "dist.HalfCauchy(1.0)"  # Bambi

FAMILIES: dict[str, Family] = {
    "gaussian": Family(
        "dist.Normal(eta, sigma)", "eta", *_ANY,
        others=(_SIGMA,), location=lambda y: float(np.mean(y)), spread=_deviation,
    ),
    "student_t": Family(
        "dist.StudentT(nu, eta, sigma)", "eta", *_ANY,
        others=(("nu", "dist.Gamma(2.0, 0.1)"), _SIGMA),  # Juarez and Steel (2010)
        location=lambda y: float(np.mean(y)), spread=_deviation,
    ),
    "bernoulli": Family(
        "dist.Bernoulli(logits=eta)", "torch.sigmoid(eta)",
        lambda y: (y == 0) | (y == 1), "0 and 1, or two categories",
    ),
    "binomial": Family(
        "dist.Binomial(trials, logits=eta)", "trials * torch.sigmoid(eta)",
        _COUNT[0], "prop(successes, trials)",
    ),
    "poisson": Family(
        "dist.Poisson(rate)", "rate", *_COUNT,
        steps=("rate = eta.exp()",), location=_log_mean,
    ),
    "negative_binomial": Family(
        "dist.NegativeBinomial(shape, logits=eta - shape.log())", "eta.exp()", *_COUNT,
        others=(("shape", _SHAPE),), location=_log_mean,
    ),
    "gamma": Family(
        "dist.Gamma(shape, shape / rate)", "rate", lambda y: y > 0, "positive numbers",
        steps=("rate = eta.exp()",), others=(("shape", _SHAPE),), location=_log_mean,
    ),
    "beta": Family(
        "dist.Beta(share * precision, (1 - share) * precision)", "share",
        lambda y: (y > 0) & (y < 1), "numbers between 0 and 1",
        steps=("share = torch.sigmoid(eta)",), others=(("precision", _SHAPE),),
    ),
    "ordinal": Family(
        "dist.OrderedLogistic(eta, cutpoints)", "eta",
        lambda y: np.isfinite(y), "an ordered categorical, or whole numbers",
        has_intercept=False,
    ),
}  # fmt: skip


def family(name: str) -> Family:
    """The family of a name.

    Errors:
        DataError: there is none.
    """
    if name not in FAMILIES:
        what = f"formula: there is no family '{name}'"
        raise DataError(located(what, hint=f"the families are {', '.join(FAMILIES)}"))
    return FAMILIES[name]


def explained(name: str, response: Response) -> tuple[Array, tuple[str, ...] | None]:
    """The responses [rows] as numbers of the law, and the categories that they number, if any.

    Errors:
        DataError: they are not what the family is of, with the first rows that are not; or a
            response of which a scale is needed is constant.
    """
    law, y, levels = family(name), response.values, response.levels
    what = f"family '{name}': the response '{response.name}'"
    if (name == "binomial") != (response.trials is not None):
        what = f"{what} has {'no' if name == 'binomial' else 'a number of'} trials"
        hint = "the response of the family binomial, and no other, is prop(successes, trials)"
        raise DataError(located(what, hint=hint))
    if name == "ordinal":
        return _ordered(what, response)
    if levels is not None and not (name == "bernoulli" and len(levels) == 2):
        what = f"{what} is categorical: {list(levels)}"
        raise DataError(located(what, hint=f"it takes {law.values}"))
    if not (allowed := law.allowed(y)).all():
        rows = [*map(int, np.flatnonzero(~allowed))]
        shown = f"{short(y[rows[0]], 6)} in {named_rows(rows)}"
        raise DataError(located(f"{what} is {shown}", hint=f"it takes {law.values}"))
    if law.spread(y) == 0:
        raise DataError(located(f"{what} is constant", hint="there is nothing to explain"))
    return y, levels


def _ordered(what: str, response: Response) -> tuple[Array, tuple[str, ...]]:
    """Places of ordered categories, and their names."""
    if response.levels is not None:
        if not response.ordered:
            hint = "give a pandas Categorical with ordered=True, or a polars Enum"
            raise DataError(located(f"{what} has categories without an order", hint=hint))
        return response.values, response.levels
    if (response.values != np.round(response.values)).any():
        hint = f"it takes {FAMILIES['ordinal'].values}"
        raise DataError(located(f"{what} is not ordered", hint=hint))
    seen, places = np.unique(response.values, return_inverse=True)
    if len(seen) < 2:
        raise DataError(located(f"{what} is constant", hint="there is nothing to explain"))
    return places.astype(np.float64), tuple(str(int(x)) for x in seen)
