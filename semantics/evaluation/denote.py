"""The measure that a program denotes."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from ...ppl.distributions.data import as_arguments
from ...ppl.distributions.validate import no_validation
from ...ppl.errors import (
    BranchError,
    BudgetError,
    ConvergenceError,
    ImpureProgramError,
    InfiniteMassError,
    InfiniteSupportError,
    NoDensityError,
    ProgramError,
    UnsupportedDistributionError,
    ZeroMassError,
    implemented,
    located,
)
from ...ppl.interpretations.abstract_run import has_type, unless_impossible
from ...ppl.interpretations.log_density import LogDensity
from ...ppl.interpretations.recorder import Recorder
from ...ppl.language.handlers import Sealed
from ...ppl.tensors.keys import Keys
from .exact import Evaluator
from .measure import Measure, log_difference, logsumexp, product, share
from .paths import CUT
from .quadrature import integrate
from .sources import the_same

BUDGET = 200_000
DEPTH = 100
CONVERGED = 1e-2  # the largest relative error of a mass that is reported


def denote(
    p: Callable[..., Any],
    *args: Any,
    of: str = "value",
    quadrature: int | None = None,
    budget: int = BUDGET,
    merge: bool = True,
    depth: int | None = None,
    bound: float | None = None,
) -> Measure:
    """The unnormalised measure of ``p(*args)``, by enumeration of its choices.

    Args:
        of: ``"value"`` for the measure on results, ``"trace"`` for the one on the latents.
        quadrature: nodes for each continuous choice.  A program whose choices are all continuous
            and always the same is integrated at all nodes at once, about its mode; any other is run
            once for each path.  The error is estimated by halving the nodes.
        budget: the most paths, states or joint outcomes allowed.
        depth: how many calls of a recursive program (``fix``) may be nested, 100 unless said, and,
            if it is said, how many values of an infinite support (Poisson, ...) are listed.  What
            is cut away is missing: the mass is an interval (see ``Measure.interval``).
        bound: the most that the scores of a path may still multiply its weight by when it is cut;
            1 if no score exceeds one.  Without it nothing bounds the missing mass from above.
        merge: False enumerates whole paths one by one: slow, and a test of the merging.

    Errors:
        InfiniteSupportError: a choice has infinite support and no quadrature was asked for.
        BudgetError: more than ``budget`` paths.
        ImpureProgramError: the program behaves differently when run again.
        DataError: data for a site, or for a step of a loop, that no path meets.
    """
    if of not in ("value", "trace"):
        raise ValueError(f"denote: of must be 'value' or 'trace', not {of!r}")
    settings = {"budget": budget, "merge": merge, "terms": depth}
    settings["depth"] = DEPTH if depth is None else depth
    return _denoted(p, as_arguments(args), of, quadrature, settings, bound)


def doubted(
    p: Callable[..., Any],
    *args: Any,
    again: int,
    quadrature: int | None = None,
    budget: int = BUDGET,
    depth: int | None = None,
    bound: float | None = None,
    rough: bool = False,
) -> Measure:
    """What ``denote`` gives, of a program that is not trusted to do the same each time.

    All of the first thousand paths are run again and compared, ``again`` runs at least, with the
    global generators of random numbers elsewhere.  What is ``rough`` has no error of its own.

    Errors:
        ImpureProgramError: the program behaves differently when run again, changes its arguments,
            or moves a generator.
    """
    given, key = as_arguments(args), Keys()
    before = key(given)
    settings = {"budget": budget, "merge": True, "terms": depth, "again": again}
    settings["depth"] = DEPTH if depth is None else depth
    measure = _denoted(p, given, "value", quadrature, settings, bound, rough=rough)
    if key(given) != before:
        raise ImpureProgramError(
            located("the program changes its argument in place", hint="change a copy of it")
        )
    return measure


def solved(
    query: Callable[..., Any], args: tuple[Any, ...], outer: Evaluator, nodes: int | None = None
) -> Measure:
    """The measure of a query that an evaluation meets, by so many nodes, with its error.

    Errors:
        ConvergenceError, InfiniteMassError: it is not known well enough to be normalised.
    """
    settings = {
        "budget": outer.budget - outer.paths,
        "merge": outer.merge,
        "terms": outer.terms,
        "depth": outer.depth,
        "again": min(1, outer.again),
    }
    with Sealed():
        measure = _denoted(query, args, "value", nodes or outer.quadrature, settings, None, True)
    if measure.log_rest > -math.inf:
        what = "normalize: a recursion was cut, so the constant is not known"
        raise ConvergenceError(located(what))
    return measure


def _denoted(
    p: Callable[..., Any],
    args: tuple[Any, ...],
    of: str,
    quadrature: int | None,
    settings: dict[str, Any],
    bound: float | None,
    inside: bool = False,
    rough: bool = False,
) -> Measure:
    """The measure; one that another evaluation asks for is ``inside`` that, which sees its data."""
    target, budget = p if of == "value" else _choices_of(p), settings["budget"]

    def evaluate(nodes: int | None) -> tuple[Measure, bool]:
        whole = functools.partial(solved, nodes=quadrature)  # queries have an error of their own
        evaluator = Evaluator(quadrature=nodes, solve=whole, **settings)
        found = _evaluate(target, args, evaluator, bound)
        if not inside and not evaluator.coverage.complete:
            _require_known(p, args, evaluator)
        return found

    def once(nodes: int | None) -> tuple[Measure, bool]:
        return unless_impossible(p, args, lambda: evaluate(nodes))

    if quadrature is None or rough:
        return once(quadrature)[0]
    failure: ProgramError | None = None
    again = settings.get("again")
    if (density := (_untracked_density if again else _static_density)(p, args)) is not None:
        if again:
            origin = torch.zeros(density.layout.size, dtype=torch.float64)
            the_same(lambda: (density(origin), density.outcome(origin, "value")), (p, args), again)
        try:
            measure = integrate(density, quadrature, of, budget)
            if share(measure.log_error, measure.log_mass()) <= CONVERGED:
                return measure
            failure = Unconverged(measure)
        except (InfiniteMassError, ZeroMassError) as error:
            failure = error  # or heavy tails, or zero at the origin: the rules of sites know both
    try:
        measure, approximate = once(quadrature)
        if not approximate:
            return measure
        coarse = once(max(2, quadrature // 2))[0]
        other = once(max(2, quadrature // 2) + 1)[0] if measure.alike(coarse) else coarse
        return _converged(measure, coarse, other)
    except (BudgetError, InfiniteSupportError, ConvergenceError) as error:
        raise failure or error from error


def _converged(measure: Measure, coarse: Measure, other: Measure) -> Measure:
    """The measure with its error, by one of half the nodes, if that is a small part of it.

    Weights of values that both have are compared with those of an ``other`` one, of a node more,
    too: rules of even numbers of nodes may be wrong alike where a result jumps.
    """
    fine, half = measure.log_mass(), coarse.log_mass()
    gap = log_difference(fine, half)
    jumps = max(measure.log_changes(coarse), measure.log_changes(other))
    measure = replace(measure, log_error=logsumexp([measure.log_error, max(gap, jumps)]))
    if share(gap, fine) <= CONVERGED:
        return measure
    raise Unconverged(measure)


class Unconverged(ConvergenceError):
    """The error of a ``measure`` by quadrature is too large for it to be reported."""

    def __init__(self, measure: Measure) -> None:
        what = f"mass {measure.mass():.3g}, error about {measure.error:.1g}"
        hint = "raise quadrature=, or rescale the program"
        super().__init__(located(f"the quadrature has not converged: {what}", hint=hint))
        self.measure = measure


def however_rough(measure: Callable[[int], Measure], nodes: int) -> Measure:
    """The measure by so many nodes, whatever its own error is."""
    try:
        return measure(nodes)
    except Unconverged as error:
        return error.measure


def _evaluate(
    p: Callable[..., Any], args: tuple[Any, ...], evaluator: Evaluator, bound: float | None
) -> tuple[Measure, bool]:
    differentiating = evaluator.again > 0  # candidates may, as they do when they are run
    with implemented(), torch.set_grad_enabled(differentiating), no_validation(), evaluator:
        outcomes = evaluator.run(lambda: p(*args))
    whole = [(o.value, o.log_weight) for o in outcomes if o.value is not CUT]
    cut = logsumexp([o.log_weight for o in outcomes if o.value is CUT])
    measure = Measure.of(whole, notes=evaluator.notes)
    beyond = math.inf if bound is None else math.log(bound) if bound else -math.inf
    measure = replace(
        measure,
        resolution=evaluator.resolution,
        log_rest=product(cut, beyond),
        log_error=product(evaluator.log_query_error, measure.log_mass()),
    )
    return measure, evaluator.approximate


def _require_known(p: Callable[..., Any], args: tuple[Any, ...], evaluator: Evaluator) -> None:
    """Raise if data were met on no path, unless one that was given up might have met them."""
    if not (has_type(p, *args) or evaluator.gave_up):
        evaluator.coverage.require_complete()


def _static_density(p: Callable[..., Any], args: tuple[Any, ...]) -> LogDensity | None:
    """The density of a program whose choices are all continuous and always the same, else None."""
    try:
        density = LogDensity(p, *args)
    except (BranchError, NoDensityError, UnsupportedDistributionError):
        return None
    return density if density.layout.size > 0 else None


def _untracked_density(p: Callable[..., Any], args: tuple[Any, ...]) -> LogDensity | None:
    """The same of a candidate, unless its parameters carry derivatives: points do not follow them.

    What fails here may do so since it takes derivatives; if not, it fails again.
    """
    try:
        density = _static_density(p, args)
        if density is None:
            return None
        origin = torch.zeros(density.layout.size, dtype=torch.float64)
        return None if density(origin).requires_grad else density
    except RuntimeError:
        return None


def _choices_of(p: Callable[..., Any]) -> Callable[..., Any]:
    def choices(*args: Any) -> Any:
        with Recorder({}, density=False, validate=False) as recorder:
            p(*args)
        return recorder.of("latent")

    return choices
