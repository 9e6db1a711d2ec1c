"""The front door: what a thing is, and so which layers fit it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any

import torch
from rich import get_console
from rich.progress import Progress, SpinnerColumn, TextColumn
from torch import Tensor
from torch.distributions import Distribution, Transform

from ..inference.kernels import TraceKernel
from ..ppl import seeded
from ..ppl.errors import ProgramError, located
from ..ppl.language.program import program_name
from ..ppl.tasks.workers import Client
from .algorithms import (
    gives_weights,
    layers_of_algorithm,
    layers_of_estimator,
    layers_of_kernel,
    layers_of_method,
    takes,
)
from .bijections import layers_of_bijection
from .laws import layers_of_law
from .layers import Subject, Validation, run_layers
from .programs import layers_of_guide, layers_of_program


def validate(
    thing: Any,
    against: Callable[..., Any] | None = None,
    *,
    args: tuple[Any, ...] = (),
    at: Tensor | None = None,
    observed: Sequence[str] = (),
    budget: float = 60.0,
    seed: int = 0,
    progress: bool = True,
    executor: Executor | Client | None = None,
) -> Validation:
    """See what a thing is, and run the checks that fit it, the cheapest first.

    =====================================  =========================  ===========================
    thing                                  against                    what is checked
    =====================================  =========================  ===========================
    a distribution                         -                          shapes, derivatives,
                                                                      quantiles, moments, density
                                                                      and draws
    a bijection (``Transform``)            -                          inverse, image, volume
    a program                              -                          purity, one density in all
                                                                      interpretations, derivative,
                                                                      compiled code
    a guide                                its model                  purity, names and supports,
                                                                      weights
    a kernel: ``TraceKernel``, or a        a program of the target    invariant, ergodic
    function of a state and ``args``
    an algorithm that returns weighted     its model                  purity, valid
    values (``smc(...)``, ``importance``)
    a gradient estimator                   the exact objective, and   unbiased
                                           ``at`` the parameters
    a driver, with ``run(p, seed=)``       a model without data, and  calibrated (sbc)
                                           ``observed`` its data
    =====================================  =========================  ===========================

    Args:
        args: of the programs.
        budget: seconds, more or less: a layer that has begun is not broken off, those that are left
            are skipped, and a calibration makes as many simulations as fit.
        seed: of what is statistical.
        executor: whose workers make the simulations of a calibration: see ``check.sbc``.

    Errors:
        ProgramError: the thing is none of these, or what it is to be compared with is missing.
    """
    subject = _subject(thing, against, args, at, tuple(observed), seed, executor)
    columns = SpinnerColumn(), TextColumn("{task.description}")
    shows = progress and get_console().is_terminal
    with Progress(*columns, transient=True, disable=not shows) as shown:
        task = shown.add_task(subject.name)
        return run_layers(subject, budget, lambda text: shown.update(task, description=text))


def _subject(
    thing: Any,
    against: Callable[..., Any] | None,
    args: tuple[Any, ...],
    at: Tensor | None,
    observed: tuple[str, ...],
    seed: int,
    executor: Executor | Client | None,
) -> Subject:
    name = program_name(thing) if callable(thing) else type(thing).__name__
    if isinstance(thing, Distribution):
        return Subject(type(thing).__name__, "a distribution", layers_of_law(thing))
    if isinstance(thing, Transform):
        return Subject(type(thing).__name__, "a bijection", layers_of_bijection(thing))
    if isinstance(thing, TraceKernel):
        target = _needed(thing.name, "a kernel", against, "its target, a program")
        return Subject(thing.name, "a kernel", layers_of_kernel(thing, target, args))
    if callable(getattr(thing, "run", None)):
        model = _needed(name, "a driver", against, "a model without data")
        if not observed:
            what = f"{name} is a driver, and is validated on simulated data"
            raise ProgramError(located(what, hint="name the sites that are data: observed=[...]"))
        layers = layers_of_method(thing, model, args, observed, seed, executor)
        return Subject(name, "a method", layers)
    if not callable(thing):
        what = f"a {type(thing).__name__} is nothing that can be validated"
        raise ProgramError(located(what, hint="see help(validate) for what can"))
    if at is not None:
        objective = _needed(name, "a gradient estimator", against, "the exact objective")
        return Subject(name, "a gradient estimator", layers_of_estimator(thing, objective, at))
    if against is None:
        return Subject(name, "a program", layers_of_program(thing, args))
    if takes(thing) == len(args) + 1:
        return Subject(name, "a kernel", layers_of_kernel(thing, against, args))
    if _is_algorithm(thing, args):
        return Subject(name, "an algorithm", layers_of_algorithm(thing, against, args))
    return Subject(name, "a guide", layers_of_guide(thing, against, args))


def _is_algorithm(thing: Any, args: tuple[Any, ...]) -> bool:
    """Whether a run of it gives weighted values, or breaks: then its layers tell how."""
    try:
        with seeded(0), torch.no_grad():
            return gives_weights(thing(*args))
    except Exception:
        return True


def _needed(name: str, kind: str, against: Any, what: str) -> Any:
    if against is None:
        raise ProgramError(located(f"{name} is {kind}", hint=f"give {what} as the second argument"))
    return against
