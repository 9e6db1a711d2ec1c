"""Sources of randomness that the effects do not see, and which of them moved.

They are the global generators of numpy, random and torch, and the generators that a program
reaches: through what it closes over, its globals, its attributes and the functions that it calls.
A clock, the system's entropy or a counter is no generator: that only another run can show.
"""

from __future__ import annotations

import functools
import random
import types
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...ppl.errors import ImpureProgramError, located
from ...ppl.tensors.keys import LIBRARIES, Keys, closed_over, names_in

AGAIN = 64  # runs of a candidate that are made again, at least, in one check
MOST = 20_000  # objects that are looked at for generators
GENERATORS = (
    random.Random,
    np.random.Generator,
    np.random.BitGenerator,
    np.random.RandomState,
    torch.Generator,
)
_GLOBAL = (random._inst, np.random.mtrand._rand, torch.default_generator)  # type: ignore[attr-defined]
_PLAIN = (Tensor, np.ndarray, str, bytes, int, float, complex, type(None))
Named = tuple[str, Any]


class Sources:
    """The sources that something may use, and where they stood when this was made."""

    def __init__(self, used: Any) -> None:
        self._states: dict[str, Callable[[], Hashable]] = dict(_global_states())
        for name, generator in reached(used):
            told = f"the {_kind(generator)} '{name}'"
            self._states[told] = functools.partial(_state, generator)
        self._before = {told: state() for told, state in self._states.items()}

    def moved(self) -> list[str]:
        """Those that stand elsewhere by now, in words."""
        return [told for told, state in self._states.items() if state() != self._before[told]]


@contextmanager
def elsewhere(seed: int) -> Iterator[None]:
    """Within, the global generators stand where ``seed`` puts them, and afterwards where before."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    of_numpy, of_random = np.random.get_state(), random.getstate()
    with torch.random.fork_rng(devices=devices):
        try:
            np.random.seed(seed)
            random.seed(seed)
            torch.default_generator.manual_seed(seed)
            if devices:
                torch.cuda.manual_seed_all(seed)
            yield
        finally:
            np.random.set_state(of_numpy)
            random.setstate(of_random)


def the_same(function: Callable[[], Any], used: Any, times: int) -> Any:
    """What a function gives, and again as many times with the global generators elsewhere.

    Errors:
        ImpureProgramError: it gives something else, or moves a generator that ``used`` reaches.
    """
    key, sources, differs = Keys(), Sources(used), False
    value = function()
    first = key(value)
    for i in range(times):
        with elsewhere(i):
            differs |= key(function()) != first
    moved = sources.moved()
    if differs or moved:
        what = ["it gives something else when it is run again"] if differs else []
        what += [f"it moved {' and '.join(moved)}"] if moved else []
        hint = "remove hidden state (globals, in-place changes, outside randomness)"
        raise ImpureProgramError(located(f"impure: {', and '.join(what)}", hint=hint))
    return value


def _global_states() -> Iterator[tuple[str, Callable[[], Hashable]]]:
    yield "numpy's global generator", lambda: Keys()(np.random.get_state(legacy=False))
    yield "random's global generator", random.getstate
    yield "torch's global generator", lambda: torch.get_rng_state().numpy().tobytes()
    if torch.cuda.is_initialized():
        for device in range(torch.cuda.device_count()):
            generator = torch.cuda.default_generators[device]
            yield f"torch's generator of cuda:{device}", functools.partial(_state, generator)


def _kind(generator: Any) -> str:
    return f"{type(generator).__module__.partition('.')[0]} {type(generator).__qualname__}"


def _state(generator: Any) -> Hashable:
    """Where a generator stands; how many others it has spawned is part of it."""
    if isinstance(generator, torch.Generator):
        return generator.get_state().numpy().tobytes()
    if isinstance(generator, random.Random):
        return None if isinstance(generator, random.SystemRandom) else generator.getstate()
    if isinstance(generator, np.random.RandomState):
        return Keys()(generator.get_state(legacy=False))
    bits = generator.bit_generator if isinstance(generator, np.random.Generator) else generator
    spawned = getattr(getattr(bits, "seed_seq", None), "n_children_spawned", 0)
    return spawned, Keys()(bits.state)


def reached(used: Any) -> Iterator[Named]:
    """The generators that something reaches, each with the name under which it was found."""
    waiting: list[Named] = [("", used)]
    seen: dict[int, Any] = {}  # keeps alive what was looked at
    while waiting and len(seen) < MOST:
        name, value = waiting.pop()
        if id(value) in seen or isinstance(value, _PLAIN):
            continue
        seen[id(value)] = value
        if isinstance(value, GENERATORS):
            if not any(value is one for one in _GLOBAL):
                yield name, value
        else:
            waiting.extend(_parts(name, value))


def _parts(name: str, value: Any) -> Iterator[Named]:
    """What a value is made of, by name."""
    if isinstance(value, types.FunctionType):
        yield from zip(value.__code__.co_freevars, closed_over(value), strict=True)
        yield from ((name, item) for item in value.__defaults__ or ())
        yield from (value.__kwdefaults__ or {}).items()
        yield from vars(value).items()
        if not _is_library(value):
            yield from _globals(value)
    elif isinstance(value, types.MethodType):
        yield from ((name, value.__self__), (name, value.__func__))
    elif isinstance(value, types.BuiltinMethodType):
        yield name, value.__self__
    elif isinstance(value, functools.partial):
        yield from ((name, value.func), (name, value.args), (name, value.keywords))
    elif isinstance(value, types.GeneratorType):
        yield from (value.gi_frame.f_locals if value.gi_frame else {}).items()
    elif isinstance(value, Mapping):
        yield from ((key if isinstance(key, str) else name, item) for key, item in value.items())
    elif isinstance(value, list | tuple | set | frozenset):
        yield from ((name, item) for item in value)
    elif isinstance(value, type):
        if not _is_library(value):
            yield from vars(value).items()
    elif not isinstance(value, types.ModuleType):
        yield name, type(value)
        yield from _attributes(value)


def _attributes(value: Any) -> Iterator[Named]:
    """Of an instance, whether they lie in a dictionary or in slots."""
    held = getattr(value, "__dict__", None)
    if isinstance(held, Mapping):  # what answers to any name has something else
        yield from held.items()
    for kind in type(value).__mro__:
        for name, slot in vars(kind).items():
            if isinstance(slot, types.MemberDescriptorType) and not _is_library(kind):
                with suppress(AttributeError):  # not assigned
                    yield name, slot.__get__(value)


def _globals(fn: types.FunctionType) -> Iterator[Named]:
    """What a function reads from its module, and from the modules that it names."""
    names = names_in(fn.__code__)
    for name in names & fn.__globals__.keys():
        found = fn.__globals__[name]
        if not isinstance(found, types.ModuleType):
            yield name, found
        elif not _is_library(found):
            yield from ((inner, vars(found)[inner]) for inner in names & vars(found).keys())


def _is_library(value: Any) -> bool:
    """Whether a module is one of those, or a function or class comes from one."""
    home = value.__name__ if isinstance(value, types.ModuleType) else value.__module__
    return str(home).partition(".")[0] in LIBRARIES
