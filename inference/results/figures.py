"""The figures of draws: moments, quantiles, and how well chains know them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from .arviz import ess, mcse, r_hat
from .groups import as_arrays

QUANTILES = (0.05, 0.5, 0.95)
COLUMNS = [
    *("mean", "sd", "q05", "q50", "q95"),
    *("mcse_mean", "mcse_sd", "ess_bulk", "ess_tail", "r_hat"),
]


def numbers(sites: Mapping[str, Tensor]) -> Iterator[tuple[str, Any]]:
    """The draws [chains, draws] of each number, by name; a single chain is cut into two."""
    for name, x in as_arrays(sites).items():
        half = x.shape[1] // 2
        if len(x) == 1 and half >= 4:
            x = x[:, : 2 * half].reshape(2, half, *x.shape[2:])
        for index in np.ndindex(*x.shape[2:]):
            yield f"{name}[{', '.join(map(str, index))}]" if index else name, x[:, :, *index]


def figures(x: Any) -> list[float]:
    """Those of ``COLUMNS``, of draws [chains, draws]; NaN stands for what too few draws lack."""
    x = np.asarray(x, dtype=np.float64)
    quantiles = np.quantile(x, QUANTILES) if x.size else np.full(len(QUANTILES), np.nan)
    mean = x.mean() if x.size else np.nan
    sd = x.std(ddof=1) if x.size > 1 else np.nan
    with warnings.catch_warnings():  # of a constant
        warnings.simplefilter("ignore", RuntimeWarning)
        errors = [mcse(x), mcse(x, "sd"), ess(x), ess(x, tail=True), r_hat(x)]
    return [float(each) for each in (mean, sd, *quantiles, *errors)]
