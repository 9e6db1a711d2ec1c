"""Weakly informative priors from the scale of data, as texts.

Coefficients and intercepts as in rstanarm (Gabry and Goodrich, "Prior Distributions for rstanarm
Models": normal of standard deviation 2.5 sd(y) / sd(x), the intercept at the means of the
predictors); standard deviations of groups are half normal of the scale that the coefficient itself
would have, and correlations uniform (LKJ 1, as brms has it).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from ...ppl.errors import DataError, located
from .design import Array, Term

WIDTH = 2.5  # standard deviations of a coefficient, where data have standard deviation one


def short(x: float, digits: int = 3) -> str:
    """A number of so many digits, as Python writes a float."""
    return repr(float(f"{float(x):.{digits}g}"))


def normal(location: float, scale: Array | float) -> str:
    """The text of a normal law, of a vector where there are several scales."""
    return f"dist.Normal({short(location)}, {numbers(scale)})"


def half_normal(scale: Array | float) -> str:
    """The text of a half-normal law."""
    return f"dist.HalfNormal({numbers(scale)})"


def numbers(x: Array | float) -> str:
    """A number of three digits, or a tensor of several."""
    return _text(x, short)


def means(columns: Array) -> str:
    """The means of columns, to within 1/10 000 of their standard deviations."""
    centre, sd = columns.mean(0), columns.std(0)
    places = np.where(sd > 0, 4 - np.floor(np.log10(np.where(sd > 0, sd, 1.0))), 6).astype(int)
    return _text(np.vectorize(lambda x, at: round(float(x), int(at)))(centre, places), repr)


def _text(x: Array | float, one: Callable[[float], str]) -> str:
    if np.ndim(x) == 0:
        return one(float(x))
    return f"torch.tensor([{', '.join(one(float(each)) for each in np.asarray(x))}])"


def widths(term: Term, spread: float) -> Array | float:
    """The standard deviation of each coefficient of a term: ``2.5 spread / sd(x)``; of one, 2.5.

    Args:
        spread: of the response, in the units of the linear predictor.
    """
    if term.is_one:
        return WIDTH * spread
    sd = np.std(term.columns, axis=0)
    of_ones = np.ptp(term.columns, axis=0) == 0  # the only category, or an intercept by hand
    found: Array = WIDTH * spread / np.where(of_ones, 1.0, sd)
    return found if np.ndim(found) else float(found)


def given(priors: Mapping[str, Any] | None) -> dict[str, str]:
    """Priors of users as texts; laws are written out.

    Errors:
        DataError: a prior is neither a text nor a law with numbers for its parameters.
    """
    laws = priors or {}
    return {site: x if isinstance(x, str) else _written(site, x) for site, x in laws.items()}


def _written(site: str, law: Any) -> str:
    """The text of a law that numbers determine."""
    names = [name for name in getattr(law, "arg_constraints", {}) if _is_own(law, name)]
    values = [getattr(law, name) for name in names]
    if not names or any(not isinstance(x, Tensor) or x.numel() != 1 for x in values):
        what = f"the prior of '{site}' is no law with numbers for its parameters"
        raise DataError(located(what, site=site, hint='write it as text: "dist.Normal(0.0, 1.0)"'))
    given = ", ".join(f"{name}={float(x)!r}" for name, x in zip(names, values, strict=True))
    return f"dist.{type(law).__name__}({given})"


def _is_own(law: Any, name: str) -> bool:
    """Whether a law was made with a parameter, and not with one that it follows from."""
    return name in vars(law) or isinstance(getattr(type(law), name, None), property)
