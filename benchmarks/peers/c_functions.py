"""The sampler and the log densities in C: compiled by gcc, called by ctypes."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

from peers.posteriors import LV_STEPS, POSTERIORS, Array, data

HERE = Path(__file__).parent
FLAGS = ("-O3", "-march=native", "-fPIC", "-Wall", "-Wextra", "-c")
REALS = np.ctypeslib.ndpointer(np.float64, flags="C_CONTIGUOUS")


class Data(ctypes.Structure):
    _fields_ = [
        ("n", ctypes.c_long),
        ("groups", ctypes.c_long),
        ("y", ctypes.c_void_p),
        ("x", ctypes.c_void_p),
        ("place", ctypes.c_void_p),
        ("number", ctypes.c_double),
    ]


def arguments(name: str) -> tuple[Array, Array, float]:
    """Data, columns, and the number, as the comments of densities.c say."""
    d, none = data(name), np.zeros(0)
    given: dict[str, Any] = {
        "eight": lambda: (d.y, d.sigma, 0.0),
        "radon": lambda: (d.y, np.stack([d.uranium, d.floor]), 0.0),
        "wells": lambda: (d.y, d.X.T, 0.0),
        "gp": lambda: (d.k, d.x, 0.0),
        "ark": lambda: (d.y, d.past.T, 0.0),
        "garch": lambda: (d.y, none, d.sigma1),
        "mix": lambda: (d.y, none, 0.0),
        "lv": lambda: (np.concatenate([d.first[None], d.y]), none, LV_STEPS),
    }
    y, x, number = given[name]()
    return np.ascontiguousarray(y), np.ascontiguousarray(x), float(number)


class Functions:
    """The compiled functions for one posterior."""

    def __init__(self, name: str, folder: Path) -> None:
        objects = [folder / "nuts.o", folder / "densities.o"]
        for path, fast in zip(objects, ([], ["-ffast-math"]), strict=True):
            source = HERE / path.with_suffix(".c").name
            subprocess.run(["gcc", *FLAGS, *fast, source, "-o", path], check=True)
        linked = ["gcc", "-shared", *objects, "-lmvec", "-lm", "-o", folder / "nuts.so"]
        subprocess.run(linked, check=True)
        library = ctypes.CDLL(str(folder / "nuts.so"))
        self.dim = POSTERIORS[name].dim
        self.arrays = arguments(name)
        self.place = getattr(data(name), "county", np.zeros(1, np.int32))
        y, x, number = self.arrays
        pointers = (a.ctypes.data for a in (y, x, self.place))
        self.data = Data(len(y), int(self.place.max()) + 1, *pointers, number)
        self.density = library[name]
        self.density.restype = ctypes.c_double
        self.density.argtypes = [REALS, REALS, ctypes.c_void_p]
        self.nuts = library.nuts

    def value_and_gradient(self, u: Array) -> tuple[float, Array]:
        gradient = np.zeros(self.dim)
        return self.density(u, gradient, ctypes.addressof(self.data)), gradient

    def chain(self, start: Array, seed: int, warmup: int, draws: int) -> tuple[Array, int, int]:
        """Draws [draws, d] of one chain, how many gradients it took, and divergences."""
        found, counts = np.empty((draws, self.dim)), (ctypes.c_long * 2)()
        self.nuts(
            self.density, ctypes.byref(self.data), self.dim, ctypes.c_uint64(seed),
            start.ctypes.data_as(ctypes.c_void_p), warmup, draws,
            found.ctypes.data_as(ctypes.c_void_p), counts,
        )  # fmt: skip
        return found, counts[0], counts[1]
