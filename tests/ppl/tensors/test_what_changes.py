"""Whatever a function reads changes its key: code that was made for it is made anew."""

from __future__ import annotations

import types
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pytest
import torch

from pushforward.ppl import Program, compiled, iterate
from pushforward.ppl.tensors.keys import Contents, fingerprint

settings = types.ModuleType("settings")


class Class:
    scale = 1.0


class Slots:
    __slots__ = ("scale",)


class Gain(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.Module()
        self.scale = 1.0


MODULE, INSTANCE, SLOTS, QUEUE, NUMBERS = Gain(), Class(), Slots(), deque([1.0]), [np.float32(1.0)]


def put(value: float) -> None:
    settings.scale = value  # type: ignore[attr-defined]
    Class.scale = value
    SLOTS.scale = value
    MODULE.scale = value
    MODULE.inner.scale = value  # type: ignore[assignment]
    QUEUE[0], NUMBERS[0] = value, np.float32(value)
    pyro.get_param_store()["scale"] = torch.tensor(value)


READERS: dict[str, Callable[[], Any]] = {
    "a module's global": lambda: settings.scale,
    "a class": lambda: Class.scale,
    "a class by its instance": lambda: INSTANCE.scale,
    "slots": lambda: SLOTS.scale,
    "a plain attribute of a module": lambda: MODULE.scale,
    "one of a module inside": lambda: MODULE.inner.scale,
    "a deque": lambda: QUEUE[0],
    "numpy's number": lambda: float(NUMBERS[0]),
    "a parameter of Pyro": lambda: pyro.param("scale", torch.tensor(1.0)).detach(),
}


@pytest.mark.parametrize("name", READERS)
def test_compiled_code_follows(name: str) -> None:
    read = READERS[name]
    pyro.clear_param_store()
    put(1.0)
    run = compiled(Program(lambda: iterate(lambda x: x + read(), 3)(torch.tensor(0.0))))
    with torch.no_grad():
        assert float(run()) == 3
        put(2.0)
        assert float(run()) == 6
    pyro.clear_param_store()


@pytest.mark.parametrize("name", list(READERS)[:-1])
def test_keys_and_fingerprints_tell(name: str) -> None:
    put(1.0)
    first = Contents()(READERS[name]), fingerprint(READERS[name])
    assert (Contents()(READERS[name]), fingerprint(READERS[name])) == first
    put(2.0)
    assert Contents()(READERS[name]) != first[0]
    if "attribute" not in name and "inside" not in name:  # of which a fingerprint has the tensors
        assert fingerprint(READERS[name]) != first[1]
    pyro.clear_param_store()
