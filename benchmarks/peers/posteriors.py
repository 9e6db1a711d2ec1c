"""The eight posteriors: data, coordinates and parameters, in numpy, for all samplers alike.

The coordinates are those of our ``LogDensity``: sites in the order of the program, positive numbers
by their logarithm, probabilities by logit, shares by breaking a stick, ordered numbers by the
logarithm of their differences.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

HERE = Path(__file__).parent
FOLDERS = (HERE.parents[1] / "models" / "posteriordb" / "data", HERE / "data")
LV_STEPS = 5  # of Runge and Kutta, in a year
Array = np.ndarray[Any, np.dtype[np.float64]]


def content(name: str) -> dict[str, Any]:
    """The file of a posterior: data, description, reference figures."""
    (path,) = (p for folder in FOLDERS if (p := folder / f"{POSTERIORS[name].file}.json").exists())
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def data(name: str) -> SimpleNamespace:
    """The data of a posterior, under the names that its densities use."""
    given = content(name)["data"]
    arrays = {k: np.array(x, float) if isinstance(x, list) else x for k, x in given.items()}
    return SimpleNamespace(**POSTERIORS[name].prepared(SimpleNamespace(**arrays)))


def parameters(name: str, u: Array) -> Array:
    """Vectors [..., d] as the parameters of the reference, [..., k], in its order."""
    parts = POSTERIORS[name].parameters(np.moveaxis(u, -1, 0), data(name))
    return np.stack([x for part in parts for x in (part if part.ndim == u.ndim else [part])], -1)


# --- one after another: data, and parameters of coordinates u [d, ...] ---------------------------


def eight_parameters(u: Array, d: Any) -> list[Array]:
    mu, tau = u[0], np.exp(u[1])
    return [mu + tau * u[2:], mu, tau]


def radon_data(d: Any) -> dict[str, Any]:
    return {"y": d.log_radon, "county": d.county_idx.astype(np.int32) - 1, "uranium": d.log_uppm,
            "floor": d.floor_measure}  # fmt: skip


def radon_parameters(u: Array, d: Any) -> list[Array]:
    spread = np.exp(u[3])
    return [u[0] + spread * u[5:], u[1:3], u[0], spread, np.exp(u[4])]


def wells_data(d: Any) -> dict[str, Any]:
    far, arsenic = (d.dist - d.dist.mean()) / 100, d.arsenic - d.arsenic.mean()
    return {"X": np.stack([far, arsenic, far * arsenic, d.educ / 4], 1), "y": d.switched}


def gp_parameters(u: Array, d: Any) -> list[Array]:
    rho, alpha, z = np.exp(u[0]), np.exp(u[1]), np.moveaxis(u[2:], 0, -1)[..., None]
    apart = (d.x[:, None] - d.x) / rho[..., None, None]
    C = alpha[..., None, None] ** 2 * np.exp(-0.5 * apart**2) + 1e-10 * np.eye(len(d.x))
    return [rho, alpha, np.moveaxis((np.linalg.cholesky(C) @ z)[..., 0], -1, 0)]


def ark_data(d: Any) -> dict[str, Any]:
    past = np.stack([d.y[d.K - k : len(d.y) - k] for k in range(1, d.K + 1)], 1)
    return {"y": d.y[d.K :], "past": past}


def garch_parameters(u: Array, d: Any) -> list[Array]:
    alpha1 = 1 / (1 + 2 * np.exp(-u[2]))
    return [u[0], np.exp(u[1]), alpha1, (1 - alpha1) / (1 + np.exp(-u[3]))]


def mix_parameters(u: Array, d: Any) -> list[Array]:
    return [u[0], u[0] + np.exp(u[1]), np.exp(u[2:4]), 1 / (1 + np.exp(-u[4]))]


def lv_data(d: Any) -> dict[str, Any]:
    return {"first": np.log(d.y_init), "y": np.log(d.y), "years": d.N}


class Posterior(NamedTuple):
    """The name of its file, the dimension, and the two functions above."""

    file: str
    dim: int
    parameters: Callable[[Array, Any], list[Array]] = lambda u, d: [u]
    prepared: Callable[[Any], dict[str, Any]] = vars


POSTERIORS = {
    "eight": Posterior("eight_schools-eight_schools_noncentered", 10, eight_parameters),
    "radon": Posterior(
        "radon_mn-radon_hierarchical_intercept_noncentered", 90, radon_parameters, radon_data
    ),
    "wells": Posterior("wells_data-wells_daae_c_model", 5, prepared=wells_data),
    "gp": Posterior("gp_pois_regr-gp_pois_regr", 13, gp_parameters),
    "ark": Posterior("arK-arK", 7, lambda u, d: [u[:6], np.exp(u[6])], ark_data),
    "garch": Posterior("garch-garch11", 4, garch_parameters),
    "mix": Posterior("low_dim_gauss_mix-low_dim_gauss_mix", 5, mix_parameters),
    "lv": Posterior("hudson_lynx_hare-lotka_volterra", 8, lambda u, d: [np.exp(u)], lv_data),
}
