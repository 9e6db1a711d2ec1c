"""A linear regression with correlated columns: its data, and its evidence and posterior."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
ROWS, SLOPES, NOISE, ALIKE = 100, 10, 0.5, 0.9


def data() -> tuple[Array, Array]:
    """Columns [rows, slopes] that correlate by 0.9, and y [rows]."""
    generator = np.random.default_rng(1)
    common = generator.standard_normal((ROWS, 1))
    own = generator.standard_normal((ROWS, SLOPES))
    columns = np.sqrt(ALIKE) * common + np.sqrt(1 - ALIKE) * own
    slopes = generator.standard_normal(SLOPES)
    return columns, columns @ slopes + NOISE * generator.standard_normal(ROWS)


def exact() -> tuple[float, Array, Array]:
    """The log evidence under slopes of N(0, 1), and their posterior means and sds."""
    x, y = data()
    covariance = x @ x.T + NOISE**2 * np.eye(ROWS)
    _, log_det = np.linalg.slogdet(2 * np.pi * covariance)
    evidence = -0.5 * (log_det + y @ np.linalg.solve(covariance, y))
    spread = np.linalg.inv(np.eye(SLOPES) + x.T @ x / NOISE**2)
    return float(evidence), spread @ x.T @ y / NOISE**2, np.sqrt(np.diag(spread))
