"""Layers of bijections: there and back, images, and the volume that they say they change."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor
from torch.distributions import biject_to

from ..ppl import seeded
from ..ppl.tensors.jacobians import volumes
from ..semantics import Report
from ..semantics.judging.candidate import held, verdict
from .comparing import compared
from .layers import Layer

POINTS, LENGTH = 64, 3  # of a vector, where the domain does not say
ROUND_TRIP, VOLUME = 1e-6, 1e-6


def layers_of_bijection(t: Any) -> tuple[Layer, ...]:
    """The layers of a ``torch.distributions.Transform``."""
    return (
        Layer("there and back", lambda left: round_trip(t)),
        Layer("image", lambda left: image(t)),
        Layer("volume", lambda left: volume(t)),
    )


def points(t: Any) -> Tensor:
    """Rows of the domain [n, *event], made of standard normal numbers."""
    event = t.domain.event_dim
    to = biject_to(t.domain)
    with seeded(0):
        free = torch.randn(
            POINTS, *(LENGTH,) * max(event, to.domain.event_dim), dtype=torch.float64
        )
    found: Tensor = to(free).detach()
    return found


@verdict
def round_trip(t: Any) -> Report:
    """Whether the inverse of an image is the point, and no cache makes it so.

    Of a map that says that it is no bijection, whether an inverse is one of points with that image.
    """
    start, subject = time.perf_counter(), f"{type(t).__name__} has the inverse that it says"
    x = points(t)
    with held(subject, "at a point of its domain"):
        y = t(x).clone().detach()
        back = t.inv(y.clone())
        found, expected = (back, x) if t.bijective else (t(back.clone().detach()), y)
        if found.shape != expected.shape:
            told = f"there and back leads from shape {list(expected.shape)} to {list(found.shape)}"
            return Report(subject, "fail", float("inf"), 0.0, "", told)
    return compared(
        subject,
        found.reshape(-1),
        expected.reshape(-1),
        ROUND_TRIP,
        lambda i: f"number {i % expected[0].numel()} of a point there and back",
        start,
        relative=True,
    )


@verdict
def image(t: Any) -> Report:
    """Whether images lie in the codomain, and have the shape that it says."""
    start, subject = time.perf_counter(), f"{type(t).__name__} has the codomain that it says"
    x = points(t)
    with held(subject, "at a point of its domain"):
        y = t(x)
        inside, said = t.codomain.check(y), tuple(t.forward_shape(x.shape))
    wrong = (
        "" if tuple(y.shape) == said else f"an image has shape {list(y.shape)}, not {list(said)}"
    )
    if not bool(inside.all()):
        wrong = wrong or f"an image lies outside {t.codomain}"
    seconds = time.perf_counter() - start
    return Report(subject, "fail" if wrong else "pass", float(bool(wrong)), 0.0, "", wrong, seconds)


@verdict
def volume(t: Any) -> Report | None:
    """Whether ``log_abs_det_jacobian`` is that of the map: see ``volumes``."""
    start, subject = time.perf_counter(), f"{type(t).__name__} has the log determinant that it says"
    x = points(t)
    y = t(x)
    if y.shape != x.shape or not t.bijective:
        return None  # between spaces of other dimensions a determinant is a matter of convention

    def rows(flat: Tensor) -> Tensor:
        found: Tensor = t(flat.reshape(x.shape)).reshape(len(x), -1)
        return found

    with held(subject, "at a point of its domain"):
        said = t.log_abs_det_jacobian(x, y).reshape(len(x), -1).sum(-1)
        found = volumes(rows, x.reshape(len(x), -1))
    tolerance = VOLUME + float(found.error.max())
    return compared(
        subject, said, found.log_size, tolerance, lambda i: f"at {x[i].tolist()}", start, True
    )
