"""Maps of unit normals: angles between them, and how they scatter over seeds.

Vectors lie along the third dimension from the end of maps [..., 3, H, W], and along the only one of
vectors [3] and the last of [n, 3].
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

EPS = 1e-6  # of lengths
BELOW = (11.25, 22.5, 30.0)  # degrees


def axis(x: Tensor) -> int:
    """The dimension along which vectors lie.

    Errors:
        ValueError: it does not have size 3.
    """
    dim = -3 if x.ndim >= 3 else -1
    if x.ndim == 0 or x.shape[dim] != 3:
        raise ValueError(f"normals are [..., 3, H, W], and these have shape {list(x.shape)}")
    return dim


def unit(x: Tensor) -> Tensor:
    """Vectors divided by their length, or by 1e-6 if that is less: maps [..., C, H, W], as vectors.

    C is 3, except where a tiny instance stands for an image.
    """
    found: Tensor = normalize(x, dim=-3 if x.ndim >= 3 else -1, eps=EPS)
    return found


def checked(x: Tensor, what: str = "normals") -> Tensor:
    """Normals of length 1, from such as are nearly so.

    Errors:
        ValueError: there is a NaN, or a vector of length zero; the message has the count.
        UserWarning: a length is off by more than 0.05.
    """
    length: Tensor = x.norm(dim=axis(x), keepdim=True)  # type: ignore[no-untyped-call]
    if missing := int((~length.isfinite()).sum()):
        raise ValueError(f"{missing} of the {what} are not finite")
    if zero := int((length <= EPS).sum()):
        raise ValueError(f"{zero} of the {what} have no length")
    if (off := float((length - 1).abs().max())) > 0.05:
        warnings.warn(f"lengths of {what} are off by up to {off:.3g}: normalised", stacklevel=3)
    return x / length


def angle(a: Tensor, b: Tensor) -> Tensor:
    """Degrees between vectors, in double precision.

    That is arccos of the clipped product of unit vectors; computed by both sine and cosine, since
    arccos loses half of the digits of small angles.

    Errors:
        ValueError: a vector is not finite or has no length.
    """
    dim = axis(a)
    a, b = a.double(), b.double()
    if lost := int(sum((~(x.norm(dim=axis(x)) > 0)).sum() for x in (a, b))):
        raise ValueError(f"{lost} vectors have no direction")
    sine = torch.linalg.cross(*torch.broadcast_tensors(a, b), dim=dim).norm(dim=dim)
    return torch.rad2deg(torch.atan2(sine, (a * b).sum(dim)))


class Report(NamedTuple):
    """Mean and median angle in degrees, and shares of pixels below 11.25, 22.5 and 30 degrees."""

    mean: float
    median: float
    below_11: float
    below_22: float
    below_30: float


def report(pred: Tensor, gt: Tensor) -> Report:
    """Angles between predictions and the truth, both [..., 3, H, W].

    Errors:
        ValueError: normals are not finite, or have no length.
        UserWarning: the truth is not of unit length; it is normalised.
    """
    found = angle(pred, checked(gt, "true normals"))
    shares = [float((found < limit).double().mean()) for limit in BELOW]
    return Report(float(found.mean()), float(found.quantile(0.5)), *shares)


def variance(means: Tensor) -> float:
    """The variance over seeds of means [images, seeds], averaged over images; n, not n - 1.

    It is the public code's; the paper's own definition could not be read.

    Errors:
        ValueError: there are fewer than two seeds.
    """
    if means.ndim != 2 or means.shape[1] < 2:
        raise ValueError(f"means are [images, seeds], of two seeds at least: {list(means.shape)}")
    return float(means.double().var(1, correction=0).mean())


def seed_variance(preds: Tensor, gt: Tensor) -> float:
    """The variance over seeds of an image's mean angle (square degrees), averaged over images.

    Args:
        preds: [seeds, images, 3, H, W].
        gt: [images, 3, H, W].

    Errors:
        ValueError: there are fewer than two seeds, or the shapes do not fit.
    """
    if preds.ndim != 5 or len(preds) < 2 or preds.shape[1:] != gt.shape:
        what = "predictions are [seeds, *shape of the truth], of two seeds at least"
        raise ValueError(f"{what}: {list(preds.shape)} and {list(gt.shape)}")
    return variance(angle(preds, checked(gt, "true normals")).mean((-2, -1)).mT)


def dispersion(preds: Tensor) -> float:
    """The mean angle (degrees) of predictions [seeds, ...] to their mean, which is normalised.

    Ours: it sees scatter that leaves the mean angle of an image as it is.

    Errors:
        ValueError: there are fewer than two seeds, or opposite vectors have no mean.
    """
    if len(preds) < 2:
        raise ValueError("dispersion is of two seeds at least")
    each = unit(preds.double())
    return float(angle(each, each.mean(0).expand_as(each)).mean())
