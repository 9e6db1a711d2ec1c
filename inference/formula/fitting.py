"""A formula as a program with its data: fits of it, and predictions for new frames."""

from __future__ import annotations

import linecache
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, Protocol, get_args

import pyro.distributions as dist
import torch
from torch import Tensor

from ...ppl import Program, condition, draw
from ...ppl.errors import DataError, located, named_rows
from ...ppl.tensors.seeds import seeded
from ..drivers.mcmc import MCMC
from ..drivers.origin import continued_seed
from ..results.fit import Fit
from ..results.predict import predict
from ..results.prediction import Prediction
from ..runs.frames import as_pandas, missing_rows
from ..runs.placing import moved, placed
from .design import Design, anew, designed, require_no_gaps, used_columns
from .families import explained
from .families import family as family_of
from .priors import given
from .writing import Writing, written

Missing = Literal["refuse", "drop"]
NewLevels = Literal["refuse", "draw"]


class Driver(Protocol):
    """What runs a method on a program, such as ``MCMC()`` or ``Laplace()``."""

    def run(self, p: Any, *args: Any, **about: Any) -> Fit: ...


@dataclass(frozen=True)
class Formula:
    """The program that a formula stands for, and the data that it was made with.

    text: the formula.
    family: of the response.
    source: the program as text, which runs as it is.
    program: made from that text; it samples the response, under its name.
    response: the site of the response, and its values [rows], in float64.
    categories: of the response, that its values number, or None.
    dropped: rows of the data, from 0, that were left out as they have missing values.
    coords: labels of dimensions, as ``Fit.to_arviz`` takes them.
    dims: names for the dimensions of sites, likewise.
    """

    text: str
    family: str
    source: str
    program: Program
    response: tuple[str, Tensor]
    categories: tuple[str, ...] | None
    dropped: tuple[int, ...]
    coords: dict[str, list[str]]
    dims: dict[str, list[str]]
    _design: Design = field(repr=False)
    _writing: Writing = field(repr=False)

    @property
    def arguments(self) -> tuple[Any, ...]:
        """The arguments of the program for the data: columns [rows] or [rows, k] in float64."""
        return tuple(_tensor(each.value) for each in self._writing.arguments)

    @cached_property
    def model(self) -> Program:
        """The program with the responses observed."""
        return condition(self.program, dict([self.response]))

    def fit(self, driver: Driver | None = None, **about: Any) -> Fit:
        """Fit the program to its data, in float64 where the driver is not told otherwise.

        Args:
            driver: ``MCMC()`` unless given.
            about: what its ``run`` takes besides, such as ``seed`` and ``resume``.
        """
        with placed(None, torch.float64):
            return (driver or MCMC()).run(self.model, *self.arguments, **about)

    def predict(
        self, fit: Fit | int, data: Any = None, *, new_levels: NewLevels = "refuse", seed: int = 0
    ) -> Prediction:
        """Responses, and by ``value`` what is expected of them, for each row of a frame.

        Args:
            fit: of this program, or a number of draws from the prior.
            data: a frame with the columns that the formula names right of ``~``, by name; the data
                of the fit unless given.
            new_levels: of groups.  "refuse": name them; "draw": draw their effects from the law of
                effects that each draw of the fit has.

        Errors:
            DataError: a column is not there or has missing values; a level is new; a term is not
                finite.
        """
        if new_levels not in get_args(NewLevels):
            raise ValueError(f"new_levels is one of {get_args(NewLevels)}, not {new_levels!r}")
        args = self.arguments
        if data is not None:
            frame = anew(self._design, as_pandas(data))
            beyond = {site: block.find(frame)[1] for site, block in self._writing.effects.items()}
            if new_levels == "refuse":
                self._require_known(beyond)
            if isinstance(fit, Fit):
                fit = _extended(fit, {site: len(new) for site, new in beyond.items()}, seed)
            args = tuple(_tensor(each.anew(frame)) for each in self._writing.arguments)
        like = next(iter(fit.draws.values())) if isinstance(fit, Fit) else self.response[1]
        with placed(like.device, like.dtype):
            args = moved(args, like.device, like.dtype)
            return predict(fit, self.program, *args, seed=seed)

    def _require_known(self, beyond: Mapping[str, tuple[str, ...]]) -> None:
        """Refuse new levels, given by the site of the effects of their factor."""
        for site, new in beyond.items():
            if new:
                factor = self._writing.effects[site].factor
                what = f"new data for '{self.text}' have new levels of '{factor}': {list(new)}"
                hint = 'new_levels="draw" draws their effects'
                raise DataError(located(what, hint=hint))

    def __str__(self) -> str:
        return self.source


