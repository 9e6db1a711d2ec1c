"""Log densities and gradients of the peers at given points, to be compared with ours.

``python -m peers.values POINTS.npz VALUES.npz``: of each posterior points [n, d]; of each and each
way of writing it, values [n] and gradients [n, d].
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from peers.c_functions import Functions
from peers.densities import log_density, with_jax, with_pytensor

Evaluated = Callable[[Any], tuple[Any, Any]]


def by_jax(name: str) -> Evaluated:
    import jax

    return jax.value_and_grad(log_density(name, with_jax()))


def by_pytensor(name: str) -> Evaluated:
    import pytensor
    import pytensor.tensor as pt

    u = pt.dvector("u")
    value = log_density(name, with_pytensor())(u)
    evaluated: Evaluated = pytensor.function([u], [value, pt.grad(value, u)], mode="FAST_COMPILE")
    return evaluated


def by_c(name: str) -> Evaluated:
    with tempfile.TemporaryDirectory() as folder:
        return Functions(name, Path(folder)).value_and_gradient


WAYS = {"jax": by_jax, "pytensor": by_pytensor, "c": by_c}


def main() -> None:
    found = {}
    for name, points in np.load(sys.argv[1]).items():
        for way, written in WAYS.items():
            density = written(name)
            values, gradients = zip(*(density(u) for u in points), strict=True)
            found[f"{name} {way} value"] = np.array(values)
            found[f"{name} {way} gradient"] = np.array(gradients)
    np.savez(sys.argv[2], **found)


if __name__ == "__main__":
    main()
