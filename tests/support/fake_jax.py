"""A stand-in for JAX, of numpy's arrays: the names that its adapter reads, without numbers."""

from __future__ import annotations

import contextlib
import hashlib
import types
from typing import Any

import numpy as np


def modules() -> dict[str, types.ModuleType]:
    """``jax`` and what is in it, by name, for ``sys.modules``."""
    made = {name: types.ModuleType(name) for name in PARTS}
    for name in PARTS[1:]:
        setattr(made["jax"], name.removeprefix("jax."), made[name])
    for name in ("asarray", "log", "where", "searchsorted", "arange", "cumsum"):
        setattr(made["jax.numpy"], name, getattr(np, name))
    for function in (
        PRNGKey,
        split,
        fold_in,
        key_data,
        uniform,
        normal,
        bernoulli,
        poisson,
        choice,
    ):
        setattr(made["jax.random"], function.__name__, function)
    jax: Any = made["jax"]
    jax.enable_x64 = contextlib.nullcontext
    jax.disable_jit = contextlib.nullcontext
    jax.jit = Compiled
    return made


class Compiled:
    """A function that takes arrays alone, as a compiled one does where it runs uncompiled."""

    def __init__(self, function: Any) -> None:
        self.function = function

    def __call__(self, *args: Any) -> Any:
        assert not any(type(x) is float for x in args)
        return self.function(*args)


def PRNGKey(seed: int) -> Any:
    return np.array([0, seed], dtype=np.uint32)


def key_data(key: Any) -> Any:
    return key


def fold_in(key: Any, data: int) -> Any:
    made = hashlib.blake2b(key.tobytes() + bytes([data]), digest_size=8).digest()
    return np.frombuffer(made, dtype=np.uint32).copy()


def split(key: Any, num: int = 2) -> Any:
    return np.stack([fold_in(key, i) for i in range(num)])


def uniform(key: Any, shape: Any = ()) -> Any:
    raise AssertionError("another function stands in the place of this one")


normal, bernoulli, poisson, choice = (
    types.FunctionType(uniform.__code__, uniform.__globals__, name, uniform.__defaults__)
    for name in ("normal", "bernoulli", "poisson", "choice")
)
PARTS = ("jax", "jax.random", "jax.numpy", "jax.lax", "jax.experimental")