def formula(
    text: str,
    data: Any,
    family: str = "gaussian",
    *,
    priors: Mapping[str, Any] | None = None,
    missing: Missing = "refuse",
) -> Formula:
    """The program of a formula such as ``y ~ x + (1 + x | g)``, with weakly informative priors.

    What formulae reads may stand in it: ``x*c``, ``np.log(x)`` and other functions that are known
    where this is called, ``C(x)``, ``bs(x, df=4)``, ``offset(x)``, groups ``(1 + x | g)``, those
    without correlations ``(1 + x || g)``, and ``prop(successes, trials)`` as the response.

    Args:
        data: a frame of pandas, polars or xarray, or columns by name, [rows] each.
        family: of the response: gaussian, student_t, bernoulli, binomial, poisson,
            negative_binomial, gamma, beta, ordinal.
        priors: laws, or the texts of laws, by site, in place of those that the data suggest.
        missing: what to do with rows that miss a value: "refuse" names them, "drop" leaves them
            out, as ``dropped`` and the text of the program say.

    Errors:
        DataError: the text cannot be read, or names no column; values are missing, not finite, or
            not what the family is of; a prior is of no site.
        ImportError: formulae is not installed.
    """
    try:
        import formulae  # noqa: F401
    except ImportError as error:
        raise ImportError("formulas need formulae: pip install 'pushforward[formula]'") from error
    law, frame = family_of(family), as_pandas(data)
    used, dropped = used_columns(text, frame), []
    if missing not in get_args(Missing):
        raise ValueError(f"missing is one of {get_args(Missing)}, not {missing!r}")
    if missing == "drop":
        dropped = sorted({row for rows in missing_rows(frame, used).values() for row in rows})
        frame = frame.drop(index=dropped).reset_index(drop=True)
    require_no_gaps(frame, used, hint='missing="drop" leaves these rows out')
    if not len(frame):
        raise DataError(located(f"formula '{text}': the data have no rows"))
    design = designed(text, frame, depth=2)
    y, categories = explained(family, design.response)
    about = _about(design, family, categories, dropped)
    source, writing, site = written(design, law, y, categories, about, given(priors))
    return Formula(
        text,
        family,
        source,
        _program(text, source),
        (site, torch.tensor(y)),
        categories,
        tuple(dropped),
        writing.coords,
        writing.dims,
        design,
        writing,
    )


def _about(
    design: Design, family: str, categories: tuple[str, ...] | None, dropped: list[int]
) -> list[str]:
    """What the docstring of the program says."""
    lines = [f"{design.text} ({family})"]
    if categories:
        values = ", ".join(f"{i} is {name}" for i, name in enumerate(categories))
        lines.append(f"Of {design.response.name} {values}.")
    if dropped:
        lines.append(f"Left out, as values are missing: {named_rows(dropped)}.")
    return lines


def _program(text: str, source: str) -> Program:
    """The program that a text defines; errors and ``inspect`` find its lines."""
    file = f"<formula {text}>"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    names: dict[str, Any] = {"__name__": "formula"}
    exec(compile(source, file, "exec"), names)
    found: Program = names["model"]
    return found


def _tensor(value: Any) -> Any:
    return value if isinstance(value, int) else torch.tensor(value)


def _extended(fit: Fit, more: Mapping[str, int], seed: int) -> Fit:
    """The fit with standard normal effects of new levels, by site; the other draws as they are."""
    draws = dict(fit.draws)
    with seeded(continued_seed(seed, draws)), torch.no_grad():
        for site, new in more.items():
            known = draws[site]
            shape = (*known.shape[:2], new, *known.shape[3:])
            zero = torch.zeros((), dtype=known.dtype, device=known.device)
            draws[site] = torch.cat([known, draw(dist.Normal(zero, 1.0), shape)], 2)
    return replace(fit, draws=draws)
