"""Layers of programs and guides: purity, one density, derivatives, machine code, supports."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..inference.smc.importance import importance
from ..ppl import assess, seeded, simulate
from ..ppl.compile.potential import Potential
from ..ppl.errors import (
    NoDensityError,
    PushforwardError,
    UnsupportedDistributionError,
)
from ..ppl.interpretations.abstract_run import abstract_run
from ..ppl.interpretations.log_density import LogDensity
from ..ppl.language.program import Callback, program_name
from ..semantics import Report, check
from ..semantics.judging.candidate import held, verdict
from .comparing import compared, slopes
from .layers import Layer

RUNS, ROWS = 8, 16
CLOSE = 1e-8
SINGLE = 1e-4


def layers_of_program(p: Callback, args: tuple[Any, ...]) -> tuple[Layer, ...]:
    """The layers of a program."""
    return (
        Layer("the same again", lambda left: the_same(p, args)),
        Layer("one density", lambda left: one_density(p, args)),
        Layer("derivative of the density", lambda left: derivative(p, args)),
        Layer("compiled", lambda left: compiled_alike(p, args)),
    )


def layers_of_guide(guide: Callback, model: Callback, args: tuple[Any, ...]) -> tuple[Layer, ...]:
    """The layers of a guide of a model."""
    return (
        Layer("the same again", lambda left: the_same(guide, args)),
        Layer("names and supports", lambda left: supports(guide, model, args)),
        Layer("weights", lambda left: weighs(guide, model, args)),
    )


@verdict
def the_same(p: Callback, args: tuple[Any, ...]) -> Report:
    """Whether a program draws by the effects alone: the same seed is the same run."""
    start, subject = time.perf_counter(), f"{program_name(p)} is the same for the same seed"
    with held(subject, "in a run"):
        runs = [[simulate(p, *args, seed=seed) for seed in range(RUNS)] for _ in range(2)]
    for seed, (one, other) in enumerate(zip(*runs, strict=True)):
        if (name := _differing(one.choices, other.choices)) is not None:
            told = f"with the seed {seed} the site '{name}' has another value in a second run"
            return Report(subject, "fail", 1.0, 0.0, "", told, time.perf_counter() - start)
    return Report(subject, "pass", 0.0, 0.0, "", "", time.perf_counter() - start)


def _differing(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> str | None:
    for name in {**one, **other}:
        a, b = one.get(name), other.get(name)
        if a is None or b is None or not torch.equal(a, b):
            return name
    return None


@verdict
def one_density(p: Callback, args: tuple[Any, ...]) -> Report | None:
    """Whether a run scores what ``assess`` says of its choices."""
    start, subject = time.perf_counter(), f"{program_name(p)} has one density"
    with held(subject, "in a run"):
        traces = [simulate(p, *args, seed=seed) for seed in range(RUNS)]
        try:
            again = [assess(p, trace.choices, *args)[0] for trace in traces]
        except NoDensityError:
            return None
    found = torch.stack([torch.as_tensor(t.log_density).double() for t in traces])
    expected = torch.stack([torch.as_tensor(x).double() for x in again])
    return compared(
        subject, found, expected, CLOSE, lambda seed: f"a run with seed {seed}", start, True
    )


def _density(p: Callback, args: tuple[Any, ...]) -> LogDensity | None:
    """The density in unconstrained coordinates, if the program has one and has latents."""
    try:
        density = LogDensity(p, *args)
    except (NoDensityError, UnsupportedDistributionError):
        return None
    return density if density.size else None


def _rows(density: LogDensity) -> Tensor:
    with seeded(0):
        return torch.randn(ROWS, density.size, dtype=density.layout.dtype)


@verdict
def derivative(p: Callback, args: tuple[Any, ...]) -> Report | None:
    """Whether autograd's derivative of the log density is that of its values."""
    density = _density(p, args)
    if density is None or density.layout.dtype != torch.float64:
        return None
    each = torch.func.vmap(density)
    return slopes(f"{program_name(p)} has the derivative of its density", each, _rows(density))


@verdict
def compiled_alike(p: Callback, args: tuple[Any, ...]) -> Report | None:
    """Whether machine code has the density and the derivative of the program."""
    start, subject = time.perf_counter(), f"{program_name(p)} is itself when compiled"
    density = _density(p, args)
    if density is None:
        return None
    u = _rows(density)
    with held(subject, "at a random point"):
        value, gradient = Potential(density, u)(u)
        plain = torch.func.vmap(torch.func.grad_and_value(density))(u)
    names = density.layout.coordinate_names()
    found = torch.cat([value[:, None], gradient], 1).double().reshape(-1)
    expected = torch.cat([plain[1][:, None], plain[0]], 1).double().reshape(-1)
    told = ["the log density", *(f"its derivative by {name}" for name in names)]
    tolerance = CLOSE if u.dtype == torch.float64 else SINGLE
    width = len(told)
    return compared(subject, found, expected, tolerance, lambda i: told[i % width], start, True)


@verdict
def supports(guide: Callback, model: Callback, args: tuple[Any, ...]) -> Report:
    """Whether a guide has the latents of a model, each in its space."""
    start = time.perf_counter()
    subject = f"{program_name(guide)} has the latents of {program_name(model)}"
    with held(subject, "in a run"):
        mine, _ = abstract_run(guide, *args)
    theirs, _ = abstract_run(model, *args)
    wrong = ""
    latents = {n: s for n, s in theirs.sites.items() if not s.observed}
    own = {n: s for n, s in mine.sites.items() if not s.observed and not s.auxiliary}
    for name in sorted(latents.keys() ^ own.keys()):
        who = "the guide" if name in latents else "the model"
        wrong = wrong or f"{who} has no latent '{name}'"
    for name in latents.keys() & own.keys():
        a, b = own[name].space, latents[name].space
        if tuple(a.shape) != tuple(b.shape):
            wrong = wrong or f"'{name}' has shape {list(a.shape)}, and {list(b.shape)} in the model"
        elif str(a) != str(b):
            wrong = wrong or f"'{name}' lies in {a}, and in {b} in the model"
    seconds = time.perf_counter() - start
    return Report(subject, "fail" if wrong else "pass", float(bool(wrong)), 0.0, "", wrong, seconds)


def weighs(guide: Callback, model: Callback, args: tuple[Any, ...]) -> Report:
    """Whether weighing the guide's draws gives the measure of the model."""
    return validity(importance(model, 1, guide=guide), model, args)


def validity(algorithm: Callable[..., Any], model: Callback, args: tuple[Any, ...]) -> Report:
    """``check.valid``, by enumeration where it is possible, else by more and more nodes."""
    try:
        return check.valid(algorithm, model, *args)
    except PushforwardError:
        report = check.valid(algorithm, model, *args, quadrature=24)
    return (
        report
        if report.verdict != "unknown"
        else check.valid(algorithm, model, *args, quadrature=64)
    )
