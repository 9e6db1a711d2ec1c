"""ArviZ, whichever generation is installed: all that this library asks of it.

ArviZ 1, which needs Python 3.12, keeps groups in a ``DataTree`` of xarray and its statistics in a
package of their own, without plots; 0.x has an ``InferenceData``, and imports everything at once.
Both are imported where they are needed, and take the same draws to the same figures.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from typing import Any

import numpy as np

SAMPLES = ("chain", "draw")
TAILS = (0.05, 0.95)  # whose effective sizes are that of the tail
FEWEST = 4  # draws of a chain that have diagnostics


@cache
def generation() -> int:
    """0 for ArviZ 0.x, 1 for ArviZ 1.x and later."""
    return min(1, int(version("arviz").partition(".")[0]))


def import_arviz() -> Any:
    """ArviZ as users import it; 0.x takes seconds, and announces its next version."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        import arviz
    return arviz


def dataset(
    arrays: Mapping[str, Any],
    dims: Mapping[str, Sequence[str]],
    coords: Mapping[str, Sequence[Any]],
    attrs: Mapping[str, Any],
    *,
    drawn: bool,
) -> Any:
    """A group: arrays by name, [*shape] for data, and [chains, draws, *shape] for what is drawn.

    Args:
        dims: a name for each dimension of a shape; those of an event may be left behind.
        coords: labels by the names of dimensions; the others are numbered.
        attrs: what the group says of itself.
    """
    import xarray

    lead = SAMPLES if drawn else ()
    variables = {
        name: ((*lead, *dims.get(name, ())[: x.ndim - len(lead)]), x) for name, x in arrays.items()
    }
    sizes = {
        dim: n for names, x in variables.values() for dim, n in zip(names, x.shape, strict=True)
    }
    labels = {dim: np.asarray(coords.get(dim, range(n))) for dim, n in sizes.items()}
    about = {"created_at": datetime.now(UTC).isoformat(), "sample_dims": list(lead), **attrs}
    return xarray.Dataset(variables, labels, about)


def joined(groups: Mapping[str, Any], attrs: Mapping[str, Any]) -> Any:
    """Groups as one: an ``InferenceData`` of ArviZ 0.x, or the ``DataTree`` that ArviZ 1 takes."""
    if generation() == 0:
        return import_arviz().InferenceData(**groups, attrs=dict(attrs))
    import xarray

    whole = xarray.DataTree.from_dict(dict(groups))
    whole.attrs = dict(attrs)
    return whole


def ess(x: Any, tail: bool = False) -> float:
    """The effective sample size of draws [chains, draws]: of their bulk, or of their 5 % tails."""
    if _too_few(x):
        return np.nan
    about: dict[str, Any] = {"method": "tail", "prob": TAILS} if tail else {"method": "bulk"}
    return float(_statistics("ess")(_plain(x), **about))


def r_hat(x: Any) -> float:
    """The rank-normalised split R-hat of draws [chains, draws]; NaN for a single chain."""
    return np.nan if _too_few(x) or len(x) < 2 else float(_statistics("rhat")(_plain(x)))


def mcse(x: Any, of: str | float = "mean") -> float:
    """The Monte Carlo error of the mean of draws [chains, draws], of their sd, or of a quantile."""
    if _too_few(x):
        return np.nan
    about = {"method": of} if isinstance(of, str) else {"method": "quantile", "prob": of}
    return float(_statistics("mcse")(_plain(x), **about))


def _statistics(name: str) -> Any:
    """A function of arrays; with ArviZ 1 nothing but numpy and scipy is imported."""
    if generation() == 0:
        return getattr(import_arviz(), name)
    from arviz_stats.base import array_stats

    return getattr(array_stats, name)


def _too_few(x: Any) -> bool:
    """Whether draws have no diagnostics: too few of them, or some that are no numbers."""
    return x.shape[1] < FEWEST or bool(np.isnan(x).any())


def _plain(x: Any) -> Any:
    """Draws as numbers that can be subtracted."""
    return np.asarray(x, dtype=np.float64)
