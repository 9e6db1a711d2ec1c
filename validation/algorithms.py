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
from ..ppl.errors import ConvergenceError, InfiniteSupportError, located
from ..ppl.language.program import Callback
from ..ppl.tasks.workers import Client
from ..semantics import Report, check
from .layers import Layer
from .programs import the_same, validity

STAGES = 25, 50, 100, 200, 400  # simulations of a calibration, as long as the budget lasts
LEVEL = 1e-6  # of all stages
DRAWS = 50  # of each fit that ranks are among
NODES = 16, 32, 64
NODES_OF_KERNELS = 32, 64, 128


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
    """Whether a kernel keeps a target, by more and more nodes where choices are continuous."""
    try:
        return check.invariant(kernel, target, *args)
    except InfiniteSupportError:
        for nodes in NODES_OF_KERNELS:
            report = check.invariant(kernel, target, *args, quadrature=nodes)
            if report.verdict != "unknown":
                break
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
                kept, level = f"{folder}/ranks", LEVEL / len(STAGES)
                rest: dict[str, Any] = {"draws": DRAWS, "seed": seed, "progress": False}
                return check.sbc(
                    model, fit, observed, *args, simulations=count, level=level, checkpoint=kept,
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
