"""Distance covariances: of two vectors, of several at once, concatenated, and within strata.

All are squared.  ``stat="V"`` is never negative; ``stat="U"`` is unbiased, and so may be negative.

Source: Szekely, Rizzo (Annals of Applied Statistics, 2009; Journal of Multivariate Analysis, 2013);
Chakraborty, Zhang, Distance metrics for measuring joint dependence (JASA, 2019); concatenation:
Machine Learning with Multitype Protected Attributes (arXiv 2509.08163).
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from .distances import Stat, normalised, product_sum, shift
from .ranked import distance_products, distance_sums

Method = Literal["auto", "naive", "fast", "block"]
Attributes = Tensor | Sequence[Tensor] | Mapping[str, Tensor]

BLOCK = 1024  # rows
LARGE = 2**32  # bytes of distances, above which they are made by blocks
RANKED = 512  # data, from which ranks are worth their sorting
LEAST = {"U": 4, "V": 2}  # rows
WIDE = 5000  # data, above which sums are taken in float64

log = logging.getLogger(__name__)


def dcov(x: Tensor, y: Tensor, stat: Stat = "U", method: Method = "auto") -> Tensor:
    """The squared distance covariance [] of rows x [n] or [n, d] and y [n] or [n, e].

    Args:
        method: "naive" makes all distances; "block" some rows of them at a time; "fast" takes
            O(n log n) and is for scalars.  The derivative of a distance at zero is zero in all.

    Errors:
        ValueError: lengths differ, n is too small, there is a NaN, or a choice is unknown.
    """
    require_finite({"x": x, "y": y})
    a, b = as_rows({"x": x, "y": y}, stat)
    return pair(a, b, stat, method)


def pair(x: Tensor, y: Tensor, stat: Stat, method: Method) -> Tensor:
    """:func:`dcov` of rows [n, d] and [n, e]."""
    chosen = _method(method, [x, y])
    if chosen == "fast":
        return _by_ranks(x[:, 0], y[:, 0], stat)
    block = BLOCK if chosen == "block" else len(x)
    return normalised(product_sum([x, y], stat, None, block), len(x), stat)


def _by_ranks(x: Tensor, y: Tensor, stat: Stat) -> Tensor:
    n, dtype = float(len(x)), torch.result_type(x, y)
    u, v = (z.double() - z.detach().double().mean() for z in (x, y))
    a, b = distance_sums(u), distance_sums(v)
    products = distance_products(v, u) if v.requires_grad else distance_products(u, v)
    rows, total = (a * b).sum(), a.sum() * b.sum()
    if stat == "V":
        found = products / n**2 - 2 * rows / n**3 + total / n**4
    else:
        about = n * (n - 3)
        found = products / about - 2 * rows / (about * (n - 2))
        found = found + total / (about * (n - 1) * (n - 2))
    return found.to(dtype)


def dcor(x: Tensor, y: Tensor, stat: Stat = "U", method: Method = "auto") -> Tensor:
    """dcov(x, y) / sqrt(dcov(x, x) dcov(y, y)); zero, with a warning, if one is constant."""
    spread = dcov(x, x, stat, method) * dcov(y, y, stat, method)
    if not bool(spread > 0):
        warnings.warn("a constant has no distance correlation: 0 is returned", stacklevel=2)
        return torch.zeros_like(spread)
    return dcov(x, y, stat, method) / spread.sqrt()


def jdcov(*xs: Tensor, c: float = 1.0, stat: Stat = "U", method: Method = "auto") -> Tensor:
    """The squared joint distance covariance [] of rows [n] or [n, d_i].

    The mean of prod_i (c - A_i) - c^p, A_i the centred distances.  Of two it is their ``dcov``; of
    three, with c = 1, the sum of all pairs and a term of all three: it is not zero where attributes
    depend on each other, whatever the predictions are.
    """
    if len(xs) < 2:
        raise ValueError(f"a joint covariance is of two or more, not of {len(xs)}")
    about = {f"argument {i}": x for i, x in enumerate(xs)}
    require_finite(about)
    return joint(as_rows(about, stat), c, stat, method)


def joint(rows: Sequence[Tensor], c: float, stat: Stat, method: Method) -> Tensor:
    """:func:`jdcov` of rows [n, d_i]."""
    chosen, n = _method(method, rows), len(rows[0])
    if chosen == "fast":
        return pair(rows[0], rows[1], stat, "fast")
    total = product_sum(rows, stat, c, BLOCK if chosen == "block" else n)
    return normalised(total, n, stat) - shift(n, stat, c, len(rows))


def ccdcov(
    yhat: Tensor,
    attributes: Attributes,
    weights: Sequence[float] | None = None,
    stat: Stat = "U",
    method: Method = "auto",
) -> Tensor:
    """The squared distance covariance [] of predictions with all attributes, side by side.

    It sees a dependence on an intersection that no attribute shows alone.

    Args:
        weights: of the attributes, by which their differences are multiplied; equal unless given.
    """
    about = named(attributes)
    require_finite({"predictions": yhat, **about})
    x, *rows = as_rows({"predictions": yhat, **about}, stat)
    return pair(x, beside(rows, weights), stat, method)


def beside(rows: Sequence[Tensor], weights: Sequence[float] | None) -> Tensor:
    """Rows [n, d_i] as one [n, d_1 + d_2 + ...], each multiplied by its weight."""
    factors = [1.0] * len(rows) if weights is None else list(weights)
    if len(factors) != len(rows) or any(not w >= 0 for w in factors):
        raise ValueError(f"{len(rows)} weights, not negative, are expected, not {factors}")
    return torch.cat([w * s for w, s in zip(factors, rows, strict=True)], 1)


def conditional_dcov(
    x: Tensor, y: Tensor, given: Tensor, stat: Stat = "U", method: Method = "auto"
) -> Tensor:
    """The mean over strata of a finite ``given`` [n] of ``dcov`` within, by their shares.

    With given the true label, x predictions and y an attribute, it is zero where predictions are
    independent of the attribute among those who are alike: equalised odds.

    Errors:
        ValueError: a stratum is too small.
    """
    about = {"x": x, "y": y, "given": given}
    require_finite(about)
    a, b, labels = as_rows(about, stat)
    parts = strata(labels, stat)
    found = [len(part) / len(a) * pair(a[part], b[part], stat, method) for part in parts]
    return torch.stack(found).sum()


def strata(labels: Tensor, stat: Stat) -> list[Tensor]:
    """The places of each row that occurs among labels [n, d].

    Errors:
        ValueError: one occurs too rarely.
    """
    _, stratum, sizes = labels.unique(dim=0, return_inverse=True, return_counts=True)
    if int(sizes.min()) < LEAST[stat]:
        what = f"a stratum has {int(sizes.min())} rows, and stat={stat!r} needs {LEAST[stat]}"
        raise ValueError(f"{what}: give fewer strata or larger batches")
    return list(stratum.argsort(stable=True).split(sizes.tolist()))


def named(attributes: Attributes) -> dict[str, Tensor]:
    """Attributes [n] or [n, d] by name; the columns of a matrix are several."""
    if isinstance(attributes, Mapping):
        found = dict(attributes)
    elif isinstance(attributes, Tensor) and attributes.ndim < 2:
        found = {"attribute 0": attributes}
    else:
        columns = attributes.T if isinstance(attributes, Tensor) else attributes
        found = {f"attribute {i}": column for i, column in enumerate(columns)}
    if not found:
        raise ValueError("there are no attributes")
    return found


def as_rows(about: Mapping[str, Tensor], stat: Stat) -> list[Tensor]:
    """Rows [n, d] of one precision.

    Errors:
        ValueError: lengths differ, or n is too small.
    """
    if stat not in LEAST:
        raise ValueError(f"the statistic is 'U' or 'V', not {stat!r}")
    sizes = {name: len(x) if x.ndim else 0 for name, x in about.items()}
    n = next(iter(sizes.values()))
    if len(set(sizes.values())) > 1:
        raise ValueError(f"lengths differ: {sizes}")
    if n < LEAST[stat]:
        raise ValueError(f"stat={stat!r} needs {LEAST[stat]} rows or more, not {n}")
    dtype = torch.float64 if n > WIDE else torch.float32
    for x in about.values():
        dtype = torch.promote_types(dtype, x.dtype)
    return [x.to(dtype).reshape(n, -1) for x in about.values()]


def require_finite(about: Mapping[str, Tensor]) -> None:
    for name, x in about.items():
        if not bool(torch.isfinite(x.detach()).all()):
            raise ValueError(f"'{name}' has entries that are not finite numbers")


def _method(method: Method, rows: Sequence[Tensor]) -> Method:
    """What "auto" stands for."""
    scalars = len(rows) == 2 and all(x.shape[1] == 1 for x in rows)
    n = len(rows[0])
    if method == "fast" and not scalars:
        raise ValueError("method='fast' is for two scalars: take 'naive' or 'block' for others")
    if method not in ("auto", "naive", "fast", "block"):
        raise ValueError(f"the method is auto, naive, fast or block, not {method!r}")
    if method == "auto" and scalars and n >= RANKED:
        return "fast"
    if method in ("auto", "naive") and len(rows) * n**2 * rows[0].element_size() > LARGE:
        log.info("distances of %d rows are made by blocks of %d", n, BLOCK)
        return "block"
    return "naive" if method == "auto" else method
