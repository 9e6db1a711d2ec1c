"""Fits of the same data side by side: how well each predicts, and how far they are apart."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from ...ppl.errors import DataError, located
from .fit import Fit
from .loo import unseen
from .pareto import TRUSTED

if TYPE_CHECKING:
    import pandas

By = Literal["loo", "waic"]
COLUMNS = ("elpd", "se", "p", "elpd_diff", "dse", "doubtful")
SPREAD = 0.4  # of an observation's log density over the draws, above which WAIC is not believed


class Scores(NamedTuple):
    """Of each observation [n]: its predictive log density, fitted less that, and if it is doubtful.

    ``factors``: what is not counted.
    """

    elpd: Tensor
    lost: Tensor
    doubtful: Tensor
    factors: tuple[str, ...]


def compare(fits: Mapping[str, Fit], by: By = "loo") -> pandas.DataFrame:
    """How well fits predict the data that they share, best first.

    ``elpd``: the sum over observations of the log density of each, given the others; ``se``: its
    standard error.  ``p``: the effective number of parameters.  ``elpd_diff``: how far it is below
    the first; ``dse``: the standard error of that, from differences observation by observation.  A
    difference of fewer than two standard errors, or than four, tells next to nothing.
    ``doubtful``: observations of which the estimate is not to be believed.

    Args:
        fits: by name, of models of the same data.
        by: "loo": Pareto smoothed importance sampling, see ``Fit.loo``; an observation is doubtful
            if its k-hat is above 0.7.  "waic": the widely applicable information criterion, where
            it is if its log density varies by more than 0.4.

    Sources: Vehtari, Gelman and Gabry (arXiv 1507.04544); Sivula, Magnusson, Matamoros and Vehtari
    (arXiv 2008.10296) for what differences tell.

    Errors:
        DataError: fewer than two fits, or one without log likelihood; or fits of other data.
    """
    import pandas

    if by not in get_args(By):
        raise ValueError(f"by is one of {get_args(By)}, not {by!r}")
    if len(fits) < 2:
        raise DataError(located("there is nothing to compare", hint="give two fits or more"))
    _require_same_data(fits)
    score = left_out if by == "loo" else waic
    scores = {name: score(fit) for name, fit in fits.items()}
    order = sorted(scores, key=lambda name: -float(scores[name].elpd.sum()))
    best = scores[order[0]].elpd
    rows = {}
    for name in order:
        each = scores[name]
        behind = best - each.elpd
        rows[name] = (
            *(float(each.elpd.sum()), _error(each.elpd), float(each.lost.sum())),
            *(float(behind.sum()), _error(behind), int(each.doubtful.sum())),
        )
    return pandas.DataFrame.from_dict(rows, orient="index", columns=list(COLUMNS))


def left_out(fit: Fit) -> Scores:
    """By leaving each observation out: see ``Fit.loo``."""
    loo = fit.loo()
    elpd, fitted, k_hat = (_joint(x, fit) for x in (loo.pointwise, loo.fitted, loo.k_hat))
    return Scores(elpd, fitted - elpd, k_hat > TRUSTED, fit.factors)


def waic(fit: Fit) -> Scores:
    """By the widely applicable information criterion: what is lost is the variance over draws.

    Source: Watanabe, JMLR 11 (2010); Gelman, Hwang and Vehtari, Stat. Comput. 24 (2014), eq. 13.

    Errors:
        DataError: the fit holds no log likelihood.
    """
    if not fit.log_likelihood:
        what = "the fit holds no log likelihood to score observations by"
        raise DataError(located(what, hint="observe data at named sites, within the model"))
    logs = {name: x.detach().double().flatten(0, 1) for name, x in fit.log_likelihood.items()}
    fitted = _joint({name: x.logsumexp(0) - math.log(len(x)) for name, x in logs.items()}, fit)
    lost = _joint({name: x.var(0) for name, x in logs.items()}, fit)
    return Scores(fitted - lost, lost, lost > SPREAD, fit.factors)


def _joint(sites: Mapping[str, Tensor], fit: Fit) -> Tensor:
    """The entries of all sites that were seen, in one order whatever that of the fit."""
    parts = []
    for name in sorted(sites):
        data, entries = fit.observed.get(name), sites[name]
        seen = ... if data is None else ~unseen(data, entries.shape)
        parts.append(entries[seen].reshape(-1))
    return torch.cat(parts)


def _error(pointwise: Tensor) -> float:
    n = len(pointwise)
    return float(pointwise.std()) * math.sqrt(n) if n > 1 else math.nan


def _require_same_data(fits: Mapping[str, Fit]) -> None:
    """Raise unless all fits score the same entries of the same data."""
    (first, fit), *others = fits.items()
    shapes = {n: x.shape[2:] for n, x in fit.log_likelihood.items()}
    for name, other in others:
        found = {n: x.shape[2:] for n, x in other.log_likelihood.items()}
        if found != shapes:
            what = f"'{first}' scores {_told(shapes)}, and '{name}' {_told(found)}"
            raise DataError(located(what, hint="compare models of the same data"))
        for site in fit.observed.keys() & other.observed.keys() & fit.log_likelihood.keys():
            x, y = fit.observed[site].double(), other.observed[site].double()
            if x.shape != y.shape or not torch.allclose(x, y, equal_nan=True):
                what = f"'{first}' and '{name}' have other data of '{site}'"
                raise DataError(located(what, hint="compare models of the same data", site=site))


def _told(shapes: Mapping[str, torch.Size]) -> str:
    return ", ".join(f"{name}{list(shape)}" for name, shape in shapes.items()) or "nothing"
