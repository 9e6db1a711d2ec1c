"""The measure that a program denotes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from ..ppl.data import as_arguments
from ..ppl.density import LogDensity
from ..ppl.errors import (
    BranchError,
    BudgetError,
    ConvergenceError,
    DataError,
    InfiniteMassError,
    InfiniteSupportError,
    NoDensityError,
    ProgramError,
    UnsupportedDistributionError,
    implemented,
    located,
)
from ..ppl.interpret import Recorder, no_validation
from .exact import Evaluator
from .measure import Measure
from .quadrature import integrate

BUDGET = 200_000
CONVERGED = 1e-2  # the largest relative error of a mass that is reported


def denote(
    p: Callable[..., Any],
    *args: Any,
    of: str = "value",
    quadrature: int | None = None,
    budget: int = BUDGET,
    merge: bool = True,
) -> Measure:
    """The unnormalised measure of ``p(*args)``, by enumeration of its choices.

    Args:
        of: ``"value"`` for the measure on results, ``"trace"`` for the one on the latents.
        quadrature: nodes for each continuous choice.  A program whose choices are all continuous
            and always the same is integrated at all nodes at once, about its mode; any other is run
            once for each path.  The error is estimated by halving the nodes.
        budget: the most paths, states or joint outcomes allowed.
        merge: False enumerates whole paths one by one: slow, and a test of the merging.

    Errors:
        InfiniteSupportError: a choice has infinite support and no quadrature was asked for.
        BudgetError: more than ``budget`` paths.
        ImpureProgramError: the program behaves differently when run again.
        DataError: data for a site that no path meets.
    """
    if of not in ("value", "trace"):
        raise ValueError(f"denote: of must be 'value' or 'trace', not {of!r}")
    args = as_arguments(args)
    target = p if of == "value" else _choices_of(p)
    if quadrature is None:
        return _evaluate(target, args, None, budget, merge)[0]
    failure: ProgramError | None = None
    if (density := _static_density(p, args)) is not None:
        try:
            measure = integrate(density, quadrature, of, budget)
            if measure.error <= CONVERGED * measure.mass():
                return measure
        except InfiniteMassError as error:
            failure = error  # or heavy tails, which the rules of single sites know
    try:
        measure, approximate = _evaluate(target, args, quadrature, budget, merge)
        if not approximate:
            return measure
        coarse, _ = _evaluate(target, args, max(2, quadrature // 2), budget, merge)
        return _converged(measure, coarse)
    except (BudgetError, InfiniteSupportError, ConvergenceError) as error:
        raise failure or error from error


def _converged(measure: Measure, coarse: Measure) -> Measure:
    """The measure with its error, by one of half the nodes, if that is a small part of it."""
    measure = replace(measure, error=abs(measure.mass() - coarse.mass()))
    fine, half = measure.log_mass(), coarse.log_mass()
    if fine == half or abs(math.expm1(half - fine)) <= CONVERGED:
        return measure
    raise ConvergenceError(
        located(
            f"the quadrature has not converged: mass {measure.mass():.3g}, error about "
            f"{measure.error:.1g}",
            hint="raise quadrature=, or rescale the program",
        )
    )


def _evaluate(
    p: Callable[..., Any], args: tuple[Any, ...], quadrature: int | None, budget: int, merge: bool
) -> tuple[Measure, bool]:
    evaluator = Evaluator(budget=budget, quadrature=quadrature, merge=merge)
    with implemented(), torch.no_grad(), no_validation(), evaluator:
        outcomes = evaluator.run(lambda: p(*args))
    for conditioning in evaluator.data.values():
        missing = sorted(set(conditioning.data) - conditioning.seen)
        if missing:
            raise DataError(
                located(
                    f"data for a site that does not exist: {', '.join(map(repr, missing))}",
                    hint="no path of the program meets it; check the spelling",
                )
            )
    pairs = ((outcome.value, outcome.log_weight) for outcome in outcomes)
    measure = Measure.of(pairs, notes=evaluator.notes)
    return replace(measure, resolution=evaluator.resolution), evaluator.approximate


def _static_density(p: Callable[..., Any], args: tuple[Any, ...]) -> LogDensity | None:
    """The density of a program whose choices are all continuous and always the same, else None."""
    try:
        density = LogDensity(p, *args)
    except (BranchError, NoDensityError, UnsupportedDistributionError):
        return None
    return density if density.layout.size > 0 else None


def _choices_of(p: Callable[..., Any]) -> Callable[..., Any]:
    def choices(*args: Any) -> Any:
        with Recorder({}, density=False, validate=False) as recorder:
            p(*args)
        return recorder.of("latent")

    return choices
