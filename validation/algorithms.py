"""Layers of algorithms: kernels, weighted algorithms, gradient estimators, whole methods."""

from __future__ import annotations

import inspect
import itertools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor

from ..inference.kernels import TraceKernel
from ..inference.kernels.traces import points_of
from ..ppl.errors import (
    BudgetError,
    ConvergenceError,
    InfiniteSupportError,
    ProgramError,
    located,
)
from ..ppl.language.program import Callback
from ..ppl.tasks.workers import Client
from ..semantics import Report, check
from .layers import Layer
from .programs import the_same, validity

# simulations of a calibration, as long as the budget lasts: its level holds at all looks together
STAGES = 25, 50, 100, 200, 400, 800, 1_600, 4_000
DRAWS = 50  # of each fit that ranks are among
NODES = 16, 32, 64
NODES_OF_KERNELS = 32, 64, 128
PATHS = 1_000  # of a kernel with continuous choices: one that needs more is followed by draws


def layers_of_kernel(kernel: Any, target: Callback, args: tuple[Any, ...]) -> tuple[Layer, ...]:
    """The layers of a Markov kernel: on traces of a program, or from state to state."""
    step, states = kernel, target
    if isinstance(kernel, TraceKernel):
        step, states = kernel.on(target, *args), points_of(target)
    return (
        Layer("invariant", lambda left: stationary(step, states, args)),
        Layer("ergodic", lambda left: check.ergodic(step, states, *args)),
    )


def stationary(kernel: Callback, target: Callback, args: tuple[Any, ...]) -> Report:
    """Whether a kernel keeps a target: by its choices, by more and more nodes where they are
    continuous, and by draws where there are too many of them or nodes tell nothing."""
    try:
        return check.invariant(kernel, target, *args)
    except InfiniteSupportError:
        pass
    except BudgetError:
        return check.stationary(kernel, target, *args)
    for nodes in NODES_OF_KERNELS:
        try:
            report = check.invariant(kernel, target, *args, quadrature=nodes, budget=PATHS)
        except BudgetError:
            return check.stationary(kernel, target, *args)
        if report.verdict != "unknown":
            return report
    try:
        return check.stationary(kernel, target, *args)
    except ProgramError:  # a bound of its scores is not known
        return report


def layers_of_algorithm(
    algorithm: Callback, model: Callback, args: tuple[Any, ...]
) -> tuple[Layer, ...]:
    """The layers of an algorithm whose outputs are weighted values of a model."""
    return (
        Layer("the same again", lambda left: the_same(algorithm, args)),
        Layer("valid", lambda left: validity(algorithm, model, args)),
    )


def layers_of_estimator(
    estimator: Callback, objective: Callable[[Tensor], Tensor], at: Tensor
) -> tuple[Layer, ...]:
    """The layers of a gradient estimator."""

    def unbiased(left: float) -> Report:
        report = check.unbiased(estimator, objective, at, quadrature=NODES[0])
        for nodes in NODES[1:]:
            again = check.unbiased(estimator, objective, at, quadrature=nodes)
            if again.verdict == "pass" or abs(again.deviation - report.deviation) < 1e-3:
                return again
            report = again
        what = "the quadrature of the estimator's noise has not converged"
        raise ConvergenceError(located(what, hint="use check.unbiased with more nodes"))

    return (Layer("unbiased", unbiased),)


def layers_of_method(
    method: Any,
    model: Callback,
    args: tuple[Any, ...],
    observed: Sequence[str],
    seed: int,
    executor: Executor | Client | None,
) -> tuple[Layer, ...]:
    """The layers of a driver, which has ``run(program, *args, seed=)``."""

    def fit(p: Callback, seed: int) -> Any:
        return method.run(p, *args, seed=seed)

    def calibrated(left: float) -> Report:
        start = time.perf_counter()
        with TemporaryDirectory() as folder:

            def of(count: int) -> Report:
                rest: dict[str, Any] = {"draws": DRAWS, "seed": seed, "progress": False}
                return check.sbc(
                    model, fit, observed, *args, simulations=count, checkpoint=f"{folder}/ranks",
                    executor=executor, **rest,
                )  # fmt: skip

            report = of(STAGES[0])
            for before, count in itertools.pairwise(STAGES):
                spent = time.perf_counter() - start
                if report.verdict == "fail" or spent * count / before > left:
                    break
                report = of(count)
        return report

    return (Layer("calibrated", calibrated),)


def takes(function: Callable[..., Any]) -> int | None:
    """How many arguments a function needs by position; None if that is not known."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return None
    kinds = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
    if any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters):
        return None
    return sum(p.kind in kinds and p.default is inspect.Parameter.empty for p in parameters)


def gives_weights(output: Any) -> bool:
    """Whether an output of a program is a value with a weight, or more of them."""
    if hasattr(output, "meaning"):
        return True
    if not (isinstance(output, tuple) and len(output) == 2):
        return False
    weight = output[1]
    scalar = isinstance(weight, Tensor) and weight.ndim == 0 and weight.is_floating_point()
    return scalar or isinstance(weight, float)
