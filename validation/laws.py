"""Layers of distributions: shapes, density and draws, derivatives, quantiles, moments."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import biject_to

from ..ppl import seeded
from ..ppl.errors import PushforwardError
from ..ppl.types.supports import support_of
from ..semantics import Report, check
from ..semantics.judging.candidate import held, verdict
from .comparing import compared, slopes
from .layers import Layer

DRAWS = 200
SHAPES = ((), (3,), (2, 1))
LEVELS = (1e-3, 0.02, 0.2, 0.5, 0.8, 0.98, 0.999)
Integral = Callable[[Tensor, Tensor, Tensor], Tensor]  # of values, log densities and weights
NODES = 1000, 2000
CONVERGED = 1e-7


def layers_of_law(law: Any) -> tuple[Layer, ...]:
    """The layers of a distribution; of a batch, those that need no single law."""
    one = not law.batch_shape
    found = [
        Layer("shapes and support", lambda left: shapes(law)),
        Layer("derivative of the density", lambda left: derivative(law)),
        Layer("quantiles", lambda left: quantiles(law) if one else None),
        Layer("moments", lambda left: moments(law) if one else None),
        Layer("density and draws", lambda left: check.density(law) if one else None),
    ]
    return tuple(found)


def _subject(law: Any, what: str) -> str:
    return f"{type(law).__name__} has {what}"


def _drawn(law: Any, shape: tuple[int, ...] = (DRAWS,)) -> Tensor:
    with seeded(0), torch.no_grad():
        found: Tensor = law.sample(torch.Size(shape))
        return found


@verdict
def shapes(law: Any) -> Report:
    """Whether draws and densities have the shapes that it says, and draws lie in its support."""
    start, subject = time.perf_counter(), _subject(law, "the shapes and the support that it says")
    wrong = ""
    with held(subject, "in a sample shape"):
        for shape in SHAPES:
            x = _drawn(law, shape)
            batch, event = tuple(law.batch_shape), tuple(law.event_shape)
            inside = support_of(law).check(x)
            pairs = {
                "draws": (tuple(x.shape), (*shape, *batch, *event)),
                "log densities": (tuple(law.log_prob(x).shape), (*shape, *batch)),
            }
            for what, (found, said) in pairs.items():
                if found != said:
                    wrong = (
                        wrong or f"{what} of sample shape {shape} have shape {found}, not {said}"
                    )
            if not bool(inside.all()):
                wrong = wrong or f"a draw of sample shape {shape} lies outside {support_of(law)}"
        x, wide = _drawn(law), law.expand((3, *law.batch_shape))
        again = wide.log_prob(x.unsqueeze(1).expand(DRAWS, 3, *x.shape[1:]))
        if not wrong and not torch.allclose(again, law.log_prob(x).unsqueeze(1), equal_nan=True):
            wrong = "expanded to (3,) it has another density"
    seconds = time.perf_counter() - start
    return Report(subject, "fail" if wrong else "pass", float(bool(wrong)), 0.0, "", wrong, seconds)


@verdict
def derivative(law: Any) -> Report | None:
    """Whether the derivative of the log density is that of its values, about draws."""
    x = _drawn(law)
    if _is_discrete(law) or x.dtype != torch.float64:  # single precision is too rough
        return None
    to = biject_to(support_of(law))

    def along(u: Tensor) -> Tensor:
        found: Tensor = law.log_prob(to(u))
        return found.reshape(len(u), -1).sum(-1)

    return slopes(_subject(law, "the derivative of its density"), along, to.inv(x))


@verdict
def quantiles(law: Any) -> Report | None:
    """Whether the distribution function inverts the quantiles, and integrates the density."""
    start, subject = time.perf_counter(), _subject(law, "the distribution function that it says")
    u = torch.tensor(LEVELS, dtype=torch.float64)
    try:
        x = law.icdf(u)
        below = law.cdf(x)
    except (NotImplementedError, PushforwardError):
        return None
    with held(subject, "in its density"):
        parts = torch.stack([_between(law, a, b) for a, b in itertools.pairwise(x)])
    return compared(
        subject,
        torch.cat([below, parts]),
        torch.cat([u, u.diff()]),
        1e-6,
        lambda i: f"at the level {LEVELS[i]:g}" if i < len(u) else "the mass between two quantiles",
        start,
    )


def _between(law: Any, a: Tensor, b: Tensor) -> Tensor:
    """The integral of the density, by Gauss and Legendre."""
    nodes, weights = _legendre()
    x = a + (b - a) * (nodes + 1) / 2
    found: Tensor = (law.log_prob(x).exp() * weights).sum() * (b - a) / 2
    return found


@cache
def _legendre() -> tuple[Tensor, Tensor]:
    nodes, weights = np.polynomial.legendre.leggauss(256)
    return torch.as_tensor(nodes), torch.as_tensor(weights)


@verdict
def moments(law: Any) -> Report | None:
    """Whether mean, variance and entropy are those of the density.

    Those that it does not have, or that the integrals do not tell to seven digits, are not asked.
    """
    start, subject = time.perf_counter(), _subject(law, "the moments that it says")
    grids = [_weighted(law, nodes) for nodes in NODES]
    if any(grid is None for grid in grids):
        return None
    names, found, expected = list[str](), list[Tensor](), list[Tensor]()

    def ask(name: str, said: Callable[[], Any], f: Integral) -> None:
        coarse, fine = (f(*grid) for grid in grids if grid is not None)
        known = bool((coarse - fine).abs() <= CONVERGED * (1 + fine.abs()))
        with held(subject, f"in {name}"):
            value = _said(said)
        if value is not None and known and bool(value.isfinite()):
            names.append(name)
            found.append(value.reshape(()))
            expected.append(fine)

    def mean(x: Tensor, log_prob: Tensor, w: Tensor) -> Tensor:
        return (w * x).sum()

    def variance(x: Tensor, log_prob: Tensor, w: Tensor) -> Tensor:
        return (w * (x - mean(x, log_prob, w)) ** 2).sum()

    def entropy(x: Tensor, log_prob: Tensor, w: Tensor) -> Tensor:
        return -(w * torch.where(w > 0, log_prob, 0.0)).sum()

    ask("the mean", lambda: law.mean, mean)
    ask("the variance", lambda: law.variance, variance)
    ask("the entropy", law.entropy, entropy)
    if not names:
        return None
    values = torch.stack(found), torch.stack(expected)
    return compared(subject, *values, 1e-5, lambda i: names[i], start, relative=True)


def _said(said: Callable[[], Any]) -> Tensor | None:
    """What a law says; None if it says nothing."""
    try:
        return torch.as_tensor(said()).double()
    except NotImplementedError:
        return None


def _is_discrete(law: Any) -> bool:
    return bool(getattr(support_of(law), "is_discrete", False))


def _weighted(law: Any, nodes: int) -> tuple[Tensor, Tensor, Tensor] | None:
    """Values, their log densities and weights, which sum to one; None where they do not."""
    if law.event_shape:
        return None
    if _is_discrete(law):
        try:
            x = law.enumerate_support().double()
        except NotImplementedError:
            x = torch.arange(100.0 * nodes, dtype=torch.float64)
        log_volume = torch.zeros_like(x)
    else:
        t = torch.linspace(-4.5, 4.5, nodes, dtype=torch.float64)
        s = math.pi / 2 * torch.sinh(t)  # steps far out are long (Takahasi and Mori 1974)
        u, slope = torch.sinh(s) / 5, math.pi / 10 * torch.cosh(t) * torch.cosh(s) * (t[1] - t[0])
        to = biject_to(support_of(law))
        x = to(u)
        log_volume = to.log_abs_det_jacobian(u, x) + slope.log()
    inside = support_of(law).check(x) & x.isfinite() & log_volume.isfinite()
    x, log_volume = x[inside], log_volume[inside]
    log_prob = law.log_prob(x).double()
    known = log_prob.isfinite()
    x, log_prob, w = x[known], log_prob[known], (log_prob + log_volume).exp()[known]
    return (x, log_prob, w) if abs(float(w.sum()) - 1) < CONVERGED else None
